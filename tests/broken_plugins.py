"""Plugins that cannot be loaded, each with what is said of it, and what they are written with."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text).lstrip())
    return path


def scoring(name: str, options: str = "", docstring: str = "Minus the dot product.") -> str:
    """Write a plugin that works, and that a test spoils with its options."""
    star = ", *, " if options else ""
    return f'''
from typing import Any, Literal
from attnbench import Register, ScoringFunction, hookimpl


class Mine(ScoringFunction):
    """{docstring}"""

    def __init__(self, query_dim: int, key_dim: int{star}{options}) -> None:
        super().__init__()

    def forward(self, query, key):
        return -query @ key.transpose(-1, -2)


@hookimpl
def register_scoring(register: Register) -> None:
    register("{name}", Mine)
'''


BROKEN = {
    "raises_on_import": (
        "import attnbench\n\n1 / 0\n",
        "ZeroDivisionError: division by zero (raises_on_import.py:3): mend it, or set ATTNBENCH_DISABLE=raises_on",
    ),
    "leaves_on_import": (
        "import attnbench\nraise SystemExit(3)\n",
        "SystemExit: 3 (leaves_on_import.py:2): mend it, or set ATTNBENCH_DISABLE=leaves_on_import",
    ),
    "no_python": ("import attnbench\ndef f(:\n", "SyntaxError: invalid syntax (no_python.py, line 2): mend it"),
    "raises_in_hook": (
        """
        from attnbench import hookimpl
        @hookimpl
        def register_task(register):
            raise RuntimeError("two\\nlines")
        """,
        "RuntimeError: two lines (raises_in_hook.py:4): mend it",
    ),
    "wrong_kind": (
        """
        from attnbench import hookimpl
        class Mine: pass
        @hookimpl
        def register_attention(register):
            register("mine", Mine)
        """,
        "attention 'mine' is Mine, which is no attnbench.Attention: write `class ...(Attention)`",
    ),
    "no_class": (
        "from attnbench import hookimpl\n@hookimpl\ndef register_scoring(register): register('mine', max)\n",
        "scoring 'mine' is <built-in function max>, which is no attnbench.ScoringFunction",
    ),
    "abstract": (
        """
        from attnbench import ScoringFunction, hookimpl
        class Mine(ScoringFunction):
            def __init__(self, query_dim: int, key_dim: int): super().__init__()
        @hookimpl
        def register_scoring(register):
            register("mine", Mine)
        """,
        "scoring 'mine': Mine is abstract: define forward",
    ),
    "no_type": (scoring("mine", "width=3"), "Mine's option 'width' has no type: write `width: int = 3`"),
    "no_default": (scoring("mine", "width: int"), "Mine's option 'width' has no default: write `width: int = ...`"),
    "unsupported_type": (
        scoring("mine", "width: bytearray = bytearray()"),
        "Mine's option 'width: bytearray = bytearray(b'')' is not one that a config can hold: write a bool, int,",
    ),
    "union": (scoring("mine", "width: int | list[int] = 3"), "'width: int | list[int] = 3' is not one that a config"),
    "wrong_default": (scoring("mine", "width: int = 'three'"), "Mine's option 'width: int = 'three'' is not one that"),
    "mutable_default": (
        scoring("mine", "widths: list[int] = [1]"),
        "Mine's option 'widths' has a mutable default: write a tuple, `widths: tuple[int, ...] = (1, 2)`",
    ),
    "fixed_tuple": (
        scoring("mine", "widths: tuple[int, int] = (1, 2)"),
        "Mine's option 'widths' is a tuple of fixed length: write `tuple[int, ...]`, or one option each",
    ),
    "literal_numbers": (
        scoring("mine", "width: Literal[1, 2] = 1"),
        "Mine's option 'width': a Literal option is made of words: write `Literal['a', 'b']`",
    ),
    "option_called_name": (scoring("mine", "name: str = ''"), "Mine's option 'name' is reserved: it holds the"),
    "swallows_options": (scoring("mine", "**options: Any").replace("*, ", ""), "Mine takes **options: Any: name each"),
    "type_checking_only": (
        "from __future__ import annotations\n" + scoring("mine", "width: Width = 3"),
        "Mine.__init__ has a type that is not there when it runs, 'Width': import it outside `if TYPE_CHECKING`",
    ),
    "misses_arguments": (
        scoring("mine").replace(", key_dim: int", ""),
        "Mine.__init__(self, query_dim) does not fit: a scoring is `def __init__(self, query_dim, key_dim, *, ...)`",
    ),
    "bad_name": (scoring("my-score"), "scoring 'my-score': a name is a word of ASCII letters, digits and _, not"),
    "yaml_word": (scoring("off"), "scoring 'off': YAML and the command line read that word as a value, not as a name"),
    "twice": (
        scoring("mine") + "    register('mine', Mine)\n",
        "it registers scoring 'mine' twice: rename one of them",
    ),
    "taken_name": (
        scoring("additive"),
        "it registers scoring 'additive', which plugins/scoring/additive.py (shipped) is: give it another name where "
        "it registers, or set ATTNBENCH_DISABLE=taken_name",
    ),
    "misspelt_hook": (
        scoring("mine").replace("def register_scoring", "def register_scorings"),
        "there is no hook 'register_scorings'; did you mean 'register_scoring'? (there are: register_attention, "
        "register_scoring, register_task): rename the function",
    ),
    "wrong_argument": (
        scoring("mine").replace("(register:", "(registry:"),
        "Argument(s) {'registry'} are declared in the hookimpl but can not be found in the hookspec: write `def",
    ),
    "no_hook": (
        scoring("mine").replace("@hookimpl\n", ""),
        "it has no hook: write `@hookimpl` above `def register_scoring(register)`, or _attention, or _task",
    ),
    "needs_absent": (
        "import absent_package.inner\n" + scoring("mine"),
        "ModuleNotFoundError: No module named 'absent_package' (needs_absent.py:1): pip install absent_package",
    ),
    "needs_neighbour": (
        "import no_hook\n" + scoring("mine"),
        "ModuleNotFoundError: No module named 'no_hook' (needs_neighbour.py:1): it lies beside the plugin: write "
        "`from attnbench.plugins import no_hook`",
    ),
    "needs_private": (
        "import attnbench.additive\n" + scoring("mine"),
        "import from attnbench what is public there; there are: Attention,",
    ),
    "needs_plugin": (
        "from attnbench.plugins.absent import x\n" + scoring("mine"),
        "ModuleNotFoundError: No module named 'attnbench.plugins.absent' (needs_plugin.py:1): mend it, or set",
    ),
    "not-a-module.name": ("import attnbench\n", "'not-a-module.name.py' is no module name: rename it, such as"),
    "bad_recipe": (
        """
        from attnbench import Task, hookimpl
        class Mine(Task):
            primary = "accuracy"
            recipe = {"trainer": {"max_epoch": 3}}
            def data(self, split): ...
            def model(self, make_attention): ...
            def loss(self, model, batch): ...
            def metrics(self): ...
            def evaluate(self, model, batch, metrics): ...
        @hookimpl
        def register_task(register):
            register("mine", Mine)
        """,
        "Mine.recipe does not fit a run: trainer.max_epoch: trainer has no option 'max_epoch'; did you mean",
    ),
    "no_primary": (
        """
        from attnbench import Task, hookimpl
        class Mine(Task):
            def data(self, split): ...
            def model(self, make_attention): ...
            def loss(self, model, batch): ...
            def metrics(self): ...
            def evaluate(self, model, batch, metrics): ...
        @hookimpl
        def register_task(register):
            register("mine", Mine)
        """,
        'Mine has no `primary`: write `primary = "accuracy"`, a key of its metrics()',
    ),
}  # fmt: skip


BROKEN_FOLDERS = {
    "breaks_inside": (
        {"__init__.py": "from .inner import *\n", "inner.py": "import attnbench\n\n1 / 0\n"},
        "ZeroDivisionError: division by zero (breaks_inside/inner.py:3): mend it, or set ATTNBENCH_DISABLE=breaks",
    ),
    "needs_inner": (
        {"__init__.py": "import inner\n" + scoring("mine"), "inner.py": ""},
        "No module named 'inner' (needs_inner/__init__.py:1): it lies in the plugin's folder: write `from . import",
    ),
    "hook_in_another_file": (
        {"__init__.py": "from . import inner\n", "inner.py": scoring("mine")},
        "it has no hook: write `@hookimpl` above `def register_scoring(register)`",
    ),
    "not-a-word": ({"__init__.py": scoring("mine")}, "'not-a-word' is no module name: rename it, such as to not_a_wo"),
}
