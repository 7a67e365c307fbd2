"""The problems against their definitions, the machine against the paper's equations."""

import functools
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from attnbench.plugins.task import _memory_machines
from attnbench.plugins.task._memory_by_hand import Steps
from attnbench.plugins.task._memory_compiled import CompiledSteps, library
from attnbench.plugins.task._memory_machines import TuringMachine, lstm_like, write
from attnbench.plugins.task._memory_problems import PROBLEMS, Size, best_foresight, chances
from attnbench.plugins.task.memory import Memory
from conftest import HEEDING
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import attnbench

SPLITS: tuple[Any, ...] = ("train", "val", "test")
SEEDS = st.integers(0, 2**20)
MACHINES = [("ntm", "cosine"), ("soft", "additive"), ("uniform", None), ("location_aware", None), ("multihead", "dot")]


def attend(attention: str = "ntm", scoring: str | None = "cosine", **options: Any) -> Any:
    def make(query_dim: int, key_dim: int, value_dim: int) -> Any:
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", attention, scoring=scoring, **widths, **options)

    return make


def machine(attention: str = "ntm", scoring: str | None = "cosine", **options: Any) -> Any:
    torch.manual_seed(0)
    return Memory(**{"controller_dim": 12, "rows": 6, "width": 4, **options}).model(attend(attention, scoring))


def draw(problem: str, seed: int, length: int, repeats: int = 1) -> Any:
    return PROBLEMS[problem].draw(seed, [seed, seed + 7], Size(length, repeats))


@given(SEEDS, st.integers(1, 20))
def test_copy_asks_for_what_was_read(seed: int, length: int) -> None:
    inputs, targets, mask, _ = draw("copy", seed, length)
    assert inputs.shape == (2, 2 * length + 1, 9)
    assert inputs[:, length].tolist() == [[0] * 8 + [1]] * 2
    assert not inputs[:, length + 1 :].any() and not inputs[:, :length, 8].any()
    assert torch.equal(targets[mask].view(2, length, 8), inputs[:, :length, :8])
    assert mask.sum() == 2 * length and mask[:, length + 1 :].all()


@given(SEEDS, st.integers(1, 10), st.integers(1, 10))
def test_repeat_copy_asks_for_it_so_many_times_then_for_an_end_mark(seed: int, length: int, repeats: int) -> None:
    inputs, targets, mask, _ = draw("repeat_copy", seed, length, repeats)
    asked = targets[mask].view(2, length * repeats + 1, 9)
    for number in range(repeats):
        assert torch.equal(asked[:, number * length :][:, :length, :8], inputs[:, :length, :8])
    assert asked[:, -1].tolist() == [[0] * 8 + [1]] * 2 and not asked[:, :-1, 8].any()
    assert not inputs[:, length + 1 :].any()


def test_the_number_of_repeats_has_mean_0_and_variance_1() -> None:
    told = torch.stack([draw("repeat_copy", 0, 3, repeats).inputs[0, 3, 9] for repeats in range(1, 11)])
    assert float(told.mean()) == pytest.approx(0, abs=1e-6)
    assert float(told.var(correction=0)) == pytest.approx(1, abs=1e-6)


@given(SEEDS, st.integers(2, 6))
def test_recall_asks_for_the_item_behind_the_one_shown_again(seed: int, items: int) -> None:
    inputs, targets, mask, _ = draw("associative_recall", seed, items)
    for one in range(2):
        steps = inputs[one].tolist()
        starts = [t for t, step in enumerate(steps) if step[6] == 1]
        assert starts == [4 * i for i in range(items)]
        listed = [[step[:6] for step in steps[t + 1 : t + 4]] for t in starts]
        first, last = (t for t, step in enumerate(steps) if step[7] == 1)
        assert last - first == 4
        answer = targets[one][mask[one]].tolist()
        shown = [step[:6] for step in steps[first + 1 : last]]
        assert any(listed[i] == shown and listed[i + 1] == answer for i in range(items - 1))


def test_every_item_but_the_last_is_asked_for_equally_often() -> None:
    batch = PROBLEMS["associative_recall"].draw(0, list(range(4_000)), Size(5))
    items = batch.inputs[:, :20].reshape(-1, 5, 4, 8)[:, :, 1:, :6].flatten(2)
    shown = batch.inputs[:, 21:24, :6].flatten(1).unsqueeze(1)
    counts = (items == shown).all(dim=-1).sum(dim=0)
    assert all(abs(int(count) - 1_000) < 4 * math.sqrt(4_000 * 0.25 * 0.75) + 2 for count in counts[:4])


