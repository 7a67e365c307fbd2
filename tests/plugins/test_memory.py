"""task=memory in whole runs: its metrics, its pictures, its words on the command line, its recipes."""

import json
import math
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from attnbench.plugins.task.memory.task import Memory
from conftest import HEEDING
from machines import attend
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

SMALL = (
    "task=memory", "task.high=3", "task.controller_dim=8", "task.rows=8", "task.width=4", "trainer.val_every=4",
    "trainer.images=0",
)  # fmt: skip


def test_the_user_is_told_in_a_line_what_does_not_fit(cli: Any) -> None:
    said = cli(*SMALL, "attention=channel")
    assert said.code == 2 and said.err.count("\n") == 1
    assert "attnbench: task=memory: this attention has no weights" in said.err


class AlwaysZero(torch.nn.Module):
    """Says 0, whatever it reads."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.full((*inputs.shape[:2], 8), -1.0)


def test_metrics_count_bits_in_whole_sequences_by_size() -> None:
    """A model that always says 0, on a copy of length 10 by itself: as many wrong bits as there are ones."""
    task = Memory(low=4, high=4)
    batch = task.data("val")[[0, 25, 1, 7]]
    metrics = task.metrics()
    loss = task.evaluate(AlwaysZero(), batch, metrics)
    ones = batch.targets.sum(dim=(1, 2))
    assert float(metrics["bits_wrong"].compute()) == pytest.approx(float(ones[:2].mean()))
    assert float(metrics["bits_wrong_10"].compute()) == pytest.approx(float(ones[2:].mean()))
    assert float(metrics["sequence_accuracy"].compute()) == 0
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    nats = wrong * ones + right * (8 * torch.tensor([4, 4, 10, 10]) - ones)
    assert float(metrics["bits"].compute()) == pytest.approx(float(nats[:2].mean()) / math.log(2))
    assert float(loss) == pytest.approx(float(nats.sum()) / (8 * 28))


def test_the_papers_figures_are_drawn_in_range_and_beyond() -> None:
    task = Memory(high=5, controller_dim=12, rows=6, width=4, write_heads=2)
    model = task.model(attend()).eval()
    with torch.no_grad():
        figures = task.images(model)
    drawn = {tag: torch.tensor(figure.axes[0].images[0].get_array()) for tag, figure in figures.items()}
    axis = figures["memory/5/places"].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["write 1", "write 2", "read 1"]
    assert axis.get_xlabel() == "step"
    assert drawn.keys() == {f"memory/{s}/{what}" for s in (5, 120) for what in ("outputs", "vectors", "places")}
    outputs, vectors, places = (drawn[f"memory/5/{what}"] for what in ("outputs", "vectors", "places"))
    assert outputs.shape == (9 + 1 + 8 + 1 + 8, 11)
    assert torch.equal(outputs[:8, :5], outputs[19:, 6:]), "the targets repeat the inputs"
    assert vectors.shape == (4 + 1 + 4 + 1 + 4, 11)
    heads = places.split([6, 1, 6, 1, 6])
    for head in heads[::2]:
        torch.testing.assert_close(head.sum(dim=0), torch.ones(11))
    assert (heads[1] == 0.5).all()


@pytest.mark.parametrize("chosen", [("attention=soft", "scoring=additive"), ("attention=uniform",)])
def test_any_attention_may_address(cli: Any, tmp_path: Any, chosen: tuple[str, ...]) -> None:
    assert cli(*SMALL, *chosen, "trainer.max_steps=4", "hydra.run.dir=ran").code == 0
    result = json.loads((tmp_path / "ran" / "result.json").read_text())
    assert {"test/bits_wrong", "test/sequence_accuracy", "test/bits", "test/bits_wrong_120"} <= result["metrics"].keys()


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
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("step  8/16") and said.count(line) == 1:  # a line that Ctrl-C cuts off is written again
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert cli("resume=cut").code == 0
    whole, cut = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "cut"))
    assert cut["metrics"] == whole["metrics"] and cut["steps"] == whole["steps"] == 16
    checkpoints = [torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True) for n in ("whole", "cut")]
    states = [checkpoint["state_dict"] for checkpoint in checkpoints]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("word", ["true", "false"])
def test_compile_is_a_word_on_the_command_line(cli: Any, word: str) -> None:
    assert f"compile: {word}" in cli(*SMALL, f"task.compile={word}", "--cfg=job").out


@pytest.mark.parametrize("experiment", ["ntm_copy_long", "ntm_recall", "ntm_repeat_copy"])
def test_an_experiment_runs(cli: Any, tmp_path: Any, experiment: str) -> None:
    """A smaller one: its eval_rows, start of the heads and order of reading and writing stay."""
    few = ("task.compile=false", "task.controller_dim=8", "task.high=3", "trainer.eval_batches=1")
    short = ("trainer.max_steps=2", "trainer.eval_batch_size=10")
    assert cli(f"experiment={experiment}", *few, *short, "hydra.run.dir=ran").code == 0
    result = json.loads((tmp_path / "ran" / "result.json").read_text())
    assert result["status"] == "completed" and result["attention"] == "ntm"


# seeds that have learned it before, and still must; how many of all seeds do is what benchmarks/recipes.py tells
@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "metric", "most", "seed"),
    [
        *(("ntm_copy_long", "bits_wrong_120", 1.0, seed) for seed in range(5)),
        *(("ntm_recall", "bits_wrong", 0.1, seed) for seed in range(3)),
        *(("ntm_repeat_copy", "bits_wrong", 0.1, seed) for seed in range(23, 26)),
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
