"""Laws of training: gradients, parameters, seeds, copies."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attnbench.contract.cases import MASKS, Case, Inputs
from attnbench.contract.harness import Subject, derivatives
from attnbench.contract.requirements import agree, finite, first_words, require, trying
from attnbench.interfaces import Attention

STEP = 1e-6


def gradients(subject: Subject) -> None:
    """Gradients to the inputs and the parameters are those of finite differences."""
    every = subject.cases(("none", "random", "causal=True"))
    every += subject.cases(("causal",), [(1, 1, 130) if subject.cls.recurrent else (1, 130, 130)])
    for case, need in itertools.product(every, subject.paths):
        with trying(f"{case} need_weights={need}"):
            _first(subject, subject.inputs(case), need)


def _first(subject: Subject, inputs: Inputs, need: bool) -> None:
    module = subject.make()
    slopes, direction = derivatives(subject, module, inputs, need), _direction(module, inputs)
    computed = float(sum((slope * d).sum() for slope, d in zip(slopes, direction, strict=True)))

    def loss() -> float:
        return float(subject.attend(module, inputs, need)[0].detach().square().sum())

    _close(_slope(loss, _leaves(module, inputs), direction), computed, "slope")


def second_derivatives(subject: Subject) -> str | None:
    """Second derivatives are those of finite differences, or one clear error says that there are none."""
    return _or_refused(subject, _second)


def _second(subject: Subject, inputs: Inputs, need: bool) -> None:
    module = subject.make()
    leaves, direction = [x.requires_grad_() for x in _leaves(module, inputs)], _direction(module, inputs)

    def slope(create_graph: bool = False) -> Tensor:
        context, _ = subject.attend(module, inputs, need)
        loss: Tensor = context.square().sum() + torch.stack([x.pow(3).sum() for x in leaves]).sum()
        grads = torch.autograd.grad(loss, leaves, create_graph=create_graph)
        return torch.stack([(g * d).sum() for g, d in zip(grads, direction, strict=True)]).sum()

    second = torch.autograd.grad(slope(create_graph=True), leaves)
    computed = float(sum((x * d).sum() for x, d in zip(second, direction, strict=True)))
    _close(_slope(lambda: float(slope().detach()), leaves, direction), computed, "second derivative")


def forward_mode(subject: Subject) -> str | None:
    """Forward-mode derivatives are those of finite differences, or one clear error says that there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _or_refused(subject, _forward)


def _forward(subject: Subject, inputs: Inputs, need: bool) -> None:
    module = subject.make().requires_grad_(False)
    leaves = inputs.query, inputs.key, inputs.value
    direction = _direction(module, inputs)[:3]

    def loss(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        changed = Inputs(query, key, value, inputs.mask, inputs.causal)
        return subject.attend(module, changed, need)[0].square().sum()

    computed: Tensor = torch.func.jvp(loss, leaves, tuple(direction))[1]
    _close(_slope(lambda: float(loss(*leaves)), leaves, direction), float(computed), "slope")


def _or_refused(subject: Subject, judge: Callable[[Subject, Inputs, bool], None]) -> str | None:
    """Judge two cases on both paths; return the first line of the errors that refuse, which a RuntimeError may."""
    refused = set()
    for case, need in itertools.product(subject.cases(("none", "causal=True"), [(2, 3, 4)]), subject.paths):
        with trying(f"{case} need_weights={need}"):
            try:
                judge(subject, subject.inputs(case), need)
            except RuntimeError as error:  # NotImplementedError is one
                refused.add(f"not with need_weights={need}: {first_words(error)[:80]}")
    return "; ".join(sorted(refused)) or None


def _leaves(module: Attention, inputs: Inputs) -> list[Tensor]:
    return [inputs.query, inputs.key, inputs.value, *module.parameters()]


def _direction(module: Attention, inputs: Inputs) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn_like(leaf) for leaf in _leaves(module, inputs)]


def _slope(loss: Callable[[], float], leaves: Sequence[Tensor], direction: Sequence[Tensor]) -> float:
    """Measure the slope of a loss by finite differences; the leaves end as they were, to rounding."""
    ends: list[float] = []
    for step in (STEP, -2 * STEP, STEP):  # there, as far to the other side, and back
        with torch.no_grad():
            for leaf, d in zip(leaves, direction, strict=True):
                leaf.add_(step * d)
        ends.append(loss() if len(ends) < 2 else 0.0)
    return (ends[0] - ends[1]) / (2 * STEP)


def _close(measured: float, computed: float, what: str) -> None:
    close = abs(measured - computed) <= 1e-4 * max(1.0, abs(measured))
    require(close, f"the {what} is {measured:.6g} by finite differences, {computed:.6g} by autograd")


def parameters(subject: Subject) -> str | None:
    """Every parameter is made by the constructor, and gets a gradient."""
    module, inputs = subject.make(), subject.inputs(Case(2, 3, 5, "none"))
    names = [name for name, _ in module.named_parameters()]
    subject.attend(module, inputs)
    later = ", ".join(name for name, _ in module.named_parameters() if name not in names)
    require(not later, f"{later} comes with the first call, and no optimizer has it: make it in the constructor")
    with trying("B=2 Q=3 K=5"):
        for name, grad in zip(names, derivatives(subject, module, inputs)[3:], strict=True):
            require(bool((grad != 0).any()), f"the gradient of {name} is 0 everywhere")
            finite([grad], f"the gradient of {name}")
    return None if names else "it has no parameters"


