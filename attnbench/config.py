"""A run's own options: trainer and optimizer, their defaults, the least of a number; and what no config may hold."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from attnbench.errors import UsageError


class Accelerator(Enum):
    """Where a run computes."""

    cpu = "cpu"
    gpu = "gpu"
    auto = "auto"


class Precision(Enum):
    """What it computes in."""

    float32 = "32-true"
    bfloat16 = "bf16-mixed"
    float16 = "16-mixed"


class OptimizerName(Enum):
    """The update rule."""

    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


class Part(Enum):
    """What a run is for: to be reported; or to choose by, and then it does not read the test and is not compared."""

    reported = "reported"
    tuning = "tuning"


class Schedule(Enum):
    """How the learning rate goes after the warm-up: stays, or falls: to zero at the last step, or by `decay`."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    inverse_time = "inverse_time"


@dataclass
class TrainerConfig:
    """How long, how often, on what. Null: none, or as much as there is."""

    max_epochs: int = 10  # passes over the training data
    max_steps: int | None = None  # updates; wins over max_epochs
    batch_size: int = 64  # examples in an update, in each process
    eval_batch_size: int = 500  # examples in a batch of validation and test
    eval_batches: int | None = None  # batches of each validation and test; null: all
    eval_train: int = 0  # training examples that each validation reads too, for train/<metric>
    val_every: int | None = None  # updates between validations; null: once an epoch
    stop_at_goal: bool = True  # stop once validation has reached the task's goal twice in a row
    gradient_clip: float | None = 1.0  # largest norm of the gradient; null: no clipping
    threads: int = 1  # of each process; more pays for large models only
    accelerator: Accelerator = Accelerator.cpu  # where to compute; auto: a GPU if there is one
    devices: int = 1  # processes, each on a device of its own
    strategy: str = "auto"  # how several processes train together, as Lightning names it
    precision: Precision = Precision.float32  # bfloat16 and float16 are mixed with float32
    log_every: int = 20  # updates between points of a curve
    images: int = 3  # validation examples whose attention is drawn at each validation
    progress_bar: bool = True  # a bar of the steps on stderr
    detect_anomaly: bool = False  # stop at the operation that made a NaN; slows training several times


@dataclass
class OptimizerConfig:
    """The update rule and its rate."""

    name: OptimizerName = OptimizerName.adam  # the update rule
    lr: float = 1e-3  # learning rate after warm-up, before the schedule lowers it
    weight_decay: float = 0.0  # decoupled with adamw, else added to the gradient; lazy embeddings do not decay
    lazy: bool = True  # embeddings with sparse gradients are updated only where a step has seen them
    schedule: Schedule = Schedule.cosine  # the rate after warm-up: to zero at the last step, or as `decay` says
    warmup: float = 0.05  # share of the run in which the rate rises from zero
    decay: float = 1e-5  # of inverse_time: the rate is lr / (1 + decay * step)


@dataclass
class RunConfig:
    """A whole run; `attention`, `scoring` and `task` are nodes made from the chosen classes."""

    seed: int = 0  # of initial weights, of the order of the data, and of all that is random in training
    part: Part = Part.reported  # tuning: it chooses, and reads no test
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    attention: Any = None
    scoring: Any = None
    task: Any = None


#: The least that a number of a run may be.
LEAST: Mapping[str, int] = {
    "seed": 0,
    "task.data_seed": 0,  # of the tasks that have one
    **dict.fromkeys(("optimizer.lr", "optimizer.weight_decay", "optimizer.warmup", "optimizer.decay"), 0),
    **dict.fromkeys(("trainer.eval_train", "trainer.images"), 0),
    **dict.fromkeys(("trainer.max_epochs", "trainer.max_steps", "trainer.batch_size", "trainer.eval_batch_size"), 1),
    **dict.fromkeys(("trainer.eval_batches", "trainer.val_every", "trainer.threads", "trainer.devices"), 1),
    "trainer.log_every": 1,
}


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def most() -> Mapping[str, tuple[int, str]]:
    """Return the most that a number of a run may be, here, each with the reason."""
    threads = max(8, processors())
    reason = f"this machine has {processors()} processors"
    return {
        "seed": (2**32 - 1, "generators take 32 bits"),
        "trainer.threads": (threads, reason),
        "trainer.devices": (threads, reason),
        "trainer.images": (100, "each is drawn anew at each validation"),
        **dict.fromkeys(("trainer.batch_size", "trainer.eval_batch_size"), (2**20, "more fills the memory")),
        "trainer.max_epochs": (2**31, "more would not end"),
        "optimizer.warmup": (1, "it is a share of the run"),
    }


