"""Runs of task=imdb, on the made-up reviews of tests/reviews.py."""

import json
import re

import numpy as np
import pytest
import reviews
import torch
from attnbench.plugins.task.imdb import Imdb

LITTLE = ("trainer.max_steps=6", "trainer.val_every=3", "trainer.batch_size=16", "task.embed_dim=8", "trainer.images=2")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["task.archive=nowhere.tar.gz"], "/nowhere.tar.gz: No such file or directory"),
        (["task.folder=nowhere"], "/nowhere: No such file or directory"),
        (["task.archive=a", "task.folder=b"], "archive= and folder= are two ways"),
        (["task.min_counts=[0]"], "min_counts=[0]"),
        (["task.masked=false"], "masked=false, which attends to padding, goes with min_counts=[1] and row_dropout=0"),
        (["task.dropout=1.5"], "dropout is at least 0 and less than 1, not 1.5"),
        (["task.row_dropout=1"], "row_dropout is at least 0 and less than 1, not 1.0"),
        (["task.row_dropout=-0.5"], "row_dropout is at least 0 and less than 1, not -0.5"),
        (["task.embed_scale=-1"], "embed_scale is greater than 0, not -1.0"),
        (["task.pooling=max"], "task.pooling: Invalid value 'max', expected one of [slot, mean, attention]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_user_gets_wrong_is_one_line(cli, arguments, line):
    said = cli("task=imdb", *arguments)
    assert said.code == 2
    assert line in said.err
    assert said.err.count("\n") == 1


def test_a_run_leaves_curves_pictures_and_the_tests_own(ran):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(ran), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/loss", "val/accuracy", "test/accuracy"} <= set(tags["scalars"])
    assert {"attention/0", "attention/1", "test/precision_recall", "test/confusion"} <= set(tags["images"])
    assert "test/confusion" not in tags["scalars"]
    assert len(events.Images("attention/0")) == 2
    assert re.search(
        "(positive|negative) 0", events.Tensors("examples/text_summary")[0].tensor_proto.string_val[0].decode()
    )
    assert json.loads((ran / "result.json").read_text())["metrics"].keys() >= {"test/accuracy", "val/accuracy"}


def test_the_run_tells_of_duplicates(ran):
    assert "texts that stand in both official splits: 1" in (ran / "run.log").read_text()


def test_evaluate_uses_the_runs_vocabulary_on_other_reviews(cli, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(reviews, "WORDS", ["entirely", "other", "words"])
    reviews.write(tmp_path / "other.tar.gz")
    said = cli("evaluate", "ran", "task.archive=other.tar.gz")
    assert said.code == 0, said.err
    assert "test/accuracy" in said.out


def test_a_run_on_made_up_reviews_learns_them(cli, tmp_path):
    said = cli("task=imdb", "task.embed_dim=8", "trainer.max_steps=60", "trainer.batch_size=16", "trainer.images=0",
               "optimizer.lr=0.03", "task.row_dropout=0", "task.min_counts=[2]", "hydra.run.dir=learned")  # fmt: skip
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "learned" / "result.json").read_text())["metrics"]["test/accuracy"] >= 0.9


def test_the_curve_and_its_average_precision_are_exact_where_most_answers_are_sure():
    task, noise = Imdb(), torch.Generator().manual_seed(0)
    label = torch.randint(2, (500,), generator=noise)
    positive = torch.sigmoid(6 * torch.randn(500, generator=noise).double() + 12 * label - 6)
    metrics = {name: metric for name, metric in task.metrics().items() if name != "accuracy"}
    for metric in metrics.values():
        metric.update(positive, label)
    figures = task.figures({name: metric.compute() for name, metric in metrics.items()})
    ranked = label[positive.argsort(descending=True)].double()
    expected = (ranked * ranked.cumsum(0) / torch.arange(1, 501)).sum() / ranked.sum()
    axis = figures["precision_recall"].axes[0]
    assert axis.get_title() == f"average precision {expected:.4f}"
    recall = np.sort(axis.lines[0].get_xdata())
    assert recall[0] == 0 and recall[-1] == 1 and np.diff(recall).max() < 0.01


def test_the_keras_program_is_validated_on_test_and_says_so(cli, tmp_path):
    said = cli("experiment=imdb_keras", "trainer.max_steps=4", "trainer.val_every=2", "trainer.images=1",
               "task.words=30", "trainer.eval_train=20", "hydra.run.dir=keras")  # fmt: skip
    assert said.code == 0, said.err
    assert "the checkpoint is chosen on the test reviews" in (tmp_path / "keras" / "run.log").read_text()
    metrics = json.loads((tmp_path / "keras" / "result.json").read_text())["metrics"]
    assert metrics["val/accuracy"] == metrics["test/accuracy"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "keras"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/accuracy")] == [2, 4]


def test_the_best_recipe_is_attention_alone_and_chooses_on_films(cli, tmp_path):
    said = cli("experiment=imdb_best", *LITTLE, "hydra.run.dir=best")
    assert said.code == 0, said.err
    result = json.loads((tmp_path / "best" / "result.json").read_text())
    assert (result["attention"], result["scoring"]) == ("structured", None)
    assert "validate_on: films" in (tmp_path / "best" / "config.yaml").read_text()
