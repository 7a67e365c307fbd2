"""The laws of attention modules; all but the last two are the laws of scoring functions too, in a plain attention."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
import warnings
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attnbench.contract.harness import (
    DTYPES,
    MASKS,
    SIZES,
    Broken,
    Case,
    Inputs,
    Law,
    Subject,
    agree,
    cases,
    derivatives,
    distribution,
    finite,
    require,
    trying,
)
from attnbench.interfaces import Attention
from attnbench.schema import takes_score


def widths(subject: Subject) -> None:
    """The constructor takes widths of 100, 20 and 6, or raises ValueError naming 100 and 20."""
    try:
        module = subject.construct((100, 20, 6))
    except ValueError as error:
        require("100" in str(error) and "20" in str(error), f"it does not name both widths: {error}")
    else:
        require(isinstance(module.out_dim, int), f"out_dim is an int, not {module.out_dim!r}")


def shapes(subject: Subject) -> None:
    """The context is [B, Q, out_dim], the weights are [B, H, Q, K], in the dtype of the inputs."""
    for case, dtype in itertools.product(cases((*MASKS, "empty")), (torch.float32, torch.float64)):
        module, given = subject.make(dtype), subject.inputs(case, dtype)
        with trying(f"{case} {dtype}"):
            context, weights = subject.attend(module, given)
            wanted = [case.B, case.Q, module.out_dim]
            require(list(context.shape) == wanted, f"the context is {list(context.shape)}, not {wanted}")
            require(context.dtype == dtype, f"the context is {context.dtype}")
            if subject.cls.has_weights:
                require(weights is not None, "asked for weights it gives None")
                got, wanted = list(weights.shape), [case.B, case.Q, case.K]
                fits = len(got) == 4 and [got[0], *got[2:]] == wanted
                require(fits, f"the weights are {got}, not [{case.B}, H, {case.Q}, {case.K}]")
                require(weights.dtype == dtype, f"the weights are {weights.dtype}")


def rows(subject: Subject) -> str | None:
    """Weights are not negative, sum to one over the keys, and are zero where masked, in training too."""
    if not subject.cls.has_weights:
        return "it has no weights"
    tried = [(torch.float32, True), *((dtype, False) for dtype in subject.dtypes())]
    for case, (dtype, training) in itertools.product(cases(), tried):
        given = subject.inputs(case, dtype)
        with trying(f"{case} {dtype} training={training}"):
            _, weights = subject.attend(subject.make(dtype).train(training), given)
            distribution(weights, given.allowed(), dtype)
    return None


def empty_rows(subject: Subject) -> None:
    """A query that may attend nothing gets zeros and finite gradients, with and without weights."""
    tried = itertools.product(subject.all_widths, cases(["empty"]), subject.dtypes(), subject.paths())
    for widths, case, dtype, need in tried:
        module, given = subject.make(dtype, widths=widths), subject.inputs(case, dtype, widths)
        with trying(f"{case} widths={widths} {dtype} need_weights={need}"):
            context, weights = subject.attend(module, given, need)
            nothing = ~given.allowed().any(dim=-1)
            require(bool((context[nothing] == 0).all()), "the context of a query that may attend nothing is not 0")
            if weights is not None:
                distribution(weights, given.allowed(), dtype)
            finite(derivatives(subject, module, given, need), "a gradient")


def masked_keys(subject: Subject) -> None:
    """What a masked key and its value hold cannot change the context."""
    for case, need in itertools.product(cases(("padding", "causal", "random")), subject.paths()):
        module, given = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need}"):
            context, _ = subject.attend(module, given, need)
            for i in range(case.Q):
                earlier = given.allowed()[:, : i + 1] if subject.cls.recurrent else given.allowed()[:, i : i + 1]
                kept = earlier.any(dim=1).unsqueeze(-1)
                changed = replace(
                    given,
                    key=torch.where(kept, given.key, 7 - given.key),
                    value=torch.where(kept, given.value, 7 - given.value),
                )
                again, _ = subject.attend(module, changed, need)
                agree(again[:, i], context[:, i], f"query {i} sees what its masked keys hold")


def masked_nan(subject: Subject) -> None:
    """NaN and infinity in keys that no query may attend reach neither the context nor a gradient."""
    for case, need, bad in itertools.product(cases(("padding", "empty")), subject.paths(), (math.nan, math.inf)):
        module, given = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need} {bad} in padding"):
            hidden = ~given.allowed().any(dim=1).unsqueeze(-1)
            changed = replace(given, key=given.key.masked_fill(hidden, bad), value=given.value.masked_fill(hidden, bad))
            agree(subject.attend(module, changed, need)[0], subject.attend(module, given, need)[0], "the context")
            before, after = derivatives(subject, module, given, need), derivatives(subject, module, changed, need)
            finite(after, "a gradient")
            for a, b in zip(after, before, strict=True):
                agree(a, b, "a gradient")


def padding(subject: Subject) -> None:
    """Padding a batch further changes nothing."""
    for case, need in itertools.product(cases(("none", "padding", "random")), subject.paths()):
        module, given = subject.make(), subject.inputs(case)
        with trying(f"{case} padded by 3 keys, need_weights={need}"):
            longer = Inputs(
                given.query,
                F.pad(given.key, (0, 0, 0, 3), value=5.0),
                F.pad(given.value, (0, 0, 0, 3), value=5.0),
                F.pad(given.allowed(), (0, 3), value=False),
            )
            before, after = subject.attend(module, given, need), subject.attend(module, longer, need)
            agree(after[0], before[0], "the context")
            if before[1] is not None:
                agree(after[1], F.pad(before[1], (0, 3)), "the weights")


def permutation(subject: Subject) -> None:
    """Permuting keys and values permutes the weights and leaves the context."""
    sizes = (*SIZES, (1, 1, 64))  # the last for what looks alike at all places near
    for case, need in itertools.product(cases(("none", "padding", "random"), sizes), subject.paths()):
        module, given = subject.make(), subject.inputs(case)
        order = torch.arange(case.K, device=subject.device).roll(1)
        shuffled = Inputs(given.query, given.key[:, order], given.value[:, order], given.allowed()[..., order])
        with trying(f"{case} order={order.tolist()} need_weights={need}"):
            before, after = subject.attend(module, given, need), subject.attend(module, shuffled, need)
            agree(after[0], before[0], "the context")
            if before[1] is not None:
                agree(after[1], before[1][..., order], "the weights")


def examples(subject: Subject) -> None:
    """An example's context does not depend on the others in its batch."""
    for case, need in itertools.product(cases(sizes=SIZES[3:]), subject.paths()):
        module, given = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need}"):
            together, _ = subject.attend(module, given, need)
            for b in range(case.B):
                one = slice(b, b + 1)
                mask = None if given.mask is None else given.mask[one]
                alone, _ = subject.attend(
                    module, Inputs(given.query[one], given.key[one], given.value[one], mask), need
                )
                agree(alone, together[one], f"example {b} alone")