@given(SEEDS)
def test_sort_asks_for_the_16_of_highest_priority_in_their_order(seed: int) -> None:
    inputs, targets, mask, _ = draw("priority_sort", seed, 20)
    for one in range(2):
        read = [(float(step[9]), step[:8].tolist()) for step in inputs[one, :20]]
        assert all(-1 <= priority <= 1 for priority, _ in read)
        best = sorted(read, key=lambda entry: -entry[0])[:16]
        assert targets[one][mask[one]].tolist() == [vector for _, vector in best]


@given(SEEDS)
def test_ngrams_asks_for_the_next_bit_from_the_sixth_on(seed: int) -> None:
    inputs, targets, mask, _ = draw("ngrams", seed, 200)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert mask.sum(dim=1).tolist() == [195, 195] and not mask[:, :4].any()


def test_each_context_has_a_chance_of_its_own_from_the_arcsine_law() -> None:
    """Over a long example a context's share of ones is its chance, and chances have mean 1/2 and variance 1/8."""
    bits = PROBLEMS["ngrams"].bits(3, list(range(40)), 6_000).long()
    context = sum(bits[:, k : k - 5 or None] * 2 ** (4 - k) for k in range(5))[:, : bits.shape[1] - 5]
    following = bits[:, 5:]
    shares = torch.zeros(40, 32)
    for c in range(32):
        shares[:, c] = ((following == 1) & (context == c)).sum(dim=1) / (context == c).sum(dim=1).clamp(min=1)
    often = torch.stack([(context == c).sum(dim=1) for c in range(32)], dim=1) > 50
    assert float(shares[often].mean()) == pytest.approx(0.5, abs=0.04)
    assert float(shares[often].var()) == pytest.approx(1 / 8, abs=0.02)


def test_the_best_estimator_by_hand() -> None:
    """After 00000 came 0, 0, 1: chances 1/2, 3/4, 1/6; then contexts 00001 and on are new: 1/2 each."""
    bits = torch.tensor([[0.0] * 7 + [1.0, 0.0, 1.0]])
    asked = torch.arange(10).unsqueeze(0) >= 5
    assert float(best_foresight(bits, asked)) == pytest.approx(1 - math.log2(3 / 4) + math.log2(6) + 2)


@given(SEEDS, st.integers(1, 400), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_a_number_depends_on_seed_index_and_place_alone(seed: int, count: int, indices: list[int]) -> None:
    together = chances(seed, indices, count)
    for row, index in enumerate(indices):
        assert torch.equal(chances(seed, [index], count + 3)[0, :count], together[row])
    assert ((together > 0) & (together < 1)).all()


def test_numbers_of_seeds_and_indices_are_even_and_unlike() -> None:
    drawn = torch.cat([chances(seed, list(range(200)), 50) for seed in range(6)])
    assert len(drawn.flatten().unique()) == drawn.numel()
    assert float(drawn.mean()) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / drawn.numel()))
    assert float(torch.corrcoef(drawn).fill_diagonal_(0).abs().max()) < 0.9


@pytest.mark.parametrize("problem", sorted(PROBLEMS))
@settings(max_examples=10)
@given(data=st.data())
def test_validation_examples_do_not_depend_on_their_batch(problem: str, data: st.DataObject) -> None:
    split = Memory(problem=problem).data("val")
    indices = data.draw(st.lists(st.integers(0, len(split) - 1), min_size=1, max_size=6, unique=True))
    batch = split[indices]
    for row, index in enumerate(indices):
        alone = split[[index]]
        steps = alone.inputs.shape[1]
        assert torch.equal(alone.inputs[0], batch.inputs[row, :steps])
        assert torch.equal(alone.targets[0], batch.targets[row, :steps])
        assert not batch.inputs[row, steps:].any() and not batch.mask[row, steps:].any()
        assert alone.group[0] == batch.group[row]


def test_validation_has_each_trained_length_equally_often_and_the_sizes_beyond() -> None:
    split = Memory(low=3, high=6).data("val")
    lengths = [(int(split[[i]].mask.sum()), int(split[[i]].group)) for i in range(len(split))]
    for length in range(3, 7):
        assert lengths.count((length, 0)) == 250
    assert [length for length, group in lengths if group] == [10, 20, 30, 50, 80, 120] * 4
    assert {group for _, group in lengths[:7]} == set(range(7))


