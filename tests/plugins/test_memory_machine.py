"""The Neural Turing Machine of task=memory against the paper's equations, and the machines beside it."""

import math
from typing import Any

import pytest
import torch
from attnbench.plugins.task.memory.lstm import lstm_of_size
from attnbench.plugins.task.memory.machine import TuringMachine, write
from attnbench.plugins.task.memory.problems import PROBLEMS, Size
from attnbench.plugins.task.memory.task import Memory
from machines import MACHINES, attend, machine
from torch import Tensor


def test_erase_then_add_by_hand() -> None:
    """M = 1, 2; w = 1/2, 1; e = 1, 0.5 in the two columns; a = 4, 0: M (1 - w eᵀ) + w aᵀ."""
    memory = torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])
    w, e, a = torch.tensor([[[0.5, 1.0]]]), torch.tensor([[[1.0, 0.5]]]), torch.tensor([[[4.0, 0.0]]])
    torch.testing.assert_close(write(memory, w, e, a), torch.tensor([[[0.5 + 2, 0.75], [0 + 4, 1.0]]]))


def test_all_heads_erase_before_any_adds() -> None:
    """Both erase all of the only row, and add 3 and 4: 7, whichever comes first."""
    one = torch.ones(1, 2, 1)
    add = torch.tensor([[[3.0], [4.0]]])
    for order in ([0, 1], [1, 0]):
        assert float(write(torch.full((1, 1, 1), 9.0), one, one, add[:, order])) == 7


def test_a_step_is_the_papers() -> None:
    """Two steps of a feed-forward machine, written out from the equations with its parameters."""
    model = machine(controller="feedforward").double()
    x = torch.randn(1, 2, 9, dtype=torch.double)
    logits, trace = model.run(x)
    memory, r = torch.full((6, 4), 1e-6, dtype=torch.double), torch.zeros(4, dtype=torch.double)
    weights: list[Any] = [None, None]
    for t in range(2):
        h = torch.tanh(model.controller.x(x[0, t]) + model.controller.r.weight @ r)
        rows = memory.unsqueeze(0)
        for number, head in enumerate(model.heads):
            weights[number] = head(h.view(1, 1, -1), rows, rows, previous=weights[number])[1]
        w_r, w_w = weights[0].flatten(), weights[1].flatten()
        r = w_r @ memory
        e, a = model.writers[0].project(h).chunk(2)
        memory = memory * (1 - torch.outer(w_w, torch.sigmoid(e))) + torch.outer(w_w, torch.tanh(a))
        torch.testing.assert_close(trace.reads[0, t], r)
        torch.testing.assert_close(trace.read_weights[0, t, 0], w_r)
        torch.testing.assert_close(trace.write_weights[0, t, 0], w_w)
        torch.testing.assert_close(logits[0, t], model.out(torch.cat([h, r])))


def test_its_lstm_is_torchs() -> None:
    model = machine()
    ours, theirs = model.controller, torch.nn.LSTMCell(9 + 4, 12)
    gates = torch.cat([ours.x.weight, ours.rh.weight[:, :4]], dim=1)

    def ifgo(stacked: Tensor) -> Tensor:
        i, f, o, u = stacked.chunk(4)
        return torch.cat([i, f, u, o])

    theirs.weight_ih.data, theirs.weight_hh.data = ifgo(gates), ifgo(ours.rh.weight[:, 4:])
    theirs.bias_ih.data, theirs.bias_hh.data = ifgo(ours.x.bias), torch.zeros(48)
    x, r, state = torch.randn(3, 9), torch.randn(3, 4), (torch.randn(3, 12), torch.randn(3, 12))
    torch.testing.assert_close(ours(ours.x(x), r, state), theirs(torch.cat([x, r], dim=1), state))


def test_a_machine_that_writes_first_reads_what_it_wrote() -> None:
    inputs = torch.randn(1, 1, 9)
    for write_first in (False, True):
        trace = machine("uniform", None, write_first=write_first).run(inputs)[1]
        assert bool(trace.reads.abs().max() > 1e-3) == write_first


