"""The command line: overrides make a run, a first word without `=` is a command."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import hydra
import yaml  # type: ignore[import-untyped]
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from attnbench.errors import Interrupted, UsageError, first_line, nearest
from attnbench.registry import Registry
from attnbench.schema import KINDS, explain, shown
from attnbench.sweep import Job, finish


def list_components(registry: Registry, arguments: list[str]) -> None:
    """List every component there is to choose, and every plugin that failed to load; with NAME, all about one."""
    taken = parser("list", list_components)
    taken.add_argument("name", nargs="?", metavar="NAME", help="such as multihead, or attention=multihead")
    taken.add_argument("--json", action="store_true", help="the same, for programs")
    given = taken.parse_args(arguments)
    from attnbench.reports import catalogue

    if given.json:
        print(json.dumps(catalogue.as_json(registry, given.name), indent=2, ensure_ascii=False))
    elif given.name:
        catalogue.show_one(registry, given.name)
    else:
        catalogue.show_list(registry)


def evaluate(registry: Registry, arguments: list[str]) -> None:
    """Measure a run's best checkpoint on its test data, or on other data: evaluate RUN_FOLDER task.file=PATH."""
    taken = parser("evaluate", evaluate)
    taken.add_argument("run_folder", type=Path)
    taken.add_argument("overrides", nargs="*", metavar="key=value", help="what to change in the run's config")
    given = taken.parse_args(arguments)
    from attnbench import run

    for tag, value in run.evaluate(given.run_folder, registry, given.overrides).items():
        print(f"{tag} {value:.6g}")