def inputs_unwritten(subject: Subject) -> None:
    """Query, key, value and mask are not written to; nor, in evaluation, parameters and buffers."""
    for case, need in itertools.product(subject.cases((*MASKS, "empty", "causal=True")), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        held = {"query": inputs.query, "key": inputs.key, "value": inputs.value, "mask": inputs.mask}
        held |= dict(module.named_parameters()) | dict(module.named_buffers())
        copies = {name: None if x is None else x.clone() for name, x in held.items()}
        with trying(f"{case} need_weights={need}"):
            subject.attend(module, inputs, need)
            held |= dict(module.named_parameters()) | dict(module.named_buffers())
            for name, x in held.items():
                before = copies.get(name)
                require(x is None or before is None or torch.equal(x, before), f"{name} is written to")


def seed(subject: Subject) -> None:
    """The same seed gives the same parameters and output, in training too; what else a run draws goes by its seed."""
    inputs = subject.inputs(Case(2, 3, 5, "padding"), torch.float32)
    outputs, draws = [], []
    for after in (5, 5, 6):
        module = subject.make(torch.float32, seed=after - 1).train()
        draws.append(torch.rand(()))
        subject.seed(after)
        outputs.append(subject.attend(module, inputs)[0])
        draws.append(torch.rand(()))
    require(torch.equal(outputs[0], outputs[1]), "B=2 Q=3 K=5: two runs of one seed differ")
    for what, first, other in (("its constructor", 2, 4), ("a call", 3, 5)):
        require(draws[first] != draws[other], f"{what} seeds torch: what is drawn behind it is the same for all seeds")


def state_dict(subject: Subject) -> None:
    """What state_dict keeps is all there is: of a module that was trained, loaded into one that was called before."""
    inputs = subject.inputs(Case(2, 3, 5, "none"))
    module, other = subject.make(seed=0), subject.make(seed=1)
    parts = {name: vars(part) for name, part in module.named_modules()}
    loose = [f"{n}.{key}".strip(".") for n, part in parts.items() for key, x in part.items() if isinstance(x, Tensor)]
    require(not loose, f"{', '.join(loose)}: a tensor neither saved nor moved with the module: use register_buffer")
    subject.attend(module.train(), inputs)
    buffer = io.BytesIO()
    torch.save(module.eval().state_dict(), buffer)
    buffer.seek(0)
    with torch.no_grad():
        subject.attend(other, inputs)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        agree(subject.attend(other, inputs)[0], subject.attend(module, inputs)[0], "B=2 Q=3 K=5: a reloaded module")


def layout(subject: Subject) -> None:
    """How the inputs lie in memory changes nothing: transposed, cut out of larger ones, one example expanded."""
    for case, need in itertools.product(subject.cases(("none", "causal=True"), [(2, 3, 3)]), subject.paths):
        module, inputs = subject.make(), subject.inputs(case)
        one = replace(inputs, query=inputs.query[:1], key=inputs.key[:1], value=inputs.value[:1])
        ways: dict[str, tuple[Inputs, Callable[[Tensor], Tensor]]] = {
            "transposed": (inputs, lambda x: x.mT.contiguous().mT),
            "with the length first": (inputs, lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)),
            "cut out of a larger one": (inputs, lambda x: F.pad(x, (1, 2, 1, 1))[:, 1:-1, 1:-2]),
            "expanded": (one, lambda x: x.expand(2, -1, -1)),
        }
        for what, (plain, lay) in ways.items():
            with trying(f"{case} need_weights={need}, inputs {what}"):
                laid = replace(plain, query=lay(plain.query), key=lay(plain.key), value=lay(plain.value))
                expected = subject.attend(module, plain, need)[0].expand(2, -1, -1)
                agree(subject.attend(module, laid, need)[0], expected, "the context")


def copies(subject: Subject) -> None:
    """A deep copy and a pickled one give the same output, after a forward and a backward pass."""
    module, inputs = subject.make(), subject.inputs(Case(2, 3, 5, "padding"))
    context, _ = subject.attend(module, inputs)
    if context.requires_grad:
        context.sum().backward()  # type: ignore[no-untyped-call]
    agree(subject.attend(copy.deepcopy(module), inputs)[0], context, "a deep copy")
    agree(subject.attend(pickle.loads(pickle.dumps(module)), inputs)[0], context, "a pickled copy")  # its own bytes


def penalty(subject: Subject) -> str | None:
    """A penalty is one finite number, and training lessens it."""
    module, inputs = subject.make(), subject.inputs(Case(2, 3, 5, "padding"))
    if not module.penalized and subject.cls.penalty is Attention.penalty:
        return "it has no penalty"
    _, weights = subject.attend(module, inputs)
    number = module.penalty(weights)
    if not module.penalized:
        require(number is None, "it is not None, and never asked for, since `penalized` is False")
        return "it has no penalty unless an option asks for one"
    require(number is not None and number.shape == (), "it is not a scalar")
    assert number is not None
    finite([number], "it")
    twice = module.penalty(torch.cat([weights, weights]))
    assert twice is not None
    agree(twice, number, "of a batch twice over, whose mean is the same")
    slopes = torch.autograd.grad(number, list(module.parameters()), allow_unused=True)
    require(any(slope is not None and bool((slope != 0).any()) for slope in slopes), "no parameter gets its gradient")
    return None
