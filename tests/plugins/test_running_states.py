"""Mechanisms whose state runs along the keys, against numbers worked out by hand and recurrences written here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import attnbench
from attnbench import prefix
from attnbench.heads import split_heads

MECHANISMS: dict[str, list[dict[str, Any]]] = {
    "gla": [{}, {"gate": False, "num_heads": 2, "expand_k": 1.0}],
    "retention": [{}, {"gate": False, "num_heads": 2}],
    "mamba2": [{}, {"num_heads": 2, "state_dim": 5, "expand": 1.0}],
    "log_linear": [{}, {"num_heads": 2, "state_dim": 5, "expand": 1.0, "levels": 3}],
    "deltanet": [{}, {"negative": True}, {"steps": 2}, {"steps": 3, "negative": True, "num_heads": 2}],
    "gated_deltanet": [{}, {"negative": True, "gate": False, "num_heads": 2}],
    "kda": [{}, {"negative": True, "gate": False, "num_heads": 2}],
}
ARMS = [pytest.param(name, options, id=f"{name}-{options}") for name, every in MECHANISMS.items() for options in every]
ONE_HEAD = [[1.0, 0.0], [0.0, 1.0]]
VALUES = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]])


def make(name: str, widths: tuple[int, int, int] = (2, 2, 2), **options: Any) -> Any:
    query_dim, key_dim, value_dim = widths
    return attnbench.build("attention", name, query_dim=query_dim, key_dim=key_dim, value_dim=value_dim, **options)


def fill(module: nn.Module, **values: Any) -> None:
    """Set parameters by their names, `q_proj` for `q_proj.weight`; of those not named here none stays random."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            key = name.removesuffix(".weight").replace(".", "_")
            parameter.copy_(torch.as_tensor(values[key]).expand_as(parameter))


def normed(*head: float) -> Tensor:
    """Divide by the root mean square."""
    return torch.tensor(head) / math.sqrt(sum(x * x for x in head) / len(head))


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def softplus_inverse(x: float) -> float:
    return math.log(math.expm1(x))


def close(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-4, atol=1e-4)


def test_gla_by_hand() -> None:
    """Gates of 1/2, keys (1, 0) and (2, 0), read by (1, 0): the first row of S is (3, 4), then (3, 4)/2 + 2 (1, 1)."""
    gla = make("gla", num_heads=1, expand_k=1.0)
    half = -math.log(2**16 - 1)  # sigmoid(half)^(1/16) = 1/2
    gate = [[2.0, 0.0], [0.0, 1.0]]
    fill(
        gla, q_proj=ONE_HEAD, k_proj=ONE_HEAD, v_proj=ONE_HEAD, out_proj=ONE_HEAD, norm=1.0, g_proj=gate,
        a_proj_0=0.0, a_proj_1=0.0, a_proj_1_bias=half,
    )  # fmt: skip
    q = math.sqrt(2)  # divided by sqrt(Dk)
    query, key = torch.tensor([[[q, 1.0], [q, 1.0]]]), torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])
    context, weights = gla(query, key, VALUES, causal=True)
    passes = torch.tensor([silu(2 * q), silu(1.0)])
    close(context[0, 0], normed(3, 4) * passes)
    close(context[0, 1], normed(3.5, 4) * passes)
    first, second = math.sqrt(12.5), math.sqrt((3.5**2 + 16) / 2)
    close(weights[0, 0], [[1 / first, 0], [0.5 / second, 2 / second]])


def test_retention_by_hand() -> None:
    """Decay 31/32 and a turn by one radian for each place: keys at places 1 and 2, read at place 2."""
    retention = make("retention", num_heads=1, expand_v=1.0, gate=False)
    fill(retention, q_proj=ONE_HEAD, k_proj=ONE_HEAD, v_proj=ONE_HEAD, out_proj=ONE_HEAD)
    x = torch.tensor([[[math.sqrt(2), 0.0], [math.sqrt(2), 0.0]]])  # q·k / sqrt(2) is sqrt(2) cos of what they turn by
    context, weights = retention(x, x, VALUES, causal=True)
    earlier, now = 31 / 32 * math.sqrt(2) * math.cos(1), math.sqrt(2)
    head = (3 * earlier + now, 4 * earlier + now)
    size = math.sqrt((head[0] ** 2 + head[1] ** 2) / 2)
    close(context[0, 1], normed(*head))
    close(weights[0, 0, 1], [earlier / size, now / size])


