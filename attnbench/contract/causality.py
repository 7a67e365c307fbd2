"""Laws of causality: said or spelled out, nothing later matters, and decoding token by token comes to the same."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attnbench.contract.cases import LENGTHS, SAID, SIZES, Case, Inputs, one_batch
from attnbench.contract.harness import Subject, differentiated
from attnbench.contract.outputs import both, decoded, rounded, steady
from attnbench.contract.requirements import agree, differ, require, trying
from attnbench.hosts import Unrolled, prepare_keys
from attnbench.interfaces import Attention

#: What later places are changed to, less what stood there.
OTHERS = (3.0, 1e6, math.nan, math.inf, torch.finfo(torch.float64).max)
#: Places at, before and behind the edges of chunks.
EDGES = (0, 1, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 129)
#: The token at which decoding goes on a second time, from the state that it had then.
BRANCH = 3
ONE_QUERY = "it is called one query at a time, and sees what its caller hands it"


def causal(subject: Subject) -> str | None:
    """causal=True is the same mask spelled out, with padding too: context, weights and gradients, on both paths."""
    if subject.cls.recurrent:
        return ONE_QUERY
    short = subject.cases(SAID, SIZES)
    long = subject.cases(SAID[:2], [(1, N, N) for N in LENGTHS[1:]])
    for case, need in itertools.product((*short, *long), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need}"):
            spelled = inputs.spelled()
            context, weights, slopes = differentiated(subject, module, inputs, need)
            expected, matrix, expected_slopes = differentiated(subject, module, spelled, need)
            agree(context, expected, "the context, against that of the mask spelled out")
            if weights is not None:
                agree(weights, matrix, "the weights, against those of the mask spelled out")
            for a, b in zip(slopes, expected_slopes, strict=True):
                agree(a, b, "a gradient, against that of the mask spelled out")
    return None


def later(subject: Subject) -> None:
    """Under causality nothing that comes later changes what was, be it NaN, infinite or the largest number."""
    kinds = ("causal", *SAID[:2])
    short = [(case, range(1, case.K)) for case in subject.cases(kinds, [(2, N, N) for N in (2, 3, 5)])]
    long = [] if subject.cls.recurrent else [(case, (20,)) for case in subject.cases(SAID[:1], [(1, 70, 70)])]
    for (case, places), need in itertools.product((*short, *long), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need}"):
            context, _ = subject.attend(module, inputs, need)
            tried = list(itertools.product(places, OTHERS))
            changed = one_batch([_changed(inputs, t, other) for t, other in tried])
            each = subject.attend(module, changed, need)[0].chunk(len(tried))
            for (t, other), again in zip(tried, each, strict=True):
                what = "what comes" if other == OTHERS[0] else other
                agree(again[:, :t], context[:, :t], f"the context before {t} sees {what} at {t} or later")
            subject.seed(4)
            context, _ = subject.attend(module.train(), inputs, need)
            for t in places:
                subject.seed(4)
                again, _ = subject.attend(module, _changed(inputs, t, OTHERS[0]), need)
                agree(
                    again[:, :t], context[:, :t], f"the context before {t} sees what comes in training at {t} or later"
                )


def _changed(inputs: Inputs, t: int, other: float) -> Inputs:
    past = (torch.arange(inputs.key.shape[1], device=inputs.key.device) < t).view(1, -1, 1)
    query, key, value = (torch.where(past, x, other - x) for x in (inputs.query, inputs.key, inputs.value))
    return replace(inputs, query=query, key=key, value=value)


def prefix(subject: Subject) -> str | None:
    """Row t under causality is the last query over the first t keys, at lengths that cross every chunk."""
    if subject.cls.recurrent:
        return ONE_QUERY
    for case, need in itertools.product(subject.cases(SAID[:1], [(1, N, N) for N in LENGTHS]), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        whole, matrix = subject.attend(module, inputs, need)
        for t in (t for t in EDGES if t < case.K):
            with trying(f"{case} need_weights={need}, row {t}"):
                seen = inputs.first(t + 1)
                query = seen.query if module.positional else seen.query[:, -1:]
                last, weights = subject.attend(module, Inputs(query, seen.key, seen.value), need)
                if not module.positional and differ(whole[:, t], last[:, -1]) is not None:
                    every, _ = subject.attend(module, Inputs(seen.query, seen.key, seen.value), need)
                    says = (
                        "a query asked alone and asked behind others differ: it goes by places, say positional = True"
                    )
                    require(differ(whole[:, t], every[:, -1]) is not None, says)
                agree(whole[:, t], last[:, -1], f"the context, against that of the last query over {t + 1} keys")
                if weights is not None:
                    agree(matrix[:, :, t, : t + 1], weights[:, :, -1], "the weights, against those of the last query")
    return None


def prepared(subject: Subject) -> None:
    """Query after query of `prepare`d keys is all queries at once: context, weights and gradients."""
    for case, need in itertools.product(subject.cases(("none", "padding")), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need}"):
            context, weights, slopes = differentiated(subject, module, inputs, need)
            contexts, rows, slopes_of_rows = differentiated(subject, module, inputs, need, call=one_by_one)
            agree(contexts, context, "the context, against that of all queries at once")
            if weights is not None:
                agree(rows, weights, "the weights, against those of all queries at once")
            first = prepare_keys(module, inputs.key, inputs.value, inputs.mask)
            prepare_keys(module, -inputs.key, -inputs.value, inputs.mask)
            agree(
                first(inputs.query[:, :1], Unrolled())[0], context[:, :1], "the context, once other keys are prepared"
            )
            for a, b in zip(slopes, slopes_of_rows, strict=True):
                agree(b, a, "a gradient, against that of all queries at once")


def one_by_one(module: Attention, inputs: Inputs, need_weights: bool) -> tuple[Tensor, Any]:
    """Attend with one query after the other, of keys that are prepared once."""
    ask, state = prepare_keys(module, inputs.key, inputs.value, inputs.mask), Unrolled()
    contexts, rows = [], []
    for query in torch.split(inputs.query, 1, dim=1):
        context, state = ask(query, state, need_weights=need_weights)
        contexts.append(context)
        if state.weights is not None:
            rows.append(state.weights)
    return torch.cat(contexts, dim=1), torch.cat(rows, dim=2) if rows else None


def _counts(subject: Subject) -> None:
    """Decode 300 tokens in bfloat16, which counts to 256, of values around 3, whose sum grows."""
    case = Case(1, 300, 300, "causal=True")
    with trying("bfloat16, 300 steps, against the causal form in float64"), torch.no_grad():
        (narrow, inputs), (wide, exact) = both(subject, case, torch.bfloat16, 3.0)
        rounded(decoded(narrow, inputs), subject.attend(wide, exact, False)[0], torch.bfloat16)


def decoding(subject: Subject) -> str | None:
    """`step`, token by token, is the causal form, and holds state_size(t) numbers of each example."""
    own = subject.cls.step is not Attention.step and not subject.cls.recurrent
    N = 70 if own else 20
    case = Case(2, N, N, "causal" if subject.cls.recurrent else "causal=True")
    module, inputs = subject.make(), subject.inputs(case)
    whole, _ = subject.attend(module, inputs) if subject.cls.recurrent else subject.attend(module, inputs, False)
    state, held, unsaid = None, None, False
    with torch.no_grad():
        for t in range(N):
            with trying(f"B=2, step {t}"):
                now = slice(t, t + 1)
                held = state if t == BRANCH else held
                handed = None if state is None else [x.clone() for x in state]
                context, after = module.step(inputs.query[:, now], inputs.key[:, now], inputs.value[:, now], state)
                kept = handed is None or all(map(torch.equal, handed, state))
                require(kept, "it writes to the state that it is handed, which another branch may go on from")
                state = after
                agree(context, whole[:, now], "the context, against that of the causal form")
                kind = type(state).__name__
                require(
                    isinstance(state, tuple), f"step returns (context, state), state a tuple of tensors, not a {kind}"
                )
                numbers = sum(x.numel() for x in state)
                fits = all(len(x) == case.B for x in state)
                require(fits, f"a state's first dimension is B, not {[list(x.shape) for x in state]}")
                size = module.state_size(t + 1)
                unsaid = size is None
                if size is not None:
                    says = f"state_size({t + 1}) is {size}, and it holds {numbers // case.B} numbers"
                    require(numbers == size * case.B, says)
        with trying(f"B=2, step {BRANCH} from the state before it, after step {N - 1}"):
            now = slice(BRANCH, BRANCH + 1)
            context, _ = module.train().step(inputs.query[:, now], inputs.key[:, now], inputs.value[:, now], held)
            require(module.training, "`step` leaves the module in evaluation")
            if steady(subject):
                agree(
                    context, whole[:, now], "the context: go on from the state that is handed, keep none in the module"
                )
    if own and torch.bfloat16 in subject.dtypes:
        _counts(subject)
    holds = f"it holds {numbers // case.B} numbers after {N} tokens"
    return f"{holds}, and does not say its state_size" if unsaid else holds
