"""What `new` writes works as written: found, typed, checked, trained; and nothing is overwritten."""

import ast
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench import scaffold
from attnbench.errors import UsageError
from attnbench.registry import Registry
from attnbench.schema import options

ROOT = Path(__file__).parent.parent
KINDS = ("scoring", "attention", "task")
PACKAGES = sorted((ROOT / "tests" / "plugins").glob("attnbench-*"))
#: Laws that take a moment each; all of them take minutes.
SOME = "declarations or shapes or misfits or rows or factors or permutation or maps or learns"


@pytest.fixture(scope="module")
def scaffolded(environment, tmp_path_factory):
    """A folder in which a fresh environment wrote a plugin of each kind, as a file and as a package."""
    folder = tmp_path_factory.mktemp("scaffolded")
    for kind in KINDS:
        for arguments in ([f"my_{kind}"], [f"packed_{kind}", "--package"]):
            call(environment, folder, "new", kind, *arguments)
    call(environment, folder, "new", "task", "my_tokens", "--tokens")
    return folder


@pytest.fixture(scope="module")
def installed(environment, scaffolded, tmp_path_factory):
    """The scaffolded packages, and those of tests/plugins, installed."""
    copies = tmp_path_factory.mktemp("packages")
    for package in (*PACKAGES, *scaffolded.glob("attnbench-*")):
        shutil.copytree(package, copies / package.name, ignore=shutil.ignore_patterns("__pycache__", "build", ".*"))
    environment.install(*sorted(copies.iterdir()))
    return copies


