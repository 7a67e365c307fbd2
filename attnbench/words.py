"""The words of a run's command line: what is wrong with them, and what Hydra says of them, in one line."""

from __future__ import annotations

import argparse
import codecs
import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import yaml  # type: ignore[import-untyped]
from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnbench import conf  # type: ignore[attr-defined]
from attnbench.config import OptimizerConfig, TrainerConfig, expand_home, not_understood, refuse_expressions
from attnbench.errors import UsageError, first_line, nearest
from attnbench.loading import conf_folders
from attnbench.registry import PRESETS, SWEPT, Registry
from attnbench.schema import KINDS, explain, options

#: What Hydra takes for a number, a truth, a list or a mapping, where a name is expected.
NO_NAME = re.compile(r"[+-]?[\d._]+(e[+-]?\d+)?|[+-]?(inf|nan)|true|false|[\[{].*", re.IGNORECASE)


def check_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a run as Hydra takes them: `GROUP=null` is the group's empty preset there.

    Raises:
        UsageError: a word is none, takes something out, or chooses no task or attention.
    """
    result = []
    for word in map(expand_home, overrides):
        key, equals, value = word.partition("=")
        group = key.strip("~+").partition(".")[0].partition("@")[0]
        if key.startswith("~") and group != "hydra":
            raise UsageError(f"{word}: nothing can be taken out of a run; {group}=null means none")
        if not equals or not group:
            raise UsageError(f"'{word}': a run's words are GROUP=NAME and GROUP.OPTION=VALUE; see --help")
        if value.strip("'\"") == "???":
            raise UsageError(f"{word}: in a config that means a value that is missing; write one")
        if key in ("task", "attention") and value.lower() == "null":
            raise UsageError(f"{word}: a name is expected; see python -m attnbench --help")
        if key in PRESETS and value.lower() == "null":
            continue
        names = key.strip("+").partition("@")[0] in (*KINDS, *PRESETS)
        if names and any(NO_NAME.fullmatch(part.strip()) for part in value.split(",")):
            raise UsageError(f"{word}: a name is expected; see python -m attnbench --help")
        if key in (*PRESETS, "scoring"):
            value = re.sub(r"(?<![^,])null(?![^,])", "none", value, flags=re.IGNORECASE)
        result.append(f"{key}={value}")
    return result


def check_configs(folder: Path, overrides: Sequence[str]) -> None:
    """Refuse a folder of configs that would have Hydra call something: it may be someone else's.

    Hydra reads a file as it is read here; one that it could not read is in nobody's way unless it is chosen.

    Raises:
        UsageError: see `refuse_expressions`; or a chosen config is no YAML, or begins with a byte order mark.
    """
    chosen = {
        f"{key.lstrip('+')}/{name}"
        for key, _, value in (w.partition("=") for w in overrides)
        for name in value.split(",")
    }
    for name, _, files in os.walk(folder, followlinks=True):
        for path in (Path(name) / file for file in sorted(files) if file.endswith(".yaml")):
            wanted = str(path.relative_to(folder).with_suffix("")) in chosen
            try:
                values = OmegaConf.load(path)
                marked = path.read_bytes().startswith(codecs.BOM_UTF8)
            except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
                if wanted:
                    raise UsageError(f"{path}: cannot be read: {first_line(error)}") from error
                continue
            if wanted and marked:
                raise UsageError(
                    f"{path}: it begins with a byte order mark, which hides its first line; save it without"
                )
            refuse_expressions(path, OmegaConf.to_container(values, resolve=False), references=True)


def remember_sweep(overrides: Sequence[str]) -> None:
    """Note which keys are swept: a run folder's name says them first (see `override_suffix`)."""
    swept = re.compile(r"[^=]*=(?:[^\[{'\"]*,|(?:choice|range|interval|glob|shuffle|sort|tag)\()")
    os.environ[SWEPT] = ",".join(word.partition("=")[0] for word in overrides if swept.match(word))


