"""The recurrent encoder-decoder with a slot."""

import pytest
import torch

import attnbench
from attnbench.hosts import EncoderDecoder

V, H = 9, 6


def make(name, scoring=None):
    def make_attention(query_dim, key_dim, value_dim):
        return attnbench.build(
            "attention", name, scoring=scoring, query_dim=query_dim, key_dim=key_dim, value_dim=value_dim
        )

    return make_attention


def host(make_attention=None, **options):
    torch.manual_seed(0)
    return EncoderDecoder(make_attention or make("soft", "additive"), V, embed_dim=4, hidden_dim=H, **options)


SOURCE = torch.tensor([[3, 4, 5, 6, 7], [8, 2, 3, 0, 0], [4, 0, 0, 0, 0]])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(
    ("name", "scoring"), [("soft", "additive"), ("location_aware", None), ("local", "dot"), ("multihead", "scaled_dot")]
)
@pytest.mark.parametrize("options", [{}, {"feed": True}, {"tied": True, "feed": True}, {"bridge": False}])
def test_greedy_decoding_says_what_teacher_forcing_would(cell, name, scoring, options):
    model = host(make(name, scoring), cell=cell, **options)
    tokens, weights = model.greedy(SOURCE, 7, need_weights=True)
    assert tokens.shape == (3, 7)
    assert torch.equal(model(SOURCE, tokens).argmax(-1), tokens)
    assert weights.shape == (3, weights.shape[1], 7, 5)
    assert not weights[1, ..., 3:].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, weights.shape[1], 7))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_what_stands_behind_a_source_changes_nothing(cell):
    model, target = host(cell=cell), torch.tensor([[3, 4, 5]] * 3)
    wider = torch.nn.functional.pad(SOURCE, (0, 4))
    torch.testing.assert_close(model(wider, target), model(SOURCE, target))
    torch.testing.assert_close(model(SOURCE[2:, :1], target[2:]), model(SOURCE, target)[2:])


def test_a_target_token_is_written_knowing_those_before_it_only():
    model, target = host(), torch.tensor([[3, 4, 5, 6]] * 3)
    later = torch.tensor([[3, 4, 8, 8]] * 3)
    torch.testing.assert_close(model(SOURCE, later)[:, :3], model(SOURCE, target)[:, :3])
    assert not torch.allclose(model(SOURCE, later)[:, 3], model(SOURCE, target)[:, 3])


@pytest.mark.parametrize("states_dim", [None, 5])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_without_a_bridge_attention_alone_tells_of_the_source(cell, states_dim):
    source = SOURCE[:2] if states_dim is None else torch.randn(2, 7, states_dim)

    def told(bridge, share):
        model = host(cell=cell, bridge=bridge, states_dim=states_dim)
        look = model.attention.forward
        model.attention.forward = lambda *inputs, **options: (share * look(*inputs, **options)[0], None)
        one, other = model(source, torch.tensor([[3, 4, 5]] * 2))
        return not torch.allclose(one, other)

    assert [told(bridge, share) for bridge in (True, False) for share in (1.0, 0.0)] == [True, True, True, False]


def test_a_step_is_fed_the_features_of_the_one_before_divided_by_their_number():
    model, target = host(feed=True, tied=True), torch.tensor([[3, 4]] * 3)
    states, mask, hidden = model.encode(SOURCE)

    def step(read, hidden):
        query, hidden = model.decoder(read, hidden)
        context, _ = model.attention(query, states, states, mask)
        return model.hidden(torch.cat([context, query], dim=-1)), hidden

    first, hidden = step(model.embed(torch.full((3, 1), model.start)), hidden)
    second, _ = step(model.embed(target[:, :1]) + first @ model.feed.weight.T / 4, hidden)  # embeddings have 4 numbers
    torch.testing.assert_close(model.features(SOURCE, target), torch.cat([first, second], dim=1))


