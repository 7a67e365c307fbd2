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

import pytest
from broken_plugins import BROKEN, BROKEN_FOLDERS, scoring, write

import attnbench
from attnbench.registry import Registry
from attnbench.run import build
from attnbench.run_folder import typed

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


def install(site: Path, distribution: str, entry: str, modules: Mapping[str, str]) -> None:
    """Lay out what pip leaves of a package that has one entry point."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[attnbench]\n{entry}\n")
    for name, text in modules.items():
        write(site / f"{name}.py", text)


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
    assert found["scoring=additive"].endswith("(shipped)")  # what ships keeps its name
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
    mine = write(tmp_path / "plugins" / "mine.py", scoring("half"))
    other = write(tmp_path / "plugins" / "other.py", scoring("half"))
    done = call(tmp_path, "scoring=half", "trainer=debug")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"attnbench: scoring=half: both {mine} and {other} register it; rename one of them"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["mine.py", "bilinear.py"])
def test_a_copy_of_a_shipped_file_takes_nothing_away_whether_it_is_disabled_or_not(place, tmp_path, monkeypatch):
    shipped = Registry.load().get("scoring", "bilinear")
    copy = write(tmp_path / place, (ROOT / "plugins" / "scoring" / "bilinear.py").read_text())
    registry = Registry.load(copy)
    assert registry.get("scoring", "bilinear") == shipped
    (failure,) = registry.failures
    assert str(failure).endswith(
        "it registers scoring 'bilinear', which plugins/scoring/bilinear.py (shipped) is: "
        f"give it another name where it registers, or set ATTNBENCH_DISABLE={copy.stem}"
    )
    monkeypatch.setenv("ATTNBENCH_DISABLE", copy.stem)
    registry = Registry.load(copy)
    assert registry.get("scoring", "bilinear") == shipped
    assert not registry.failures


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


def test_a_plugin_that_raises_what_is_no_exception_fails_alone(tmp_path):
    path = tmp_path / "theirs.py"
    path.write_text("import attnbench\nclass Odd(BaseException): pass\nraise Odd('no')\n")
    failures = Registry.load(path).failures
    assert [str(failure).partition("Odd")[2] for failure in failures if failure.name == "theirs"] == [
        ": no (theirs.py:3): mend it, or set ATTNBENCH_DISABLE=theirs"
    ]


BUGGY = '''
from typing import Literal
import torch
from attnbench import Draws, Register, Sequences, TokenTask, hookimpl


class Buggy(TokenTask):
    """Raises what its option says."""

    def __init__(self, *, how: Literal["loss", "bug", "library", "meant", "model"] = "loss") -> None:
        super().__init__(10)
        self.how = how
        if how == "bug":
            a, b = (1,)
        if how == "library":
            torch.nn.Dropout(3.0)
        if how == "meant":
            raise ValueError(
                "say something else")

    def generate(self, draws: Draws) -> Sequences:
        tokens = draws.integers(10, 8)
        return Sequences(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool))

    def model(self, make_attention):
        if self.how == "model":
            a, b = (1,)
        return super().model(make_attention)

    def loss(self, model, batch):
        return open("nowhere.txt")


@hookimpl
def register_task(register: Register) -> None:
    register("buggy", Buggy)
'''


@pytest.mark.parametrize(("how", "line"), [
    ("bug", "task=buggy: not enough values to unpack (expected 2, got 1) (mine/buggy.py:13)"),
    ("library", "task=buggy: dropout probability has to be between 0 and 1, but got 3.0 (mine/buggy.py:15)"),
    ("meant", "task=buggy: say something else"),
    ("model", "task=buggy: not enough values to unpack (expected 2, got 1) (mine/buggy.py:26)"),
])  # fmt: skip
def test_an_error_that_a_plugin_did_not_raise_itself_has_its_place(how, line, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    registry = Registry.load(write(tmp_path / "mine" / "buggy.py", BUGGY))
    words = {"task": {"name": "buggy", "how": how}, "attention": {"name": "uniform"}}
    with pytest.raises(attnbench.UsageError) as error:
        build(typed(registry, words, []), registry)
    assert str(error.value) == line


def test_a_file_that_a_plugin_does_not_find_is_named_with_the_place(tmp_path: Path) -> None:
    write(tmp_path / "plugins" / "buggy.py", BUGGY)
    done = call(tmp_path, "task=buggy", "attention=uniform", "trainer.progress_bar=false")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "attnbench: nowhere.txt: No such file or directory (plugins/buggy.py:30)"
