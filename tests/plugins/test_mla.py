"""Multi-head latent attention: worked numbers, the equation written anew in a loop, and what a step keeps."""

import cmath
import math

import pytest
import torch

import attnbench


def mla(**options):
    torch.manual_seed(0)
    given = {"query_dim": 8, "key_dim": 6, "value_dim": 5, **options}
    return attnbench.build("attention", "mla", **given).double()


def turned(x, place):
    """A vector turned: the coordinates i and i + R/2 as one complex number, by place / 10,000^(2i/R)."""
    half = len(x) // 2
    planes = torch.complex(x[:half], x[half:])
    angles = torch.tensor([cmath.exp(1j * place * 10_000 ** (-i / half)) for i in range(half)], dtype=torch.complex128)
    return torch.cat([(planes * angles).real, (planes * angles).imag])


def in_a_loop(attention, query, key, value, allowed):
    """The context and weights, head by head; `allowed` is [B, Q, K]."""
    (B, Q, _), K, H, R = query.shape, key.shape[1], attention.num_heads, attention.rope_dim
    D = attention.out_dim // H
    weights, contexts = torch.zeros(B, H, Q, K, dtype=query.dtype), []
    for b in range(B):
        latent = attention.c_proj(torch.cat([key[b], value[b]], dim=-1))
        latent = attention.norm * latent / (latent.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        projected = attention.q_proj(query[b]), attention.k_proj(latent), attention.v_proj(latent)
        q, k, v = (x.unflatten(-1, (H, -1)) for x in projected)
        r = [turned(attention.r_proj(key[b, j]), j) for j in range(K)]
        rows = []
        for i in range(Q):
            row = []
            for h in range(H):
                seen = [j for j in range(K) if allowed[b, i, j]]
                scores = [q[i, h, :D] @ k[j, h] + turned(q[i, h, D:], i) @ r[j] for j in seen]
                shares = (torch.stack(scores) / math.sqrt(D + R)).softmax(dim=0)
                weights[b, h, i, seen] = shares.detach()
                row.append(shares @ v[seen, h])
            rows.append(torch.cat(row))
        contexts.append(torch.stack(rows))
    return attention.out_proj(torch.stack(contexts)), weights


def test_a_rotary_key_tells_places_and_a_latent_what_they_hold():
    # one head, latents of one number, ±1 after the norm; content scores ±1, and the rotary key cos(i - j)
    attention = mla(query_dim=1, key_dim=1, value_dim=1, num_heads=1, latent_dim=1, rope_dim=2)
    with torch.no_grad():
        attention.q_proj.weight.copy_(torch.tensor([[1.0], [1.0], [0.0]]))
        attention.r_proj.weight.copy_(torch.tensor([[1.0], [0.0]]))
        attention.c_proj.weight.copy_(torch.tensor([[0.0, 1.0]]))
        for layer in (attention.k_proj, attention.v_proj, attention.out_proj):
            layer.weight.fill_(1.0)
    one = torch.ones(1, 3, 1, dtype=torch.float64)
    value = torch.tensor([50.0, -50.0, 50.0], dtype=torch.float64).view(1, 3, 1)
    context, weights = attention(one, one, value)

    scores = torch.tensor([1 + math.cos(2), -1 + math.cos(1), 1 + 1]).double() / math.sqrt(3)
    torch.testing.assert_close(weights[0, 0, 2], scores.softmax(dim=0))
    torch.testing.assert_close(context[0, 2], (scores.softmax(dim=0) * torch.tensor([1.0, -1.0, 1.0])).sum().view(1))


@pytest.mark.parametrize("options", [{}, {"num_heads": 2, "latent_dim": 3, "rope_dim": 6, "embed_dim": 10}])
@pytest.mark.parametrize("kind", ["causal", "none", "padding", "random"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_mla_is_its_equation_in_a_loop(kind, options, need_weights):
    attention, (Q, K) = mla(**options), (6, 6) if kind == "causal" else (4, 6)
    inputs = [torch.randn(2, n, width, dtype=torch.float64) for n, width in ((Q, 8), (K, 6), (K, 5))]
    mask = None
    if kind == "padding":
        mask = torch.arange(K).expand(2, 1, K) < torch.tensor([K, 2]).view(2, 1, 1)
    elif kind == "random":
        mask = (torch.rand(2, Q, K) < 0.5) | torch.eye(Q, K, dtype=torch.bool)
    allowed = torch.ones(2, Q, K, dtype=torch.bool) if mask is None else mask.expand(2, Q, K)
    allowed = allowed.tril() if kind == "causal" else allowed
    plain, tracked = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    expected, shares = in_a_loop(attention, *plain, allowed)
    context, weights = attention(*tracked, mask, causal=kind == "causal", need_weights=need_weights)
    leaves = list(attention.parameters())

    torch.testing.assert_close(context, expected)
    if need_weights:
        torch.testing.assert_close(weights, shares)
    after = torch.autograd.grad(context.square().sum(), [*tracked, *leaves])
    before = torch.autograd.grad(expected.square().sum(), [*plain, *leaves])
    for got, wanted in zip(after, before, strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_step_keeps_a_latent_and_a_rotary_key_for_all_heads():
    attention, state = mla(query_dim=16, latent_dim=6, rope_dim=4), None
    query, key, value = (torch.randn(2, 30, width, dtype=torch.float64) for width in (16, 6, 5))
    together = attention(query, key, value, causal=True, need_weights=False)[0]

    for t in range(30):
        now = slice(t, t + 1)
        context, state = attention.step(query[:, now], key[:, now], value[:, now], state)
        torch.testing.assert_close(context, together[:, now])
        assert [list(x.shape) for x in state] == [[2, t + 1, 6], [2, t + 1, 4]]
        assert attention.state_size(t + 1) == (t + 1) * 10


def test_the_default_widths_are_the_papers_shares():
    attention = mla(query_dim=64, num_heads=4)

    assert attention.state_size(100) == 100 * (4 * 16 + 16 // 2)


@pytest.mark.parametrize(
    "options,says",
    [({"rope_dim": 3}, "even and at least 2, not 3"), ({"rope_dim": 0}, "not 0$"), ({"latent_dim": 0}, "1, not 0")],
)
def test_widths_that_do_not_fit_are_refused(options, says):
    with pytest.raises(attnbench.UsageError, match=says):
        mla(**options)
