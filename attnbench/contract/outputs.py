"""Laws of what an attention module returns: shapes, weights, number types, and what it may not depend on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attnbench.contract.cases import MASKS, SAID, SIZES, Case, Inputs, cases
from attnbench.contract.harness import Subject, derivatives, differentiated
from attnbench.contract.requirements import (
    DTYPES,
    TOLERANCE,
    Broken,
    agree,
    differ,
    distribution,
    finite,
    require,
    trying,
    unseen,
)
from attnbench.errors import UsageError
from attnbench.interfaces import Attention
from attnbench.schema import takes_score


def runs(subject: Subject) -> None:
    """It can be called, what it returns is finite, and in evaluation a second call returns the same."""
    for case, need in itertools.product(cases(["none"], SIZES[:1] + SIZES[4:5]), subject.paths):
        with trying(f"{case} need_weights={need}"):
            module, inputs = subject.make(torch.float32), subject.inputs(case, torch.float32)
            context, weights = subject.attend(module, inputs, need)
            finite([context] if weights is None else [context, weights], "the output")
            same = differ(subject.attend(module, inputs, need)[0], context, torch.float32)
            cure = "draw in the constructor, into a buffer; F.dropout takes training=self.training"
            require(same is None, f"a second call in evaluation returns something else, {same}: {cure}")


def widths(subject: Subject) -> None:
    """The constructor takes widths of 100, 20 and 6, or raises ValueError naming 100 and 20; what it takes, works."""
    _, failed = subject.fitting
    require(not failed, failed)
    try:
        module = subject.construct((100, 20, 6))
    except ValueError as error:
        require("100" in str(error) and "20" in str(error), f"it does not name both widths: {error}")
    else:
        require(isinstance(module.out_dim, int), f"out_dim is an int, not {module.out_dim!r}")
    for wide in ((20, 20, 20), (100, 20, 6)):
        try:
            module = subject.make(widths=wide)
        except (ValueError, UsageError):
            continue
        slopes = derivatives(subject, module, subject.inputs(Case(2, 3, 5, "none"), widths=wide))[:3]
        for what, slope in zip(("query", "key", "value"), slopes, strict=True):
            idle = (slope == 0).all(dim=0).all(dim=0).nonzero().flatten().tolist() if slope.any() else []
            require(not idle, f"of the widths {wide}, coordinates {idle[:5]} of a {what} change nothing")


def shapes(subject: Subject) -> None:
    """The context is [B, Q, out_dim], the weights are [B, H, Q, K], in the dtype of the inputs."""
    for case, dtype in itertools.product(subject.cases((*MASKS, "empty", *SAID)), (torch.float32, torch.float64)):
        module, inputs = subject.make(dtype), subject.inputs(case, dtype)
        with trying(f"{case} {dtype}"):
            context, weights = subject.attend(module, inputs)
            wanted = [case.B, case.Q, module.out_dim]
            says = f"the context is {list(context.shape)}, not {wanted}: [B, Q, out_dim]"
            require(list(context.shape) == wanted, says)
            require(context.dtype == dtype, f"the context is {context.dtype}")
            if subject.cls.has_weights:
                require(weights is not None, "asked for weights it returns None")
                got, wanted = list(weights.shape), [case.B, case.Q, case.K]
                fits = len(got) == 4 and [got[0], *got[2:]] == wanted
                require(fits, f"the weights are {got}, not [{case.B}, H, {case.Q}, {case.K}]")
                require(weights.dtype == dtype, f"the weights are {weights.dtype}")


def rows(subject: Subject) -> str | None:
    """Weights are zero where masked, in training too; not negative and in sum one, unless it is signed."""
    if not subject.cls.has_weights:
        return "it has no weights"
    kinds = (*MASKS, *SAID)
    tried = [(case, torch.float32, training) for case in subject.cases(kinds) for training in (False, True)]
    tried += [(case, dtype, False) for case in subject.cases(kinds, SIZES[::4]) for dtype in subject.dtypes]
    for case, dtype, training in tried:
        inputs = subject.inputs(case, dtype)
        with trying(f"{case} {dtype} training={training}"):
            _, weights = subject.attend(subject.make(dtype).train(training), inputs)
            row(subject, weights, inputs.allowed(), dtype)
    return "signed: zeros where masked" if subject.signed else None


def row(subject: Subject, weights: Tensor, allowed: Tensor, dtype: torch.dtype) -> None:
    """Require what weights are: a distribution, or zero where masked if it is signed."""
    if subject.signed:
        unseen(weights, allowed)
    else:
        distribution(weights, allowed, dtype)


def mixing(subject: Subject) -> str | None:
    """The context is weights · value, head by head, through one affine map of values, the same for every query."""
    if not subject.cls.has_weights:
        return "it has no weights"
    module = subject.make()
    Q, K, Dv = 1 if subject.cls.recurrent else 3, 5, subject.widths[2]
    heads = subject.attend(module, subject.inputs(Case(1, Q, K, "none")))[1].shape[1]
    unknown = heads * (Dv + 1) + 1
    for case in subject.cases(("none", "causal=True"), [(2 * unknown, Q, K)]):
        inputs = subject.inputs(case)
        with trying(case):
            context, weights = (x.detach().cpu() for x in subject.attend(module, inputs))
            one = F.pad(inputs.value.cpu().unsqueeze(1), (0, 1), value=1.0)  # what values' bias is a multiple of
            mixed = F.pad((weights @ one).transpose(1, 2).flatten(2), (0, 1), value=1.0).flatten(0, 1)
            linear = torch.linalg.lstsq(mixed, context.flatten(0, 1), driver="gelsd").solution
            rest = float((mixed @ linear - context.flatten(0, 1)).abs().max() / context.abs().max().clamp(min=1e-9))
            require(rest < 1e-6, f"no affine map makes the context of weights · value: {rest:.2g} of it is left over")
    return None


def permutation(subject: Subject) -> None:
    """Permuting the keys permutes the weights and leaves the context."""
    sizes = (*SIZES, (1, 1, 64))  # the last for what looks alike at all places near
    for case, need in itertools.product(subject.cases(("none", "padding", "random"), sizes), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        order = torch.arange(case.K, device=subject.device).roll(1)
        mask = None if inputs.mask is None else inputs.mask[..., order]
        shuffled = Inputs(inputs.query, inputs.key[:, order], inputs.value[:, order], mask)
        with trying(f"{case} order={order.tolist()} need_weights={need}"):
            before, after = subject.attend(module, inputs, need), subject.attend(module, shuffled, need)
            agree(after[0], before[0], "the context")
            if before[1] is not None:
                agree(after[1], before[1][..., order], "the weights")


def examples(subject: Subject) -> None:
    """An example's context does not depend on the others in its batch, in training too where that draws nothing."""
    every = [(case, False) for case in subject.cases((*MASKS, "causal=True"), SIZES[3:])]
    every += [(case, False) for case in subject.cases(("padding",), [(33, 2, 3)])]
    every += [(case, True) for case in subject.cases(("none",), SIZES[4:5]) if steady(subject)]
    for (case, training), need in itertools.product(every, subject.paths):
        module, inputs = subject.make().train(training), subject.inputs(case)
        with trying(f"{case} need_weights={need}{' in training' * training}"):
            together, _ = subject.attend(module, inputs, need)
            for b in range(case.B):
                one = slice(b, b + 1)
                mask = None if inputs.mask is None else inputs.mask[one]
                alone = Inputs(inputs.query[one], inputs.key[one], inputs.value[one], mask, inputs.causal)
                agree(subject.attend(module, alone, need)[0], together[one], f"example {b} alone")


