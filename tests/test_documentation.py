"""The documentation is true where a program can tell: tables, commands, links, files."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from conftest import SMALL
from write_tables import PAGES, filled

import attnbench
from attnbench.__main__ import COMMANDS
from attnbench.bench import BenchConfig
from attnbench.registry import Registry
from attnbench.reports.usage import SETTINGS, settings
from attnbench.schema import options
from attnbench.suite import find_suite

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [ROOT / "README.md"]
    + [
        path
        for folder in (".github", "attnbench", "conf", "plugins", "tests/benchmarks")
        for path in (ROOT / folder).rglob("*.md")
    ]
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def relative(path):
    return str(path.relative_to(ROOT))


def command_lines(text):
    """Return what a reader may type: the lines of bash blocks, and commands within sentences and tables."""
    blocks = [line for language, body in FENCED.findall(text) if language == "bash" for line in body.splitlines()]
    inline = [code for code in INLINE.findall(FENCED.sub("", text)) if re.match(r"(python3?|attnbench) ", code)]
    return [part.strip() for line in blocks + inline for part in re.split(r" && |\s+#\s", line)]


COMMAND_LINES = sorted({(relative(path), line) for path in DOCUMENTS for line in command_lines(path.read_text())})
#: Those of plugins/README.md are run, by a test of its own.
OURS = [
    (page, match[1])
    for page, line in COMMAND_LINES
    if (match := re.match(r"(?:\S*python -m )?attnbench\b(.*)", line)) and page != "plugins/README.md"
]


def test_the_commands_of_the_pages_are_read():
    assert len(OURS) > 40
    assert ("README.md", " list NAME") in OURS


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_generated_tables_are_fresh(page):
    text = page.read_text()
    assert "<!-- generated: " in text
    assert filled(text) == text, "stale: run `python tests/write_tables.py`"


def anchors(text):
    """Return the anchors of a page's headings, as they are made on the forges."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=relative)
def test_a_link_within_the_project_leads_somewhere(page):
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


def test_every_page_is_reached_from_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(page.read_text())]
        waiting += [
            target for target in targets if target.suffix == ".md" and target not in reached and target.exists()
        ]
    assert set(DOCUMENTS) <= reached


def known_options(registry):
    """Return the options of each group; those of `attention`, say, are all that any attention module has."""
    known = {group: {s.name for s in settings(config)} for group, config in SETTINGS.items()}
    for component in registry.components.values():
        known.setdefault(component.kind, set()).update(option.name for option in options(component.cls))
    return known


@pytest.mark.parametrize(("page", "line"), OURS)
def test_a_documented_command_exists_with_its_words(page, line):
    registry = Registry.load()
    known = known_options(registry)
    words = [word for word in shlex.split(line) if not word.isupper()]
    command = words[0] if words and "=" not in words[0] and not words[0].startswith("-") else None
    if command is not None:
        assert command in COMMANDS
        assert command != "list" or all(registered(registry, name) for name in words[1:] if not name.startswith("-"))
    for word in words:
        key, equals, value = word.partition("=")
        if key.startswith("-"):
            assert not equals
            continue
        if not equals or key in ("seed", "resume", "install") or key.startswith("hydra"):
            continue
        group, dot, option = key.partition(".")
        if command == "bench" and not dot and key not in ("attention", "scoring"):
            assert key in {option.name for option in fields(BenchConfig)}, word
        elif command == "suite" and key in ("suite", "task"):
            assert all(name in find_suite("standard").tasks for name in value.split(",")) or find_suite(value), word
        elif dot:
            assert option in known[group], word
        else:
            names = value.split(",")
            assert all(chosen(registry, key, name) for name in names if name != "null" and "*" not in name), word


def registered(registry, name):
    return name in {*SETTINGS, "distance", *(key[1] for key in registry.components)}


def chosen(registry, group, name):
    written = name == "mine"  # what the page has its reader write
    return written or (group, name) in registry.components or (ROOT / "conf" / group / f"{name}.yaml").is_file()


@pytest.mark.parametrize("line", sorted({line for _, line in COMMAND_LINES if ".py" in line and "-m" not in line}))
def test_a_documented_program_exists(line):
    (program,) = [word for word in shlex.split(line) if word.endswith(".py")]
    assert (ROOT / program).is_file()


def test_every_benchmark_is_documented():
    text = (ROOT / "tests/benchmarks/README.md").read_text()
    for program in (ROOT / "tests/benchmarks").glob("*.py"):
        assert program.name in text, program.name


def test_every_experiment_has_a_card():
    cards = set(re.findall(r"^## (\w+)$", (ROOT / "conf/experiment/README.md").read_text(), re.MULTILINE))
    assert cards == {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}


