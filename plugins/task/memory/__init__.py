"""Memory: a controller learns algorithms with a memory that attention reads and writes."""

from attnbench import Register, hookimpl

from .task import Memory


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `memory`."""
    register("memory", Memory)