def test_a_tied_output_is_the_embedding():
    model, target = host(tied=True), torch.tensor([[3, 4, 5]] * 3)
    features = model.features(SOURCE, target)
    assert features.shape == (3, 3, 4)
    torch.testing.assert_close(model(SOURCE, target), features @ model.embed.weight.T + model.out.bias)


def test_decoding_ends_with_the_end_symbol_and_pads_behind_it():
    model = host(end=2)
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.zero_()
        model.out.weight[2, -1], model.out.weight[5, -1] = 1.0, -1.0
    model.decoder.forward = scripted(torch.tensor([3, 1, 2]))
    tokens, weights = model.greedy(SOURCE, 50, need_weights=True)
    assert tokens.tolist() == [[5, 5, 2], [2, 0, 0], [5, 2, 0]]
    assert weights.shape == (3, 1, 3, 5)


def scripted(ends):
    """A decoder whose state says `end` from step `ends` on, and 5 before; the output reads its first number."""
    step = 0

    def forward(embedded, hidden):
        nonlocal step
        step += 1
        query = torch.where((ends == step).view(-1, 1, 1), 1.0, -1.0).expand(-1, 1, 2 * H)
        return query, hidden

    return forward


def test_without_an_end_symbol_all_of_the_length_is_written():
    assert host().greedy(SOURCE, 12).tokens.shape == (3, 12)
    assert host().greedy(SOURCE, 12).weights is None


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_source_states_may_be_given_in_place_of_tokens(cell):
    model = host(cell=cell, states_dim=5)
    torch.manual_seed(1)
    states, mask = torch.randn(3, 4, 5), torch.arange(4) < torch.tensor([[4], [2], [3]])
    target = torch.tensor([[3, 4, 5]] * 3)
    other = torch.where(mask.unsqueeze(-1), states, 99.0)
    torch.testing.assert_close(model(other, target, mask), model(states, target, mask))
    torch.testing.assert_close(model(states[1:2, :2], target[1:2]), model(states, target, mask)[1:2])
    assert model.greedy(states, 6, mask, need_weights=True).weights.shape == (3, 1, 6, 4)
    assert model.encoder is None


def test_a_source_may_have_a_vocabulary_of_its_own():
    model = host(source_vocabulary=50)
    assert model(SOURCE + 40 * (SOURCE > 0), torch.tensor([[3, 4]] * 3)).shape == (3, 2, V)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in host().parameters()) + 50 * 4


def test_lstm_begins_with_both_states_of_both_directions():
    model = host(cell="lstm")
    h, c = model.encode(SOURCE).hidden
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        model.embed(SOURCE), torch.tensor([5, 3, 1]), batch_first=True, enforce_sorted=False
    )
    _, (last_h, last_c) = model.encoder(packed)
    for mine, last in ((h, last_h), (c, last_c)):
        assert torch.equal(mine[0], torch.cat([last[0], last[1]], dim=-1))


def test_what_was_read_once_is_answered_as_the_source_is():
    model, target = host(), torch.tensor([[3, 4]] * 3)
    read = model.encode(SOURCE)
    model.encoder.register_forward_hook(lambda *_: pytest.fail("it is read again"))
    answers = model(read, target), *model.greedy(read, 7, need_weights=True)
    model.encoder._forward_hooks.clear()
    expected = model(SOURCE, target), *model.greedy(SOURCE, 7, need_weights=True)
    assert all(map(torch.equal, answers, expected))


def test_tokens_and_states_exclude_each_other():
    with pytest.raises(ValueError, match=r"tokens .* or states .*, not both"):
        host(source_vocabulary=4, states_dim=4)


def test_sizes_that_are_not_positive_are_refused_in_a_line():
    with pytest.raises(ValueError, match="embed_dim=0 and hidden_dim=6 are at least 1"):
        EncoderDecoder(make("last"), V, embed_dim=0, hidden_dim=6)
