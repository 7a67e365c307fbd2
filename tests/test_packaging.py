"""The wheel, the sdist and the checkout are the same thing."""

import subprocess
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TEXTS = {".py", ".yaml", ".c", ".md", ".html", ".txt", ".typed"}
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
    said = subprocess.run(
        [environment.python, "-m", "attnbench", "trainer=debug", "task.lines=300", "hydra.run.dir=ran"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith("test/exact_match")
    assert (tmp_path / "ran" / "result.json").is_file()
    which = [environment.python, "-c", "import attnbench; print(attnbench.__file__)"]
    found = subprocess.run(which, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(environment.site))


def test_what_a_run_needs_has_an_upper_bound_that_admits_what_is_tested_here():
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in map(Requirement, needed):
        assert any(bound.operator == "<" for bound in requirement.specifier), requirement.name
        assert requirement.specifier.contains(version(requirement.name)), requirement.name