def test_a_training_batch_is_of_one_length_and_all_lengths_come() -> None:
    split = Memory(low=2, high=4).data("train")
    seen = {tuple(split[[i, i + 1, i + 2]].mask.sum(dim=1).tolist()) for i in range(0, 90, 3)}
    assert seen == {(2,) * 3, (3,) * 3, (4,) * 3}


def test_splits_share_no_example() -> None:
    task = Memory(low=20, high=20)
    kinds = [{tuple(row.flatten().tolist()) for row in task.data(s)[list(range(100))].targets} for s in SPLITS]
    assert not any(one & other for one, other in itertools.combinations(kinds, 2))


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
    looked: list[Any] = [None, None]
    for t in range(2):
        h = torch.tanh(model.controller.x(x[0, t]) + model.controller.r.weight @ r)
        rows = memory.unsqueeze(0)
        for number, head in enumerate(model.heads):
            looked[number] = head(h.view(1, 1, -1), rows, rows, previous=looked[number])[1]
        w_r, w_w = looked[0].flatten(), looked[1].flatten()
        r = w_r @ memory
        e, a = model.writers[0].project(h).chunk(2)
        memory = memory * (1 - torch.outer(w_w, torch.sigmoid(e))) + torch.outer(w_w, torch.tanh(a))
        torch.testing.assert_close(trace.reads[0, t], r)
        torch.testing.assert_close(trace.readings[0, t, 0], w_r)
        torch.testing.assert_close(trace.writings[0, t, 0], w_w)
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
    assert trace.writings.shape == (3, 7, 3, 6) and trace.readings.shape == (3, 7, 2, 6)
    for i in range(3):
        torch.testing.assert_close(model(batch.inputs[i : i + 1]), together[i : i + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("write_first", [False, True])
def test_gradients_are_those_of_finite_differences(write_first: bool) -> None:
    model = machine(rows=3, width=2, controller_dim=3, write_first=write_first, start="learned").double()
    inputs = torch.randn(2, 3, 9, dtype=torch.double, requires_grad=True)
    parameters = tuple(model.parameters())

    def logits(x: Tensor, *given: Tensor) -> Tensor:
        names = [name for name, _ in model.named_parameters()]
        found: Tensor = torch.func.functional_call(model, dict(zip(names, given, strict=True)), (x,))
        return found

    torch.autograd.gradcheck(logits, (inputs, *parameters), nondet_tol=1e-10, fast_mode=True)


def test_the_memory_starts_as_told_and_may_have_more_rows_when_not_in_training() -> None:
    like = torch.zeros(2, 1)
    assert (machine().fresh(like) == 1e-6).all()
    assert machine(start="learned").fresh(like).requires_grad
    noise = machine(start="random").fresh(like)
    assert not torch.equal(noise[0], noise[1]) and noise.abs().max() <= 1 / math.sqrt(10)
    model = machine(eval_rows=9)
    assert model.train().fresh(like).shape == (2, 6, 4)
    assert model.eval().fresh(like).shape == (2, 9, 4)


def test_the_lstm_has_as_many_parameters_as_the_machine_it_is_compared_with() -> None:
    def count(model: Any) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    turing, plain = (Memory(machine=kind).model(attend()) for kind in ("ntm", "lstm"))
    assert isinstance(turing, TuringMachine)
    assert count(plain) == pytest.approx(count(turing), rel=0.02)
    assert count(lstm_like(count(plain), 9, 8)) == count(plain)


def test_the_transformer_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    model = Memory(machine="transformer").model(attend("multihead", "scaled_dot"))
    batch = PROBLEMS["copy"].draw(0, [0, 1], Size(4))
    changed = batch.inputs.clone()
    changed[:, 5:] += 1
    torch.testing.assert_close(model(changed)[:, :5], model(batch.inputs)[:, :5])


@pytest.mark.parametrize(
    ("attention", "scoring", "options", "says"),
    [
        ("ntm", "cosine", {"machine": "transformer"}, "choose another, such as attention=multihead"),
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


def test_the_user_is_told_in_a_line_what_does_not_fit(cli: Any) -> None:
    said = cli(*SMALL, "task.machine=transformer")
    assert said.code == 2 and said.err.count("\n") == 1
    assert "attnbench: task=memory: task.machine=transformer asks all its queries at once" in said.err


def test_a_range_of_lengths_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not 5\.\.4"):
        Memory(low=5, high=4)


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
        assert all(image.isfinite().all() for image in task.images(model).values())


def test_ngrams_tells_what_the_best_estimator_loses() -> None:
    """Less than 195 even chances, more than knowing the table: its entropy is 2 - 1/ln 2 bits a place."""
    task = Memory(problem="ngrams")
    metrics = task.metrics()
    task.evaluate(task.model(attend()), task.data("val")[list(range(200))], metrics)
    best = float(metrics["best_bits"].compute())
    assert 195 * (2 - 1 / math.log(2)) < best < 150
    assert float(metrics["bits"].compute()) > 190


def test_padding_is_no_bit_to_foretell() -> None:
    """The shortest sequence and the longest, together and each by itself."""
    task = Memory(problem="ngrams", low=6, high=60)
    model, split, together, alone = task.model(attend()), task.data("val"), task.metrics(), task.metrics()
    ends = [0, len(split) - 1]
    task.evaluate(model, split[ends], together)
    for index in ends:
        task.evaluate(model, split[[index]], alone)
    assert float(together["best_bits"].compute()) == pytest.approx(float(alone["best_bits"].compute()))


class Nay(torch.nn.Module):
    """Says 0, whatever it reads."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.full((*inputs.shape[:2], 8), -1.0)


def test_metrics_count_bits_in_whole_sequences_by_size() -> None:
    """A model that always says 0, on a copy of length 10 by itself: as many wrong bits as there are ones."""
    task = Memory(low=4, high=4)
    batch = task.data("val")[[0, 25, 1, 7]]
    metrics = task.metrics()
    loss = task.evaluate(Nay(), batch, metrics)
    ones = batch.targets.sum(dim=(1, 2))
    assert float(metrics["bits_wrong"].compute()) == pytest.approx(float(ones[:2].mean()))
    assert float(metrics["bits_wrong_10"].compute()) == pytest.approx(float(ones[2:].mean()))
    assert float(metrics["right"].compute()) == 0
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    nats = wrong * ones + right * (8 * torch.tensor([4, 4, 10, 10]) - ones)
    assert float(metrics["bits"].compute()) == pytest.approx(float(nats[:2].mean()) / math.log(2))
    assert float(loss) == pytest.approx(float(nats.sum()) / (8 * 28))


def test_the_papers_figures_are_drawn_in_range_and_beyond() -> None:
    task = Memory(high=5, controller_dim=12, rows=6, width=4, write_heads=2)
    model = task.model(attend()).eval()
    with torch.no_grad():
        drawn = {tag: image[::4, ::4] for tag, image in task.images(model).items()}
    assert drawn.keys() == {f"memory/{s}/{what}" for s in (5, 120) for what in ("outputs", "vectors", "places")}
    outputs, vectors, places = (drawn[f"memory/5/{what}"] for what in ("outputs", "vectors", "places"))
    assert outputs.shape == (9 + 1 + 8 + 1 + 8, 11)
    assert torch.equal(outputs[:8, :5], outputs[19:, 6:]), "the targets repeat the inputs"
    assert vectors.shape == (4 + 1 + 4 + 1 + 4, 11)
    heads = places.split([6, 1, 6, 1, 6])
    for head in heads[::2]:
        torch.testing.assert_close(head.sum(dim=0), torch.ones(11))
    assert (heads[1] == 0.5).all()


SMALL = (
    "task=memory", "task.high=3", "task.controller_dim=8", "task.rows=8", "task.width=4", "trainer.val_every=4",
    "trainer.images=0",
)  # fmt: skip


@pytest.mark.parametrize("chosen", [("attention=soft", "scoring=additive"), ("attention=uniform",)])
def test_any_attention_may_address(cli: Any, tmp_path: Any, chosen: tuple[str, ...]) -> None:
    assert cli(*SMALL, *chosen, "trainer.max_steps=4", "hydra.run.dir=ran").code == 0
    result = json.loads((tmp_path / "ran" / "result.json").read_text())
    assert {"test/bits_wrong", "test/right", "test/bits", "test/bits_wrong_120"} <= result["metrics"].keys()


def test_tensorboard_has_the_figures(cli: Any, tmp_path: Any) -> None:
    assert cli(*SMALL, "trainer.images=1", "trainer.max_steps=8", "hydra.run.dir=ran").code == 0
    read = EventAccumulator(str(tmp_path / "ran"), size_guidance={"images": 0})
    read.Reload()
    for size in (3, 120):
        for what in ("outputs", "vectors", "places"):
            assert [event.step for event in read.Images(f"memory/{size}/{what}")] == [4, 8]


def test_a_run_cut_off_in_the_middle_comes_to_the_same_end(cli: Any, tmp_path: Any) -> None:
    arguments = [*SMALL, "trainer.max_steps=16"]
    assert cli(*arguments, "hydra.run.dir=whole").code == 0
    command = [*HEEDING, *arguments, "hydra.run.dir=cut"]
    ours = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=ours) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step  8/16"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert cli("resume=cut").code == 0
    whole, cut = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "cut"))
    assert cut["metrics"] == whole["metrics"] and cut["steps"] == whole["steps"] == 16
    weights = [torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True) for n in ("whole", "cut")]
    states = [found["state_dict"] for found in weights]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture
def traced(plain_signatures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are traced as the compiler would, forward and backward, and not translated into C++, which takes long."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def gradients(model: Any, length: int = 4, examples: int = 3) -> dict[str, Tensor]:
    batch = PROBLEMS["copy"].draw(0, list(range(examples)), Size(length))
    model.zero_grad()
    torch.nn.functional.mse_loss(model(batch.inputs), batch.targets).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("write_first", [False, True])
@pytest.mark.parametrize(("read_heads", "write_heads"), [(1, 1), (2, 3)])
@pytest.mark.parametrize(("start", "max_shift"), [("constant", 1), ("learned", 0), ("random", 3)])
def test_steps_by_hand_are_those_of_the_modules(
    start: str, max_shift: int, read_heads: int, write_heads: int, write_first: bool
) -> None:
    """A hook on a head must be called, so that such a machine does its steps by its modules."""
    torch.manual_seed(0)
    sizes = {"rows": 6, "width": 4, "read_heads": read_heads, "write_heads": write_heads}
    task = Memory(controller_dim=12, start=start, write_first=write_first, **sizes)
    model: Any = task.model(attend(max_shift=max_shift)).double()
    with torch.no_grad():
        for parameter in model.parameters():  # sharp heads, so that no gradient is lost in a mean over the rows
            parameter.mul_(3)
    inputs = PROBLEMS["copy"].draw(0, [0, 1, 2], Size(4)).inputs.double()
    found: list[Any] = []
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(1)
        assert model.at_once(inputs) is (None if found else Steps), "by hand first, then by the modules"
        logits, trace = model.run(inputs)
        logits.square().sum().backward()
        found.append((logits, *trace, *(parameter.grad for parameter in model.parameters())))
        model.heads[-1].register_forward_hook(ignore)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(torch.isfinite(part).all() and part.any() for part in found[0])


def ignore(*_: Any) -> None:
    """A hook that does nothing."""


needs_c = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@needs_c
@pytest.mark.parametrize("write_first", [False, True])
@pytest.mark.parametrize(("read_heads", "write_heads"), [(1, 1), (2, 3)])
@pytest.mark.parametrize(("start", "max_shift", "rows"), [("constant", 1, 40), ("learned", 0, 6), ("learned", 3, 37)])
def test_steps_in_c_are_those_by_hand(
    start: Any, max_shift: int, rows: int, read_heads: int, write_heads: int, write_first: bool
) -> None:
    """The judge computes in float64; errors are told as shares of an array's largest number."""
    torch.manual_seed(0)
    sizes = {"rows": rows, "width": 9, "read_heads": read_heads, "write_heads": write_heads}
    task = Memory(controller_dim=11, start=start, write_first=write_first, **sizes)
    model: Any = task.model(attend(max_shift=max_shift))
    batch = PROBLEMS["copy"].draw(0, [0, 1, 2, 3, 4], Size(4))
    found: list[Any] = []
    for kind, steps in ((torch.float32, CompiledSteps), (torch.float64, Steps)):
        model.to(kind).zero_grad()
        inputs = batch.inputs.to(kind)
        assert model.at_once(inputs) is steps
        logits, trace = model.run(inputs)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.targets.to(kind)).backward()
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(inputs), logits)  # nothing is kept, and nothing else changes
        found.append((logits, *trace, *(parameter.grad for parameter in model.train().parameters())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-4 * float(theirs.detach().abs().max()))
    assert all(part.any() for part in found[0])


@needs_c
@pytest.mark.parametrize("name", ["heads.0.score.log_beta", "heads.1.head.bias", "writers.0.project.bias", "memory"])
def test_what_is_no_number_stays_none_in_c(name: str) -> None:
    """So that a step whose gradient is not finite is seen, and skipped."""
    model = machine(start="learned")
    with torch.no_grad():
        model.get_parameter(name).fill_(math.nan)
    found = gradients(model)
    assert not any(torch.isfinite(found[part]).any() for part in ("controller.rh.weight", "memory"))


@needs_c
def test_the_steps_in_c_leave_the_processor_as_it_was() -> None:
    tiny = torch.tensor(1e-40)
    gradients(machine())
    assert float(tiny * 0.5) > 0, "numbers next to nothing are something again"


def test_without_a_c_compiler_it_says_so_once_and_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    library.cache_clear()
    try:
        found = gradients(machine()), gradients(machine(compile=True))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and "cannot be compiled" in said[0] and "no-such-compiler" in said[0]
    finally:
        library.cache_clear()
    assert all(
        torch.equal(one[name], value) for name, value in gradients(machine(compile=False)).items() for one in found
    )


@pytest.mark.parametrize("word", [False, pytest.param(True, marks=needs_c)])
def test_a_length_of_zero_has_no_gradient_at_once_either(word: bool) -> None:
    """Rows that were erased whole have no direction; the machine of the modules is the judge."""
    found = []
    for hooked in (False, True):
        model = machine(start="learned", compile=False if hooked else word)
        model.memory.data[1] = 0
        if hooked:
            model.heads[0].register_forward_hook(ignore)
        gradients(model)
        found.append(model.memory.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("attention", "scoring", "options", "how"),
    [
        ("ntm", "cosine", {"compile": False}, Steps),
        ("ntm", "cosine", {"rows": 6, "eval_rows": 1, "compile": False}, Steps),
        pytest.param("ntm", "cosine", {}, CompiledSteps, marks=needs_c),
        pytest.param("ntm", "cosine", {"compile": True}, CompiledSteps, marks=needs_c),
        ("ntm", "scaled_dot", {}, None),
        ("soft", "additive", {}, None),
        ("ntm", "cosine", {"controller": "feedforward"}, None),
    ],
)
def test_what_does_all_steps_at_once(attention: str, scoring: str, options: dict[str, Any], how: Any) -> None:
    model, inputs = machine(attention, scoring, **options), torch.zeros(1, 2, 9)
    assert model.at_once(inputs) is how
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.at_once(inputs) is None
    if how is CompiledSteps:
        wide = model.double().at_once(inputs.double())
        assert wide is (None if options.get("compile") else Steps), (
            "float32 alone; what is to be compiled, by its modules"
        )


def compiled_equals_eager(attention: str, scoring: str | None, **options: Any) -> None:
    eager, quick = (machine(attention, scoring, compile=word, **options) for word in (False, True))
    inputs = PROBLEMS["copy"].draw(0, [0, 1, 2], Size(4)).inputs
    torch.testing.assert_close(quick(inputs), eager(inputs), rtol=1e-5, atol=1e-6)
    expected = gradients(eager)
    for name, found in gradients(quick).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-6)
    assert eager.compiled is None and quick.compiled not in (None, quick.step), "it was compiled"


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("attention", "scoring", "controller"),
    [("ntm", "scaled_dot", "lstm"), *((*m, "lstm") for m in MACHINES[1:]), ("ntm", "cosine", "feedforward")],
)
def test_a_compiled_step_is_the_eager_one_whatever_addresses(
    attention: str, scoring: str | None, controller: str
) -> None:
    compiled_equals_eager(attention, scoring, controller=controller, read_heads=2, write_heads=2)


@pytest.mark.slow  # half a minute, the compiler's
@pytest.mark.usefixtures("plain_signatures")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_step_translated_into_cpp_is_the_eager_one() -> None:
    compiled_equals_eager("ntm", "scaled_dot")


@pytest.mark.usefixtures("traced")
def test_sequences_of_many_lengths_are_one_compilation() -> None:
    torch._dynamo.utils.counters.clear()
    model = machine("ntm", "scaled_dot", compile=True)
    for length in range(1, 12):
        gradients(model, length)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    model.eval()(torch.zeros(7, 5, 9))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, (
        "validation, in batches of other sizes, is eager"
    )


@pytest.mark.usefixtures("traced")
def test_batches_of_other_sizes_run_the_step_as_it_is() -> None:
    torch._dynamo.utils.counters.clear()
    eager, quick = (machine("soft", "additive", compile=word) for word in (False, True))
    gradients(quick)
    for examples in (1, 2, 4):
        expected = gradients(eager, examples=examples)
        found = gradients(quick, examples=examples)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("plain_signatures")
def test_without_a_cpp_compiler_it_says_so_once_and_runs_eagerly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    model = machine("soft", "additive", compile=True)
    for _ in range(2):
        found = gradients(model)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "runs as it is" in said[0] and "no-such-compiler" in said[0]
    expected = gradients(machine("soft", "additive", compile=False))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("traced")
def test_auto_compiles_once_a_run_is_long_enough_and_a_resumed_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory_machines, "EARNED", 20)
    model = machine("soft", "additive")
    gradients(model)
    gradients(model)
    assert model.compiled is None, "18 steps"
    resumed = machine("soft", "additive")
    resumed.load_state_dict(model.state_dict())
    gradients(model)
    gradients(resumed)
    assert model.compiled is not None and resumed.compiled is not None, "27 steps"


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("attention", ["positional", "structured"])
def test_what_a_compiled_step_would_not_see_is_left_alone(attention: str) -> None:
    """sliding_window is asked all its queries so far, ever more; structured adds a penalty, collected by a hook."""
    positional = attention == "positional"
    make = attend("sliding_window", "additive") if positional else attend("structured", None, coefficient=1.0)
    model = Memory(controller_dim=12, rows=6, width=4, compile=True).model(make)
    gradients(model)
    assert model.compiled is None