def test_every_task_that_ships_has_a_section_or_a_page():
    text = (ROOT / "plugins/task/README.md").read_text()
    for task in Registry.load().of("task"):
        if task.shipped:
            assert re.search(rf"^## {task.name}$|\]\({task.name}/README.md\)", text, re.MULTILINE), task.name


def test_every_environment_variable_is_documented():
    sources = [path.read_text() for folder in ("attnbench", "plugins") for path in (ROOT / folder).rglob("*.py")]
    read = set(re.findall(r"environ(?:\.get\(|\[)\"(ATTNBENCH_\w+)\"", "\n".join(sources)))
    assert read <= set(re.findall(r"^\| `(ATTNBENCH_\w+)`", (ROOT / "attnbench/README.md").read_text(), re.MULTILINE))


def test_every_key_of_a_result_is_documented(cli, tmp_path):
    assert cli("hydra.run.dir=ran", *SMALL).code == 0
    chapter = (
        (ROOT / "attnbench/README.md").read_text().partition("The keys of `result.json`")[2].partition("\n\nThe ")[0]
    )
    rows = re.findall(r"^\| (`.+?) \|", chapter, re.MULTILINE)
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert set(json.loads((tmp_path / "ran" / "result.json").read_text())) == documented


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_documented(command, capsys):
    with pytest.raises(SystemExit):
        COMMANDS[command](Registry({}), ["--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    pages = "".join((ROOT / page).read_text() for page in ("attnbench/README.md", "plugins/README.md"))
    assert f"attnbench {command}" in pages
    assert not {option for option in options if not re.search(rf"{option}\b", pages)}


def test_a_table_of_trained_models_names_its_seeds():
    """What follows such a table is a line on the seeds that it was measured on."""
    for page in DOCUMENTS:
        for table in re.findall(r"(?:^\|.*\n)+(?:\n.*)?", page.read_text(), re.MULTILINE):
            header = table.splitlines()[0]
            if re.search(r"\bmean\b|\bbits wrong\b|\baccuracy\b", header):
                assert "**Seeds" in table, f"{relative(page)}: {header}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=relative)
def test_no_line_is_left_to_be_done(page):
    assert not re.search(r"\b(TODO|FIXME|TBD)\b", page.read_text())


def test_ci_runs_what_readme_says_on_each_python_that_is_supported():
    command = ".venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest -n auto"
    for file in ("README.md", ".github/CONTRIBUTING.md", ".ci/run"):
        assert command in (ROOT / file).read_text()
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert job["steps"][-1]["run"] == "bash .ci/run"
    project = (ROOT / "pyproject.toml").read_text()
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert job["strategy"]["matrix"]["python"] == classified
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    assert classified == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_the_torch_that_readme_installs_is_one_that_the_project_keeps():
    (bound,) = re.findall(r"'torch(<[\d.]+)'", (ROOT / "README.md").read_text())
    assert re.search(rf'"torch>=[\d.]+,{re.escape(bound)}"', (ROOT / "pyproject.toml").read_text())


def test_the_version_is_one():
    assert f'version = "{attnbench.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_what_plugins_may_import_is_there():
    rows = re.findall(r"^\| `attnbench\.?(\w*)` \|", (ROOT / "plugins/README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 6
    assert {row for row in rows if row} <= set(attnbench.__all__)
    modules = {name for name in attnbench.__all__ if isinstance(getattr(attnbench, name), ModuleType)}
    assert modules <= set(rows)


def test_a_copy_of_each_file_to_copy_is_a_plugin_once_it_has_another_name(tmp_path):
    chapter = (ROOT / "README.md").read_text().partition("## I want to")[2].partition("\n## ")[0]
    files = re.findall(r"\| \[[^\]]*\]\(([^)]+\.py)\) \|$", chapter, re.MULTILINE)
    (tmp_path / "plugins").mkdir()
    for number, file in enumerate(files):
        text, count = re.subn(r'register\("\w+"', f'register("mine_{number}"', (ROOT / file).read_text())
        assert count == 1, file
        (tmp_path / "plugins" / f"mine_{number}.py").write_text(text)
    command = [sys.executable, "-m", "attnbench", "list", "--json"]
    listed = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert listed["failures"] == []
    mine = {row["name"]: row["kind"] for row in listed["components"] if row["name"].startswith("mine_")}
    assert mine == {f"mine_{number}": Path(file).parent.name for number, file in enumerate(files)}
    assert set(mine.values()) == {"scoring", "attention", "task"}