def compare(registry: Registry, arguments: list[str]) -> None:
    """Compare runs: seeds grouped, differences tested, costs beside them. Damaged and unfinished folders are listed."""
    taken = parser("compare", compare)
    taken.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or what holds them")
    taken.add_argument("--by", default="", help="what makes a group, such as attention,scoring; else all but the seed")
    taken.add_argument("--metric", help="such as test/exact_match or train_seconds; else each task's primary metric")
    taken.add_argument("--baseline", help="the group to compare the others with, such as uniform; else the best")
    taken.add_argument("--target", type=float, help="of the validation metric, for the time to reach it")
    form = taken.add_mutually_exclusive_group()
    form.set_defaults(form="terminal")
    for name in ("csv", "json", "markdown"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {name}")
    taken.add_argument("--html", type=Path, metavar="FILE", help="write a page, with curves and pictures, too")
    given = taken.parse_args(arguments)
    from attnbench.reports import tables
    from attnbench.reports.compare import printable, tabulate
    from attnbench.reports.runs import read_all

    for folder in given.folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
    runs, damaged = read_all(given.folders)
    by = [key.strip() for key in given.by.split(",") if key.strip()]
    try:
        compared, unfit = tabulate(runs, by=by, metric=given.metric, baseline=given.baseline, target=given.target)
    finally:
        for entry in damaged:
            print(printable(entry), file=sys.stderr)
    for entry in unfit:
        print(printable(entry), file=sys.stderr)
    tables.FORMS[given.form](compared, [*damaged, *unfit])
    if given.html is not None:
        from attnbench.reports import page

        page.write(given.html, compared, [*damaged, *unfit])
        print(f"{given.html}: written", file=sys.stderr)


def check(registry: Registry, arguments: list[str]) -> None:
    """Hold components to the laws of their kind: check additive multihead my_file.py; everything if none is named.

    Exits with 1 when a law is broken, and shows the smallest case that breaks it.
    """
    taken = parser("check", check)
    taken.add_argument("names", nargs="*", metavar="NAME", help="a registered name, or a file or folder of components")
    taken.add_argument("--device", default="cpu", help="where: cpu, cuda")
    given = taken.parse_args(arguments)
    from attnbench import contract
    from attnbench.contract.findings import show_laws

    known = {component.name for component in registry.components.values()}
    paths = [Path(name) for name in given.names if name not in known and _is_path(name)]
    names = [name for name in given.names if Path(name) not in paths]
    registry = Registry.load(*paths) if paths else registry
    components = contract.named(registry, names) if names or not paths else []
    components += [component for path in paths for component in contract.written_in(registry, path)]
    found = contract.check_all(components, registry, given.device)
    show_laws(found, {name: law.__doc__ or "" for c in components for name, law in contract.laws_for(c.kind).items()})
    if any(finding.status == "broken" for findings in found.values() for finding in findings):
        raise SystemExit(1)


def _is_path(name: str) -> bool:
    """Tell whether `check` is asked for a file or folder, and refuse one that is no plugin."""
    path = Path(name)
    if path.is_dir() and not (path / "__init__.py").is_file():
        raise UsageError(f"{path}: it has no __init__.py; a folder is a plugin where that has its hook")
    named = path.suffix == ".py" or path.name != name
    if named and not path.exists():
        raise UsageError(f"{path}: no such file")
    return named or path.is_dir()


def refuse_calls(arguments: list[str]) -> None:
    """Refuse a folder of configs that would have Hydra call something: it may be someone else's.

    Raises:
        UsageError: --experimental-rerun, which unpickles; or a config of --config-dir or --config-path that has
            `_target_`, other folders to search, or an interpolation that is more than another value of the config.
    """
    given = get_args_parser().parse_args(arguments)
    if given.experimental_rerun:
        raise UsageError("--experimental-rerun would execute what a file says; resume=RUN_FOLDER reads it as data")
    for folder in (given.config_dir, given.config_path):
        for path in sorted(Path(folder).rglob("*.yaml")) if folder else []:
            try:
                _refuse_calls(path, yaml.safe_load(path.read_text(encoding="utf-8")))
            except (ValueError, yaml.YAMLError) as error:
                raise UsageError(f"{path}: cannot be read: {first_line(error)}") from error


def _refuse_calls(path: Path, value: object, key: str = "") -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("_target_", "searchpath"):
                raise UsageError(f"{path}: {key}{name}: a config names registered components only; take it out")
            _refuse_calls(path, inner, f"{key}{name}.")
    elif isinstance(value, list):
        for inner in value:
            _refuse_calls(path, inner, key)
    elif isinstance(value, str) and "${" in re.sub(r"\$\{[\w.]+\}", "", value):
        raise UsageError(f"{path}: {key.rstrip('.')}: `{value}` is to be computed; `${{name.of.a.value}}` is allowed")


def predict(registry: Registry, arguments: list[str]) -> None:
    """Let a trained model answer for a text of your own: predict RUN_FOLDER "text", or the text on standard input."""
    taken = parser("predict", predict)
    taken.add_argument("run_folder", type=Path)
    taken.add_argument("text", nargs="*", help="else standard input is read")
    taken.add_argument(
        "--picture", type=Path, metavar="FILE", help="of the words' weights; prediction.png if not given"
    )
    given = taken.parse_args(arguments)
    text = " ".join(given.text) or sys.stdin.read()
    if not text.strip():
        raise UsageError('predict: the text is empty; predict RUN_FOLDER "text", or the text on standard input')
    from attnbench import run
    from attnbench.reports import prediction

    answer = run.predict(given.run_folder, registry, text)
    prediction.show(answer)
    if answer.looked is not None:
        picture = given.picture or Path("prediction.png")
        prediction.draw(answer, picture)
        print(f"{picture}: written", file=sys.stderr)


def start(registry: Registry, overrides: list[str]) -> None:
    """Compose a run with Hydra, or several with -m, and run it."""
    refuse_calls(overrides)
    registry.store()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printing
    sys.argv[1:] = overrides
    job = Job(registry)
    try:
        hydra.main(version_base="1.3", config_path="pkg://attnbench.conf", config_name="config")(job)()
    except ValueError as error:  # a group that has to be chosen is null
        word = next((override for override in overrides if override.endswith("=null")), first_line(error))
        raise UsageError(f"{word}: a name is expected; see python -m attnbench --help") from error
    finally:
        finish()
    if job.error is not None:
        raise job.error


def resume(registry: Registry, folder: Path, overrides: list[str]) -> None:
    """Go on with the run of a folder, to the result it would have had."""
    from attnbench import run

    run.resume(folder, registry, overrides)


def new(registry: Registry, arguments: list[str]) -> None:
    """Write a plugin that works, to be changed where it says so: new scoring|attention|task NAME."""
    taken = parser("new", new)
    taken.add_argument("kind", help="scoring, attention or task")
    taken.add_argument("name", metavar="NAME", help="the word on the command line")
    taken.add_argument("--package", action="store_true", help="a project to install and share, not plugins/NAME.py")
    given = taken.parse_args(arguments)
    from attnbench import scaffold

    plugin, *others = scaffold.new(registry, given.kind, given.name, package=given.package)
    print(f"wrote {', '.join(map(str, (plugin, *others)))}")
    if given.package:
        print(f"next: cd {plugin.parent}; pip install -e '.[test]'; pytest")
    else:
        print(f"next: python -m attnbench check {plugin}; python -m attnbench {given.kind}={given.name}")


def bench(registry: Registry, arguments: list[str]) -> None:
    """Measure time and memory by length, beside torch's own, and write bench.json and bench.png into a folder."""
    from attnbench.bench import BenchConfig

    defaults = " ".join(f"{f.name}={shown(getattr(BenchConfig(), f.name))}" for f in fields(BenchConfig))
    taken = parser("bench", bench)
    taken.epilog = f"defaults: {defaults}; besides, attention.OPTION=VALUE and scoring.OPTION=VALUE; "
    taken.epilog += "attention=null measures scoring functions by themselves"
    taken.add_argument("words", nargs="*", metavar="key=value", help="such as attention=soft,multihead length=128,512")
    given = taken.parse_args(arguments)
    from attnbench import bench as benching
    from attnbench.reports import costs

    result = benching.run(registry, given.words, say=lambda line: print(line, file=sys.stderr))
    folder = Path(result["config"]["output"])
    costs.draw(result, folder / "bench.png")
    costs.show(result)
    print(f"\n{folder / 'bench.json'} {folder / 'bench.png'}")


COMMANDS: Mapping[str, Callable[[Registry, list[str]], None]] = {
    "list": list_components,
    "evaluate": evaluate,
    "predict": predict,
    "compare": compare,
    "check": check,
    "new": new,
    "bench": bench,
}


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line."""
        raise UsageError(f"{self.prog.removeprefix('python -m attnbench ')}: {message}; see {self.prog} --help")


def parser(name: str, command: Callable[..., None]) -> argparse.ArgumentParser:
    """Make a command's parser; its docstring is its help."""
    return Parser(f"python -m attnbench {name}", description=command.__doc__, allow_abbrev=False)


def complaint(error: Exception, registry: Registry) -> str:
    """Put what Hydra, OmegaConf or the system says into one line that names what to type."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group in KINDS:
            try:
                registry.get(group, name)
            except UsageError as better:
                return str(better)
        top = f"no config '{name}' is there; without --config-name and --config-path attnbench's own is taken"
        return f"{group}={name}: no such {group}; {nearest(name, error.options or ())}" if group else top
    file = re.match(r"In '(.+)': \w+ raised while composing config", str(error))
    cause = error.__context__ if file else error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        group = str(cause.full_key).partition(".")[0]
        apart = f"; what is for one {group} alone goes into experiment/{group}/EXPERIMENT_{group.upper()}.yaml"
        hint = apart if file and group in ("attention", "scoring") else ""
        return (f"{file[1]}: " if file else "") + explain(cause) + hint
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not understood ({first_line(error)}); quote it, or write GROUP.OPTION=VALUE"
    text = re.sub(r"\s*See https?://\S+ for details", "", str(error))
    presets = r"the presets of \1 are for the command line; write values under `\1:` instead"
    text = re.sub(r"Could not override '(trainer|optimizer)'.*", presets, text)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(text.split())


def dispatch(arguments: list[str]) -> None:
    """Do what the command line says."""
    word = arguments[0] if arguments else ""
    registry = Registry.load()
    if word != "list":
        for failure in registry.failures:
            print(f"attnbench: {failure}", file=sys.stderr)
    try:
        if word in ("--help", "-h"):
            from attnbench.reports.catalogue import show_help

            show_help(registry, COMMANDS)
        elif word in COMMANDS:
            COMMANDS[word](registry, arguments[1:])
        elif word and "=" not in word and not word.startswith(("-", "+", "~")):
            raise UsageError(f"{word}: no such command; {nearest(word, COMMANDS)}; a run is GROUP=NAME")
        elif any(argument.startswith("resume=") for argument in arguments):
            folder = next(argument for argument in arguments if argument.startswith("resume="))
            resume(registry, Path(folder.removeprefix("resume=")), [a for a in arguments if a != folder])
        else:
            start(registry, arguments)
    except (HydraException, OmegaConfBaseException, OSError) as error:
        raise UsageError(complaint(error, registry)) from error


def main() -> int:
    """Run, and turn what a user can mend into one line."""
    try:
        dispatch(sys.argv[1:])
    except UsageError as error:
        print(f"attnbench: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("attnbench: interrupted", file=sys.stderr)
        return 130
    except Interrupted as error:
        print(f"attnbench: interrupted; to go on: python -m attnbench resume={error}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
