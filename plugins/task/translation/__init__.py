"""Translation of short sentences: words of one language in, words of another out."""

from attnbench import Register, hookimpl

from .task import Translation


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `translation`."""
    register("translation", Translation)