def read_override(word: str) -> tuple[str, Any]:
    """Return the key and the value of `key=value`, as Hydra reads them; raise UsageError where it is none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser  # `build` does without Hydra
    from hydra.errors import HydraException

    if "=" not in word or word.startswith(("~", "+", "=")):
        raise UsageError(f"'{word}': expected key=value, such as trainer.batch_size=32")
    try:
        override = OverridesParser.create().parse_override(expand_home(word))
    except HydraException as error:
        raise UsageError(not_understood(word)) from error
    if override.is_sweep_override():
        raise UsageError(f"{word}: expected one value; a list is written [1,2], and a comma in a text '1,2'")
    if override.value() == "???":
        raise UsageError(f"{word}: in a config that means a value that is missing; write one")
    return override.key_or_group, override.value()


def not_understood(word: str) -> str:
    """Say how a value is typed that Hydra cannot read."""
    return f"{word}: not understood; quote the value, as in \"task.file='a b.txt'\", or close its brackets"


def expand_home(word: str) -> str:
    """Return `key=value` with the user's home in place of a `~` that begins a value, which Hydra does not know."""
    return re.sub(r"(?<=[=,])~(?=/)", lambda _: str(Path.home()), word)


def make_absolute(config: DictConfig, home: Path) -> None:
    """Write every relative path among a config's values as an absolute one, seen from the folder `home`."""
    for key, value in config.items_ex(resolve=False):
        if isinstance(value, Path):
            config[key] = home / value.expanduser()
        elif isinstance(value, DictConfig):
            make_absolute(value, home)


def refuse_not_finite(label: str, config: DictConfig) -> None:
    """Raise UsageError for NaN, infinity, and a whole number beyond what a double holds, among a config's values."""
    for key, value in config.items_ex(resolve=False):
        name = f"{label}.{key!s}".lstrip(".")
        for number in value if isinstance(value, ListConfig) and value else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UsageError(f"{name}={number}: a finite number is expected")
            if isinstance(number, int) and abs(number) > 2**53:
                raise UsageError(f"{name}={number}: a whole number is at most 2**53")
        if isinstance(value, DictConfig):
            refuse_not_finite(name, value)


def check_numbers(config: DictConfig) -> None:
    """Raise UsageError for a run's number that is too small, or larger than is sensible."""
    refuse_not_finite("", config)
    for key, least in LEAST.items():
        value = OmegaConf.select(config, key)
        if value is not None and not value >= least:
            raise UsageError(f"{key}={value}: it is at least {least}")
    for key, (largest, reason) in most().items():
        value = OmegaConf.select(config, key)
        if value is not None and value > largest:
            raise UsageError(f"{key}={value}: it is at most {largest}: {reason}")
    norm = OmegaConf.select(config, "trainer.gradient_clip")
    if norm is not None and not norm > 0:
        raise UsageError(f"trainer.gradient_clip={norm}: it is above 0; null turns clipping off")


def mechanism(attention: str, scoring: str | None) -> str:
    """Return the label of an attention module and its scoring function, if it uses one."""
    return attention if scoring is None else f"{attention}-{scoring}"


def refuse_expressions(path: Path, value: Any, *, references: bool = False, key: str = "") -> None:
    """Refuse what would be computed, called or searched for: a config may be anybody's, and is read as data.

    Args:
        path: the file, for the message.
        value: what it holds.
        references: whether `${name.of.a.value}`, another value of the same config, is allowed.
        key: where in the file `value` stands.

    Raises:
        UsageError: it holds an expression `${...}`, a `_target_` or a `searchpath`.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            inner_key = f"{key}.{name}".lstrip(".")
            if name in ("_target_", "searchpath"):
                raise UsageError(f"{path}: {inner_key}: a config names registered components only; take it out")
            refuse_expressions(path, inner, references=references, key=inner_key)
    elif isinstance(value, list):
        for inner in value:
            refuse_expressions(path, inner, references=references, key=key)
    elif isinstance(value, str) and "${" in (re.sub(r"\$\{[\w.]+\}", "", value) if references else value):
        allowed = "; `${name.of.a.value}` is" if references else ""
        raise UsageError(f"{path}: {key}: `{value}`: expressions are not allowed here{allowed}")
