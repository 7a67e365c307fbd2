"""Imports go one way, plugins know the public API alone, and the light commands stay light."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attnbench
from attnbench.registry import Registry

ROOT = Path(__file__).parent.parent
#: The rooms, the lowest first; a module may import those of its own row and of the rows above it.
ROWS = [
    set(rooms.split())
    for rooms in (
        "startup streams files errors shapes answers interfaces masking kernels heads sampling",
        "config measure",
        "hosts chunkwise prefix sequences tokens slice_mean slice_figure downloads schema hookspecs",
        "loading registry training",
        "run_folder bench reports scaffold words",
        "run",
        "sweep suite contract report",
        "__main__",
    )
]
#: What a plugin may import beside `attnbench` itself.
PUBLIC = ("hosts", "heads", "chunkwise", "prefix", "sampling", "shapes", "downloads")
#: Where Lightning may be imported: a report is a callback where a class of it is.
WITH_LIGHTNING = ("training", "run")
CORE = sorted(path for path in (ROOT / "attnbench").rglob("*.py") if "pytest_attnbench" not in path.parts)
PLUGINS = sorted([*(ROOT / "plugins").glob("*/*.py"), *(ROOT / "plugins").glob("*/*/**/*.py")])

#: Which file each registered class is in.
FILES = {c.cls: Path(sys.modules[c.cls.__module__].__file__) for c in Registry.load().components.values()}


def names(path: Path) -> set[str]:
    return {name for statement in ast.walk(ast.parse(path.read_text())) for name in imported(statement)}


def imported(statement: ast.AST) -> set[str]:
    if isinstance(statement, ast.Import):
        return {alias.name for alias in statement.names}
    if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
        return {f"{statement.module}.{alias.name}" for alias in statement.names}
    return set()


def at_the_top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Walk through what runs when a module is imported."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
            yield from at_the_top([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.With | ast.Try):
            yield from at_the_top(statement.body)
        else:
            yield statement


def room(name: str) -> str:
    """Return which room of the core a dotted name is in; "" for anything else."""
    package, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    return first if package == "attnbench" and any(first in row for row in ROWS) else ""


def row(name: str) -> int:
    return next(number for number, rooms in enumerate(ROWS) if name in rooms)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_module_of_the_core_has_a_room():
    assert {dotted(path).split(".")[1] for path in CORE if dotted(path) != "attnbench"} <= set().union(*ROWS)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_the_core_imports_only_from_its_row_and_below(path):
    here = room(dotted(path))
    if here:
        assert not {name for name in names(path) if room(name) and row(room(name)) > row(here)}


def test_no_modules_import_one_another():
    known = {dotted(path) for path in CORE}
    graph = {}
    for path in CORE:
        body = ast.parse(path.read_text()).body
        inside = {name for statement in at_the_top(body) for name in imported(statement)}
        modules = {name if name in known else name.rpartition(".")[0] for name in inside - {"attnbench.plugins"}}
        graph[dotted(path)] = modules & known - {dotted(path)}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_lightning_is_imported_where_a_run_is_and_in_reports_that_are_callbacks(path):
    here, text = room(dotted(path)), path.read_text()
    if any(name.partition(".")[0] in ("pytorch_lightning", "lightning_fabric") for name in names(path)):
        assert here in WITH_LIGHTNING or (here == "reports" and ("Callback)" in text or "Logger)" in text))


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_no_plugin_by_name(path):
    assert not {name for name in names(path) if name.startswith("attnbench.plugins.")}


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_imports_the_public_api_only(path):
    ours = {name for name in names(path) if name.partition(".")[0] == "attnbench"} - {"attnbench"}
    public = {f"attnbench.{name}" for name in (*attnbench.__all__, *PUBLIC)}
    assert all(name in public or name.rpartition(".")[0] in {f"attnbench.{room}" for room in PUBLIC} for name in ours)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_of_other_files_a_plugin_imports_only_those_of_its_own_folder(path):
    depth = len(path.relative_to(ROOT / "plugins").parts) - 2  # of the plugin's folder above the file; 0: it has none
    levels = [s.level for s in ast.walk(ast.parse(path.read_text())) if isinstance(s, ast.ImportFrom)]
    assert max(levels, default=0) <= depth


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_names_no_other_plugins_class_in_a_string(path):
    own = ROOT.joinpath("plugins", *path.relative_to(ROOT / "plugins").parts[:2])  # the file, or the plugin's folder
    files = {c.cls: Path(sys.modules[c.cls.__module__].__file__) for c in Registry.load().components.values()}
    others = {cls.__name__ for cls, file in files.items() if file.is_relative_to(ROOT) and not file.is_relative_to(own)}
    assert others
    tree = ast.parse(path.read_text())
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in documents]
    dotted_names = {name for text in strings if isinstance(text, str) for name in re.findall(r"\w+(?:\.\w+)+", text)}
    words = {word for name in dotted_names for word in name.split(".")}
    assert not words & others


@pytest.mark.parametrize("words", ["--help", "list", "check dot --law runs"])
def test_a_light_command_imports_neither_lightning_nor_matplotlib(words):
    program = (
        f"import sys; sys.argv = ['attnbench', *{words.split()}]; from attnbench.__main__ import main; main();"
        "print('HEAVY', [name for name in ('pytorch_lightning', 'torchmetrics', 'matplotlib') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "HEAVY []" in said.stdout


def test_what_a_run_needs_does_not_bring_torchs_compiler_of_extensions():
    program = "import sys, attnbench.run; print('HEAVY', 'torch.utils.cpp_extension' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "HEAVY False" in said.stdout


def test_a_command_runs_scipy_signal_only_when_something_of_it_is_asked_for():
    program = (
        "import sys; sys.argv = ['attnbench']; import attnbench.run;"
        "print('RAN', sorted(name for name in sys.modules if name.startswith(('scipy.signal.', 'scipy.stats'))));"
        "from scipy.signal import *; import scipy.signal;"
        "print('WORKS', find_peaks([0, 1, 0])[0], scipy.signal.hamming(3).round(2), scipy.signal.windows.hann(3))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == "RAN []\nWORKS [1] [0.08 1.   0.08] [0. 1. 0.]\n"


def test_a_program_that_imports_attnbench_has_scipy_signal_as_it_is():
    program = "import sys, attnbench, scipy.signal; print('scipy.signal.windows' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == "True\n"


@pytest.mark.parametrize("words", [["list"], ["task=date"], ["resume=runs"]], ids=lambda words: words[0])
def test_a_command_collects_no_garbage_until_all_is_imported(words, tmp_path):
    program = (
        f"import gc, sys; sys.argv = ['attnbench', *{words}];"
        "from attnbench.__main__ import main; import attnbench.run;"
        "said = lambda *args, **options: print('COLLECTS', gc.isenabled(), gc.get_freeze_count() > 100_000);"
        "attnbench.run.run = attnbench.run.resume = said;"
        "print('IMPORTS', gc.isenabled()); main(); said()"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "IMPORTS False" in said.stdout
    assert "COLLECTS True True" in said.stdout
    assert "COLLECTS False" not in said.stdout


def test_what_a_command_starts_collects_no_garbage_until_all_is_imported_either():
    program = (
        f"import gc, sys; sys.argv = ['{ROOT / 'attnbench' / '__main__.py'}'];"
        "import attnbench; print(attnbench.__file__, gc.isenabled())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == f"{ROOT / 'attnbench' / '__init__.py'} False\n"


def test_a_program_that_imports_attnbench_goes_on_collecting_garbage():
    program = "import attnbench, gc; print(gc.isenabled())"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"
