"""The classifier, on the made-up reviews, and what it shows."""

import re

import numpy as np
import pytest
import torch
from attnbench.plugins.task.imdb import task as module
from attnbench.plugins.task.imdb.host import LABELS, Host
from attnbench.plugins.task.imdb.reviews import Reviews, fill_in_front
from attnbench.plugins.task.imdb.vocabulary import PAD

import attnbench
from attnbench.reports.alignment import measure

UNMASKED = {"masked": False, "min_counts": (1,), "row_dropout": 0.0, "max_tokens": 64}


def make_attention(name="multihead", scoring="additive", **options):
    def make(query_dim, key_dim, value_dim):
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", name, scoring=scoring, **widths, **options)

    return make


def test_padding_a_batch_further_changes_no_logit(prepare):
    task = prepare()
    model = task.model(make_attention()).eval()
    batch = task.data("val")[[0, 1, 2, 3]]
    wider = batch._replace(rows=torch.nn.functional.pad(batch.rows, (0, 0, 0, 7)))
    torch.testing.assert_close(model(batch)[0], model(wider)[0])


def test_uniform_attention_pools_to_the_mean_of_the_embeddings(prepare):
    task = prepare(min_counts=(1,))
    model = task.model(make_attention("uniform", None)).eval()
    batch = task.data("val")[[0, 1]]
    means = [model.table(batch.rows[i, : batch.lengths[i], 0]).mean(dim=0) for i in range(2)]
    torch.testing.assert_close(model(batch)[0], model.out(torch.stack(means)))


@pytest.mark.parametrize("min_counts", [(1,), (1, 2)])
@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_of_the_table_are_dense_where_they_have_to_be(prepare, sparse, min_counts):
    task = prepare(min_counts=min_counts)
    task.sparse = sparse
    model = task.model(make_attention("uniform", None))
    task.loss(model, task.data("train")[[0, 1]]).backward()
    assert model.table.weight.grad.is_sparse == sparse


@pytest.mark.parametrize("pooling", ["slot", "mean", "attention"])
@pytest.mark.parametrize("encoder", ["none", "bilstm"])
@pytest.mark.parametrize(
    ("attention", "scoring"),
    [("multihead", "additive"), ("self", None), ("structured", None), ("uniform", None), ("last", None),
     ("sliding_window", "dot"), ("channel", None), ("local", "dot")],
)  # fmt: skip
def test_every_mechanism_fits_the_slot(prepare, pooling, encoder, attention, scoring):
    task = prepare(pooling=pooling, encoder=encoder)
    model = task.model(make_attention(attention, scoring))
    batch = task.data("train")[[0, 1, 2]]
    loss = task.loss(model, batch)
    loss.backward()
    assert loss.isfinite()
    maps = task.maps(model.eval(), batch)
    assert len(maps) == (3 if model.attention.has_weights else 0)


def test_the_weights_of_a_review_are_a_distribution_over_its_words(prepare):
    task = prepare(pooling="mean")
    model = task.model(make_attention()).eval()
    for drawn in task.maps(model, task.data("val")[[0, 1, 2]]):
        torch.testing.assert_close(drawn.weights.sum(-1), torch.ones(4, len(drawn.rows)))
        assert drawn.weights.shape[-1] == len(drawn.columns)
        assert drawn.columns[0] == "▸"


def test_a_picture_says_the_label_and_what_a_uniform_weight_would_be(prepare):
    task = prepare(min_counts=(1,))
    batch = task.data("val")[[0, 1]]
    for drawn, label in zip(task.maps(task.model(make_attention()).eval(), batch), batch.label.tolist(), strict=True):
        title = rf"(positive|negative) 0\.\d{{3}}, label {LABELS[label]}, uniform weight {1 / len(drawn.columns):.4f}"
        assert re.fullmatch(title, drawn.title)


