"""The Transformer that reads one sequence and writes another."""

import pytest
import torch

import attnbench
from attnbench.hosts import EncoderDecoderTransformer

V, D = 9, 8
SOURCE = torch.tensor([[3, 4, 5, 6, 7], [8, 2, 3, 0, 0], [4, 0, 0, 0, 0]])
TARGET = torch.tensor([[3, 4, 5, 6]] * 3)


def host(name="multihead", scoring="scaled_dot", **options):
    def make_attention(query_dim, key_dim, value_dim):
        return attnbench.build(
            "attention", name, scoring=scoring, query_dim=query_dim, key_dim=key_dim, value_dim=value_dim
        )

    torch.manual_seed(0)
    return EncoderDecoderTransformer(make_attention, V, source_vocabulary=V, width=D, **options)


@pytest.mark.parametrize(
    ("name", "scoring"),
    [("multihead", "scaled_dot"), ("soft", "rope"), ("local", "bilinear"), ("location_aware", None), ("uniform", None)],
)
def test_greedy_decoding_says_what_teacher_forcing_would(name, scoring):
    model = host(name, scoring, end=-1)
    tokens, weights = model.greedy(SOURCE, 7, need_weights=True)
    assert tokens.shape == (3, 7)
    assert torch.equal(model(SOURCE, tokens).argmax(-1), tokens)
    assert weights.shape == (3, weights.shape[1], 7, 5)
    assert not weights[1, ..., 3:].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, weights.shape[1], 7))


@pytest.mark.parametrize("name", ["gla", "deltanet", "linear_attention"])
def test_a_running_state_decodes_what_teacher_forcing_would(name):
    model = host(name, None, end=-1).double()
    tokens, _ = model.greedy(SOURCE, 7)
    assert torch.equal(model(SOURCE, tokens).argmax(-1), tokens)


def test_what_was_read_is_prepared_once_for_each_block(monkeypatch):
    model, prepared = host(layers=3, end=-1), []
    kind = type(model.decoder[0].attention)
    prepare = kind.prepare
    monkeypatch.setattr(kind, "prepare", lambda module, *args: prepared.append(module) or prepare(module, *args))
    model.greedy(SOURCE, 7)
    assert prepared == [block.attention for block in model.decoder]


def test_what_stands_behind_a_source_changes_nothing():
    model, wider = host(), torch.nn.functional.pad(SOURCE, (0, 4))
    torch.testing.assert_close(model(wider, TARGET), model(SOURCE, TARGET))


def test_a_target_token_is_written_knowing_those_before_it_only():
    model, later = host(), torch.tensor([[3, 4, 8, 8]] * 3)
    torch.testing.assert_close(model(SOURCE, later)[:, :3], model(SOURCE, TARGET)[:, :3])
    assert not torch.allclose(model(SOURCE, later)[:, 3], model(SOURCE, TARGET)[:, 3])


def test_places_are_told_apart_where_it_reads_and_where_it_writes():
    model = host()
    assert not torch.allclose(model(SOURCE[:1], TARGET[:1]), model(SOURCE[:1].flip(1), TARGET[:1]))
    same = torch.tensor([[3, 3, 3]])
    logits = model(SOURCE[:1], same)
    assert not torch.allclose(logits[:, 1], logits[:, 2])


def test_decoding_ends_with_the_end_symbol_and_pads_behind_it():
    model = host()
    with torch.no_grad():
        model.out.bias[2] = 100.0
    tokens, weights = model.greedy(SOURCE, 50, need_weights=True)
    assert tokens.tolist() == [[2]] * 3
    assert weights.shape[2:] == (1, 5)


def test_there_are_three_kinds_of_slots():
    slots = [m for m in host(layers=3).modules() if isinstance(m, attnbench.Attention)]
    assert len(slots) == 9


def test_an_attention_without_weights_is_asked_for_none():
    assert host("channel", None).greedy(SOURCE, 3, need_weights=True).weights is None


@pytest.mark.parametrize("options", [{"width": 7}, {"layers": 0}])
def test_sizes_that_do_not_fit_are_a_line(options):
    with pytest.raises(ValueError, match="are at least 1, and the width is even"):
        EncoderDecoderTransformer(lambda *_: None, V, **{"source_vocabulary": V, "width": D, **options})