def call(environment, folder, *arguments, module="attnbench"):
    said = subprocess.run(
        [environment.python, "-m", module, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def test_new_writes_one_file_for_each_plugin_and_five_for_a_package(scaffolded):
    files = {str(path.relative_to(scaffolded)) for path in scaffolded.rglob("*") if path.is_file()}
    packed = "attnbench-packed-scoring"
    assert {name for name in files if name.startswith(("plugins/", packed)) and "__pycache__" not in name} == {
        "plugins/my_scoring.py",
        "plugins/my_attention.py",
        "plugins/my_task.py",
        "plugins/my_tokens.py",
        f"{packed}/attnbench_packed_scoring.py",
        f"{packed}/test_packed_scoring.py",
        f"{packed}/pyproject.toml",
        f"{packed}/README.md",
        f"{packed}/.gitignore",
    }


def test_what_is_written_passes_the_linter(scaffolded):
    rules = ["--config", str(ROOT / "pyproject.toml"), "--ignore", "I001"]  # where attnbench is sorted to
    for command in (["check", *rules], ["format", "--check", *rules[:2]]):
        ruff = [sys.executable, "-m", "ruff", *command, "plugins"]
        said = subprocess.run(ruff, cwd=scaffolded, capture_output=True, check=False)
        assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_scaffolded_file_says_where_to_change_what(kind, scaffolded):
    marks = {
        line.strip().partition(":")[0].removeprefix("# ")
        for line in (scaffolded / "plugins" / f"my_{kind}.py").read_text().splitlines()
        if line.strip().startswith("# ") and line.strip().partition(":")[0].removeprefix("# ").isupper()
    }
    assert {"SUMMARY", "OPTIONS", "LIMITS", "NAME"} < marks


def test_scaffolded_files_train(environment, scaffolded):
    call(
        environment, scaffolded, "task=my_task", "attention=my_attention", "scoring=my_scoring",
        "attention.sharpness=1", "scoring.temperature=1", "hydra.run.dir=together",
    )  # fmt: skip
    result = json.loads((scaffolded / "together" / "result.json").read_text())
    assert result["metrics"]["test/accuracy"] >= 0.99
    assert result["train_seconds"] < 60


def test_a_scaffolded_generator_of_tokens_is_a_short_task_that_trains(environment, scaffolded):
    assert len((scaffolded / "plugins/my_tokens.py").read_text().splitlines()) <= 40
    call(environment, scaffolded, "task=my_tokens", "hydra.run.dir=tokens")
    metrics = json.loads((scaffolded / "tokens" / "result.json").read_text())["metrics"]
    assert metrics["test/accuracy"] >= 0.99
    assert 0 < metrics["test/accuracy_longer"] <= 1


def test_only_a_task_is_a_generator_of_tokens(cli):
    said = cli("new", "scoring", "mine", "--tokens")
    assert (said.code, said.err) == (
        2, "attnbench: new scoring mine --tokens: only a task is a generator of tokens; leave --tokens out\n"
    )  # fmt: skip


def test_scaffolded_packages_train(environment, installed, tmp_path):
    call(
        environment, tmp_path, "task=packed_task", "attention=packed_attention", "scoring=packed_scoring",
        "trainer=debug", "hydra.run.dir=together",
    )  # fmt: skip
    assert json.loads((tmp_path / "together" / "result.json").read_text())["status"] == "completed"


def test_scaffolded_files_obey_the_laws(environment, scaffolded):  # the scoring function's are in README's chapter
    said = call(environment, scaffolded, "check", "plugins/my_attention.py", "plugins/my_task.py")
    assert "my_attention" in said
    assert "my_task" in said
    assert "2 components: " in said
    assert ", 0 broken" in said


def test_packages_test_themselves(environment, installed):
    out = call(
        environment, installed, "-v", "--import-mode=importlib", "-k", f"{SOME} or numbers or count", module="pytest"
    )
    for package in installed.glob("attnbench-*"):
        assert f"{package.name}/test_" in out


@pytest.mark.slow
@pytest.mark.parametrize("package", [*(f"attnbench-packed-{kind}" for kind in KINDS), *(p.name for p in PACKAGES)])
def test_a_package_obeys_every_law(package, environment, installed):
    assert " passed" in call(environment, installed / package, "-q", module="pytest")


def test_packages_are_listed_with_where_they_came_from(environment, installed, tmp_path):
    listed = json.loads(call(environment, tmp_path, "list", "--json"))
    origins = {f"{row['kind']}={row['name']}": row["origin"] for row in listed["components"]}
    assert origins["scoring=ard"] == "attnbench_ard (attnbench-ard 0.1.0)"
    assert origins["attention=refractory"] == "attnbench_refractory (attnbench-refractory 0.1.0)"
    assert origins["task=count"] == "attnbench_count (attnbench-count 0.1.0)"
    fits = next(row["fits"] for row in listed["components"] if row["name"] == "refractory")
    assert fits["task=date"] is None
    assert "the host of task=count asks all its queries at once" in fits["task=count"]


def test_pytest_starts_without_torch_where_no_law_is_asked_for(environment, installed, tmp_path):
    (tmp_path / "test_light.py").write_text("import sys\n\ndef test_light(): assert 'torch' not in sys.modules\n")
    assert "1 passed" in call(environment, tmp_path, "-q", "-p", "no:jaxtyping", module="pytest")


def test_a_law_test_of_what_is_not_registered_says_so(environment, tmp_path):
    text = (ROOT / "tests" / "plugins" / "attnbench-ard" / "test_ard.py").read_text().replace("=ard", "=addditive")
    (tmp_path / "test_mine.py").write_text(text)
    command = [environment.python, "-m", "pytest", "-q", "-k", "seed"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "scoring=addditive: no such scoring; did you mean 'additive'?" in said.stdout
    assert "Is its package installed? pip install -e ." in said.stdout


@pytest.mark.parametrize("words", [("task", "rows"), ("task", "host"), ("attention", "tensor"), ("scoring", "queries")])
def test_a_class_has_a_name_that_its_template_has_not(words, cli, tmp_path):
    assert cli("new", *words).code == 0
    written = (tmp_path / "plugins" / f"{words[1]}.py").read_text()
    classes = [statement.name for statement in ast.parse(written).body if isinstance(statement, ast.ClassDef)]
    assert len(classes) == len(set(classes)) and f"{words[1].capitalize()}{words[0].capitalize()}" in classes


def test_a_plugin_that_is_like_another_differs_from_it_in_its_names_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = Registry.load()
    for component in [c for c in registry.components.values() if c.origin.endswith("(shipped)")]:
        source = Path(inspect.getfile(component.cls))
        name = f"my_{component.name}"
        cls = "".join(word.capitalize() for word in name.split("_"))
        if source.parent.name != component.kind:
            with pytest.raises(UsageError, match=f"{source.name} is one of a folder's files"):
                scaffold.new(registry, component.kind, name, like=component.name)
            continue
        (plugin,) = scaffold.new(registry, component.kind, name, like=component.name)
        lines = zip(plugin.read_text().splitlines(), source.read_text().splitlines(), strict=True)
        changed = {new.strip() for new, old in lines if new != old}
        assert f'register("{name}", {cls})' in changed
        assert all(cls in line or f"Contribute `{name}`." in line for line in changed)


def test_a_copy_has_the_options_of_its_original_and_as_a_package_a_test_of_its_own_name(cli, tmp_path):
    assert cli("new", "attention", "my_gla", "--like", "gla").code == 0
    mine, original = (Registry.load().get("attention", name).cls for name in ("my_gla", "gla"))
    assert options(mine) == options(original)
    assert cli("new", "attention", "mine", "--like", "gla", "--package").code == 0
    assert "attention=mine" in (tmp_path / "attnbench-mine/test_mine.py").read_text()
    assert "class Mine(PrefixAttention)" in (tmp_path / "attnbench-mine/attnbench_mine.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["scoring", "additive"], "new scoring additive: scoring=additive exists (`list additive` says where)"),
        (["scoring", "my-score"], "of ASCII letters, digits and _, not starting with a digit; such as my_score"),
        (["scoring", "größe"], "new scoring größe: a name is a word of ASCII letters"),
        (["scoring", "class"], "new scoring class: Python has that word for itself; choose another name"),
        (["scoring", "_x"], "new scoring _x: files that begin with _ are not loaded; choose another name"),
        (["scoring", "false"], "new scoring false: YAML and the command line read that word as a value"),
        (["attention", "none"], "new attention none: YAML and the command line read that word as a value"),
        (["task", "NaN"], "new task NaN: YAML and the command line read that word as a value"),
        (["scoring", "../mine"], "new scoring ../mine: a name is a word"),
        (["scorng", "mine"], "new scorng: no such kind of plugin; did you mean 'scoring'?"),
        (["task", "task"], "has that file name; choose another name"),
        (["task", "there"], "new task there: plugins/there.py exists; move it, or choose another name"),
        (["task", "there", "--package"], "new task there: attnbench-there exists; move it, or choose another name"),
        (["attention", "mine", "--like", "glla"], "attention=glla: no such attention; did you mean 'gla'?"),
        (["task", "mine", "--like", "recall", "--tokens"], "new task mine: --tokens or --like recall, not both"),
        (["scoring"], "new: the following arguments are required: NAME; see python -m attnbench new --help"),
        (["scoring", "mine", "--packge"], "new: unrecognized arguments: --packge; did you mean '--package'?"),
    ],
)
def test_new_refuses_in_one_line_and_writes_nothing(arguments, line, cli, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "there.py").write_text("mine\n")
    (tmp_path / "attnbench-there").mkdir()
    before = sorted(tmp_path.rglob("*"))
    said = cli("new", *arguments)
    assert said.code == 2
    assert said.err.startswith("attnbench: ")
    assert line in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "plugins" / "there.py").read_text() == "mine\n"
