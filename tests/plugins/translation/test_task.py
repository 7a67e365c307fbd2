"""The task as a whole, on made-up pairs."""

import json
import re
from pathlib import Path

import pytest
from attnbench.plugins.task.translation import Translation
from attnbench.plugins.task.translation.vocabulary import UNKNOWN

import attnbench
from attnbench import UsageError

SMALL = ("task.embed_dim=16", "task.hidden_dim=16", "task.drawn=20", "optimizer.lr=0.02", "trainer.val_every=150")


def prepared(**options):
    task = Translation(embed_dim=8, hidden_dim=8, drawn=10, **options)
    task.prepare()
    return task


def make_attention(*widths):
    return attnbench.build(
        "attention", "soft", scoring="dot", query_dim=widths[0], key_dim=widths[1], value_dim=widths[2]
    )


def test_a_vocabulary_too_small_to_tell_sources_apart_is_a_line():
    with pytest.raises(UsageError, match=r"source_vocabulary=6: no source of val is left .* larger one"):
        prepared(source_vocabulary=6)


def test_a_batch_holds_a_source_a_target_and_all_translations():
    task = prepared()
    batch = task.data("test")[[0, 1]]
    assert batch.source.shape[0] == batch.target.shape[0] == len(batch.references) == 2
    assert task._written(batch.target)[0] in batch.references[0]


def test_a_source_that_is_another_one_once_unknown_words_are_one_symbol_is_left_out():
    task = prepared(source_vocabulary=20)
    rows = {split: {tuple(row) for row in data.source.tolist()} for split, data in task.splits.items()}
    assert (task.splits["train"].source == UNKNOWN).any()
    assert not rows["train"] & rows["val"] and not rows["test"] & (rows["train"] | rows["val"])
    assert len(task.splits["test"]) < len(prepared().splits["test"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens": "bpe", "source_vocabulary": 60},
        {"feed": True, "bridge": True, "cell": "gru"},
        {"model": "transformer"},
    ],
)
def test_options_train_evaluate_and_draw(options):
    task = prepared(**options)
    model = task.model(make_attention)
    assert getattr(model, "bridge", False) is options.get("bridge", False)
    task.loss(model, task.data("train")[[0, 1, 2, 3]]).backward()
    metrics, batch = task.metrics(), task.data("val")[[0, 1, 2]]
    assert task.evaluate(model, batch, metrics).isfinite()
    drawn = task.maps(model, batch)
    assert [tuple(m.weights.shape) for m in drawn] == [(1, len(m.rows), len(m.columns)) for m in drawn]
    assert all(" → " in text for text in task.texts(model, batch))


def test_without_a_sample_all_words_compete():
    task = Translation(embed_dim=8, hidden_dim=8, drawn=0)
    task.prepare()
    model, batch = task.model(make_attention), task.data("train")[[0, 1, 2]]
    assert task.loss(model, batch) == task.evaluate(model, batch, task.metrics())


def test_pieces_of_words_are_put_together_again():
    task = prepared(tokens="bpe", source_vocabulary=40, target_vocabulary=40)
    data = task.data("train")
    for index in range(20):
        batch = data[[index]]
        assert task._written(batch.target)[0] in batch.references[0]


def test_bleu_is_told_by_the_length_of_the_source():
    task = prepared()
    metrics, batch = task.metrics(), task.data("val")[list(range(20))]
    task.evaluate(task.model(make_attention), batch, metrics)
    lengths = [min(n for n in (4, 6) if n >= words) for words in ((batch.source != 0).sum(1) - 1).tolist()]
    assert set(lengths) == {4, 6}
    counted = [int(metrics[name].preds_len) for name in ("bleu_1-4", "bleu_5-6", "bleu_7-8")]
    assert sum(counted) == metrics["bleu"].preds_len and counted[2] == 0
    values = {name: metric.compute() for name, metric in metrics.items()}
    (axis,) = task.figures(values)["bleu_over_length"].axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1-4", "5-6"]


@pytest.mark.parametrize("option", [{"source": 1}, {"target": -1}, {"max_words": 0}, {"target_vocabulary": 4},
                                    {"feed": True, "model": "transformer"},
                                    {"bridge": True, "model": "transformer"}])  # fmt: skip
def test_options_that_fit_nothing_are_a_line(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        Translation(**option)


@pytest.mark.parametrize("content", [None, "", '["{}", "{}"]', "[]"])
def test_vocabularies_that_cannot_be_read_are_a_line(tmp_path, content):
    if content is not None:
        (tmp_path / "vocabularies.json").write_text(content)
    with pytest.raises(UsageError, match=r"vocabularies\.json: cannot be read: "):
        Translation().restore(tmp_path)


def test_a_run_learns_and_its_folder_translates(cli):
    said = cli("task=translation", *SMALL, "trainer.max_steps=300", "hydra.run.dir=ran")
    assert said.code == 0, said.err
    result = json.loads(Path("ran/result.json").read_text())
    assert result["metrics"]["test/bleu"] > 30
    said = cli("predict", "ran", "He loves the friend.")
    assert said.code == 0, said.err
    assert re.search(r"^  ami +(0\.[5-9]\d|1\.00) <- friend (0\.[5-9]\d|1\.00)", said.out, re.MULTILINE), said.out
    assert "bleu: nrefs:var" in next(Path("ran").glob("*.log")).read_text()


@pytest.mark.parametrize("name", ["translation_best", "bahdanau2014", "luong2015", "vaswani2017"])
def test_an_experiment_runs(cli, name):
    small = ("task.embed_dim=16", "task.hidden_dim=4", "task.drawn=5", "trainer.max_steps=2", "trainer.val_every=2")
    said = cli(f"experiment={name}", *small, "trainer.images=1", "hydra.run.dir=ran")
    assert said.code == 0, said.err
