"""The law of options: each does something, and what holds at its default holds at another value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import torch

from attnbench.contract.harness import Subject, derivatives
from attnbench.contract.requirements import agree, differ, require, trying, unseen
from attnbench.errors import UsageError
from attnbench.schema import Option, format_value, without_none
from attnbench.schema import options as options_of

KINDS = ("none", "empty", "causal=True", "causal=True+padding")


def options(subject: Subject) -> str | None:
    """Every option changes something, and with another value masks and causality hold, and both paths agree."""
    idle, tried = [], []
    before = _outcome(subject)
    for option in options_of(subject.component.cls):
        alike = []
        for value in _others(option):
            other = replace(subject, options={**subject.options, option.name: value})
            try:
                other.make(widths=subject.widths)
            except (ValueError, UsageError):
                continue
            with trying(f"{option.name}={format_value(value)}"):
                _holds(other)
                alike.append(_same(_outcome(other), before))
        tried += [option.name] if alike else []
        idle += [option.name] if alike and all(alike) else []
    cure = "use it, take it away, or excuse it where it changes cost alone"
    require(not idle, f"{', '.join(idle)}: no value that was tried changes anything; {cure}")
    return f"tried {', '.join(tried)}" if tried else "it has no options"


def _others(option: Option) -> Iterator[Any]:
    """Yield values other than the default; none of a kind that only its class knows."""
    kind, default = without_none(option.type), option.default
    if kind is bool:
        yield not default
    elif get_origin(kind) is Literal:
        yield from (word for word in get_args(kind) if word != default)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield from (word for word in kind if word != default)
    elif kind is int:
        yield from (2, 4) if default is None else (max(1, default // 2), 2 * default, default + 1)
    elif kind is float:
        yield from (0.5, 2.0) if default is None else (default / 2, 2 * default) if default else (0.5, 1.0)


def _holds(subject: Subject) -> None:
    """Hold it to masks, causality, both paths and decoding."""
    for case in subject.cases(KINDS, [(2, 3, 5)]):
        module, inputs = subject.make(widths=subject.widths), subject.inputs(case)
        with trying(case):
            context, weights = subject.attend(module, inputs)
            if weights is not None:
                unseen(weights, inputs.allowed())
                agree(subject.attend(module, inputs, False)[0], context, "the context without weights")
            if inputs.causal:
                spelled, _ = subject.attend(module, inputs.spelled())
                agree(context, spelled, "the context, against that of the mask spelled out")
            if inputs.causal and inputs.mask is None:
                state = None
                for t in range(case.K):
                    now = slice(t, t + 1)
                    one, state = module.step(inputs.query[:, now], inputs.key[:, now], inputs.value[:, now], state)
                    agree(one, context[:, now], f"step {t}, against the causal form")


def _outcome(subject: Subject) -> list[torch.Tensor]:
    """Return all that an option may change: contexts, weights, gradients, the penalty, sizes."""
    Q = 1 if subject.cls.recurrent else 40
    mask = "none" if subject.cls.recurrent else "causal=True"
    found = []
    for case in subject.cases(("none", mask), [(2, Q, 40)]):
        for training in (False, True):
            module, inputs = subject.make(widths=subject.widths).train(training), subject.inputs(case)
            subject.seed(2)
            context, weights = subject.attend(module, inputs)
            found += [context.detach()] + ([] if weights is None else [weights.detach()])
            found += [x for x in derivatives(subject, module, inputs) if x.any()] if training else []
            if training and weights is not None and (penalty := module.penalty(weights)) is not None:
                found.append(penalty.detach())
    size = module.state_size(100)
    return [*found, torch.tensor(float(size or 0)), torch.tensor(float(sum(p.numel() for p in module.parameters())))]


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(differ(x, y) is None for x, y in zip(a, b, strict=True))