def steady(subject: Subject) -> bool:
    """Tell whether training draws nothing: two calls of one module return the same."""
    module, inputs = subject.make().train(), subject.inputs(Case(2, 3, 5, "none"))
    return differ(subject.attend(module, inputs)[0], subject.attend(module, inputs)[0]) is None


def need_weights(subject: Subject) -> str | None:
    """Without weights the context and gradients are the same, and None comes; asked for what it lacks, it raises."""
    long = [] if subject.cls.recurrent else subject.cases(("causal=True",), [(1, 130, 130)])
    every = [*subject.cases((*MASKS, "empty", *SAID)), *long]
    few = subject.cases((*MASKS, "empty", *SAID), SIZES[3:5])
    tried = [(subject.widths, case, torch.float64) for case in every]
    tried += [(widths, case, torch.float32) for widths in subject.all_widths for case in few]
    for widths, case, dtype in tried:
        module, inputs = subject.make(dtype, widths=widths), subject.inputs(case, dtype, widths)
        with trying(f"{case} widths={widths} {dtype}"):
            fused, nothing, slopes = differentiated(subject, module, inputs, False)
            require(nothing is None, "need_weights=False returns weights")
            if not subject.cls.has_weights:
                try:
                    subject.attend(module, inputs, True)
                except ValueError:
                    continue
                raise Broken("has_weights is False, and need_weights=True does not raise ValueError")
            plain, weights, other_slopes = differentiated(subject, module, inputs, True)
            require(weights is not None, "need_weights=True returns None: raise, or return them")
            agree(fused, plain, "the context without weights", dtype)
            for a, b in zip(slopes, other_slopes, strict=True):
                agree(a, b, "a gradient without weights", dtype)
    return None if subject.cls.has_weights else "it has no weights"


def dtypes(subject: Subject) -> str | None:
    """float64, bfloat16 and float16 work where the device has them, and agree with float32 to their rounding."""
    every = subject.cases(("none", "padding", "causal=True"), SIZES[1:5:3])
    for case, dtype, need in itertools.product(every, subject.dtypes, subject.paths):
        with trying(f"{case} {dtype} need_weights={need}"):
            (narrow, inputs), (wide, exact) = both(subject, case, dtype)
            context, _ = subject.attend(narrow, inputs, need)
            require(context.dtype == dtype, f"the context is {context.dtype}")
            agree(context, subject.attend(wide, exact, need)[0], "the context, against float64", dtype)
    long = [] if subject.cls.recurrent else subject.cases(("causal=True",), [(1, 300, 300)])
    halves = [dtype for dtype in subject.dtypes if dtype.itemsize == 2]
    for case, dtype, need in itertools.product(long, halves, subject.paths):
        with trying(f"{case} {dtype} need_weights={need}"):
            (narrow, inputs), (wide, exact) = both(subject, case, dtype, 3.0)
            rounded(subject.attend(narrow, inputs, need)[0], subject.attend(wide, exact, need)[0], dtype)
    missing = [str(dtype) for dtype in DTYPES if dtype not in subject.dtypes]
    return f"not on {subject.device}: {', '.join(missing)}" if missing else None


