"""Log-linear attention: worked numbers, and the definition written anew, token by token and bucket by bucket."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import attnbench


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return attnbench.build("attention", "log_linear", query_dim=8, key_dim=8, value_dim=8, **options).double()


def tokens(length: int) -> Tensor:
    torch.manual_seed(length)
    return torch.randn(2, length, 8, dtype=torch.float64, requires_grad=True)


def buckets(t: int) -> dict[int, range]:
    """Return the places up to t by level: t itself, then what a Fenwick tree takes off t, the lowest bit first."""
    places, end = {0: range(t, t + 1)}, t
    while end:
        lowest = end & -end
        places[lowest.bit_length()] = range(end - lowest, end)
        end -= lowest
    return places


def in_a_loop(module: Any, x: Tensor) -> Tensor:
    """The context of tokens x, [B, L, D], causal: a state for each bucket, that decays and is read by itself."""
    L, H = x.shape[1], module.num_heads
    C, B_, v = F.silu(module.q_proj(x)), F.silu(module.k_proj(x)), module.v_proj(x).unflatten(-1, (H, -1))
    dt = F.softplus(module.dt_proj(x) + module.dt_bias)
    scale = F.softplus(module.L[:, 0] * module.l_proj(x).unflatten(-1, (H, -1)))
    contexts = []
    for t in range(L):
        head = torch.zeros_like(v[:, 0])
        for level, places in buckets(t).items():
            later = F.pad(dt[:, places.start + 1 : t + 1], (0, 0, 0, 1)).flip(1).cumsum(dim=1).flip(1)
            i = slice(places.start, places.stop)
            left = torch.exp(-module.log_A.exp() * later[:, : len(places)])
            S = torch.einsum("bih,bin,bih,bihp->bhnp", left, B_[:, i], dt[:, i], v[:, i])
            read = torch.einsum("bn,bhnp->bhp", C[:, t], S)
            head = head + scale[:, t, :, min(level, scale.shape[-1] - 1), None] * read
        gated = head.flatten(1) * F.silu(module.g_proj(x[:, t]))
        contexts.append(F.rms_norm(gated, gated.shape[-1:], module.norm, 1e-5))
    return module.out_proj(torch.stack(contexts, dim=1))


@pytest.mark.parametrize("options", [{}, {"num_heads": 2, "state_dim": 5, "expand": 1.0}, {"levels": 3}, {"levels": 1}])
def test_by_blocks_as_a_matrix_and_by_the_token_it_is_the_definition(options: dict[str, Any]) -> None:
    module = make(**options)
    for length in (1, 2, 7, 64, 65, 130):
        x = tokens(length)
        expected = in_a_loop(module, x)
        leaves = [x, *module.parameters()]
        slopes = torch.autograd.grad(expected.square().sum(), leaves)
        for need_weights in (False, True):
            context, _ = module(x, x, x, causal=True, need_weights=need_weights)
            torch.testing.assert_close(context, expected, rtol=1e-10, atol=1e-10)
            for ours, theirs in zip(torch.autograd.grad(context.square().sum(), leaves), slopes, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        state = None
        for t in range(length):
            now = x[:, t : t + 1]
            context, state = module.step(now, now, now, state)
            torch.testing.assert_close(context[:, 0], expected[:, t])


def test_the_weights_of_four_keys_by_hand() -> None:
    """Gates of 1/2, λ of 1, 10 and 100, B = C = silu(1), dt = ln 2: key 2 is one bit from query 3, 0 and 1 are two."""
    module = make(num_heads=1, state_dim=1, levels=3)
    x = torch.ones(1, 4, 8, dtype=torch.float64)
    with torch.no_grad():
        module.q_proj.weight.fill_(1 / 8)
        module.k_proj.weight.fill_(1 / 8)
        module.log_A.zero_()
        module.dt_proj.weight.zero_()
        module.dt_bias.fill_(math.log(math.expm1(math.log(2))))
        module.l_proj.weight.fill_(1 / 8)
        module.L.copy_(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64).expm1().log())
    _, weights = module(x, x, x, causal=True)
    unit = (1 / (1 + math.exp(-1))) ** 2 * math.log(2)
    rows = [[1, 0, 0, 0], [10 / 2, 1, 0, 0], [100 / 4, 100 / 2, 1, 0], [100 / 8, 100 / 4, 10 / 2, 1]]
    torch.testing.assert_close(weights[0, 0], unit * torch.tensor(rows, dtype=torch.float64))


def test_with_one_lambda_for_all_levels_it_is_mamba2() -> None:
    module = make()
    plain = attnbench.build("attention", "mamba2", query_dim=8, key_dim=8, value_dim=8).double()
    plain.load_state_dict({name: x for name, x in module.state_dict().items() if name in plain.state_dict()})
    torch.nn.init.zeros_(module.l_proj.weight)  # softplus(0) = ln 2
    x = tokens(130)
    torch.testing.assert_close(
        module(x, x, x, causal=True)[1], plain(x, x, x, causal=True)[1] * math.log(2), rtol=1e-10, atol=1e-12
    )


def test_a_step_keeps_the_states_that_the_bits_of_its_place_name() -> None:
    """Behind place 12 = 1100 in binary: itself, the four places before it and the eight before those."""
    module, x, state = make(), tokens(13), None
    for t in range(13):
        _, state = module.step(*(x[:, t : t + 1],) * 3, state)
        levels, count = state
        kept = [level for level in range(levels.shape[2]) if levels[:, :, level].any()]
        assert kept == sorted(buckets(t))
        assert count.tolist() == [t + 1] * 2
    assert kept == [0, 3, 4]
    assert [module.state_size(n) // (4 * 64 * 4) for n in (1, 2, 3, 5, 9, 1025)] == [1, 2, 3, 4, 5, 12]


def test_no_examples_are_a_batch_to_decode_too() -> None:
    module, x, state = make(), torch.empty(0, 1, 8, dtype=torch.float64), None
    for _ in range(3):
        context, state = module.step(x, x, x, state)
        assert context.shape == (0, 1, 8)


def test_mixing_all_keys_at_once_refuses_a_state() -> None:
    module, x = make(), tokens(2)
    _, state = module.step(*(x[:, :1],) * 3)
    with pytest.raises(ValueError, match="`step` goes on from a state, token by token"):
        module.mix(x, x, x, causal=True, padding=None, state=state, need_weights=False)


def test_no_array_of_all_pairs_is_made_without_weights() -> None:
    module, x = make(state_dim=8), tokens(1024).detach()
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        module(x, x, x, causal=True, need_weights=False)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 2 * 4 * 1024 * 1024 * 8 / 4


def test_levels_below_one_are_refused() -> None:
    with pytest.raises((ValueError, attnbench.UsageError), match="log_linear needs state_dim and levels of at least 1"):
        make(levels=0)
