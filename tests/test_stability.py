"""A gradient that is not finite is skipped and counted; too many, or a loss that is not finite, stop the run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import TensorDataset

from attnbench import Task, UsageError
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.run import run
from attnbench.run_folder import typed


class Cliff(Task):
    """One weight that is to be 0. From step `first` to `last` its gradient is not finite, or its loss is not."""

    primary = "distance"
    mode = "min"
    goal = -1.0

    def __init__(self, *, first: int = 7, last: int = 8, loss: bool = False) -> None:
        self.bad, self.lost, self.step = range(first, last + 1), loss, 0

    def data(self, split: str) -> Any:
        return TensorDataset(torch.arange(100.0))

    def model(self, make_attention: Any) -> torch.nn.Module:
        return torch.nn.Linear(1, 1, bias=False)

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        self.step += 1
        loss: torch.Tensor = model(torch.ones(1)).square().sum()
        if self.step in self.bad:  # the root has a slope without end at 0: the loss is finite, its gradient is not
            return loss + (torch.inf * loss if self.lost else (0 * loss).sqrt())
        return loss

    def metrics(self) -> dict[str, Any]:
        from torchmetrics import MeanMetric

        return {"distance": MeanMetric()}

    def evaluate(self, model: torch.nn.Module, batch: Any, metrics: Mapping[str, Any]) -> torch.Tensor:
        distance = model(torch.ones(1)).abs().sum()
        metrics["distance"].update(distance)
        return distance


def train(folder: Path, *overrides: str, seed: int = 0, clip: float | None = 1.0) -> dict[str, Any]:
    """Run it, and give result.json."""
    shipped = Registry.load()
    registry = Registry({**shipped.components, ("task", "cliff"): Component("task", "cliff", Cliff, __name__)})
    trainer = {"max_steps": 40, "batch_size": 2, "val_every": 5, "log_every": 1, "images": 0, "gradient_clip": clip}
    chosen = {"task": {"name": "cliff"}, "attention": {"name": "uniform"}, "trainer": trainer, "seed": seed}
    folder.mkdir(exist_ok=True)
    try:
        run(typed(registry, chosen, list(overrides)), folder, registry, [])
    finally:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def weight(checkpoint: Path) -> float:
    found = torch.load(checkpoint, weights_only=True)["state_dict"]["model.weight"]
    return float(found)


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path, clip: float | None) -> None:
    result = train(tmp_path / "ran", clip=clip)
    assert result["skipped_updates"] == 2 and result["steps"] == 40
    events = EventAccumulator(str(tmp_path / "ran"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/skipped_updates")][5:9] == [0, 1, 2, 2]
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses[6] == losses[7] == losses[8] < losses[5]


def test_nineteen_in_a_row_are_borne(tmp_path: Path) -> None:
    assert train(tmp_path / "ran", "task.last=25")["skipped_updates"] == 19


def test_twenty_in_a_row_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"20 steps in a row, up to step 26.*seed=5 .*ran/checkpoints/last\.ckpt"):
        train(tmp_path / "ran", "task.last=26", seed=5)
    result = json.loads((tmp_path / "ran" / "result.json").read_text())
    assert result["status"] == "failed" and result["skipped_updates"] == 20
    assert torch.isfinite(torch.tensor(weight(tmp_path / "ran/checkpoints/last.ckpt")))


def test_a_loss_that_is_not_finite_stops_the_run_at_once_with_the_last_good_checkpoint_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the loss of step 7 is inf; seed=3 .*ran/checkpoints/last\.ckpt"):
        train(tmp_path / "ran", "task.loss=true", seed=3)
    assert torch.load(tmp_path / "ran/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_a_run_that_ends_so_before_its_first_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="last good checkpoint: none yet"):
        train(tmp_path / "ran", "task.first=2", "task.loss=true")


def test_before_any_update_no_rate_is_blamed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the loss of step 1 is inf.*no update was made yet") as refused:
        train(tmp_path / "ran", "task.first=1", "task.loss=true")
    assert "optimizer.lr" not in str(refused.value)


def test_an_error_in_training_names_the_components_that_did_not_ship(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Cliff, "loss", lambda self, model, batch: model(torch.ones(2)))
    with pytest.raises(RuntimeError) as failed:
        train(tmp_path / "ran")
    (note,) = failed.value.__notes__
    assert note == f"task=cliff is {__name__}: `python -m attnbench check task=cliff` shows what it breaks"
    assert note in (tmp_path / "ran" / "run.log").read_text()


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    """By plain descent at rate 1 from w: the gradient 2w, clipped to 1e-5, moves it by 1e-5 a step."""
    options = ("task.first=99", "optimizer.name=sgd", "optimizer.lr=1", "optimizer.schedule=constant")
    moved = []
    for steps in (10, 20):
        train(tmp_path / str(steps), *options, "optimizer.warmup=0", f"trainer.max_steps={steps}", clip=1e-5)
        moved.append(abs(weight(tmp_path / str(steps) / "checkpoints/last.ckpt")))
    assert moved[0] - moved[1] == pytest.approx(1e-4, rel=1e-2)
