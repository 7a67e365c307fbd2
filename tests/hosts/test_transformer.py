"""The Transformer with a slot."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import attnbench
from attnbench.hosts import Transformer

V, D, T = 11, 16, 9


def multihead(query_dim, key_dim, value_dim):
    return attnbench.build(
        "attention", "multihead", scoring="scaled_dot", query_dim=query_dim, key_dim=key_dim, value_dim=value_dim
    )


def transformer(make_attention=multihead, **options):
    torch.manual_seed(0)
    options = {"width": D, "layers": 2, "mlp": 2} | options
    return Transformer(make_attention, nn.Embedding(V, options["width"]), V, **options)


def tokens(length=T):
    torch.manual_seed(1)
    return torch.randint(V, (3, length))


def by_hand(model, inputs):
    """The docstring's drawing, in other words."""
    x = model.embed(inputs)
    steps = x.shape[1]
    if model.positions == "sinusoidal":
        for place in range(steps):
            for i in range(D // 2):
                angle = place / 10_000 ** (2 * i / D)
                x[:, place, i] += math.sin(angle)
                x[:, place, D // 2 + i] += math.cos(angle)
    elif model.positions == "learned":
        x = x + torch.stack([model.places[place] for place in range(steps)])
    mask = torch.ones(steps, steps).tril().bool().expand(len(x), -1, -1) if model.blocks[0].causal else None
    for block in model.blocks:
        h = block.norms[0](x)
        if block.conv is not None:
            taps = block.conv.weight
            before = [nn.functional.pad(h, (0, 0, j, 0))[:, :steps] * taps[j] for j in range(len(taps))]
            h = h + block.conv.bias + sum(before)
        x = x + block.out_proj(block.attention(h, h, h, mask)[0])
        if block.feed is not None:
            x = x + block.feed[2](nn.functional.gelu(block.feed[0](block.norms[1](x))))
    return model.out(model.norm(x))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conv": 2},
        {"conv": 4, "mlp": 0},
        {"positions": "sinusoidal"},
        {"positions": "learned", "max_length": 12},
        {"causal": False},
    ],
)
def test_it_computes_what_its_drawing_says(options):
    model = transformer(**options)
    torch.testing.assert_close(model(tokens()), by_hand(model, tokens()))


def test_logits_are_those_of_the_places_asked_for():
    model, inputs = transformer(conv=3), tokens()
    where = torch.rand(inputs.shape) < 0.4
    where[1] = False
    torch.testing.assert_close(model(inputs, where), model(inputs)[where])
    logits, weights = model.with_weights(inputs, where)
    torch.testing.assert_close(logits, model(inputs)[where])
    assert [tuple(layer.shape) for layer in weights] == [(3, 4, T, T)] * 2
    assert model(inputs, torch.zeros_like(where)).shape == (0, V)


@pytest.mark.parametrize("options", [{"conv": 4}, {"positions": "sinusoidal"}, {"conv": 2, "mlp": 0, "layers": 1}])
def test_a_causal_model_does_not_see_what_comes_later(options):
    model, inputs = transformer(**options), tokens()
    later = inputs.clone()
    later[:, 5:] = (later[:, 5:] + 1) % V
    torch.testing.assert_close(model(later)[:, :5], model(inputs)[:, :5])
    assert not torch.allclose(model(later)[:, 5:], model(inputs)[:, 5:])


def test_a_model_that_is_not_causal_sees_what_is_not_padding():
    model, inputs = transformer(causal=False), tokens()
    mask = (torch.arange(T) < 6).expand(3, -1)
    padded = inputs.clone()
    padded[:, 6:] = 0
    torch.testing.assert_close(model(inputs, mask=mask)[:, :6], model(padded, mask=mask)[:, :6])
    assert not torch.allclose(model(inputs, mask=mask)[:, :6], model(inputs)[:, :6])


def test_a_causal_model_builds_no_mask():
    class Sees(attnbench.Attention):
        def __init__(self, query_dim, key_dim, value_dim):
            super().__init__()
            self.out_dim, self.called = value_dim, []

        def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):
            self.called.append((mask, causal, need_weights))
            return value, None

    model = transformer(Sees)
    model(tokens())
    assert [block.attention.called for block in model.blocks] == [[(None, True, False)]] * 2


def test_inputs_need_not_be_tokens():
    model = Transformer(multihead, nn.Linear(5, D), 3, width=D)
    assert model(torch.randn(2, 7, 5)).shape == (2, 7, 3)


def test_sinusoidal_places_remember_nothing_of_an_earlier_call():
    """Of a call on the device `meta`, on pretended tensors, or in inference mode."""
    with torch.device("meta"):
        transformer(positions="sinusoidal")(torch.zeros(1, T, dtype=torch.long, device="meta"))
    with FakeTensorMode():
        transformer(positions="sinusoidal")(torch.zeros(1, T, dtype=torch.long))
    model = transformer(positions="sinusoidal")
    with torch.inference_mode():
        model(tokens())
    torch.testing.assert_close(model(tokens()), by_hand(model, tokens()))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"width": 15, "positions": "sinusoidal"}, "positions=sinusoidal needs an even width, not 15; try width=16"),
        ({"layers": 0}, "width=16 and layers=0 are at least 1"),
        ({"conv": 3, "causal": False}, "conv=3 is causal, and this model is not; conv=0"),
        ({"positions": "learned"}, "positions=learned needs max_length"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_line(options, line):
    with pytest.raises(ValueError, match=line):
        transformer(lambda *dims: attnbench.build("attention", "last", query_dim=4, key_dim=4, value_dim=4), **options)


def test_more_inputs_than_learned_places_are_refused_in_a_line():
    with pytest.raises(ValueError, match="positions=learned knows 4 places, and there are 9 inputs"):
        transformer(positions="learned", max_length=4)(tokens())