def complaint(error: Exception, registry: Registry) -> str:
    """Return what Hydra, OmegaConf or the system says as one line that names what to type."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group in KINDS:
            try:
                registry.get(group, name)
            except UsageError as better:
                return str(better)
        top = f"no config '{name}' is there; without --config-name and --config-path attnbench's own is used"
        known = (option for option in error.options or () if option != "none")
        return f"{group}={name}: no such {group}; {nearest(name, known)}" if group else top
    file = re.match(r"In '(.+)': \w+ raised while composing config", str(error))
    cause = error.__context__ if file else error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        group = str(cause.full_key).partition(".")[0]
        apart = f"; what is for one {group} alone goes into experiment/{group}/EXPERIMENT_{group.upper()}.yaml"
        hint = apart if file and group in ("attention", "scoring") else ""
        owners = " or ".join(owning(str(cause.full_key), registry))
        said = f"{group}: the run has no option '{group}'; did you mean {owners}?" if owners else explain(cause)
        return (f"{file[1]}: " if file else "") + said + hint
    if isinstance(error, OverrideParseException):
        return not_understood(str(error.override))
    text = re.sub(r"\s*See https?://\S+ for details", "", str(error))
    presets = r"the presets of \1 are for the command line; write values under `\1:` instead"
    text = re.sub(r"Could not override '(trainer|optimizer)'.*", presets, text)
    if isinstance(error, OSError) and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(text.split())


def owning(word: str, registry: Registry) -> list[str]:
    """Return the options of that name, whole: of `lr`, `optimizer.lr`."""
    classes: list[tuple[str, type]] = [("trainer", TrainerConfig), ("optimizer", OptimizerConfig)]
    names = {group: {field.name for field in fields(config)} for group, config in classes}
    for component in registry.components.values():
        names.setdefault(component.kind, set()).update(option.name for option in options(component.cls))
    return [f"{group}.{word}" for group, known in names.items() if word in known]


def own_experiments(overrides: Sequence[str]) -> list[Path]:
    """Return the folders of one's own configs that have the experiment that is chosen; none where it ships."""
    chosen = (w.partition("=")[2].split(",") for w in overrides if w.lstrip("+").startswith("experiment="))
    files = [f"experiment/{name}.yaml" for names in chosen for name in names]
    shipped = Path(conf.__file__).parent.resolve()
    folders = [folder.resolve() for folder in conf_folders()]
    return [f for f in folders if f != shipped and any((f / file).is_file() for file in files)]


def read_words(words: list[str]) -> list[str]:
    """Return a run's words as Hydra takes them, and refuse those that would have it call something.

    Raises:
        UsageError: --experimental-rerun, which unpickles; an option that Hydra lacks; see `check_configs`,
            `check_overrides`.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_intermixed_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}; see --hydra-help") from error
    if unknown:
        raise UsageError(f"{unknown[0]}: no such option; {like(unknown[0], parser) or 'see --help and --hydra-help'}")
    if args.experimental_rerun:
        raise UsageError("--experimental-rerun would execute what a file says; resume=RUN_FOLDER reads it as data")
    for folder in filter(None, (args.config_dir, args.config_path)):
        check_configs(Path(folder), args.overrides)
    overrides = check_overrides(args.overrides)
    mine = own_experiments(args.overrides)
    for folder in mine:
        check_configs(folder, args.overrides)
    if mine:  # what ships is found first
        quoted = ",".join("'file://" + str(folder).replace("'", "\\'") + "'" for folder in mine)
        overrides.append(f"hydra.searchpath=[{quoted}]")
    return overrides + [word for word in words if word not in args.overrides]  # an option takes what follows it


def completed(words: Sequence[str], commands: Collection[str]) -> bool:
    """Answer a shell that asks how a line goes on, and return whether Hydra has no more to say of it.

    Raises UsageError where the completion of anything but `attnbench` is to be installed: of Python's, that would be.
    """
    asked = "--shell-completion" in words or "-sc" in words
    if asked and any(word.startswith("install=") for word in words) and Path(sys.argv[0]).name != "attnbench":
        line = 'eval "$(attnbench --shell-completion install=bash)"'
        raise UsageError(f"--shell-completion: what is completed is the command attnbench, not python: {line}")
    _, *typed = os.environ.get("COMP_LINE", "").split(" ")  # the last is being typed
    if not asked or not typed:
        return False
    if len(typed) == 1:
        print(*(command for command in commands if command.startswith(typed[0])), sep="\n")
    return len(typed) > 1 and typed[0] in commands


def like(word: str, parser: argparse.ArgumentParser) -> str:
    """Say which of a parser's options was probably meant; nothing where none is near."""
    known = {"--help", "--version", *re.findall(r"--[\w-]+", parser.format_usage())}
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"did you mean '{close[0]}'?" if close else ""


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line."""
        hint = like(message.rsplit(maxsplit=1)[-1], self) if message.startswith("unrecognized arguments: --") else ""
        raise UsageError(
            f"{self.prog.removeprefix('python -m attnbench ')}: {message}; {hint or f'see {self.prog} --help'}"
        )


def make_parser(name: str, command: Callable[..., None]) -> argparse.ArgumentParser:
    """Make a command's parser; its docstring is its help."""
    return Parser(f"python -m attnbench {name}", description=command.__doc__, allow_abbrev=False)


def add_forms(parser: argparse.ArgumentParser) -> None:
    """Add the forms in which a table is printed."""
    form = parser.add_mutually_exclusive_group()
    form.set_defaults(form="terminal")
    for name in ("csv", "json", "latex", "markdown"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {name}")


def with_forms(parser: argparse.ArgumentParser, example: str) -> argparse.ArgumentParser:
    """Add words, and the forms in which a card is printed."""
    parser.add_argument("words", nargs="+", metavar="key=value", help=f"such as {example}")
    add_forms(parser)
    return parser
