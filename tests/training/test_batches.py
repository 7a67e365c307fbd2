import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.training.batches import EvalSampler, LazyBatches, StepChunks, TrainSampler, batch_size


def steps(batches, rounds):
    seen = []
    for number in range(rounds):
        batches.set_epoch(number)
        seen += list(batches)
    return seen


@given(st.integers(1, 50), st.integers(1, 12), st.integers(1, 9))
def test_a_pass_sees_every_example_once_however_rounds_cut_it(size, batch, round_steps):
    whole = TrainSampler(size, batch, 1, 0, None)
    cut = TrainSampler(size, batch, 1, 0, round_steps)
    once = steps(whole, 1)
    assert sorted(itertools.chain(*once)) == list(range(size))
    rounds = -(-len(once) // round_steps)
    assert steps(cut, rounds)[: len(once)] == once


def test_passes_differ_and_seeds_differ():
    one, two = steps(TrainSampler(100, 10, 1, 0, None), 2)[:10], steps(TrainSampler(100, 10, 1, 0, None), 2)[10:]
    assert one != two
    assert one != steps(TrainSampler(100, 10, 1, 1, None), 1)


def test_the_order_of_today_is_that_of_tomorrow():
    assert steps(TrainSampler(9, 3, 1, 7, None), 3)[6:] == [[3, 5, 6], [0, 2, 8], [7, 1, 4]]


def test_a_round_is_the_same_whether_or_not_the_rounds_before_it_were_read():
    fresh = TrainSampler(100, 8, 1, 0, 5)
    fresh.set_epoch(3)
    assert list(fresh) == steps(TrainSampler(100, 8, 1, 0, 5), 4)[15:]


def test_a_resumed_run_reads_on_where_it_was_whatever_its_rounds_are_now():
    resumed = TrainSampler(100, 8, 1, 0, 7, done=15)
    resumed.set_epoch(3)  # its first; the rounds before were of 5 steps
    first = list(resumed)
    resumed.set_epoch(4)
    assert first + list(resumed) == steps(TrainSampler(100, 8, 1, 0, 29), 1)[15:]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
def test_chunks_are_the_steps_of_the_rounds_up_to_the_last_of_the_run(round_steps, size, total):
    def batches():
        return TrainSampler(20, 4, 1, 0, round_steps)

    rounds = -(-total // round_steps)
    chunks = StepChunks(batches(), size, total)
    seen = steps(chunks, rounds)
    assert list(itertools.chain(*seen)) == steps(batches(), rounds)[:total]
    assert all(len(chunk) <= size for chunk in seen)
    chunks.set_epoch(0)
    assert len(list(chunks)) == len(chunks) or total < round_steps


def test_a_batch_of_a_chunk_is_loaded_when_it_is_its_turn():
    class Data(torch.utils.data.Dataset):
        def __getitem__(self, indices):
            loaded.append(indices)
            return indices

    loaded = []
    chunk = LazyBatches(Data())[[[0, 1], [2]]]
    assert loaded == [] and next(chunk) == [0, 1] and loaded == [[0, 1]]


def test_evaluation_reads_every_example_once_in_order():
    assert list(EvalSampler(5, 2, None)) == [[0, 1], [2, 3], [4]]
    assert list(EvalSampler(5, 2, 2)) == [[0, 1], [2, 3]]


def test_a_batch_is_counted_by_its_first_tensor():
    assert batch_size((torch.zeros(7, 2), torch.zeros(7))) == 7
    assert batch_size(torch.zeros(3)) == 3


def test_steps_of_like_lengths_see_every_example_once_and_stay_a_function_of_the_step():
    lengths = torch.arange(1000).roll(77) % 311
    batches = TrainSampler(1000, 8, 1, 0, None, lengths)
    whole = steps(batches, 1)
    assert sorted(itertools.chain(*whole)) == list(range(1000))
    spread = [int(lengths[batch].max() - lengths[batch].min()) for batch in whole]
    assert sum(spread) / len(spread) < 20  # of 8 at random about 240
    assert [lengths[batch].max() for batch in whole] != sorted(lengths[batch].max() for batch in whole)
    assert steps(TrainSampler(1000, 8, 1, 0, 5, lengths), 25) == whole


def test_evaluation_by_length_reads_every_example_once():
    lengths = torch.tensor([3, 1, 2, 5, 4])
    assert list(EvalSampler(5, 1, None, lengths)) == [[0], [1], [2], [4], [3]]
    assert list(EvalSampler(5, 2, None, lengths)) == [[0, 1], [2, 4], [3]]  # the first are those that are pictured
    assert list(EvalSampler(5, 2, 1, lengths)) == [[0, 1]]
    assert EvalSampler(0, 2, None, lengths[:0]).batches == []