def need_weights(subject: Subject) -> str | None:
    """Without weights the context and gradients are the same, and None is given; asked for what it lacks, it raises."""
    tried = itertools.product(subject.all_widths, cases((*MASKS, "empty")), (torch.float64, torch.float32))
    for widths, case, dtype in tried:
        module, given = subject.make(dtype, widths=widths), subject.inputs(case, dtype, widths)
        with trying(f"{case} widths={widths} {dtype}"):
            fused, nothing = subject.attend(module, given, False)
            require(nothing is None, "need_weights=False gives weights")
            if not subject.cls.has_weights:
                try:
                    subject.attend(module, given, True)
                except ValueError:
                    continue
                raise Broken("has_weights is False, and need_weights=True does not raise ValueError")
            plain, weights = subject.attend(module, given, True)
            require(weights is not None, "need_weights=True gives None: raise, or give them")
            agree(fused, plain, "the context without weights", dtype)
            pairs = zip(derivatives(subject, module, given, False), derivatives(subject, module, given), strict=True)
            for a, b in pairs:
                agree(a, b, "a gradient without weights", dtype)
    return None if subject.cls.has_weights else "it has no weights"


def dtypes(subject: Subject) -> str | None:
    """float64, bfloat16 and float16 work where the device has them, and agree with float32 to their rounding."""
    found = subject.dtypes()
    for case, dtype, need in itertools.product(cases(("none", "padding"), SIZES[:5]), found, subject.paths()):
        wide, narrow = subject.make(torch.float64), subject.make(dtype)
        wide.load_state_dict(narrow.state_dict())  # the same rounded numbers in both
        given = subject.inputs(case, dtype)
        exact = Inputs(given.query.double(), given.key.double(), given.value.double(), given.mask)
        with trying(f"{case} {dtype} need_weights={need}"):
            context, _ = subject.attend(narrow, given, need)
            require(context.dtype == dtype, f"the context is {context.dtype}")
            agree(context, subject.attend(wide, exact, need)[0], "the context, against float64", dtype)
    missing = [str(dtype) for dtype in DTYPES if dtype not in found]
    return f"not on {subject.device}: {', '.join(missing)}" if missing else None


def autocast(subject: Subject) -> None:
    """Under autocast to bfloat16, as of `trainer.precision`, it works forward and backward, and stays finite."""
    for case, need in itertools.product(cases(("none", "padding"), SIZES[:5]), subject.paths()):
        module, given = subject.make(torch.float32), subject.inputs(case, torch.float32)
        with trying(f"{case} need_weights={need}"), torch.autocast(torch.device(subject.device).type, torch.bfloat16):
            finite([subject.attend(module, given, need)[0]], "the context")
            finite(derivatives(subject, module, given, need), "a gradient")


