"""Imports go one way, and the light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    "errors",
    "config",
    "masking",
    "interfaces",
    "kernels",
    "hookspecs",
    "sampling",
    "schema",
    "loading",
    "downloads",
    "registry",
    "scaffold",
    "training",
    "run_folder",
    "measure",
    "bench",
    "reports",
    "run",
    "sweep",
    "contract",
    "__main__",
]
CORE = sorted((ROOT / "attnbench").rglob("*.py"))
PLUGINS = sorted(path for path in (ROOT / "plugins").glob("*/*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found |= {statement.module} | {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


def layer(name: str) -> int | None:
    parts = name.split(".")
    return ORDER.index(parts[1]) if parts[0] == "attnbench" and len(parts) > 1 and parts[1] in ORDER else None


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_the_core_imports_only_what_lies_below_it(path):
    here = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here is None:
        return
    above = {name for name in imports(path) if (there := layer(name)) is not None and there > here}
    assert not above


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_no_plugin_by_name(path):
    assert not {name for name in imports(path) if name.startswith("attnbench.plugins.")}


def neighbour(path):
    """How the private files of a plugin begin, `_memory_` for memory.py and for those files themselves."""
    return f"_{path.stem.removeprefix('_').partition('_')[0]}_" if path.stem.startswith("_") else f"_{path.stem}_"


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_imports_the_public_api_only(path):
    private = f"attnbench.plugins.{path.parent.name}.{neighbour(path)}"  # a plugin too long for one file has some
    ours = {name for name in imports(path) if name.startswith("attnbench.") and not name.startswith(private)}
    inner = {name for name in ours if name.count(".") > 1}
    modules = {name.split(".")[1] for name in ours}
    import attnbench

    beside = {
        statement.module
        for statement in ast.walk(ast.parse(path.read_text()))
        if isinstance(statement, ast.ImportFrom) and statement.level
    }
    assert not inner
    assert all(name.startswith(neighbour(path)) for name in beside), "a plugin's own private neighbours only"
    assert modules <= set(attnbench.__all__)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_of_other_files_a_plugin_imports_only_private_ones_of_its_own_name(path):
    near = [s for s in ast.walk(ast.parse(path.read_text())) if isinstance(s, ast.ImportFrom) and s.level]
    assert all(s.level == 1 and (s.module or "").startswith(neighbour(path)) for s in near)


@pytest.mark.parametrize("command", ["--help", "list"])
def test_a_light_command_imports_neither_lightning_nor_matplotlib(command):
    program = (
        f"import sys; sys.argv = ['attnbench', '{command}']; from attnbench.__main__ import main; main();"
        "print('HEAVY', [name for name in ('pytorch_lightning', 'torchmetrics', 'matplotlib') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "HEAVY []" in said.stdout