def test_self_attention_is_drawn_and_measured_by_its_last_tokens_rows(prepare, monkeypatch):
    """A window of 0 gives each token itself: no row spreads, though their mean is even."""
    monkeypatch.setattr(module, "SHOWN", 3)
    task = prepare(pooling="mean")
    model = task.model(make_attention("sliding_window", "dot", window=0)).eval()
    maps = task.maps(model, task.data("val")[[0, 1, 2]])
    for drawn in maps:
        assert len(drawn.columns) > len(drawn.rows) == 3
        assert drawn.rows == drawn.columns[-3:]
        assert torch.equal(drawn.weights[0], torch.eye(len(drawn.columns))[-3:])
    assert measure(maps)["entropy"] == 0


@torch.no_grad()
def test_a_prediction_is_shaded_by_the_mean_over_all_queries(prepare, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 1)
    task = prepare(pooling="mean")
    model = task.model(make_attention("sliding_window", "dot", window=0)).eval()
    shaded = task.predict(model, "a film").attention
    torch.testing.assert_close(shaded.weights, torch.full((1, 1, 3), 1 / 3))


@pytest.mark.parametrize("options", [{}, UNMASKED])
def test_a_sample_of_text_is_the_end_of_its_review_without_the_padding(prepare, monkeypatch, options):
    monkeypatch.setattr(module, "SHOWN", 3)
    task = prepare(**options)
    batch = task.data("val")[[0, 1, 2, 3]]
    assert (batch.rows[:, :, 0] == PAD).any()
    words = [[task.vocabulary.words[row - 3] if row > 2 else "?" for row in rows[:, 0] if row] for rows in batch.rows]
    ends = [text.split(": … ")[1] for text in task.texts(task.model(make_attention()).eval(), batch)]
    assert ends == [" ".join(row[-3:]) for row in words]


def test_padding_in_front_makes_all_reviews_as_long():
    rows, offsets = fill_in_front(np.array([[7], [8], [9]], np.int32), np.array([0, 1, 3]), 4)
    batch = Reviews(rows, offsets, np.array([0, 1]))[[0, 1]]
    assert batch.rows.squeeze(-1).tolist() == [[0, 0, 0, 7], [0, 0, 8, 9]]
    assert batch.lengths.tolist() == [4, 4]


@pytest.mark.parametrize("encoder", ["none", "bilstm"])
def test_padding_that_is_not_masked_is_a_token_like_any_other(prepare, encoder):
    task = prepare(encoder=encoder, **UNMASKED)
    model = task.model(make_attention("uniform", None))
    batch = task.data("val")[[0, 1, 2, 3]]
    assert task.lengths("val") is None
    assert batch.rows.shape == (4, 64, 1) and (batch.rows == PAD).any()
    task.loss(model, batch).backward()
    assert model.table.weight.grad.to_dense()[PAD].abs().sum() > 0
    before = model.eval()(batch)[0]
    with torch.no_grad():
        model.table.weight[PAD] += 1
    assert not torch.equal(model(batch)[0], before)


@pytest.mark.parametrize("options", [{}, {"min_counts": (1,)}])
def test_a_row_that_is_left_out_adds_nothing_and_the_others_make_up_for_it(prepare, options):
    torch.manual_seed(0)
    task = prepare(row_dropout=0.75, **options)
    model = task.model(make_attention()).train()
    batch = task.data("val")[[0, 1, 2, 3]]
    torch.manual_seed(0)
    x = model.embed(batch.rows)
    torch.manual_seed(0)
    kept = torch.rand(batch.rows.shape) < 0.25
    torch.testing.assert_close(x, (4 * kept.unsqueeze(-1) * model.table(batch.rows)).sum(dim=2))


def test_the_keras_programs_model_has_its_parameters():
    host = Host(make_attention("self", None), 20_000, embed_dim=128, encoder="none", pooling="mean", dropout=0.5,
                row_dropout=0.0, masked=False, embed_scale=0.05)  # fmt: skip
    assert sum(parameter.numel() for parameter in host.parameters()) == 2_609_410
