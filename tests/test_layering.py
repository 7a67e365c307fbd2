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
    "chunkwise",
    "hookspecs",
    "sampling",
    "downloads",
    "hosts",
    "tokens",
    "schema",
    "loading",
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
#: What a plugin may import beside `attnbench` itself.
PUBLIC = ("hosts", "chunkwise", "sampling", "downloads")
CORE = sorted((ROOT / "attnbench").rglob("*.py"))
PLUGINS = sorted([*(ROOT / "plugins").glob("*/*.py"), *(ROOT / "plugins").glob("*/*/**/*.py")])


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


def relative(path: Path) -> list[ast.ImportFrom]:
    return [s for s in ast.walk(ast.parse(path.read_text())) if isinstance(s, ast.ImportFrom) and s.level]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_imports_the_public_api_only(path):
    import attnbench

    ours = {name for name in imports(path) if name.partition(".")[0] == "attnbench"} - {"attnbench"}
    public = {f"attnbench.{name}" for name in (*attnbench.__all__, *PUBLIC)}
    assert all(name in public or name.rpartition(".")[0] in {f"attnbench.{room}" for room in PUBLIC} for name in ours)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_of_other_files_a_plugin_imports_only_those_of_its_own_folder(path):
    depth = len(path.relative_to(ROOT / "plugins").parts) - 2  # of the plugin's folder above the file; 0: it has none
    neighbour = f"_{path.stem.removeprefix('_').partition('_')[0]}_" if depth == 0 else ""
    for statement in relative(path):
        assert statement.level <= max(depth, 1)
        assert depth or (statement.module or "").startswith(neighbour)


@pytest.mark.parametrize("command", ["--help", "list"])
def test_a_light_command_imports_neither_lightning_nor_matplotlib(command):
    program = (
        f"import sys; sys.argv = ['attnbench', '{command}']; from attnbench.__main__ import main; main();"
        "print('HEAVY', [name for name in ('pytorch_lightning', 'torchmetrics', 'matplotlib') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "HEAVY []" in said.stdout