@pytest.mark.parametrize("word", ["auto", "true", "false"])
def test_compile_is_a_word_on_the_command_line(cli: Any, word: str) -> None:
    assert f"compile: {word}" in cli(*SMALL, f"task.compile={word}", "--cfg=job").out


def test_another_word_for_compile_is_refused(cli: Any) -> None:
    said = cli(*SMALL, "task.compile=yes")
    assert said.code != 0 and "compile is true, false or auto, not yes" in said.err


@pytest.mark.parametrize("experiment", ["ntm_copy_long", "ntm_recall", "ntm_repeat_copy"])
def test_an_experiment_runs(cli: Any, tmp_path: Any, experiment: str) -> None:
    """A smaller one: its eval_rows, start of the heads and order of reading and writing stay."""
    few = ("task.compile=false", "task.controller_dim=8", "task.high=3", "trainer.eval_batches=1")
    short = ("trainer.max_steps=2", "trainer.eval_batch_size=10")
    assert cli(f"experiment={experiment}", *few, *short, "hydra.run.dir=ran").code == 0
    result = json.loads((tmp_path / "ran" / "result.json").read_text())
    assert result["status"] == "completed" and result["attention"] == "ntm"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "metric", "most", "seed"),
    [
        *(("ntm_copy_long", "bits_wrong_120", 1.0, seed) for seed in range(5)),
        *(("ntm_recall", "bits_wrong", 0.1, seed) for seed in range(3)),
        *(("ntm_repeat_copy", "bits_wrong", 0.1, seed) for seed in range(3)),
    ],
)
def test_an_experiment_learns_what_it_is_for(
    cli: Any, tmp_path: Any, experiment: str, metric: str, most: float, seed: int
) -> None:
    assert cli(f"experiment={experiment}", f"seed={seed}", "hydra.run.dir=ran").code == 0
    result = json.loads((tmp_path / "ran" / "result.json").read_text())
    assert result["metrics"][f"test/{metric}"] < most


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_copy_is_solved(cli: Any, tmp_path: Any, seed: int) -> None:
    assert cli("task=memory", f"seed={seed}", "hydra.run.dir=copy").code == 0
    result = json.loads((tmp_path / "copy" / "result.json").read_text())
    assert result["metrics"]["test/bits_wrong"] < 0.1