def gradients(subject: Subject) -> None:
    """Gradients to the inputs and the parameters are those of finite differences."""
    for case, need in itertools.product(cases(("none", "random")), subject.paths()):
        module, given = subject.make(), subject.inputs(case)
        leaves = [given.query, given.key, given.value, *module.parameters()]
        with trying(f"{case} need_weights={need}"):
            slopes = derivatives(subject, module, given, need)
            torch.manual_seed(3)
            direction = [torch.randn_like(leaf) for leaf in leaves]
            ends = []
            for step in (1e-6, -2e-6):  # there, and as far to the other side
                with torch.no_grad():
                    for leaf, d in zip(leaves, direction, strict=True):
                        leaf.add_(step * d)
                    ends.append(float(subject.attend(module, given, need)[0].square().sum()))
            measured = (ends[0] - ends[1]) / 2e-6
            computed = float(sum((slope * d).sum() for slope, d in zip(slopes, direction, strict=True)))
            close = abs(measured - computed) <= 1e-4 * max(1.0, abs(measured))
            require(close, f"the slope is {measured:.6g} by finite differences, {computed:.6g} by autograd")


def parameters(subject: Subject) -> str | None:
    """Every parameter gets a gradient."""
    module, given = subject.make(), subject.inputs(Case(2, 3, 5, "none"))
    names = [name for name, _ in module.named_parameters()]
    with trying("B=2 Q=3 K=5"):
        for name, grad in zip(names, derivatives(subject, module, given)[3:], strict=True):
            require(bool((grad != 0).any()), f"the gradient of {name} is 0 everywhere")
            finite([grad], f"the gradient of {name}")
    return None if names else "it has no parameters"


def inputs_unwritten(subject: Subject) -> None:
    """Query, key, value and mask are not written to."""
    for case, need in itertools.product(cases((*MASKS, "empty")), subject.paths()):
        module, given = subject.make(), subject.inputs(case)
        held = {"query": given.query, "key": given.key, "value": given.value, "mask": given.mask}
        kept = {name: None if x is None else x.clone() for name, x in held.items()}
        with trying(f"{case} need_weights={need}"):
            subject.attend(module, given, need)
            for name, x in held.items():
                before = kept[name]
                require(x is None or before is None or torch.equal(x, before), f"{name} is written to")


def seed(subject: Subject) -> None:
    """The same seed gives the same parameters and the same output, in training too."""
    given = subject.inputs(Case(2, 3, 5, "padding"), torch.float32)
    outputs = []
    for _ in range(2):
        module = subject.make(torch.float32, seed=4).train()
        torch.manual_seed(5)
        outputs.append(subject.attend(module, given)[0])
    require(torch.equal(*outputs), "B=2 Q=3 K=5: two runs of one seed differ")


def state_dict(subject: Subject) -> None:
    """What state_dict keeps is all there is: loaded into a new module, it gives the same output."""
    given = subject.inputs(Case(2, 3, 5, "padding"))
    module, other = subject.make(seed=0), subject.make(seed=1)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    agree(subject.attend(other, given)[0], subject.attend(module, given)[0], "B=2 Q=3 K=5: a reloaded module")


def copies(subject: Subject) -> None:
    """A deep copy and a pickled one give the same output, after a forward and a backward pass."""
    module, given = subject.make(), subject.inputs(Case(2, 3, 5, "padding"))
    context, _ = subject.attend(module, given)
    if context.requires_grad:
        context.sum().backward()  # type: ignore[no-untyped-call]
    agree(subject.attend(copy.deepcopy(module), given)[0], context, "a deep copy")
    agree(subject.attend(pickle.loads(pickle.dumps(module)), given)[0], context, "a pickled copy")  # its own bytes


def _call(subject: Subject) -> tuple[Attention, tuple[Any, ...], dict[str, Any]]:
    """Give a module and one call of it, for a compiler."""
    case = Case(2, 1 if subject.cls.recurrent else 3, 5, "padding")
    module, given = subject.make(torch.float32), subject.inputs(case, torch.float32)
    options: dict[str, Any] = {"need_weights": subject.cls.has_weights}
    if subject.cls.recurrent:
        options["previous"] = subject.attend(module, given)[1].detach()
    return module, (given.query, given.key, given.value, given.mask), options


def compiles(subject: Subject) -> None:
    """torch.compile takes it whole, without a break in the graph, and the output stays."""
    module, given, options = _call(subject)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = torch.compile(module, backend="aot_eager", fullgraph=True)
        context, _ = whole(*given, **options)
    agree(context, module(*given, **options)[0], "compiled", torch.float32)


