"""Plugins: where they come from, and that one that is broken costs one line and nothing else.

What is imported once a process is tested in a fresh interpreter, several plugins at a time: starting one takes seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

import attnbench

ROOT = Path(attnbench.__file__).parent.parent


def call(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m attnbench` in a folder, in a fresh interpreter."""
    path = os.pathsep.join([environment.pop("PYTHONPATH", ""), str(ROOT)]).lstrip(os.pathsep)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ATTNBENCH_")}
    return subprocess.run(
        [sys.executable, "-m", "attnbench", *arguments],
        cwd=folder,
        env={**clean, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


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


def install(site: Path, distribution: str, entry: str, modules: Mapping[str, str]) -> None:
    """Lay out what pip leaves of a package that has one entry point."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[attnbench]\n{entry}\n")
    for name, text in modules.items():
        write(site / f"{name}.py", text)


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
        "it registers scoring 'additive', which plugins/scoring/additive.py (shipped) registers too, so neither has "
        "the name: rename one of them, or set ATTNBENCH_DISABLE=taken_name",
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


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every broken plugin at once, in a folder, a second folder and three packages, among some that work."""
    top = tmp_path_factory.mktemp("zoo")
    for name, (text, _) in BROKEN.items():
        write(top / "first" / f"{name}.py", text)
    for name, (files, _) in BROKEN_FOLDERS.items():
        for file, text in files.items():
            write(top / "first" / name / file, text)
    write(top / "first" / "works.py", scoring("works", "width: int = 3"))
    write(top / "first" / "whole" / "__init__.py", "from .inner import register_scoring\n")
    write(top / "first" / "whole" / "inner.py", scoring("whole"))
    write(top / "first" / "no_folder_of_ours" / "__init__.py", "raise SystemExit('never imported')\n")
    write(top / "first" / "no_package" / "inner.py", "raise SystemExit('never imported: attnbench')\n")
    write(top / "second" / "scoring" / "in_group" / "__init__.py", scoring("in_group"))
    write(top / "second" / "whole" / "__init__.py", scoring("whole_again"))
    write(top / "second" / "both" / "__init__.py", scoring("both"))
    write(top / "second" / "both.py", scoring("both_again"))
    write(top / "first" / "no_plugin_of_ours.py", "raise SystemExit('never imported')\n")
    write(top / "second" / "works.py", scoring("works_too"))
    write(top / "second" / "taken_again.py", scoring("works_here"))
    write(top / "second" / "dangling.py", "").unlink()
    (top / "second" / "dangling.py").symlink_to(top / "nowhere.py")
    (top / "second" / "folder.py").mkdir()
    write(top / "second" / "scoring" / "__init__.py", "raise SystemExit('never imported')\n")
    write(top / "plugins" / "here.py", scoring("works_here"))
    write(top / "plugins" / "attention" / "grouped.py", scoring("grouped"))
    install(top / "site", "no-module", "no_module = no_such_module", {})
    install(top / "site", "no-object", "no_object = half_module:plugin", {"half_module": "import attnbench\n"})
    install(top / "site", "good", "good = good_module", {"good_module": scoring("packaged")})
    install(top / "site", "lacking", "lacking = lacking_module", {"lacking_module": "import absent_package\n"})
    return top


@pytest.fixture(scope="module")
def listed(zoo: Path) -> dict[str, object]:
    folders = os.pathsep.join([str(zoo / "first"), str(zoo / "second"), str(zoo / "gone")])
    done = call(zoo, "list", "--json", ATTNBENCH_PLUGINS=folders, PYTHONPATH=str(zoo / "site"))
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def failures(listed: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    rows = listed["failures"]
    assert isinstance(rows, list)
    return {row["name"]: (row["origin"], row["reason"]) for row in rows}


def origins(listed: Mapping[str, object]) -> dict[str, str]:
    rows = listed["components"]
    assert isinstance(rows, list)
    return {f"{row['kind']}={row['name']}": row["origin"] for row in rows}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_one_line_that_names_its_file_and_a_cure(
    name: str, zoo: Path, listed: Mapping[str, object]
) -> None:
    origin, reason = failures(listed)[name]
    assert origin == str(zoo / "first" / f"{name}.py")
    assert BROKEN[name][1] in reason
    assert "\n" not in reason


def test_what_works_works_beside_everything_broken(zoo: Path, listed: Mapping[str, object]) -> None:
    found = origins(listed)
    assert found["scoring=works"] == str(zoo / "first" / "works.py")
    assert found["scoring=packaged"] == "good_module (good 1.0)"
    assert found["scoring=grouped"] == str(zoo / "plugins" / "attention" / "grouped.py")
    shipped = {"scoring=dot", "scoring=bilinear", "attention=soft", "attention=multihead", "task=date"}
    assert shipped <= set(found)
    assert not any("no_plugin_of_ours" in origin for origin in found.values())


def test_only_what_is_broken_is_reported(listed: Mapping[str, object]) -> None:
    others = {
        "whole",
        "both",
        *BROKEN_FOLDERS,
        "works",
        "here",
        "dangling",
        "gone",
        "no_module",
        "no_object",
        "lacking",
    }
    assert set(failures(listed)) == {*BROKEN, *BROKEN_FOLDERS} | others


def test_two_folders_with_one_file_name_name_both(zoo: Path, listed: Mapping[str, object]) -> None:
    origin, reason = failures(listed)["works"]
    assert origin == str(zoo / "second" / "works.py")
    assert reason == f"{zoo}/first/works.py has the same name: rename one of them"


@pytest.mark.parametrize("name", BROKEN_FOLDERS)
def test_a_broken_folder_is_one_line_that_says_where(name: str, listed: Mapping[str, object]) -> None:
    assert BROKEN_FOLDERS[name][1] in failures(listed)[name][1]


def test_a_folder_is_a_plugin_as_a_file_is(zoo: Path, listed: Mapping[str, object]) -> None:
    found = origins(listed)
    assert found["scoring=whole"] == str(zoo / "first" / "whole")
    assert found["scoring=in_group"] == str(zoo / "second" / "scoring" / "in_group")
    assert not any("no_folder_of_ours" in origin or "no_package" in origin for origin in found.values())


def test_a_folder_and_a_file_of_one_name_name_both(zoo: Path, listed: Mapping[str, object]) -> None:
    assert failures(listed)["whole"] == (
        f"{zoo}/second/whole",
        f"{zoo}/first/whole has the same name: rename one of them",
    )
    assert failures(listed)["both"] == (
        f"{zoo}/second/both.py",
        f"{zoo}/second/both has the same name: rename one of them",
    )


def test_a_name_claimed_twice_belongs_to_neither(zoo: Path, listed: Mapping[str, object]) -> None:
    found = origins(listed)
    assert "scoring=additive" not in found
    assert "scoring=works_here" not in found
    _, reason = failures(listed)["here"]
    assert f"which {zoo}/second/taken_again.py registers too, so neither has the name" in reason


def test_a_folder_that_is_named_and_not_there_is_reported(zoo: Path, listed: Mapping[str, object]) -> None:
    assert failures(listed)["gone"][1].startswith("there is no such folder: make it, or take it out")


def test_an_entry_point_that_leads_nowhere_names_its_package(listed: Mapping[str, object]) -> None:
    found = failures(listed)
    assert found["no_module"] == (
        "no_such_module (no-module 1.0)",
        "entry point no_module = 'no_such_module' leads nowhere: reinstall or uninstall no-module "
        "(no module 'no_such_module')",
    )
    assert "leads nowhere: reinstall or uninstall no-object (no 'plugin' in half_module)" in found["no_object"][1]
    assert found["lacking"][1].endswith("(lacking_module.py:1): pip install absent_package")


def test_a_run_that_asks_for_a_clashing_name_stops_and_names_both(tmp_path: Path) -> None:
    mine = write(tmp_path / "plugins" / "mine.py", scoring("additive"))
    done = call(tmp_path, "scoring=additive", "trainer=debug")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"attnbench: scoring=additive: both plugins/scoring/additive.py (shipped) and {mine} register it; "
        "rename one of them"
    )
    assert not (tmp_path / "runs").exists()


def test_a_plugin_can_take_over_a_shipped_name_by_disabling_it(tmp_path: Path) -> None:
    mine = write(tmp_path / "plugins" / "mine.py", scoring("additive", docstring="Mine."))
    write(tmp_path / "plugins" / "broken.py", "import attnbench\n1 / 0\n")
    done = call(tmp_path, "list", ATTNBENCH_DISABLE="additive, broken", ATTNBENCH_STRICT="1")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^  additive +Mine\.\n +from {re.escape(str(mine))}$", done.stdout, re.MULTILINE)
    assert "disabled: plugin 'additive', plugins/scoring/additive.py (shipped)" in done.stdout
    assert f"disabled: plugin 'broken', {tmp_path}/plugins/broken.py" in done.stdout


def test_strict_makes_a_broken_plugin_fatal(tmp_path: Path) -> None:
    write(tmp_path / "plugins" / "broken.py", "import attnbench\n1 / 0\n")
    done = call(tmp_path, "list", ATTNBENCH_STRICT="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"attnbench: plugin 'broken' is not loaded, {tmp_path}/plugins/broken.py: ZeroDivisionError: division by zero "
        "(broken.py:2): mend it, or set ATTNBENCH_DISABLE=broken (fatal: ATTNBENCH_STRICT is set)\n"
    )


def test_strict_is_off_when_it_is_0(tmp_path: Path) -> None:
    write(tmp_path / "plugins" / "broken.py", "import attnbench\n1 / 0\n")
    done = call(tmp_path, "list", "broken", ATTNBENCH_STRICT="0")
    assert done.returncode == 2
    assert done.stderr.startswith("attnbench: plugin 'broken' is not loaded, ")
    assert len(done.stderr.splitlines()) == 1


def test_a_run_with_a_plugin_that_works_goes_on_beside_one_that_does_not(tmp_path: Path) -> None:
    write(tmp_path / "plugins" / "broken.py", "import attnbench\n1 / 0\n")
    write(tmp_path / "plugins" / "mine.py", scoring("mine", "width: int = 3"))
    few = ("task.lines=300", "trainer=debug", "trainer.max_steps=2", "trainer.images=0", "trainer.progress_bar=false")
    done = call(tmp_path, "scoring=mine", "scoring.width=4", *few, "hydra.run.dir=ran")
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("attnbench: ")]
    assert complaints == [
        f"attnbench: plugin 'broken' is not loaded, {tmp_path}/plugins/broken.py: ZeroDivisionError: division by zero "
        "(broken.py:2): mend it, or set ATTNBENCH_DISABLE=broken"
    ]
    assert json.loads((tmp_path / "ran" / "result.json").read_text())["scoring"] == "mine"


def test_the_file_of_an_installed_plugin_is_checked_as_that_plugin(tmp_path: Path) -> None:
    install(tmp_path, "good", "good = good_module", {"good_module": scoring("packaged")})
    done = call(tmp_path, "check", "good_module.py", PYTHONPATH=str(tmp_path))
    assert "is not loaded" not in done.stderr
    assert "scoring=packaged" in done.stdout


@pytest.mark.parametrize(("folder", "named"), [("", "elsewhere/mine"), ("elsewhere", "mine"), ("elsewhere/mine", ".")])
def test_a_folder_anywhere_is_checked(folder, named, cli, tmp_path, monkeypatch) -> None:
    write(tmp_path / "elsewhere" / "mine" / "__init__.py", "from .inner import register_scoring\n")
    write(tmp_path / "elsewhere" / "mine" / "inner.py", scoring("mine"))
    checked = []
    monkeypatch.setattr("attnbench.contract.check_all", lambda components, *_: checked.extend(components) or {})
    monkeypatch.chdir(tmp_path / folder)
    assert cli("check", named).code == 0
    assert [(component.name, component.cls.__module__.rpartition(".")[2]) for component in checked] == [
        ("mine", "inner")
    ]


def test_a_folder_that_is_no_plugin_is_told_so(cli, tmp_path) -> None:
    write(tmp_path / "empty" / "inner.py", scoring("mine"))
    line = "attnbench: empty: it has no __init__.py; a folder is a plugin where that has its hook\n"
    assert cli("check", "empty").err == line
    assert cli("check", "elsewhere/none").err == "attnbench: elsewhere/none: no such file\n"


def test_a_folder_is_disabled_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "plugins" / "scoring" / "mine" / "__init__.py", scoring("mine"))
    done = call(tmp_path, "list", ATTNBENCH_DISABLE="mine")
    assert f"disabled: plugin 'mine', {tmp_path}/plugins/scoring/mine" in done.stdout
