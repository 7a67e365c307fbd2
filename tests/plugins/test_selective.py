"""Selective attention: worked numbers, and the equation written anew in a loop."""

import math

import pytest
import torch
from attnbench.plugins.attention import selective as module

import attnbench


def selective(**options):
    torch.manual_seed(0)
    widths = {"query_dim": 8, "key_dim": 8, "value_dim": 8}
    return attnbench.build("attention", "selective", **widths, scoring="scaled_dot", **options).double()


def in_a_loop(attention, x, allowed):
    """The context and weights of tokens x, [B, L, D], key by key; `allowed` is [B, L, L]."""
    B, L, H = *x.shape[:2], attention.num_heads
    q, k, v = (p(x).unflatten(-1, (H, -1)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    contexts, weights = [], torch.zeros(B, H, L, L, dtype=x.dtype)
    for b in range(B):
        rows, left_out = [], [torch.zeros((), dtype=x.dtype) for _ in range(L)]
        for i in range(L):
            seen = [j for j in range(L) if allowed[b, i, j]]
            scores = {(h, j): q[b, i, h] @ k[b, j, h] / math.sqrt(v.shape[-1]) for h in range(H) for j in seen}
            row = [torch.zeros_like(v[b, 0, 0])] * H
            for h in range(H) if seen else ():
                shares = torch.stack([scores[h, j] - left_out[j] for j in seen]).softmax(dim=0)
                weights[b, h, i, seen] = shares.detach()
                row[h] = sum(share * v[b, j, h] for share, j in zip(shares, seen, strict=True))
            rows.append(torch.cat(row))
            for j in seen:
                if 0 < j < i:
                    left_out[j] = left_out[j] + scores[0, j].clamp(min=0)
        contexts.append(torch.stack(rows))
    return attention.out_proj(torch.stack(contexts)), weights


def test_what_a_query_selects_is_left_out_by_those_behind_it_in_all_heads():
    class Known(attnbench.ScoringFunction):  # all queries alike; the second head scores every key 0
        def forward(self, query, key):
            scores = torch.tensor([5.0, math.log(2), -1.0, 1.0], dtype=torch.float64)
            return torch.stack([scores, 0 * scores]).unsqueeze(1).expand(1, 2, 4, 4)

    attention = selective(num_heads=2)
    attention.score = Known()
    x = torch.zeros(1, 4, 8, dtype=torch.float64)
    weights = attention(x, x, x, causal=True)[1][0, 1]

    # query 2 selects key 1 by log 2, so that query 3 halves it; key 0 is the first, and key 2 scores below 0
    torch.testing.assert_close(weights[2], torch.tensor([1, 1, 1, 0], dtype=torch.float64) / 3)
    torch.testing.assert_close(weights[3], torch.tensor([2, 1, 2, 2], dtype=torch.float64) / 7)


@pytest.mark.parametrize("block", [7, 3])
@pytest.mark.parametrize("kind", ["causal", "none", "padding", "random"])
def test_selective_is_its_equation_in_a_loop_whatever_the_block(kind, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    attention, x = selective(num_heads=2), 3 * torch.randn(2, 7, 8, dtype=torch.float64)
    mask = None
    if kind == "padding":
        mask = torch.arange(7).expand(2, 1, 7) < torch.tensor([7, 4]).view(2, 1, 1)
    elif kind == "random":
        mask = torch.rand(2, 7, 7) < 0.6
    allowed = torch.ones(2, 7, 7, dtype=torch.bool) if mask is None else mask.expand(2, 7, 7)
    allowed = allowed.tril() if kind == "causal" else allowed
    plain, tracked = (x.clone().requires_grad_() for _ in range(2))
    expected, shares = in_a_loop(attention, plain, allowed)
    context, weights = attention(tracked, tracked, tracked, mask, causal=kind == "causal")
    leaves = list(attention.parameters())

    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(weights, shares)
    after = torch.autograd.grad(context.square().sum(), [tracked, *leaves])
    before = torch.autograd.grad(expected.square().sum(), [plain, *leaves])
    for got, wanted in zip(after, before, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("scoring", ["scaled_dot", "rope"])
def test_a_step_keeps_what_was_selected(scoring):
    torch.manual_seed(0)
    widths = {"query_dim": 8, "key_dim": 8, "value_dim": 8}
    attention = attnbench.build("attention", "selective", **widths, scoring=scoring).double()
    x, state = 3 * torch.randn(2, 20, 8, dtype=torch.float64), None
    together = attention(x, x, x, causal=True)[0]

    for t in range(20):
        token = x[:, t : t + 1]
        context, state = attention.step(token, token, token, state)
        torch.testing.assert_close(context, together[:, t : t + 1])
        assert sum(part[0].numel() for part in state) == attention.state_size(t + 1) == (t + 1) * 17
    assert state[2].count_nonzero() > 20  # the last key's is 0, the first key's too
