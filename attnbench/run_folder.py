"""What a run folder holds, written and read: the config, the result, the checkpoints. It may be anybody's."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
import yaml  # type: ignore[import-untyped]
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from attnbench.config import RunConfig, make_absolute, read_override, refuse_expressions
from attnbench.errors import IncompatibleError, UsageError, first_line
from attnbench.files import write_text
from attnbench.registry import Registry
from attnbench.schema import KINDS, explain, node

#: libyaml's loader, where it is, is ten times as fast.
READ_YAML = partial(yaml.load, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
#: Held by the process that trains in a run folder.
LOCK = ".lock"
#: Options that change what a run displays and not its result.
DISPLAY_OPTIONS = ("trainer.progress_bar", "trainer.images", "trainer.log_every")


def refuse_claimed(folder: Path) -> None:
    """Raise UsageError for a folder that holds a run."""
    if (folder / "config.yaml").exists():
        raise UsageError(
            f"{folder}: holds a run already; {resuming(folder)} goes on with it, or choose another hydra.run.dir"
        )


def resuming(folder: Path) -> str:
    """Return what is typed to go on with the run of a folder."""
    return shlex.quote(f"resume={folder}")


@contextmanager
def lock(folder: Path, *, wanted: bool = True) -> Iterator[None]:
    """Hold a run folder, so that one process trains into it; killed in any way, it holds it no longer.

    Raises UsageError where another holds it.
    """
    held = FileLock(folder / LOCK)
    if wanted:
        try:
            held.acquire(blocking=False)
        except Timeout:
            raise UsageError(f"{folder}: another process is training in it; wait for its end, or stop it") from None
        except NotImplementedError:  # a file system without locks
            pass
    try:
        yield
    finally:
        held.release()


def in_use(folder: Path) -> bool:
    """Whether a process is training in a folder now."""
    if not (folder / LOCK).exists():
        return False
    held = FileLock(folder / LOCK)
    try:
        held.acquire(blocking=False)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    held.release()
    return False


def write_config(folder: Path, config: DictConfig, *, new: bool) -> None:
    """Write config.yaml: `new`, which takes the folder for this run (UsageError if another has it), or anew."""
    path, text = folder / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False)
    if not new:
        write_text(path, text)
        return
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        refuse_claimed(folder)
        raise
    try:
        with file:
            file.write(text)
    except OSError:  # a full disk: the folder is nobody's
        path.unlink()
        raise


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write result.json."""
    write_text(folder / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def mark_failed(folder: Path) -> None:
    """Turn `running` into `failed` where it stands in result.json: no other file may find room."""
    with (folder / "result.json").open("r+b") as file:
        text = file.read().replace(b'"status": "running"', b'"status": "failed" ', 1)
        file.seek(0)
        file.write(text)


def read_result(folder: Path) -> dict[str, Any]:
    """Read result.json; {} where there is none, or a damaged one: a run that goes on writes it anew."""
    try:
        return read_mapping(folder / "result.json", json.load)
    except Unusable:
        return {}


def identity(config: DictConfig) -> dict[str, Any]:
    """Say what is run, in three words and a seed; scoring is null for an attention that uses none."""
    scoring = None if config.scoring is None else config.scoring.name
    return {"task": config.task.name, "attention": config.attention.name, "scoring": scoring, "seed": config.seed}


def plain(config: DictConfig) -> dict[str, Any]:
    """Turn a config into what YAML and JSON hold."""
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): _without_paths(value) for key, value in container.items()}