def test_mamba2_by_hand() -> None:
    """With A = 1 and dt = ln 2, gates of 1/2 and inputs scaled by ln 2; B = C = silu(1)."""
    mamba2 = make("mamba2", num_heads=1, state_dim=1, expand=1.0)
    bias = softplus_inverse(math.log(2))
    fill(
        mamba2, q_proj=[[1.0, 0.0]], k_proj=[[1.0, 0.0]], v_proj=ONE_HEAD, g_proj=ONE_HEAD, out_proj=ONE_HEAD, norm=1.0,
        dt_proj=0.0, dt_bias=bias, log_A=0.0,
    )  # fmt: skip
    x = torch.tensor([[[1.0, 3.0], [1.0, 3.0]]])
    context, weights = mamba2(x, x, VALUES, causal=True)
    unit = silu(1.0) ** 2 * math.log(2)
    close(weights[0, 0], [[unit, 0], [unit / 2, unit]])
    heads = (unit * (3 / 2 + 1) * silu(1.0), unit * (4 / 2 + 1) * silu(3.0))
    close(context[0, 1], normed(*heads))


def test_deltanet_by_hand() -> None:
    """Two keys alike, β = 1/2: the state recalls half of (3, 4), then half of the way from there to (1, 1)."""
    deltanet = make("deltanet", num_heads=1)
    fill(deltanet, q_proj=ONE_HEAD, k_proj=ONE_HEAD, v_proj=ONE_HEAD, out_proj=ONE_HEAD, norm=1.0, b_proj=0.0)
    x = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])  # of length 1 after silu and division
    context, weights = deltanet(x, x, VALUES, causal=True)
    close(context[0, 0], normed(1.5, 2))
    close(context[0, 1], normed((1.5 + 1) / 2, (2 + 1) / 2))
    size = math.sqrt((1.25**2 + 1.5**2) / 2)
    close(weights[0, 0, 1], [0.25 / size, 0.5 / size])


def test_deltanet_negative_turns_what_it_finds() -> None:
    """β = 2 of a second value 0: what was recalled, β (3, 4) = (6, 8), turns its sign."""
    deltanet = make("deltanet", num_heads=1, negative=True)
    fill(deltanet, q_proj=ONE_HEAD, k_proj=ONE_HEAD, v_proj=ONE_HEAD, out_proj=ONE_HEAD, norm=1.0, b_proj=100.0)
    x = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    context, weights = deltanet(x, x, VALUES * torch.tensor([[[1.0], [0.0]]]), causal=True)
    close(context[0, 0], normed(6, 8))
    close(context[0, 1], normed(-6, -8))
    assert bool(weights[0, 0, 1, 0] < 0)


def test_deltanet_of_two_steps_writes_two_pairs_for_each_key() -> None:
    """One key, β = 1: its first step writes (3, 4) to (1, 0), its second (6, 8) to (0, 1); both are read."""
    deltanet = make("deltanet", num_heads=1, steps=2)
    swapped = [[0.0, 1.0], [1.0, 0.0]]
    fill(
        deltanet, q_proj=ONE_HEAD, k_proj=ONE_HEAD + swapped, v_proj=[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]],
        out_proj=ONE_HEAD, norm=1.0, b_proj=100.0,
    )  # fmt: skip
    x = torch.tensor([[[2.0, 0.0]]])
    first, _ = deltanet(x, x, VALUES[:, :1], causal=True)
    close(first[0, 0], normed(3, 4))
    other, weights = deltanet(x.flip(-1), x, VALUES[:, :1], causal=True)
    close(other[0, 0], normed(6, 8))
    assert weights.shape == (1, 2, 1, 1)  # of each step
    close(weights[0, :, 0, 0], [0, 1 / math.sqrt(50)])


