"""Reading run folders: what can be compared, and why the others cannot."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import yaml  # type: ignore[import-untyped]

#: libyaml's loader, where it is, is ten times as fast.
READ_YAML = partial(yaml.load, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
#: The part of a config that changes what a run shows and not what it finds.
SHOWN = ("trainer.progress_bar", "trainer.images", "trainer.log_every")


@dataclass(frozen=True)
class Run:
    """A completed run.

    Attributes:
        folder: where it is.
        config: its config.yaml, flattened (see `flat`).
        result: its result.json.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.config["task"])

    @property
    def mechanism(self) -> str:
        """The attention module with its scoring function, if it uses one."""
        scoring = self.config.get("scoring")
        return str(self.config["attention"]) + (f"-{scoring}" if scoring is not None else "")

    def value(self, metric: str) -> float | None:
        """Give a metric, or one of the result's own numbers; None where the run has no such finite number."""
        return number(self.result["metrics"].get(metric, self.result.get(metric)))


@dataclass(frozen=True)
class LeftOut:
    """A run folder that cannot be compared, and why."""

    folder: Path
    reason: str

    def __str__(self) -> str:
        return f"left out: {self.folder}: {self.reason}"


def number(value: Any) -> float | None:
    """Give a finite number, or None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


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
    """Give the hash by which a resolved config is known: 16 hexadecimal digits.

    Args:
        config: a flattened config (see `flat`).
        ignore: keys that do not count; those of `SHOWN` never do.
    """
    left = {key: value for key, value in config.items() if key not in (*SHOWN, *ignore)}
    return hashlib.sha256(json.dumps(left, sort_keys=True, default=str).encode()).hexdigest()[:16]


def find(folders: Iterable[Path]) -> Iterator[Path]:
    """Find the run folders in and under some folders, each once; a run folder holds no others."""
    seen: set[Path] = set()
    for top in folders:
        for name, below, files in os.walk(top):
            if not _holds_a_run(Path(name), files):
                below[:] = sorted(entry for entry in below if not entry.startswith("."))
                continue
            below.clear()
            folder = Path(name)
            if (real := folder.resolve()) not in seen:
                seen.add(real)
                yield folder


def _holds_a_run(folder: Path, files: Iterable[str]) -> bool:
    if "result.json" in files or "config.yaml" not in files:
        return "result.json" in files
    try:  # any project may have a config.yaml
        return {"seed", "task", "attention"} <= _load(folder / "config.yaml", READ_YAML).keys()
    except Unusable:
        return False


class Unusable(Exception):  # noqa: N818 (it is a finding)
    """A run folder cannot be compared; the message is why."""


def read(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        Unusable: it is unfinished or damaged.
    """
    result = _load(folder / "result.json", json.load)
    status = result.get("status")
    if status != "completed":
        error = result.get("error")
        raise Unusable(f"unfinished: {status}" + (f": {error}" if error else ""))
    config = flat(_load(folder / "config.yaml", READ_YAML))
    if not isinstance(config.get("seed"), int) or not {"task", "attention"} <= config.keys():
        raise Unusable("damaged: config.yaml is not the config of a run")
    if not isinstance(result.get("metrics"), dict) or not isinstance(result.get("primary"), str):
        raise Unusable("damaged: result.json is not the result of a run")
    return Run(folder, config, result)


def _load(path: Path, parse: Callable[[IO[str]], Any]) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            given = parse(file)
    except FileNotFoundError:
        raise Unusable(f"unfinished: it has no {path.name}") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise Unusable(f"damaged: {path.name} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise Unusable(f"damaged: {path.name} is not that of a run")
    return given


def read_all(folders: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Read every run folder in and under some folders."""
    runs, left_out = [], []
    for folder in find(folders):
        try:
            runs.append(read(folder))
        except Unusable as reason:
            left_out.append(LeftOut(folder, str(reason)))
    return runs, left_out
