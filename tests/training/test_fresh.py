"""Training data without end: step s holds examples s·B to (s+1)·B - 1, in order, whatever cuts the run."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from attnbench import Task, UsageError
from attnbench.config import OptimizerConfig, TrainerConfig
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.run import evaluate, resume, run
from attnbench.run_folder import typed
from attnbench.training.batches import TrainSampler, plan
from attnbench.training.experiment import Experiment

READ: list[list[int]] = []
SEEDS: list[tuple[str, int]] = []


class Endless(Dataset[Any]):
    """Example i is a number drawn from (seed, i); it has no length."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor]:
        READ.append(indices)
        drawn = [torch.rand(1, generator=torch.Generator().manual_seed(1000 * self.seed + i)) for i in indices]
        return (torch.stack(drawn),)


class Stream(Task):
    """Learn the mean of numbers."""

    primary = "distance"
    mode = "min"
    goal = -1.0
    fresh = True

    def __init__(self, *, noted: bool = False) -> None:
        self.noted = noted

    def restore(self, folder: Path) -> None:
        SEEDS.append(("restore", self.seed))

    def prepare(self) -> None:
        SEEDS.append(("prepare", self.seed))

    def data(self, split: str) -> Any:
        return Endless(self.seed) if split == "train" else TensorDataset(torch.rand(6, 1))

    def model(self, make_attention: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Dropout(0.5))

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = (model(torch.ones_like(batch[0])) - batch[0]).square().mean()
        return loss

    def metrics(self) -> dict[str, Any]:
        from torchmetrics import CatMetric, MeanMetric

        return {"distance": MeanMetric(), "slice": CatMetric()}

    def evaluate(self, model: torch.nn.Module, batch: Any, metrics: Mapping[str, Any]) -> torch.Tensor:
        loss = self.loss(model, batch)
        metrics["distance"].update(loss)
        if len(batch[0]) > 100:  # an evaluated slice that has no example here: its value is an empty tensor
            metrics["slice"].update(loss)
        return loss


@pytest.fixture
def registry() -> Registry:
    READ.clear()
    SEEDS.clear()
    shipped = Registry.load()
    return Registry({**shipped.components, ("task", "stream"): Component("task", "stream", Stream, __name__)})


CHOSEN = {
    "task": {"name": "stream"},
    "attention": {"name": "uniform"},
    "trainer": {"max_steps": 6, "batch_size": 4, "val_every": 2, "log_every": 1, "images": 0, "progress_bar": False},
    "optimizer": {"schedule": "constant", "warmup": 0.0},
    "seed": 7,
}


def train(registry: Registry, folder: Path, *overrides: str) -> dict[str, Any]:
    folder.mkdir()
    run(typed(registry, CHOSEN, list(overrides)), folder, registry, [])
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def weights(folder: Path) -> Any:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["model.0.weight"]


def test_each_step_holds_the_next_examples_in_order(registry: Registry, tmp_path: Path) -> None:
    result = train(registry, tmp_path / "ran")
    assert [[4 * step + place for place in range(4)] for step in range(6)] == READ
    assert result["epochs"] is None and result["steps"] == 6 and result["examples_seen"] == 24
    assert "val/slice" not in result["metrics"]


def test_the_task_has_the_runs_seed_before_it_prepares(registry: Registry, tmp_path: Path) -> None:
    train(registry, tmp_path / "ran")
    assert SEEDS == [("prepare", 7)]
    evaluate(tmp_path / "ran", registry, [])
    assert SEEDS[1:] == [("restore", 7), ("prepare", 7)]


def test_a_resumed_run_goes_on_at_the_step_where_it_was(registry: Registry, tmp_path: Path) -> None:
    train(registry, tmp_path / "whole", "trainer.max_steps=7")
    READ.clear()
    train(registry, tmp_path / "cut", "trainer.max_steps=4")
    resume(tmp_path / "cut", registry, ["trainer.max_steps=7"])
    assert [indices[0] // 4 for indices in READ] == [0, 1, 2, 3, 4, 5, 6]
    assert torch.equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_metrics_of_training_examples_are_of_the_first_ones(registry: Registry, tmp_path: Path) -> None:
    train(registry, tmp_path / "ran", "trainer.eval_train=5", "trainer.eval_batch_size=3", "trainer.val_every=6")
    assert READ[6:] == [[0, 1, 2], [3, 4]]


def test_without_an_end_the_run_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^trainer\.max_steps=null: .*, such as trainer\.max_steps=1000$"):
        train(registry, tmp_path / "ran", "trainer.max_steps=null")


def test_validation_comes_once_at_the_end_unless_it_is_said_when(registry: Registry, tmp_path: Path) -> None:
    result = train(registry, tmp_path / "ran", "trainer.val_every=null")
    assert [point["step"] for point in result["curve"]] == [6]


def test_processes_share_out_the_examples_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(2):
        monkeypatch.setattr("attnbench.training.batches.rank_and_world_size", lambda rank=rank: (rank, 2))
        sampler, total = plan(Stream(), TrainerConfig(max_steps=3, batch_size=2, devices=2), seed=0)
        assert total == len(sampler) == 3
        shares.append(list(sampler))
    assert shares == [[[0, 2], [4, 6], [8, 10]], [[1, 3], [5, 7], [9, 11]]]


def test_a_sampler_without_end_needs_the_length_of_a_round() -> None:
    with pytest.raises(ValueError, match="round_steps"):
        TrainSampler(None, 4, 1, 0, None)


def test_a_loss_over_steps_is_their_mean_whatever_the_batches(registry: Registry) -> None:
    task = registry.build("task", {"name": "memory", "compile": False})
    torch.manual_seed(0)
    model = task.model(partial(registry.build_attention, {"name": "ntm"}, {"name": "cosine"})).eval()
    data = task.data("test")
    longest = max(range(20), key=lambda i: int(data[[i]].mask.sum()))
    shortest = min(range(20), key=lambda i: int(data[[i]].mask.sum()))
    losses = []
    for batches in ([[longest, shortest]], [[longest], [shortest]]):
        experiment = Experiment(task, model, OptimizerConfig(), 1)
        for number, indices in enumerate(batches):
            with torch.no_grad():
                experiment.test_step(data[indices], number)
        losses.append(float(experiment.stages["test"]["loss"].compute()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