def test_gated_deltanet_by_hand() -> None:
    """Gates of 1/2, β = 1/2, keys alike: half of half of (3, 4) is recalled, and moves half of the way to (1, 1)."""
    gated = make("gated_deltanet", num_heads=1, expand_k=1.0, expand_v=1.0)
    fill(
        gated, q_proj=ONE_HEAD, k_proj=ONE_HEAD, v_proj=ONE_HEAD, out_proj=ONE_HEAD, g_proj=ONE_HEAD, norm=1.0,
        b_proj=0.0, a_proj=0.0, log_A=0.0, dt_bias=softplus_inverse(math.log(2)),
    )  # fmt: skip
    x = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    context, weights = gated(x + torch.tensor([0.0, 1e-9]), x, VALUES, causal=True)
    head = (0.75 + (1 - 0.75) / 2, 1 + (1 - 1) / 2)
    size = math.sqrt((head[0] ** 2 + head[1] ** 2) / 2)
    close(context[0, 1], normed(*head) * torch.tensor([silu(2.0), 0.0]))
    close(weights[0, 0, 1], [0.125 / size, 0.5 / size])


def test_kda_by_hand() -> None:
    """A gate of 1/2 for the channel that is read, of 1/4 for the other, which nobody writes to."""
    kda = make("kda", num_heads=1)
    fill(
        kda, q_proj=ONE_HEAD, k_proj=ONE_HEAD, v_proj=ONE_HEAD, out_proj=ONE_HEAD, norm=1.0, b_proj=0.0, a_proj_0=0.0,
        a_proj_1=0.0, log_A=0.0, dt_bias=[softplus_inverse(math.log(2)), softplus_inverse(math.log(4))],
        g_proj_0=0.0, g_proj_1=0.0, g_proj_1_bias=0.0,
    )  # fmt: skip
    x = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    context, weights = kda(x, x, VALUES, causal=True)
    head = (0.75 + (1 - 0.75) / 2, 1.0)
    size = math.sqrt((head[0] ** 2 + head[1] ** 2) / 2)
    close(context[0, 1], normed(*head) / 2)
    close(weights[0, 0, 1], [0.125 / size, 0.5 / size])