@pytest.mark.parametrize(("attention", "scoring"), MACHINES)
@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_batched_equals_one_by_one_whatever_addresses(attention: str, scoring: str | None, controller: str) -> None:
    model = machine(attention, scoring, controller=controller, read_heads=2, write_heads=3)
    batch = PROBLEMS["copy"].draw(0, [0, 1, 2], Size(3))
    together, trace = model.run(batch.inputs)
    assert together.shape == (3, 7, 8)
    assert trace.write_weights.shape == (3, 7, 3, 6) and trace.read_weights.shape == (3, 7, 2, 6)
    for i in range(3):
        torch.testing.assert_close(model(batch.inputs[i : i + 1]), together[i : i + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("write_first", [False, True])
def test_gradients_are_those_of_finite_differences(write_first: bool) -> None:
    model = machine(rows=3, width=2, controller_dim=3, write_first=write_first, start="learned").double()
    inputs = torch.randn(2, 3, 9, dtype=torch.double, requires_grad=True)
    parameters = tuple(model.parameters())

    def logits(x: Tensor, *values: Tensor) -> Tensor:
        names = [name for name, _ in model.named_parameters()]
        result: Tensor = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return result

    torch.autograd.gradcheck(logits, (inputs, *parameters), nondet_tol=1e-10, fast_mode=True)


def test_the_memory_starts_as_told_and_may_have_more_rows_when_not_in_training() -> None:
    like = torch.zeros(2, 1)
    assert (machine().initial_memory(like) == 1e-6).all()
    assert machine(start="learned").initial_memory(like).requires_grad
    noise = machine(start="random").initial_memory(like)
    assert not torch.equal(noise[0], noise[1]) and noise.abs().max() <= 1 / math.sqrt(10)
    model = machine(eval_rows=9)
    assert model.train().initial_memory(like).shape == (2, 6, 4)
    assert model.eval().initial_memory(like).shape == (2, 9, 4)


def test_heads_that_write_may_start_by_walking_on() -> None:
    inputs = torch.randn(2, 4, 9)
    plain, walking = machine().run(inputs)[1], machine(write_shift_bias=20.0).run(inputs)[1]
    assert walking.write_weights[:, :, 0].argmax(dim=-1).tolist() == [[1, 2, 3, 4]] * 2
    torch.testing.assert_close(walking.read_weights[:, 0], plain.read_weights[:, 0])


def test_heads_that_cannot_shift_start_as_ever() -> None:
    inputs = torch.randn(2, 4, 9)
    for attention in (attend(max_shift=0), attend("soft", "additive")):
        torch.manual_seed(0)
        plain = Memory(controller_dim=12, rows=6, width=4).model(attention)
        torch.manual_seed(0)
        biased = Memory(controller_dim=12, rows=6, width=4, write_shift_bias=20.0).model(attention)
        torch.testing.assert_close(biased(inputs), plain(inputs))


def test_the_lstm_has_as_many_parameters_as_the_machine_it_is_compared_with() -> None:
    def count(model: Any) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    turing, plain = (Memory(machine=kind).model(attend()) for kind in ("ntm", "lstm"))
    assert isinstance(turing, TuringMachine)
    assert count(plain) == pytest.approx(count(turing), rel=0.02)
    assert count(lstm_of_size(count(plain), 9, 8)) == count(plain)


@pytest.mark.parametrize(("attention", "scoring"), [("multihead", "scaled_dot"), ("ntm", "cosine")])
def test_the_transformer_does_not_look_ahead(attention: str, scoring: str) -> None:
    torch.manual_seed(0)
    model = Memory(machine="transformer", transformer_dim=8).model(attend(attention, scoring))
    batch = PROBLEMS["copy"].draw(0, [0, 1], Size(4))
    changed = batch.inputs.clone()
    changed[:, 5:] += 1
    torch.testing.assert_close(model(changed)[:, :5], model(batch.inputs)[:, :5])


@pytest.mark.parametrize(
    ("attention", "scoring", "options", "says"),
    [
        ("multihead", "dot", {"machine": "transformer", "transformer_dim": 7}, "even width, not 7"),
        ("channel", None, {}, "no weights"),
        ("ntm", "cosine", {"rows": 0}, "at least 1"),
        ("ntm", "cosine", {"eval_rows": 0}, "eval_rows are at least 1"),
        ("ntm", "cosine", {"eval_rows": -1}, "eval_rows are at least 1"),
        ("ntm", "cosine", {"start": "learned", "eval_rows": 9}, "constant or random"),
    ],
)
def test_what_does_not_fit_is_refused(attention: str, scoring: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Memory(**options).model(attend(attention, scoring))


@pytest.mark.parametrize("kind", ["ntm", "lstm", "transformer"])
@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_every_machine_takes_every_problem(problem: str, kind: Any) -> None:
    torch.manual_seed(0)
    task = Memory(problem=problem, machine=kind, controller_dim=8, rows=8, width=4, transformer_dim=8)
    model = task.model(attend("multihead", "dot") if kind == "transformer" else attend())
    batch = task.data("train")[[0, 1]]
    assert model(batch.inputs).shape == batch.targets.shape
    task.loss(model, batch).backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused
    with torch.no_grad():
        metrics = task.metrics()
        assert task.evaluate(model, task.data("val")[list(range(8))], metrics).isfinite()
        assert all(metric.compute().isfinite() for metric in metrics.values())
        assert task.images(model)
