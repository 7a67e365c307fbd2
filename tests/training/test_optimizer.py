import pytest
import torch

from attnbench.config import OptimizerConfig, OptimizerName, Schedule
from attnbench.errors import UsageError
from attnbench.training.experiment import Experiment
from attnbench.training.optimizer import lr_factor, make_optimizer, refuse_sparse_gradients


class Table(torch.nn.Module):
    def __init__(self, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(6, 3, sparse=sparse)
        self.out = torch.nn.Linear(3, 1)

    def forward(self, rows):
        return self.out(self.table(rows)).square().mean()


def test_gradients_of_float16_are_unscaled_before_the_update():
    """A fused update unscales them itself, after they were clipped as if they were the gradients."""
    model = torch.nn.Linear(2, 2)
    assert make_optimizer(model, OptimizerConfig()).param_groups[0]["fused"]
    assert not make_optimizer(model, OptimizerConfig(), fused=False).param_groups[0]["fused"]


def test_the_rate_rises_then_falls_to_nothing():
    cosine = [lr_factor(step, 100, OptimizerConfig(warmup=0.1, schedule=Schedule.cosine)) for step in range(101)]
    assert cosine[0] == pytest.approx(1 / 11)
    assert max(cosine) == cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[100] == 0.0
    assert lr_factor(55, 100, OptimizerConfig(warmup=0.1, schedule=Schedule.linear)) == pytest.approx(0.5)
    assert lr_factor(99, 100, OptimizerConfig(warmup=0.1, schedule=Schedule.constant)) == 1.0
    assert lr_factor(1000, 2000, OptimizerConfig(warmup=0, schedule=Schedule.inverse_time, decay=1e-3)) == 0.5


def test_a_sparse_table_is_updated_where_a_step_saw_it_and_there_as_adam_would():
    config = OptimizerConfig(name=OptimizerName.adam, lr=0.1)
    models = [Table(sparse) for sparse in (False, True)]
    rows = torch.tensor([1, 4, 4])
    before = models[1].table.weight.detach().clone()
    for model in models:
        optimizer = make_optimizer(model, config)
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
    config = OptimizerConfig(name=name, lr=0.1, weight_decay=0.2, lazy=False)
    models = [Table(sparse) for sparse in (False, True)]
    for model in models:
        optimizer = make_optimizer(model, config)
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
    for lazy, cure in ((True, r"try optimizer\.lazy=false"), (False, r"make the task's embeddings with sparse=")):
        with pytest.raises(UsageError, match=f"several GPUs cannot exchange sparse gradients; {cure}"):
            refuse_sparse_gradients(Table(True), OptimizerConfig(lazy=lazy))
    refuse_sparse_gradients(Table(False), OptimizerConfig())


@pytest.mark.parametrize("lazy", [True, False])
def test_the_state_of_all_optimizers_is_saved_and_taken_up(lazy):
    def train(model, optimizer, number):
        for _ in range(number):
            optimizer.zero_grad()
            model(torch.tensor([1, 4])).backward()
            optimizer.step()

    config = OptimizerConfig(lr=0.1, lazy=lazy)
    whole, cut, resumed = Table(True), Table(True), Table(True)
    train(whole, make_optimizer(whole, config), 4)
    first = make_optimizer(cut, config)
    train(cut, first, 2)
    resumed.load_state_dict(cut.state_dict())
    second = make_optimizer(resumed, config)
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
