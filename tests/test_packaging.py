"""The wheel, the sdist and the checkout are the same thing."""

import os
import subprocess
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import copy_checkout, make_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TEXTS = {".py", ".yaml", ".c", ".h", ".md", ".html", ".txt", ".typed", ".png"}
SHIPPED = {
    f"attnbench/{path.relative_to(ROOT)}"
    for folder in ("plugins", "conf")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in TEXTS
}
CORE = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "attnbench").rglob("*")
    if path.suffix in TEXTS and "pytest_attnbench" not in path.parts
} | {"attnbench/py.typed"}


def test_the_wheel_holds_the_core_every_plugin_and_every_configuration(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert not (SHIPPED | CORE) - names
    assert not [name for name in names if "__pycache__" in name]
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "conf/"))]


def test_the_wheel_holds_the_pytest_plugin_as_a_package_of_its_own(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "pytest_attnbench/__init__.py" in names
    assert not [name for name in names if name.startswith("attnbench/pytest_attnbench")]


def test_the_sdist_can_be_built_from(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name.removeprefix("attnbench/") for name in SHIPPED} <= names


def test_the_wheel_runs_in_an_empty_environment_from_any_folder(environment, tmp_path):
    words = ("trainer=debug", "task.lines=300", "hydra.run.dir=ran")
    assert call(environment.python, "-m", "attnbench", *words, cwd=tmp_path).startswith("test/exact_match")
    assert (tmp_path / "ran" / "result.json").is_file()
    where = call(environment.python, "-c", "import attnbench; print(attnbench.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment.site))


def test_what_a_run_needs_has_an_upper_bound_that_admits_what_is_tested_here():
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in map(Requirement, needed):
        assert any(bound.operator == "<" for bound in requirement.specifier), requirement.name
        assert requirement.specifier.contains(version(requirement.name)), requirement.name


@pytest.fixture(scope="module")
def editable(tmp_path_factory):
    """An environment with an editable install, and its checkout, which is named as the package and has been built."""
    source = copy_checkout(tmp_path_factory.mktemp("parent") / "attnbench")
    for name in ("build", "runs", "dist"):
        (source / name).mkdir()
    fresh = make_environment(tmp_path_factory.mktemp("editable"))
    fresh.install("-e", source)
    return fresh, source


def call(*command, cwd):
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    said = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout


@pytest.mark.parametrize("kind", ["checkout", "editable", "wheel"])
def test_of_the_folders_beside_the_package_configurations_and_plugins_alone_are_in_it(
    kind, editable, environment, tmp_path, tmp_path_factory
):
    installed, source = editable
    beside = sorted(path.stem for path in source.iterdir() if path.is_dir() and path.stem.isidentifier())
    assert {"attnbench", "build", "conf", "plugins", "runs", "tests"} <= set(beside)
    program = (
        "import importlib.util, attnbench, attnbench.conf, attnbench.plugins.task;"
        f"print([name for name in {beside} if importlib.util.find_spec('attnbench.' + name)], attnbench.__file__)"
    )
    if kind == "checkout":
        fresh, folder = make_environment(tmp_path_factory.mktemp("bare")), source
    else:
        fresh, folder = (installed if kind == "editable" else environment), tmp_path
    out = call(fresh.python, "-c", program, cwd=folder)
    assert out.startswith("['conf', 'plugins'] ")
    assert (str(source) in out) == (kind != "wheel")


def test_the_parent_folder_of_a_checkout_does_not_hide_what_is_installed(editable):
    installed, source = editable
    assert call(installed.python, "-m", "attnbench", "list", "dot", cwd=source.parent).startswith("scoring=dot")


def test_a_checkout_runs_without_being_installed(editable, tmp_path_factory):
    bare = make_environment(tmp_path_factory.mktemp("bare"))
    assert call(bare.python, "-m", "attnbench", "list", "dot", cwd=editable[1]).startswith("scoring=dot")


def test_the_console_command_is_the_module(environment, tmp_path):
    (tmp_path / "random.py").write_text("raise RuntimeError('the wrong file was imported')\n")
    command = str(Path(environment.python).parent / "attnbench")
    words = ("trainer=ddp", "task.lines=300", "trainer.max_steps=2", "trainer.images=0", "hydra.run.dir=ran")
    assert call(command, "--version", cwd=tmp_path).startswith("attnbench ")
    assert call(command, *words, cwd=tmp_path).startswith("test/exact_match")
