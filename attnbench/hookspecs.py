"""The hooks a plugin may implement. Each is handed a callback, and calls it once for every class it contributes.

A plugin is one file:

    from attnbench import ScoringFunction, hookimpl

    class Negated(ScoringFunction): ...

    @hookimpl
    def register_scoring(register):
        register("negated", Negated)

One that is too long for a file is a folder, whose `__init__.py` has the hook and imports the rest relatively.
Arguments may be added to a hook, and never removed or renamed; a plugin names only those that it uses.
"""

from __future__ import annotations

from collections.abc import Callable

import pluggy

hookspec = pluggy.HookspecMarker("attnbench")
hookimpl = pluggy.HookimplMarker("attnbench")


#: What a hook is handed: called with the word that names the class on the command line, and the class.
Register = Callable[[str, type], None]


@hookspec
def register_scoring(register: Register) -> None:
    """Contribute scoring functions (since 0.1)."""


@hookspec
def register_attention(register: Register) -> None:
    """Contribute attention modules (since 0.1)."""


@hookspec
def register_task(register: Register) -> None:
    """Contribute tasks (since 0.1)."""
