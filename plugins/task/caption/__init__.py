"""Captions: an image in, what is in it out, in words."""

from attnbench import Register, hookimpl

from .task import Caption


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `caption`."""
    register("caption", Caption)