def both(
    subject: Subject, case: Case, dtype: torch.dtype, mean: float = 0.0
) -> tuple[tuple[Attention, Inputs], tuple[Attention, Inputs]]:
    """Return a module with inputs in a number type, values around a mean, and the same rounded numbers in float64."""
    narrow, wide, inputs = subject.make(dtype), subject.make(), subject.inputs(case, dtype)
    wide.load_state_dict(narrow.state_dict())
    inputs = replace(inputs, value=inputs.value + mean)
    exact = replace(inputs, query=inputs.query.double(), key=inputs.key.double(), value=inputs.value.double())
    return (narrow, inputs), (wide, exact)


def rounded(context: Tensor, right: Tensor, dtype: torch.dtype) -> None:
    """Require of a long context the rows of float64, but for a few, where a choice of keys falls otherwise."""
    size = 1 + torch.maximum(right.abs(), right.square().mean().sqrt())  # sums that cancel keep their terms' error
    off = ((context.double() - right).abs() > TOLERANCE[dtype] * size).any(dim=-1)
    share = float(off.double().mean())
    require(share <= 0.02, f"{share:.0%} of the rows are not those of float64: keep sums and places in float32")


def autocast(subject: Subject) -> None:
    """Under autocast to bfloat16, as of `trainer.precision`, it works forward and backward, and stays finite."""
    for case, need in itertools.product(subject.cases(("none", "padding", "causal=True"), SIZES[:5]), subject.paths):
        module, inputs = subject.make(torch.float32), subject.inputs(case, torch.float32)
        with trying(f"{case} need_weights={need}"), torch.autocast(torch.device(subject.device).type, torch.bfloat16):
            context, _, slopes = differentiated(subject, module, inputs, need)
            finite([context], "the context")
            finite(slopes, "a gradient")


def extremes(subject: Subject) -> None:
    """Scores of about 1e4 in float32, or beyond float16's 65,504 in float16, stay finite, gradients too."""
    every = subject.cases((*MASKS, "empty", *SAID[:2]), SIZES[1::2])
    # what normalises nothing may overflow with its scores
    sizes = (17.0,) if subject.signed else (17.0, 300.0)
    halves = [(torch.float16, times) for times in sizes if torch.float16 in subject.dtypes]
    for case, need, (dtype, times) in itertools.product(every, subject.paths, [(torch.float32, 100.0), *halves]):
        module, inputs = subject.make(dtype), subject.inputs(case, dtype)
        with trying(f"{case} {dtype} need_weights={need}"):
            large = replace(inputs, query=times * inputs.query, key=times * inputs.key)
            if dtype != torch.float32:
                context, weights = subject.attend(module, large, need)
                finite([context] if weights is None else [context, weights], "the output")
                continue
            context, weights, slopes = differentiated(subject, module, large, need)
            finite([context] if weights is None else [context, weights], "the output")
            if weights is not None:
                row(subject, weights, inputs.allowed(), dtype)
            finite(slopes, "a gradient")


def scorings(subject: Subject) -> str | None:
    """With every registered scoring function that takes its widths: rows are right, both paths agree, `step` too."""
    if not takes_score(subject.cls):
        return "it uses no scoring function"
    wide = subject.widths if subject.widths[0] == subject.widths[1] else (8, 8, 6)
    refused = []
    for component in subject.registry.of("scoring"):
        for case in subject.cases(("none", "padding", "empty", "causal=True"), SIZES[1:5]):
            try:
                score: Any = component.cls
                module = subject.make(torch.float64, 0, score, wide)
            except ValueError:
                refused.append(component.name)
                break
            inputs = subject.inputs(case, widths=wide)
            with trying(f"scoring={component.name} {case}"):
                context, weights = subject.attend(module, inputs)
                if weights is not None:
                    row(subject, weights, inputs.allowed(), torch.float64)
                agree(subject.attend(module, inputs, False)[0], context, "the context without weights")
                if component.cls.positional and inputs.causal and inputs.mask is None:
                    agree(
                        decoded(module, inputs),
                        context,
                        "the context of `step` (set self.positional = self.score.positional)",
                    )
    return f"not with {', '.join(refused)}" if refused else None


def decoded(module: Attention, inputs: Inputs) -> Tensor:
    """Return the contexts of `step`, of one token after the other."""
    contexts, state = [], None
    for t in range(inputs.query.shape[1]):
        now = slice(t, t + 1)
        context, state = module.step(inputs.query[:, now], inputs.key[:, now], inputs.value[:, now], state)
        contexts.append(context)
    return torch.cat(contexts, dim=1)
