import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.config import OptimizerConfig, OptimizerName, Schedule
from attnbench.errors import UsageError
from attnbench.experiment import (
    EvalBatches,
    Experiment,
    InTurn,
    Strides,
    TrainBatches,
    batch_size,
    make_gradients_whole,
    make_optimizer,
    rate,
)


def steps(batches, rounds):
    seen = []
    for number in range(rounds):
        batches.set_epoch(number)
        seen += list(batches)
    return seen


@given(st.integers(1, 50), st.integers(1, 12), st.integers(1, 9))
def test_a_pass_sees_every_example_once_however_rounds_cut_it(size, batch, round_steps):
    whole = TrainBatches(size, batch, 1, 0, None)
    cut = TrainBatches(size, batch, 1, 0, round_steps)
    once = steps(whole, 1)
    assert sorted(itertools.chain(*once)) == list(range(size))
    rounds = -(-len(once) // round_steps)
    assert steps(cut, rounds)[: len(once)] == once


def test_passes_differ_and_seeds_differ():
    one, two = steps(TrainBatches(100, 10, 1, 0, None), 2)[:10], steps(TrainBatches(100, 10, 1, 0, None), 2)[10:]
    assert one != two
    assert one != steps(TrainBatches(100, 10, 1, 1, None), 1)


def test_a_round_is_the_same_whether_or_not_the_rounds_before_it_were_read():
    fresh = TrainBatches(100, 8, 1, 0, 5)
    fresh.set_epoch(3)
    assert list(fresh) == steps(TrainBatches(100, 8, 1, 0, 5), 4)[15:]


def test_a_resumed_run_reads_on_where_it_was_whatever_its_rounds_are_now():
    resumed = TrainBatches(100, 8, 1, 0, 7, done=15)
    resumed.set_epoch(3)  # its first; the rounds before were of 5 steps
    first = list(resumed)
    resumed.set_epoch(4)
    assert first + list(resumed) == steps(TrainBatches(100, 8, 1, 0, 29), 1)[15:]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
def test_strides_are_the_steps_of_the_rounds_up_to_the_last_of_the_run(round_steps, size, total):
    def batches():
        return TrainBatches(20, 4, 1, 0, round_steps)

    rounds = -(-total // round_steps)
    strides = Strides(batches(), size, total)
    seen = steps(strides, rounds)
    assert list(itertools.chain(*seen)) == steps(batches(), rounds)[:total]
    assert all(len(stride) <= size for stride in seen)
    strides.set_epoch(0)
    assert len(list(strides)) == len(strides) or total < round_steps


def test_a_batch_of_a_stride_is_loaded_when_it_is_its_turn():
    class Data(torch.utils.data.Dataset):
        def __getitem__(self, indices):
            loaded.append(indices)
            return indices

    loaded = []
    stride = InTurn(Data())[[[0, 1], [2]]]
    assert loaded == [] and next(stride) == [0, 1] and loaded == [[0, 1]]


def test_gradients_of_float16_are_unscaled_before_the_update():
    """A fused update unscales them itself, after they were clipped as if they were the gradients."""
    model = torch.nn.Linear(2, 2)
    assert make_optimizer(model, OptimizerConfig()).param_groups[0]["fused"]
    assert not make_optimizer(model, OptimizerConfig(), fused=False).param_groups[0]["fused"]


def test_evaluation_reads_every_example_once_in_order():
    assert list(EvalBatches(5, 2, None)) == [[0, 1], [2, 3], [4]]
    assert list(EvalBatches(5, 2, 2)) == [[0, 1], [2, 3]]


def test_the_rate_rises_then_falls_to_nothing():
    cosine = [rate(step, 100, OptimizerConfig(warmup=0.1, schedule=Schedule.cosine)) for step in range(101)]
    assert cosine[0] == pytest.approx(1 / 11)
    assert max(cosine) == cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[100] == 0.0
    assert rate(55, 100, OptimizerConfig(warmup=0.1, schedule=Schedule.linear)) == pytest.approx(0.5)
    assert rate(99, 100, OptimizerConfig(warmup=0.1, schedule=Schedule.constant)) == 1.0
    assert rate(1000, 2000, OptimizerConfig(warmup=0, schedule=Schedule.inverse_time, decay=1e-3)) == 0.5


def test_a_batch_is_counted_by_its_first_tensor():
    assert batch_size((torch.zeros(7, 2), torch.zeros(7))) == 7
    assert batch_size(torch.zeros(3)) == 3


def test_steps_of_like_lengths_see_every_example_once_and_stay_a_function_of_the_step():
    lengths = torch.arange(1000).roll(77) % 311
    batches = TrainBatches(1000, 8, 1, 0, None, lengths)
    whole = steps(batches, 1)
    assert sorted(itertools.chain(*whole)) == list(range(1000))
    spread = [int(lengths[batch].max() - lengths[batch].min()) for batch in whole]
    assert sum(spread) / len(spread) < 20  # of 8 at random about 240
    assert [lengths[batch].max() for batch in whole] != sorted(lengths[batch].max() for batch in whole)
    assert steps(TrainBatches(1000, 8, 1, 0, 5, lengths), 25) == whole


def test_evaluation_by_length_reads_every_example_once():
    lengths = torch.tensor([3, 1, 2, 5, 4])
    assert list(EvalBatches(5, 2, None, lengths)) == [[1, 2], [0, 4], [3]]
    assert list(EvalBatches(5, 2, 1, lengths)) == [[1, 0]]  # of the first two


class Table(torch.nn.Module):
    def __init__(self, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(6, 3, sparse=sparse)
        self.out = torch.nn.Linear(3, 1)

    def forward(self, rows):
        return self.out(self.table(rows)).square().mean()


def test_a_sparse_table_is_updated_where_a_step_saw_it_and_there_as_adam_would():
    given = OptimizerConfig(name=OptimizerName.adam, lr=0.1)
    models = [Table(sparse) for sparse in (False, True)]
    rows = torch.tensor([1, 4, 4])
    before = models[1].table.weight.detach().clone()
    for model in models:
        optimizer = make_optimizer(model, given)
        for _ in range(3):
            optimizer.zero_grad()
            model(rows).backward()
            optimizer.step()
    dense, sparse = (model.table.weight for model in models)
    torch.testing.assert_close(dense, sparse)
    torch.testing.assert_close(models[0].out.weight, models[1].out.weight)
    assert torch.equal(sparse[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


@pytest.mark.parametrize("name", OptimizerName)
def test_not_lazy_a_sparse_table_is_updated_as_a_dense_one(name):
    given = OptimizerConfig(name=name, lr=0.1, weight_decay=0.2, lazy=False)
    models = [Table(sparse) for sparse in (False, True)]
    for model in models:
        optimizer = make_optimizer(model, given)
        for rows in ([1, 4, 4], [0], [4, 2], [0]):
            optimizer.zero_grad()
            model(torch.tensor(rows)).backward()
            optimizer.step()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_a_table_that_is_used_elsewhere_too_has_a_dense_gradient_and_learns_the_same():
    models = [Table(sparse) for sparse in (False, True)]
    for model in models:
        optimizer = make_optimizer(model, OptimizerConfig(lr=0.1, lazy=False))
        for _ in range(3):
            optimizer.zero_grad()
            (model(torch.tensor([1, 4])) + model.table.weight.square().sum()).backward()
            optimizer.step()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


@pytest.mark.parametrize("lazy", [True, False])
def test_a_table_of_two_embeddings_is_updated_once(lazy):
    model = Table(True)
    model.other = torch.nn.Embedding(6, 3, sparse=True)
    model.other.weight = model.table.weight
    before = model.table.weight.detach().clone()
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.1, lazy=lazy))
    (model.table(torch.tensor([1])) + model.other(torch.tensor([1]))).sum().backward()
    optimizer.step()
    torch.testing.assert_close(before[1] - model.table.weight[1], torch.full((3,), 0.1))


def test_between_gpus_gradients_are_whole_and_updates_not_lazy():
    model = Table(True)
    with pytest.raises(UsageError, match=r"optimizer\.lazy=true: several GPUs cannot .* try optimizer\.lazy=false"):
        make_gradients_whole(model, OptimizerConfig())
    make_gradients_whole(model, OptimizerConfig(lazy=False))
    model(torch.tensor([1, 4])).backward()
    assert not model.table.weight.grad.is_sparse


@pytest.mark.parametrize("lazy", [True, False])
def test_the_state_of_all_optimizers_is_saved_and_taken_up(lazy):
    def train(model, optimizer, number):
        for _ in range(number):
            optimizer.zero_grad()
            model(torch.tensor([1, 4])).backward()
            optimizer.step()

    given = OptimizerConfig(lr=0.1, lazy=lazy)
    whole, cut, resumed = Table(True), Table(True), Table(True)
    train(whole, make_optimizer(whole, given), 4)
    first = make_optimizer(cut, given)
    train(cut, first, 2)
    resumed.load_state_dict(cut.state_dict())
    second = make_optimizer(resumed, given)
    second.load_state_dict(first.state_dict())
    train(resumed, second, 2)
    assert torch.equal(whole.table.weight, resumed.table.weight)


def test_sparse_gradients_are_clipped_as_dense_ones():
    norms = []
    for sparse in (False, True):
        model = Table(sparse)
        (100 * model(torch.tensor([1, 4, 4]))).backward()
        experiment = Experiment.__new__(Experiment)
        torch.nn.Module.__init__(experiment)
        experiment.model, experiment.clip = model, 0.5
        if sparse:
            experiment.on_before_optimizer_step(torch.optim.SGD(model.parameters()))
        else:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        norms.append(model.table.weight.grad.to_dense())
    torch.testing.assert_close(norms[0], norms[1])