def _without_paths(value: Any) -> Any:
    """Return a config's value with a text for each path in it."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


def typed(registry: Registry, values: Mapping[str, Any], overrides: list[str], home: Path | None = None) -> DictConfig:
    """Put a config's values, and `key=value` overrides of them, into typed nodes: registered components only.

    Relative paths are seen from the folder `home`, the current one if None, and become absolute.

    Raises IncompatibleError where no run can have these components together, or one lacks an option; UsageError where
    it is not the config of a run, or an override is misspelt, of the wrong type, or no `key=value`.
    """
    config = OmegaConf.structured(RunConfig)
    chosen: dict[str, str | None] = dict.fromkeys(KINDS)
    for kind in KINDS:
        component = values.get(kind)
        if component is None and kind == "scoring":
            continue
        if not isinstance(component, Mapping) or "name" not in component:
            raise UsageError(f"config.yaml: no {kind} is named; it is not the config of a run")
        name = chosen[kind] = str(component["name"])
        config[kind] = OmegaConf.structured(node(name, registry.get(kind, name).cls))
    reason = registry.incompatibility(str(chosen["attention"]), task=chosen["task"], scoring=chosen["scoring"])
    if reason is not None:
        raise IncompatibleError(reason)
    try:
        config = OmegaConf.merge(config, dict(values))
        for override in overrides:
            key, value = read_override(override)
            if key in KINDS:
                raise UsageError(f"{override}: this run's {key} stays what it is; start a new run for another")
            if OmegaConf.is_dict(OmegaConf.select(config, key)):
                raise UsageError(
                    f"{override}: presets begin a run; of one that is there, change values: {key}.OPTION=VALUE"
                )
            for part in reversed(key.split(".")):
                value = {part: value}
            config = OmegaConf.merge(config, value)
    except OmegaConfBaseException as error:
        lacking = isinstance(error, ConfigAttributeError | ConfigKeyError)
        kind = str(error.full_key).partition(".")[0]
        raise (IncompatibleError if lacking and kind in KINDS else UsageError)(explain(error)) from error
    make_absolute(config, home or Path.cwd())  # type: ignore[arg-type]
    OmegaConf.set_struct(config, True)
    return config  # type: ignore[return-value]


def load(folder: Path, registry: Registry, overrides: list[str]) -> DictConfig:
    """Read a run folder's config, and override it; UsageError where it is no run folder, and as `typed`."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UsageError(f"{folder}: not a run folder, it has no config.yaml; a run leaves one under runs/")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: not the config of a run")
    refuse_expressions(path, values)
    return typed(registry, {str(key): value for key, value in values.items()}, overrides)


def best_checkpoint(folder: Path) -> Path:
    """Return the checkpoint with the best validation; UsageError where there is none yet."""
    path = folder / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise UsageError(f"{folder}: no checkpoints/best.ckpt yet; {resuming(folder)} trains on")
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, which may be someone else's: tensors and plain values only, nothing in it is executed.

    Raises UsageError where it cannot be read, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write
            saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path}: refused: it holds more than weights, or is damaged; nothing in it was run"
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise UsageError(f"{path}: cannot be read as a checkpoint: {first_line(error)}") from error
    fits = isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict)
    if not fits or not isinstance(saved.get("global_step"), int):
        raise UsageError(f"{path}: not the checkpoint of a run")
    return dict(saved)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a config: {"attention": "multihead", "attention.num_heads": 4, "trainer.batch_size": 64, ...}."""
    rows: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows |= flat(value, f"{prefix}{key}.")
        elif key == "name" and prefix:
            rows[prefix.rstrip(".")] = value
        else:
            rows[prefix + key] = value
    return rows


def fingerprint(config: Mapping[str, Any], *, ignore: Iterable[str] = ()) -> str:
    """Return the hash that identifies a resolved config: 16 hexadecimal digits.

    Args:
        config: a flattened config (see `flat`).
        ignore: keys that do not count; those of `DISPLAY_OPTIONS` never do, nor does `part` of a reported run.
    """
    ignored = {*DISPLAY_OPTIONS, *ignore} | ({"part"} if config.get("part") == "reported" else set())
    counted = {key: value for key, value in config.items() if key not in ignored}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, default=str).encode()).hexdigest()[:16]


def find(folders: Iterable[Path]) -> Iterator[Path]:
    """Find the run folders in and under some folders, links followed, each once; a run folder holds no others."""
    seen: set[Path] = set()
    for top in folders:
        for name, below, files in os.walk(top, followlinks=True):
            folder = Path(name)
            if (real := folder.resolve()) in seen:  # as where a link leads back up
                below.clear()
                continue
            seen.add(real)
            if _holds_a_run(folder, files):
                below.clear()
                yield folder
            below[:] = sorted(entry for entry in below if not entry.startswith("."))


def _holds_a_run(folder: Path, files: Iterable[str]) -> bool:
    if "result.json" in files or "config.yaml" not in files:
        return "result.json" in files
    try:  # any project may have a config.yaml
        return {"seed", "task", "attention"} <= read_mapping(folder / "config.yaml", READ_YAML).keys()
    except Unusable:
        return False


class Unusable(Exception):  # noqa: N818 (it is a finding)
    """A run folder cannot be compared; the message is why."""


def read_mapping(path: Path, parse: Callable[[IO[str]], Any]) -> dict[str, Any]:
    """Read a file of a run folder that holds a mapping; Unusable where it is missing or damaged."""
    try:
        with path.open(encoding="utf-8") as file:
            values = parse(file)
    except FileNotFoundError:
        raise Unusable(f"unfinished: it has no {path.name}") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise Unusable(f"damaged: {path.name} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise Unusable(f"damaged: {path.name} is not that of a run")
    return values
