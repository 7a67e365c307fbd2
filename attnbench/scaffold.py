"""`new`: a plugin that works as written, to be changed where it says so."""

from __future__ import annotations

import importlib.util
import inspect
import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from attnbench.errors import UsageError, nearest
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.schema import KINDS, name_fault


def new(
    registry: Registry, kind: str, name: str, *, package: bool = False, tokens: bool = False, like: str | None = None
) -> list[Path]:
    """Write a plugin into the current folder: `plugins/NAME.py`, or the project `attnbench-NAME`.

    Args:
        registry: what there is already.
        kind: scoring, attention or task.
        name: the word on the command line, and the file's name.
        package: write a project that can be installed, with a test.
        tokens: of a task, write a generator of tokens (`TokenTask`), not a whole task.
        like: a component to begin as a copy of.

    Returns:
        What was written, the plugin first.

    Raises:
        UsageError: there is no such kind, `tokens` is not for it, the name is taken or no identifier, `like` is no
            component of one file, or a file would be overwritten.
        OSError: the folder cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"new {kind}: no such kind of plugin; {nearest(kind, KINDS)}")
    if tokens and kind != "task":
        raise UsageError(f"new {kind} {name} --tokens: only a task is a generator of tokens; leave --tokens out")
    if (fault := name_fault(name)) is not None:
        fitting = name.replace("-", "_")
        advice = "choose another" if name_fault(fitting) else f"such as {fitting}"
        raise UsageError(f"new {kind} {name}: {fault}; {advice}")
    if keyword.iskeyword(name) or name.startswith("_"):
        why = "files that begin with _ are not loaded" if name.startswith("_") else "Python has that word for itself"
        raise UsageError(f"new {kind} {name}: {why}; choose another name")
    if (kind, name) in registry.components or (kind, name) in registry.contested:
        raise UsageError(f"new {kind} {name}: {kind}={name} exists (`list {name}` says where); choose another name")
    if tokens and like is not None:
        raise UsageError(f"new {kind} {name}: --tokens or --like {like}, not both")
    original = None if like is None else registry.get(kind, like)
    template = "tokens.py.txt" if tokens else f"{kind}.py.txt"
    text = _text(template) if original is None else _source(registry, original)
    title = name.replace("_", " ").strip().capitalize() or name
    words = {
        "kind": kind,
        "name": name,
        "title": title,
        "Class": _class_name(kind, name, text),
        "project": f"attnbench-{name.replace('_', '-').strip('-').lower()}",
        "module": f"attnbench_{name}",
    }
    plugin = Template(text).substitute(words) if original is None else _renamed(text, original, words)
    texts = _package(plugin, words) if package else {Path("plugins", f"{name}.py"): plugin}
    _refuse_overwriting(kind, name, words, texts, package)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    return list(texts)


def _source(registry: Registry, component: Component) -> str:
    """Read the file of a component that stands alone in it."""
    file = Path(inspect.getfile(component.cls))
    says = f"--like {component.name}: {file}"
    if file.parent.name == component.name or file.name == "__init__.py":
        raise UsageError(f"{says} is one of a folder's files; copy that folder into plugins, and change its names")
    beside = [c.name for c in registry.components.values() if inspect.getfile(c.cls) == str(file)]
    if len(beside) > 1:
        raise UsageError(f"{says} brings {', '.join(beside)}; copy it into plugins, and change its names")
    return file.read_text(encoding="utf-8")


def _renamed(text: str, component: Component, words: dict[str, str]) -> str:
    """Return the source of a component with another class and another name."""
    text = re.sub(rf"\b{component.cls.__name__}\b", words["Class"], text)
    text = re.sub(rf"""\bregister\((["']){component.name}\1""", f'register("{words["name"]}"', text)
    return text.replace(f"Contribute `{component.name}`.", f"Contribute `{words['name']}`.")


def _package(plugin: str, words: dict[str, str]) -> dict[Path, str]:
    folder = Path(words["project"])
    return {
        folder / f"{words['module']}.py": plugin,
        folder / f"test_{words['name']}.py": _filled("package/test.py.txt", words),
        folder / "pyproject.toml": _filled("package/pyproject.toml.txt", words),
        folder / "README.md": _filled("package/README.md.txt", words),
        folder / ".gitignore": _filled("package/gitignore.txt", words),
    }


def _refuse_overwriting(kind: str, name: str, words: dict[str, str], texts: dict[Path, str], package: bool) -> None:
    if package and Path(words["project"]).exists():
        raise UsageError(f"new {kind} {name}: {words['project']} exists; move it, or choose another name")
    for path in texts:
        if path.exists() or path.is_symlink():
            raise UsageError(f"new {kind} {name}: {path} exists; move it, or choose another name")
    if not package and (spec := importlib.util.find_spec(f"attnbench.plugins.{name}")) is not None:
        where = spec.origin or ", ".join(spec.submodule_search_locations or [])
        raise UsageError(f"new {kind} {name}: {where} has that file name; choose another name")


def _class_name(kind: str, name: str, text: str) -> str:
    """Return MyName for my_name, and MyNameTask where a word of the text, or of Python, is MyName."""
    cls = "".join(part.capitalize() for part in name.split("_")) or "Mine"
    taken = keyword.iskeyword(cls) or re.search(rf"\b{cls}\b", text)
    return f"{cls}{kind.capitalize()}" if taken else cls


def _filled(template: str, words: dict[str, str]) -> str:
    return Template(_text(template)).substitute(words)


def _text(template: str) -> str:
    return (files("attnbench") / "templates" / template).read_text(encoding="utf-8")
