"""The problems of task=memory against their definitions, and what makes a split of them."""

import itertools
import math
from typing import Any

import pytest
import torch
from attnbench.plugins.task.memory.problems import PROBLEMS, Size, bayes_bits, uniform
from attnbench.plugins.task.memory.task import Memory
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import attend, draw

SPLITS: tuple[Any, ...] = ("train", "val", "test")
SEEDS = st.integers(0, 2**20)


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
    scored = targets[mask].view(2, length * repeats + 1, 9)
    for number in range(repeats):
        assert torch.equal(scored[:, number * length :][:, :length, :8], inputs[:, :length, :8])
    assert scored[:, -1].tolist() == [[0] * 8 + [1]] * 2 and not scored[:, :-1, 8].any()
    assert not inputs[:, length + 1 :].any()


def test_the_number_of_repeats_has_mean_0_and_variance_1() -> None:
    channel = torch.stack([draw("repeat_copy", 0, 3, repeats).inputs[0, 3, 9] for repeats in range(1, 11)])
    assert float(channel.mean()) == pytest.approx(0, abs=1e-6)
    assert float(channel.var(correction=0)) == pytest.approx(1, abs=1e-6)


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
    scored = torch.arange(10).unsqueeze(0) >= 5
    assert float(bayes_bits(bits, scored)) == pytest.approx(1 - math.log2(3 / 4) + math.log2(6) + 2)


@given(SEEDS, st.integers(1, 400), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_a_number_depends_on_seed_index_and_place_alone(seed: int, count: int, indices: list[int]) -> None:
    together = uniform(seed, indices, count)
    for row, index in enumerate(indices):
        assert torch.equal(uniform(seed, [index], count + 3)[0, :count], together[row])
    assert ((together > 0) & (together < 1)).all()


def test_numbers_of_seeds_and_indices_are_even_and_unlike() -> None:
    drawn = torch.cat([uniform(seed, list(range(200)), 50) for seed in range(6)])
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


def test_a_range_of_lengths_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not 5\.\.4"):
        Memory(low=5, high=4)


def test_ngrams_tells_what_the_best_estimator_loses() -> None:
    """Less than 195 even chances, more than knowing the table: its entropy is 2 - 1/ln 2 bits a place."""
    task = Memory(problem="ngrams")
    metrics = task.metrics()
    task.evaluate(task.model(attend()), task.data("val")[list(range(200))], metrics)
    best = float(metrics["best_bits"].compute())
    assert 195 * (2 - 1 / math.log(2)) < best < 150
    assert float(metrics["bits"].compute()) > 190


def test_padding_is_no_bit_to_predict() -> None:
    """The shortest sequence and the longest, together and each by itself."""
    task = Memory(problem="ngrams", low=6, high=60)
    model, split, together, alone = task.model(attend()), task.data("val"), task.metrics(), task.metrics()
    ends = [0, len(split) - 1]
    task.evaluate(model, split[ends], together)
    for index in ends:
        task.evaluate(model, split[[index]], alone)
    assert float(together["best_bits"].compute()) == pytest.approx(float(alone["best_bits"].compute()))