def exports(subject: Subject) -> None:
    """torch.export takes it, and the output stays."""
    module, given, options = _call(subject)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, given, options)
    context, _ = exported.module()(*given, **options)
    agree(context, module(*given, **options)[0], "exported", torch.float32)


def extremes(subject: Subject) -> None:
    """Queries and keys a hundred times as large, scores of about 1e4, stay finite in float32, gradients too."""
    for case, need in itertools.product(cases((*MASKS, "empty")), subject.paths()):
        module, given = subject.make(torch.float32), subject.inputs(case, torch.float32)
        with trying(f"{case} float32 need_weights={need}"):
            large = replace(given, query=100 * given.query, key=100 * given.key)
            context, weights = subject.attend(module, large, need)
            finite([context] if weights is None else [context, weights], "the output")
            finite(derivatives(subject, module, large, need), "a gradient")


def causal(subject: Subject) -> None:
    """Under a causal mask nothing that comes later changes what was."""
    for N, need in itertools.product((2, 3, 5), subject.paths()):
        case = Case(2, N, N, "causal")
        module, given = subject.make(), subject.inputs(case)
        with trying(f"{case} need_weights={need}"):
            context, _ = subject.attend(module, given, need)
            for t in range(1, N):
                past = (torch.arange(N, device=subject.device) < t).view(1, N, 1)
                query, key, value = (torch.where(past, x, 3 - x) for x in (given.query, given.key, given.value))
                again, _ = subject.attend(module, Inputs(query, key, value, given.mask), need)
                agree(again[:, :t], context[:, :t], f"the context before {t} sees what comes at {t} or later")


def bad_masks(subject: Subject) -> None:
    """A mask of numbers is refused with TypeError, one that does not fit with ValueError."""
    case = Case(2, 1 if subject.cls.recurrent else 3, 5, "none")
    module, given = subject.make(), subject.inputs(case)
    B, Q, K = case.B, case.Q, case.K
    refused: list[tuple[Tensor, type[Exception]]] = [
        (torch.zeros(B, Q, K, dtype=torch.float64), TypeError),
        (torch.ones(B, Q, K, dtype=torch.int64), TypeError),
        (torch.ones(B, 1, K + 1, dtype=torch.bool), ValueError),
        (torch.ones(B, Q + 1, K, dtype=torch.bool), ValueError),
        (torch.ones(Q, K, dtype=torch.bool), ValueError),
    ]
    for (mask, error), need in itertools.product(refused, subject.paths()):
        with trying(f"{case} need_weights={need} mask {list(mask.shape)} of {mask.dtype}"):
            try:
                module(given.query, given.key, given.value, mask.to(subject.device), need_weights=need)
            except error:
                continue
            raise Broken(f"it does not raise {error.__name__}")


def penalty(subject: Subject) -> str | None:
    """A penalty is one finite number, and training lessens it."""
    module, given = subject.make(), subject.inputs(Case(2, 3, 5, "padding"))
    if not module.penalized and subject.cls.penalty is Attention.penalty:
        return "it has no penalty"
    _, weights = subject.attend(module, given)
    found = module.penalty(weights)
    if not module.penalized:
        require(found is None, "it is not None, and never asked for, since `penalized` is False")
        return "it has no penalty unless an option asks for one"
    require(found is not None and found.shape == (), "it is not a scalar")
    assert found is not None
    finite([found], "it")
    slopes = torch.autograd.grad(found, list(module.parameters()), allow_unused=True)
    require(any(slope is not None and bool((slope != 0).any()) for slope in slopes), "no parameter gets its gradient")
    return None


def scorings(subject: Subject) -> str | None:
    """With every registered scoring function that takes its widths: rows are right, and both paths agree."""
    if not takes_score(subject.cls):
        return "it uses no scoring function"
    wide = subject.widths if subject.widths[0] == subject.widths[1] else (8, 8, 6)
    refused = []
    for component in subject.registry.of("scoring"):
        for case in cases(("none", "padding", "empty"), SIZES[1:5]):
            try:
                score: Any = component.cls
                module = subject.make(torch.float64, 0, score, wide)
            except ValueError:
                refused.append(component.name)
                break
            given = subject.inputs(case, widths=wide)
            with trying(f"scoring={component.name} {case}"):
                context, weights = subject.attend(module, given)
                if weights is not None:
                    distribution(weights, given.allowed(), torch.float64)
                agree(subject.attend(module, given, False)[0], context, "the context without weights")
    return f"not with {', '.join(refused)}" if refused else None


IN_ATTENTION: tuple[Law, ...] = (
    widths, shapes, dtypes, autocast, rows, empty_rows, masked_keys, masked_nan, padding, permutation, examples,
    causal, need_weights, gradients, parameters, inputs_unwritten, extremes, bad_masks, seed, state_dict, copies,
    compiles, exports,
)  # fmt: skip
LAWS: tuple[Law, ...] = (*IN_ATTENTION, penalty, scorings)
