"""Mixture of block attention: worked numbers, and the equation written anew in a loop."""

import math

import pytest
import torch

import attnbench


def moba(scoring="scaled_dot", **options):
    torch.manual_seed(0)
    widths = {"query_dim": 8, "key_dim": 8, "value_dim": 8}
    return attnbench.build("attention", "moba", **widths, scoring=scoring, **options).double()


def in_a_loop(attention, x, allowed, causal):
    """The context and weights of tokens x, [B, L, D], query by query: blocks by q · mean(k); `allowed` is [B, L, L]."""
    B, L, H, size = *x.shape[:2], attention.num_heads, attention.block
    q, k, v = (p(x).unflatten(-1, (H, -1)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    contexts, weights = [], torch.zeros(B, H, L, L, dtype=x.dtype)
    for b in range(B):
        rows = []
        for i in range(L):
            row = []
            for h in range(H):
                gates = {}
                for n in range(0, L, size):
                    seen = [j for j in range(n, min(n + size, L)) if allowed[b, i, j] and not (causal and j > i)]
                    if seen:
                        own = n <= i < n + size
                        gates[tuple(seen)] = math.inf if own else (q[b, i, h] @ k[b, seen, h].mean(dim=0)).item()
                chosen = sorted(gates, key=gates.__getitem__)[-attention.top_k :]
                keys = sorted(j for block in chosen for j in block)
                shares = (k[b, keys, h] @ q[b, i, h] / math.sqrt(v.shape[-1])).softmax(dim=0)
                weights[b, h, i, keys] = shares.detach()
                row.append(shares @ v[b, keys, h])
            rows.append(torch.cat(row))
        contexts.append(torch.stack(rows))
    return attention.out_proj(torch.stack(contexts)), weights


def test_the_blocks_of_the_best_mean_are_attended_and_ones_own():
    class Known(attnbench.ScoringFunction):  # means of the blocks: 1, 2, 1.5, and the last is query 6's own
        def forward(self, query, key):
            scores = torch.tensor([9, -7, 2, 2, 1, 2, 0, 5], dtype=torch.float64)
            return scores.expand(1, 1, 8, 8)

    attention = moba(num_heads=1, block=2, top_k=2)
    attention.score = Known()
    x = torch.zeros(1, 8, 8, dtype=torch.float64)
    weights = attention(x, x, x, causal=True)[1][0, 0]

    # query 6 sees the keys 2 and 3, whose mean is best though key 0 scores most, and itself: e², e², 1
    parts = torch.tensor([0, 0, math.e**2, math.e**2, 0, 0, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(weights[6], parts / parts.sum())
    # query 3 has two blocks behind and at it, and attends to both
    assert weights[3].count_nonzero() == 4


@pytest.mark.parametrize("block,top_k", [(4, 2), (3, 3), (1, 4), (16, 1)])
@pytest.mark.parametrize("kind", ["causal", "none", "padding", "random"])
def test_moba_is_its_equation_in_a_loop(kind, block, top_k):
    attention, x = moba(num_heads=2, block=block, top_k=top_k), torch.randn(2, 14, 8, dtype=torch.float64)
    mask = None
    if kind == "padding":
        mask = torch.arange(14).expand(2, 1, 14) < torch.tensor([14, 5]).view(2, 1, 1)
    elif kind == "random":
        mask = torch.rand(2, 14, 14) < 0.7
    allowed = torch.ones(2, 14, 14, dtype=torch.bool) if mask is None else mask.expand(2, 14, 14)
    plain, tracked = (x.clone().requires_grad_() for _ in range(2))
    expected, shares = in_a_loop(attention, plain, allowed, kind == "causal")
    context, weights = attention(tracked, tracked, tracked, mask, causal=kind == "causal")
    leaves = list(attention.parameters())

    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(weights, shares)
    after = torch.autograd.grad(context.square().sum(), [tracked, *leaves])
    before = torch.autograd.grad(expected.square().sum(), [plain, *leaves])
    for got, wanted in zip(after, before, strict=True):
        torch.testing.assert_close(got, wanted)


def test_with_all_blocks_chosen_it_is_softmax_attention():
    x = torch.randn(2, 30, 8, dtype=torch.float64)
    every, plain = moba(block=4, top_k=8), moba(block=30, top_k=1)
    few = moba(block=4, top_k=7)

    torch.testing.assert_close(every(x, x, x)[0], plain(x, x, x)[0])
    assert not torch.allclose(few(x, x, x)[0], plain(x, x, x)[0])


@pytest.mark.parametrize("scoring", ["scaled_dot", "rope", "additive"])
def test_a_step_chooses_as_all_at_once(scoring):
    attention, state = moba(scoring, block=4, top_k=2), None
    x = torch.randn(2, 30, 8, dtype=torch.float64)
    together, weights = attention(x, x, x, causal=True)

    assert (weights[:, :, -1] > 0).sum(dim=-1).eq(4 + 2).all()
    for t in range(30):
        token = x[:, t : t + 1]
        context, state = attention.step(token, token, token, state)
        torch.testing.assert_close(context, together[:, t : t + 1])
        assert sum(part[0].numel() for part in state) == attention.state_size(t + 1) == (t + 1) * 16


def test_options_below_one_are_refused():
    with pytest.raises(attnbench.UsageError, match="at least 1, not 0 and 3"):
        moba(block=0)
    with pytest.raises(attnbench.UsageError, match="at least 1, not 8 and 0"):
        moba(top_k=0)
