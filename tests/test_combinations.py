"""Every attention, with scoring functions that it may be combined with, on the date task."""

import math
from typing import Any

import pytest
import torch

from attnbench.config import OptimizerConfig
from attnbench.errors import UsageError
from attnbench.registry import Registry
from attnbench.schema import takes_score
from attnbench.training.experiment import Experiment

REGISTRY = Registry.load()
SCORINGS = [component.name for component in REGISTRY.of("scoring")]
FITTING = [c for c in REGISTRY.of("attention") if REGISTRY.incompatibility(c.name, task="date") is None]
#: `soft` with every scoring function; each other that takes one with two of them, so that all are tried.
COMBINED = [
    (attention.name, scoring)
    for place, attention in enumerate(FITTING)
    for scoring in (
        [None]
        if not takes_score(attention.cls)
        else SCORINGS
        if attention.name == "soft"
        else [SCORINGS[place % len(SCORINGS)], SCORINGS[(place + len(SCORINGS) // 2) % len(SCORINGS)]]
    )
]


@pytest.fixture(scope="module")
def task() -> Any:
    made = REGISTRY.build("task", {"name": "date", "lines": 200, "val_share": 0.1, "embed_dim": 8, "hidden_dim": 8})
    made.prepare()
    return made


@pytest.mark.parametrize(
    ("attention", "scoring"), COMBINED, ids=[f"{attention}-{scoring or 'alone'}" for attention, scoring in COMBINED]
)
def test_a_combination_learns_the_date_task_in_20_steps(attention: str, scoring: str | None, task: Any) -> None:
    torch.manual_seed(0)

    def make_attention(query_dim: int, key_dim: int, value_dim: int) -> Any:
        return REGISTRY.build_attention(
            {"name": attention},
            None if scoring is None else {"name": scoring},
            query_dim=query_dim,
            key_dim=key_dim,
            value_dim=value_dim,
        )

    experiment = Experiment(task, task.model(make_attention), OptimizerConfig(lr=1e-2), total_steps=20)
    optimizer = experiment.configure_optimizers()["optimizer"]
    batch = task.data("train")[list(range(16))]
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = experiment.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] < 2 * math.log(65) + 5
    batch = task.data("val")[list(range(4))]
    metrics = task.metrics()
    with torch.no_grad():
        assert task.evaluate(experiment.model.eval(), batch, metrics).isfinite()
        maps = task.maps(experiment.model, batch)
    assert len(maps) == (4 if REGISTRY.get("attention", attention).cls.has_weights else 0)
    for drawn in maps:
        assert drawn.weights.shape[1:] == (len(drawn.rows), len(drawn.columns))


def test_a_recurrent_mechanism_is_refused_by_a_host_that_is_not_stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REGISTRY.incompatibility("location_aware", task="date") is None
    monkeypatch.setattr(REGISTRY.get("task", "date").cls, "stepwise", False)
    reason = REGISTRY.incompatibility("location_aware", task="date")
    assert reason is not None
    assert "attention=location_aware moves from where it looked before" in reason
    assert REGISTRY.incompatibility("soft", task="date") is None


@pytest.mark.parametrize("attention", ["self", "structured", "location_aware", "channel", "max_pool", "uniform"])
def test_scoring_for_an_attention_that_uses_none_is_refused(attention: str) -> None:
    with pytest.raises(UsageError, match=f"attention={attention} uses no scoring function"):
        REGISTRY.build_attention({"name": attention}, {"name": "dot"}, query_dim=4, key_dim=4, value_dim=4)
