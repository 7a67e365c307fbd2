"""The machine's steps in C against its modules in float64: values and gradients."""

import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attnbench.plugins.attention.ntm import NTM
from attnbench.plugins.scoring.cosine import Cosine
from attnbench.plugins.task.memory import compiled
from attnbench.plugins.task.memory import machine as machine_module
from attnbench.plugins.task.memory.problems import PROBLEMS, Size
from attnbench.plugins.task.memory.task import Memory
from machines import attend, gradients, machine
from torch import Tensor

import attnbench

needs_c = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds NaN, so that a number that is read before it is written shows."""
    new_empty, empty_like = Tensor.new_empty, torch.empty_like
    monkeypatch.setattr(Tensor, "new_empty", lambda *args: new_empty(*args).fill_(math.nan))
    monkeypatch.setattr(torch, "empty_like", lambda *args: empty_like(*args).fill_(math.nan))


@pytest.fixture
def runs_in_c(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Tensor], bool]:
    """Tell whether a machine hands a sequence to C."""
    calls: list[Any] = []
    sequence = machine_module.sequence
    monkeypatch.setattr(machine_module, "sequence", lambda *args: calls.append(args) or sequence(*args))

    def check(model: Any, inputs: Tensor) -> bool:
        calls.clear()
        model(inputs)
        return bool(calls)

    return check


@needs_c
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("write_first", [False, True])
@pytest.mark.parametrize(("read_heads", "write_heads"), [(1, 1), (2, 3)])
@pytest.mark.parametrize(("start", "max_shift", "rows"), [("constant", 1, 40), ("learned", 0, 6), ("learned", 3, 37)])
def test_steps_in_c_are_those_of_the_modules(
    start: Any,
    max_shift: int,
    rows: int,
    read_heads: int,
    write_heads: int,
    write_first: bool,
    runs_in_c: Callable[[Any, Tensor], bool],
) -> None:
    """The modules compute in float64; errors are shares of an array's largest number."""
    torch.manual_seed(0)
    sizes = {"rows": rows, "width": 9, "read_heads": read_heads, "write_heads": write_heads}
    task = Memory(controller_dim=11, start=start, write_first=write_first, **sizes)
    model: Any = task.model(attend(max_shift=max_shift))
    batch = PROBLEMS["copy"].draw(0, [0, 1, 2, 3, 4], Size(4))
    results: list[Any] = []
    for dtype in (torch.float32, torch.float64):
        model.to(dtype).zero_grad()
        inputs = batch.inputs.to(dtype)
        assert runs_in_c(model, inputs) == (dtype == torch.float32)
        logits, trace = model.run(inputs)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.targets.to(dtype)).backward()
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(inputs), logits)  # nothing is kept, and nothing else changes
        results.append((logits, *trace, *(parameter.grad for parameter in model.train().parameters())))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-4 * float(theirs.detach().abs().max()))
    assert all(part.any() for part in results[0])


@needs_c
def test_sharp_heads_have_the_gradients_of_the_modules() -> None:
    """Weights three times as large, so that no gradient is lost in a mean over the rows."""
    torch.manual_seed(0)
    model: Any = Memory(controller_dim=12, rows=6, width=4, start="learned").model(attend())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    expected = gradients(model.double())
    for name, gradient in gradients(model.float()).items():
        torch.testing.assert_close(
            gradient.double(), expected[name], rtol=0, atol=1e-4 * float(expected[name].abs().max())
        )


@needs_c
@pytest.mark.parametrize("name", ["heads.0.score.log_beta", "heads.1.head.bias", "writers.0.project.bias", "memory"])
def test_nan_stays_nan_in_c(name: str) -> None:
    """So that a step whose gradient is not finite is seen, and skipped."""
    model = machine(start="learned")
    with torch.no_grad():
        model.get_parameter(name).fill_(math.nan)
    result = gradients(model)
    assert not any(torch.isfinite(result[part]).any() for part in ("controller.rh.weight", "memory"))


@needs_c
def test_the_steps_in_c_leave_denormals_as_they_were() -> None:
    tiny = torch.tensor(1e-40)
    gradients(machine())
    assert float(tiny * 0.5) > 0


@needs_c
def test_a_length_of_zero_has_no_gradient_in_c_either() -> None:
    """Rows that were erased whole have no direction."""
    results = []
    for compile_steps in (True, False):
        model = machine(start="learned", compile=compile_steps)
        model.memory.data[1] = 0
        gradients(model)
        results.append(model.memory.grad)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_without_a_c_compiler_one_line_says_what_it_costs_and_the_modules_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    compiled.library.cache_clear()
    try:
        results = gradients(machine()), gradients(machine())
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and "times as long" in lines[0] and "no-such-compiler" in lines[0]
    finally:
        compiled.library.cache_clear()
    expected = gradients(machine(compile=False))
    assert all(torch.equal(result[name], value) for name, value in expected.items() for result in results)


@needs_c
@pytest.mark.parametrize(
    ("attention", "scoring", "options", "expected"),
    [
        ("ntm", "cosine", {}, True),
        ("ntm", "cosine", {"compile": False}, False),
        ("ntm", "scaled_dot", {}, False),
        ("soft", "additive", {}, False),
        ("ntm", "cosine", {"controller": "feedforward"}, False),
    ],
)
def test_what_runs_in_c(
    attention: str, scoring: str, options: dict[str, Any], expected: bool, runs_in_c: Callable[[Any, Tensor], bool]
) -> None:
    model, inputs = machine(attention, scoring, **options), torch.zeros(1, 2, 9)
    assert runs_in_c(model, inputs) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not runs_in_c(model, inputs)
    assert not runs_in_c(model.double(), inputs.double())


class SubclassedNTM(NTM):
    """A subclass may compute anything."""


class SubclassedCosine(Cosine):
    """Likewise."""


class AnotherNTM(attnbench.Attention):
    """A third party's class, of the same parts by the same names."""

    recurrent = True

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: attnbench.MakeScore) -> None:
        super().__init__()
        self.original = NTM(query_dim, key_dim, value_dim, score)
        self.score, self.head, self.parts = self.original.score, self.original.head, self.original.parts
        self.out_dim = value_dim

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.original(*args, **options)


for imposter, original in ((SubclassedNTM, NTM), (SubclassedCosine, Cosine), (AnotherNTM, NTM)):
    imposter.__module__, imposter.__qualname__ = original.__module__, original.__qualname__


@needs_c
@pytest.mark.parametrize(
    "head", [(SubclassedNTM, Cosine), (AnotherNTM, Cosine), (NTM, SubclassedCosine)], ids=["ntm", "another", "cosine"]
)
@pytest.mark.parametrize("number", [0, 1])
def test_a_subclass_or_a_third_partys_class_never_runs_in_c(
    head: tuple[Any, Any], number: int, runs_in_c: Callable[[Any, Tensor], bool]
) -> None:
    """Nor do the heads beside it."""
    model, (attention, score) = machine(), head
    model.heads[number] = NTM(12, 4, 4, Cosine)
    assert runs_in_c(model, torch.zeros(1, 2, 9))
    model.heads[number] = attention(12, 4, 4, score)
    assert not runs_in_c(model, torch.zeros(1, 2, 9))


@pytest.mark.parametrize("hooked", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_on_a_head_is_called(hooked: str) -> None:
    """So that such a machine runs its modules."""
    model, calls = machine(), []
    getattr(model.heads[1], hooked)(lambda *args: calls.append(1))
    model(torch.zeros(1, 3, 9))
    assert len(calls) == 3