def tokens(length: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(length)
    return tuple(torch.randn(2, length, width, dtype=dtype) for width in (8, 12, 6))  # type: ignore[return-value]


@pytest.mark.parametrize(("name", "options"), ARMS)
def test_token_by_token_row_by_row_and_all_at_once_are_one(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module, (query, key, value) = make(name, (8, 12, 6), **options).double(), tokens(37)
    whole, weights = module(query, key, value, causal=True)
    state = None
    for t in range(37):
        now = slice(t, t + 1)
        context, state = module.step(query[:, now], key[:, now], value[:, now], state)
        torch.testing.assert_close(context, whole[:, now])
        if t in (0, 15, 16, 36):
            last, row = module(query[:, now], key[:, : t + 1], value[:, : t + 1])
            torch.testing.assert_close(last, whole[:, now])
            torch.testing.assert_close(row[:, :, 0], weights[:, :, t, : t + 1])
    assert sum(x.numel() for x in state) == 2 * module.state_size(37)


@pytest.mark.parametrize(("name", "options"), ARMS)
def test_padding_is_passed_over_wherever_it_stands(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module, (query, key, value) = make(name, (8, 12, 6), **options).double(), tokens(30)
    shown = torch.rand(30) < 0.6
    mask = shown.expand(2, 1, 30)
    for causal in (False, True):
        context, weights = module(query, key, value, mask, causal=causal)
        rows = shown if causal else torch.ones_like(shown)
        alone, matrix = module(query[:, rows], key[:, shown], value[:, shown], causal=causal)
        torch.testing.assert_close(context[:, rows], alone)
        torch.testing.assert_close(weights[:, :, rows][..., shown], matrix)
        assert bool((weights[..., ~shown] == 0).all())


@pytest.mark.parametrize("name", [*MECHANISMS, "linear_attention"])
def test_a_few_long_examples_at_a_time_are_mixed_as_all_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    widths = (8, 8, 6) if name == "linear_attention" else (8, 12, 6)
    module, inputs = make(name, widths).double(), [torch.randn(5, 20, width, dtype=torch.float64) for width in widths]
    query, sizes = inputs[0].requires_grad_(), []
    mixes = module.q_map if name == "linear_attention" else module.q_proj
    mixes.register_forward_hook(lambda _, arguments, output: sizes.append(len(output)))
    for mask in (None, torch.rand(5, 1, 20) < 0.6):
        for causal in (False, True):
            outputs = []
            for at_once in (1 << 20, 2 * 20 * widths[1]):
                monkeypatch.setattr(prefix, "AT_ONCE", at_once)
                context, weights = module(*inputs, mask, causal=causal, need_weights=False)
                assert weights is None
                outputs.append([context, *torch.autograd.grad(context.square().sum(), query)])
            assert module(*inputs, mask, causal=causal)[1] is not None
            assert sizes == [5, 2, 2, 1, 5]
            sizes.clear()
            torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("name", [name for name in MECHANISMS if name not in ("mamba2", "log_linear")])
@pytest.mark.parametrize("causal", [False, True])
def test_the_context_is_weights_times_values_head_by_head(name: str, causal: bool) -> None:
    """Without the output gate, that is: a gate is not a matrix between places."""
    torch.manual_seed(0)
    gate = {} if name == "deltanet" else {"gate": False}
    module, (query, key, value) = make(name, (8, 12, 6), num_heads=2, **gate).double(), tokens(20)
    context, weights = module(query, key, value, causal=causal)
    heads = weights @ split_heads(module.v_proj(value), 2) * getattr(module, "norm", 1)
    torch.testing.assert_close(module.out_proj(heads.transpose(1, 2).flatten(2)), context)


def test_mamba2_gates_and_norms_weights_times_values() -> None:
    torch.manual_seed(0)
    module, (query, key, value) = make("mamba2", (8, 12, 6), num_heads=2).double(), tokens(20)
    context, weights = module(query, key, value, causal=True)
    heads = (weights @ split_heads(module.v_proj(value), 2)).transpose(1, 2).flatten(2)
    heads = F.rms_norm(heads * F.silu(module.g_proj(query)), heads.shape[-1:], module.norm, 1e-5)
    torch.testing.assert_close(module.out_proj(heads), context)


def test_retention_goes_by_how_far_apart_places_are() -> None:
    """A pair of tokens weighs the same wherever it stands: three places apart, and nothing between that matters."""
    torch.manual_seed(0)
    module = make("retention", (8, 8, 8), gate=False).double()
    x = torch.randn(1, 1, 8, dtype=torch.float64).expand(1, 12, 8)
    _, state = module.step(x[:, :1], x[:, :1], x[:, :1])
    assert state[1].tolist() == [[1.0]]
    q, k = (split_heads(proj(x), 4) for proj in (module.q_proj, module.k_proj))
    places = torch.arange(12.0, dtype=torch.float64).unsqueeze(0)
    scores = module._rotate(q, places) @ module._rotate(k, places).mT
    for apart in (0, 1, 3):
        diagonal = scores.diagonal(-apart, dim1=-2, dim2=-1)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal))


@pytest.mark.parametrize("name", MECHANISMS)
def test_what_no_head_can_be_is_refused(name: str) -> None:
    with pytest.raises((ValueError, attnbench.UsageError), match=f"{name} needs num_heads of at least 1, not 0"):
        make(name, num_heads=0)
    with pytest.raises((ValueError, attnbench.UsageError), match=f"{name} needs num_heads of at most .*, not 64"):
        make(name, (8, 8, 8), num_heads=64)


def test_options_out_of_range_are_refused() -> None:
    refused = {
        "steps": ("deltanet", 0),
        "state_dim": ("mamba2", 0),
        "expand_k": ("gla", 0.0),
        "expand_v": ("gla", -1.0),
    }
    for option, (name, value) in refused.items():
        with pytest.raises((ValueError, attnbench.UsageError), match=f"{name} needs (?!num_heads)"):
            make(name, (8, 8, 8), **{option: value})
