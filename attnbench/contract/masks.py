"""Laws of masks and of inputs that do not fit: what a query may not see, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attnbench.contract.cases import LENGTHS, SAID, SIZES, Case, Inputs, one_batch
from attnbench.contract.harness import Subject, differentiated
from attnbench.contract.outputs import row
from attnbench.contract.requirements import Broken, agree, finite, require, trying


def empty_rows(subject: Subject) -> None:
    """A query that may attend nothing gets zeros and finite gradients, with and without weights."""
    kinds = ("empty", "causal=True+empty")
    tried = [(subject.widths, case, torch.float64) for case in subject.cases(kinds)]
    few = subject.cases(kinds, SIZES[4:5])
    tried += [(widths, case, dtype) for widths in subject.all_widths for case in few for dtype in subject.dtypes]
    for (widths, case, dtype), need in itertools.product(tried, subject.paths):
        module, inputs = subject.make(dtype, widths=widths), subject.inputs(case, dtype, widths)
        with trying(f"{case} widths={widths} {dtype} need_weights={need}"):
            context, weights, slopes = differentiated(subject, module, inputs, need)
            nothing = ~inputs.allowed().any(dim=-1)
            require(bool((context[nothing] == 0).all()), "the context of a query that may attend nothing is not 0")
            if weights is not None:
                row(subject, weights, inputs.allowed(), dtype)
            finite(slopes, "a gradient")


def nothing(subject: Subject) -> None:
    """Of no examples, no queries or no keys comes what is empty, or zeros; gradients are finite."""
    sizes = [(0, 1, 3), (2, 1, 0)] if subject.cls.recurrent else [(0, 3, 3), (2, 0, 0), (2, 0, 3), (2, 3, 0)]
    for (B, Q, K), need, masked in itertools.product(sizes, subject.paths, (False, True)):
        module, inputs = subject.make(torch.float32), subject.inputs(Case(B, Q, K, "none"), torch.float32)
        if masked:
            inputs = replace(inputs, mask=torch.ones(B, 1, K, dtype=torch.bool, device=subject.device))
        for causal in (False, True) if Q == K and not subject.cls.recurrent else (False,):
            call = replace(inputs, causal=causal)
            with trying(f"B={B} Q={Q} K={K} mask={'padding' if masked else 'none'} {causal=} need_weights={need}"):
                context, weights, slopes = differentiated(subject, module, call, need)
                wanted = [B, Q, module.out_dim]
                require(list(context.shape) == wanted, f"the context is {list(context.shape)}, not {wanted}")
                require(bool((context == 0).all()), "the context of no keys is not 0")
                if need:
                    require([*weights.shape[:1], *weights.shape[2:]] == [B, Q, K], f"weights {list(weights.shape)}")
                    penalty = module.penalty(weights)
                    finite([] if penalty is None else [penalty], "the penalty")
                finite(slopes, "a gradient")


def masked_keys(subject: Subject) -> None:
    """What a masked key and its value hold cannot change the context."""
    for case, need in itertools.product(subject.cases(("padding", "causal", "random", *SAID[:2])), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need}"):
            context, _ = subject.attend(module, inputs, need)
            changed = []
            for i in range(case.Q):
                earlier = inputs.allowed()[:, : i + 1] if subject.cls.recurrent else inputs.allowed()[:, i : i + 1]
                visible = earlier.any(dim=1).unsqueeze(-1)
                key = torch.where(visible, inputs.key, 1e6 * inputs.key)
                changed.append(replace(inputs, key=key, value=torch.where(visible, inputs.value, 7 - inputs.value)))
            each = subject.attend(module, one_batch(changed), need)[0].chunk(case.Q)
            for i, again in enumerate(each):
                agree(again[:, i], context[:, i], f"query {i} sees what its masked keys hold")


def masked_nan(subject: Subject) -> None:
    """NaN and infinity in keys that no query may attend reach neither the context nor a gradient."""
    kinds = ("padding", "empty", *SAID[1:])
    every = [(case, math.nan) for case in subject.cases(kinds)]
    every += [(case, math.inf) for case in subject.cases(kinds, SIZES[4:5])]
    for (case, bad), need in itertools.product(every, subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need} {bad} in padding"):
            hidden = ~inputs.allowed().any(dim=1).unsqueeze(-1)
            key, value = (x.masked_fill(hidden, bad) for x in (inputs.key, inputs.value))
            changed = replace(inputs, key=key, value=value)
            expected, _, expected_slopes = differentiated(subject, module, inputs, need)
            context, _, slopes = differentiated(subject, module, changed, need)
            agree(context, expected, "the context")
            finite(slopes, "a gradient")
            for a, b in zip(slopes, expected_slopes, strict=True):
                agree(a, b, "a gradient")


def padding(subject: Subject) -> None:
    """Padding a batch further changes nothing; a state that runs along the keys passes over padding before them too."""
    for case, need in itertools.product(subject.cases(("none", "padding", "random")), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        with trying(f"{case} padded by 3 keys, need_weights={need}"):
            _padded(subject, module, inputs, need, (0, 3))
    for N, need in itertools.product(LENGTHS if subject.prefix else (), subject.paths):
        for case in subject.cases(("none", "causal=True"), [(1, N, N)]):
            module, inputs = subject.make(), subject.inputs(case)
            with trying(f"{case} after 3 keys of padding, need_weights={need}"):
                _padded(subject, module, inputs, need, (3, 0))


def _padded(subject: Subject, module: Any, inputs: Inputs, need: bool, by: tuple[int, int]) -> None:
    B, K = inputs.key.shape[:2]
    key, value = (F.pad(x, (0, 0, *by), value=5.0) for x in (inputs.key, inputs.value))
    query = F.pad(inputs.query, (0, 0, *by)) if inputs.causal else inputs.query
    everything = torch.ones(B, 1, K, dtype=torch.bool, device=subject.device)
    mask = everything if inputs.mask is None else inputs.mask
    longer = Inputs(query, key, value, F.pad(mask, by, value=False), inputs.causal)
    before, after = subject.attend(module, inputs, need), subject.attend(module, longer, need)
    start, stop = (by[0], by[0] + inputs.query.shape[1]) if inputs.causal else (0, inputs.query.shape[1])
    agree(after[0][:, start:stop], before[0], "the context")
    if before[1] is not None:
        agree(after[1][:, :, start:stop], F.pad(before[1], by), "the weights")


def bad_masks(subject: Subject) -> None:
    """A mask of numbers is refused with TypeError, one that does not fit with ValueError."""
    case = Case(2, 1 if subject.cls.recurrent else 3, 5, "none")
    module, inputs = subject.make(), subject.inputs(case)
    B, Q, K = case.B, case.Q, case.K
    refused: list[tuple[Tensor, type[Exception]]] = [
        (torch.zeros(B, Q, K, dtype=torch.float64), TypeError),
        (torch.ones(B, Q, K, dtype=torch.int64), TypeError),
        (torch.ones(B, 1, K + 1, dtype=torch.bool), ValueError),
        (torch.ones(B, Q + 1, K, dtype=torch.bool), ValueError),
        (torch.ones(B + 1, 1, K, dtype=torch.bool), ValueError),
        (torch.ones(Q, K, dtype=torch.bool), ValueError),
    ]
    for (mask, error), need in itertools.product(refused, subject.paths):
        with trying(f"{case} need_weights={need} mask {list(mask.shape)} of {mask.dtype}"):
            _refused(error, subject, module, replace(inputs, mask=mask.to(subject.device)), need)


def misfits(subject: Subject) -> None:
    """Inputs whose lengths, batches, widths, dimensions, dtypes or devices do not fit are refused in a line."""
    case = Case(2, 1 if subject.cls.recurrent else 3, 5, "none")
    module, inputs = subject.make(), subject.inputs(case)
    query, key, value = inputs.query, inputs.key, inputs.value
    wrong: dict[str, tuple[type[Exception], Inputs]] = {
        "a key without a value": (ValueError, Inputs(query, key, value[:, :-1])),
        "a value without a key": (ValueError, Inputs(query, key[:, :-1], value)),
        "a batch of 1 beside 2": (ValueError, Inputs(query, key[:1], value[:1])),
        "a query's batch of 1 beside 2": (ValueError, Inputs(query[:1], key, value)),
        "no batch": (ValueError, Inputs(query[0], key[0], value[0])),
        "heads": (ValueError, Inputs(query[None], key[None], value[None])),
        "whole numbers": (TypeError, Inputs(query.long(), key.long(), value.long())),
        "a value of another dtype": (TypeError, Inputs(query, key, value.float())),
        "a key on another device": (ValueError, Inputs(query, key.to("meta"), value)),
        "a wider query": (ValueError, Inputs(F.pad(query, (0, 1)), key, value)),
        "a wider key": (ValueError, Inputs(query, F.pad(key, (0, 1)), value)),
        "a narrower value": (ValueError, Inputs(query, key, value[..., :-1])),
        "causal=True with more keys than queries": (ValueError, Inputs(query, key, value, None, True)),
    }
    for (what, (error, bad)), need in itertools.product(wrong.items(), subject.paths):
        with trying(f"{case} need_weights={need}, {what}"):
            _refused(error, subject, module, bad, need)
    if subject.cls.recurrent:
        weights = torch.full((2, 1, 1, 5), 0.2, dtype=query.dtype, device=subject.device)
        for previous, need in itertools.product((weights[:1], weights[..., 1:], weights[:, 0]), subject.paths):
            with trying(f"{case} need_weights={need}, previous {list(previous.shape)}"):
                _refused(ValueError, subject, module, inputs, need, previous=previous)


def _refused(error: type[Exception], subject: Subject, module: Any, inputs: Inputs, need: bool, **options: Any) -> None:
    if inputs.causal:
        options["causal"] = True
    words = "causal=causal, widths=(query_dim, key_dim, value_dim)"
    words += ", previous=previous" if "previous" in options else ""
    cure = f"begin with hide_masked(query, key, value, mask, {words})"
    try:
        module(inputs.query, inputs.key, inputs.value, inputs.mask, need_weights=need, **options)
    except error as message:
        require("\n" not in str(message), f"its {error.__name__} is more than a line")
        return
    except Exception as other:
        raise Broken(f"it raises {type(other).__name__}, not {error.__name__}: {cure}") from other
    raise Broken(f"it does not raise {error.__name__}: {cure}")


def prefix_masks(subject: Subject) -> str | None:
    """A class with masks="prefix" refuses, in a line, a mask that is neither padding nor causal."""
    if not subject.prefix:
        return "it takes any mask"
    module, inputs = subject.make(), subject.inputs(Case(2, 3, 3, "none"))
    ones = torch.ones(2, 3, 3, dtype=torch.bool, device=subject.device)
    other = {"backwards": ones.triu(), "each its own key": ones.triu().tril(), "all but its own": ~ones.triu().tril()}
    for (what, mask), need in itertools.product(other.items(), subject.paths):
        with trying(f"B=2 Q=3 K=3 need_weights={need}, a mask {what}"):
            try:
                subject.attend(module, replace(inputs, mask=mask), need)
            except ValueError as error:
                require("\n" not in str(error), "its ValueError is more than a line")
                continue
            raise Broken("it does not raise ValueError: `prefix_mask` does")
    return None
