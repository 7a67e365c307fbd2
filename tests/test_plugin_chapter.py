"""plugins/README.md documents every hook, and its examples run in a fresh environment, in their order."""

import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from attnbench import hookspecs

ROOT = Path(__file__).parent.parent
CHAPTER = (ROOT / "plugins" / "README.md").read_text()
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, "attnbench_spec")}


def blocks():
    """Return each fenced example: its language, its text, and the line before it."""
    return [
        (match[2], match[3], match[1])
        for match in re.finditer(r"([^\n]*)\n\n?```(bash|python)\n(.*?)```", CHAPTER, re.DOTALL)
    ]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_documented_with_its_exact_arguments_and_since_when(name):
    arguments = ", ".join(inspect.signature(HOOKS[name]).parameters)
    since = re.search(r"\(since ([\d.]+)\)", inspect.getdoc(HOOKS[name]))
    assert since, f"{name}'s docstring does not say since when"
    assert re.search(rf"^\| `{name}\({arguments}\)` \| .* \| {re.escape(since[1])} \|$", CHAPTER, re.MULTILINE)


def test_every_documented_hook_exists():
    assert set(re.findall(r"^\| `(\w+)\(", CHAPTER, re.MULTILINE)) == set(HOOKS)


def test_arguments_of_a_hook_are_never_removed():
    since_0_1 = {name: ["register"] for name in ("register_scoring", "register_attention", "register_task")}
    for name, arguments in since_0_1.items():
        assert list(inspect.signature(HOOKS[name]).parameters)[: len(arguments)] == arguments


def test_the_examples_of_the_chapter_run(environment, tmp_path):
    folder, ran, said = tmp_path, [], ""
    for language, text, before in blocks():
        if language == "python":
            named = re.search(r"`(plugins/\w+\.py)`:$", before)
            if named:
                (folder / named[1]).write_text(text)
            elif "def test_" in text:
                (test,) = folder.glob("test_*.py")
                assert test.read_text() == text
            else:
                said += execute(environment, folder, "-c", text)
            continue
        for line in text.splitlines():
            command, *arguments = shlex.split(line.partition("  #")[0])
            if arguments[0].startswith("tests/"):  # of the checkout; it trains for minutes
                assert (ROOT / arguments[0]).is_file()
                continue
            if command == "cd":
                folder = folder / arguments[0]
            elif command == "pip":
                environment.install(folder)
            else:
                said += execute(environment, folder, *(["-m", "pytest"] if command == "pytest" else []), *arguments)
            ran.append(command)
    assert ran.count("python") >= 6
    assert ran.count("pytest") == 1
    assert ", 0 broken" in said
    assert (tmp_path / "runs" / "date" / "multihead-manhattan").is_dir()
    (weight,) = re.findall(r"weight of the marked key ([\d.]+)", said)
    assert float(weight) > 0.9
    assert "0 laws are broken\n" in said


def execute(environment, folder, *arguments):
    done = subprocess.run([environment.python, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
