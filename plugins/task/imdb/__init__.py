"""Sentiment of film reviews: words in, positive or negative out."""

from attnbench import Register, hookimpl

from .task import Imdb


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `imdb`."""
    register("imdb", Imdb)
