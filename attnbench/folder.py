"""What a run folder holds, written and read: the config, the result, the checkpoints. It may be anybody's."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnbench.config import RunConfig
from attnbench.errors import UsageError, first_line
from attnbench.processes import leads
from attnbench.registry import Registry
from attnbench.schema import KINDS, explain, node


def claim(folder: Path) -> None:
    """Take a folder for a new run.

    Raises:
        UsageError: it is another's.
    """
    try:
        (folder / "config.yaml").open("x").close()
    except FileExistsError:
        raise UsageError(
            f"{folder}: holds a run already; resume={folder} goes on with it, or choose another hydra.run.dir"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write result.json; of several processes, one does."""
    if not leads():
        return
    write_text(folder / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def identity(config: DictConfig) -> dict[str, Any]:
    """Say what is run, in three words and a seed; scoring is null for an attention that uses none."""
    scoring = None if config.scoring is None else config.scoring.name
    return {"task": config.task.name, "attention": config.attention.name, "scoring": scoring, "seed": config.seed}


def plain(config: DictConfig) -> dict[str, Any]:
    """Turn a config into what YAML and JSON hold."""
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def typed(registry: Registry, values: Mapping[str, Any], overrides: list[str]) -> DictConfig:
    """Put a saved config, and `key=value` overrides of it, back into typed nodes: registered components only.

    Raises:
        UsageError: it is not the config of a run, or an override is misspelt, of the wrong type, or no `key=value`.
    """
    config = OmegaConf.structured(RunConfig)
    for kind in KINDS:
        given = values.get(kind)
        if given is None and kind == "scoring":
            continue
        if not isinstance(given, Mapping) or "name" not in given:
            raise UsageError(f"config.yaml: no {kind} is named; it is not the config of a run")
        name = str(given["name"])
        config[kind] = OmegaConf.structured(node(name, registry.get(kind, name).cls))
    try:
        config = OmegaConf.merge(config, dict(values))
        for override in overrides:
            key, equals, _ = override.partition("=")
            if not equals:
                raise UsageError(f"{override}: expected key=value, such as trainer.batch_size=32")
            if key in KINDS:
                raise UsageError(f"{override}: this run's {key} stays what it is; start a new run for another")
            config = OmegaConf.merge(config, OmegaConf.from_dotlist([override]))
    except OmegaConfBaseException as error:
        raise UsageError(explain(error)) from error
    OmegaConf.set_struct(config, True)
    return config  # type: ignore[return-value]


def load(folder: Path, registry: Registry, overrides: list[str]) -> DictConfig:
    """Read a run folder's config, and override it.

    Raises:
        UsageError: it is not a run folder, or see `typed`.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UsageError(f"{folder}: not a run folder, it has no config.yaml; a run leaves one under runs/")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: not the config of a run")
    _refuse_computed(path, values)
    return typed(registry, {str(key): value for key, value in values.items()}, overrides)


def _refuse_computed(path: Path, value: Any, key: str = "") -> None:
    """Refuse `${...}`: a run writes plain values, and someone else's config must read neither environment nor files."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_computed(path, inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            _refuse_computed(path, inner, key)
    elif isinstance(value, str) and "${" in value:
        raise UsageError(f"{path}: {key}: `{value}` is to be computed, and a run's config holds plain values")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, which may be someone else's: tensors and plain values only, nothing in it is executed.

    Raises:
        UsageError: it cannot be read, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path}: refused: it holds more than weights, or is damaged; nothing in it was run"
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise UsageError(f"{path}: cannot be read as a checkpoint: {first_line(error)}") from error
    if not isinstance(found, dict) or not {"state_dict", "global_step"} <= found.keys():
        raise UsageError(f"{path}: not the checkpoint of a run")
    return found
