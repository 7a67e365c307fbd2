"""Additive scores, without the tensor of all pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnbench import Register, ScoringFunction, hookimpl
from attnbench.shapes import Keys, Queries, ScoreMatrix


class Additive(ScoringFunction):
    """A layer of tanh over query and key (Bahdanau, Cho, Bengio 2014, arXiv:1409.0473).

    score(q, k) = vᵀ tanh(W q + U k)

    Luong's "concat" (2015, arXiv:1508.04025), vᵀ tanh(W' [q; k]), is the same function: W' is W and U side by side.

    The textbook form holds Q x K x D numbers, several times over. Here, with a = W q and b = U k, tanh(a + b) is made
    tile by tile, in the backward pass too. A compiler makes no tile; there, with

        tanh(a + b) = 1 - 2u,   u = e^-2a / (e^-2a + e^2b),   d tanh(a + b) = 4 u (1 - u)

    exponentials are taken per token and not per pair. Half precision is computed in float32. Second derivatives exist
    only where there are few pairs (`SMALL`).

    Args:
        hidden_dim: D, the width of the layer; null takes the key's.
    """

    def __init__(self, query_dim: int, key_dim: int, *, hidden_dim: int | None = None) -> None:
        super().__init__()
        width = key_dim if hidden_dim is None else hidden_dim
        if width < 1:
            raise ValueError(f"hidden_dim is at least 1, not {width}")
        self.W = nn.Linear(query_dim, width, bias=False)
        self.U = nn.Linear(key_dim, width, bias=False)
        self.v = nn.Linear(width, 1, bias=False)

    def forward(self, query: Queries, key: Keys) -> ScoreMatrix:
        """Score every query against every key."""
        return self.scores(query, self.U(key))

    def prepare(self, key: Keys) -> Callable[..., Tensor]:
        """Project the keys once; of one query, which has no more pairs than keys, the textbook form is the fastest."""
        b = self.U(key)

        def score(query: Tensor) -> Tensor:
            if query.shape[-2] > 1 or b.dtype not in (torch.float32, torch.float64):
                return self.scores(query, b)
            return torch.matmul((self.W(query) + b).tanh_(), self.v.weight.squeeze(0)).unsqueeze(-2)

        return score

    def scores(self, query: Queries, b: Float[Tensor, "*#batch K D"]) -> ScoreMatrix:
        """Score every query against every key, of which b = U k is known."""
        a, v = self.W(query), self.v.weight.squeeze(0)
        narrow, wide = a.dtype, torch.float64 if a.dtype == torch.float64 else torch.float32
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
        shape = (*batch, a.shape[-2], b.shape[-2])
        small = narrow == wide and math.prod(shape) * len(v) <= SMALL and not torch.compiler.is_compiling()
        if small or torch.compiler.is_exporting():
            return torch.matmul((a.unsqueeze(-2) + b.unsqueeze(-3)).tanh_(), v)
        a, b = (x.to(wide).expand(*batch, -1, -1).reshape(-1, *x.shape[-2:]) for x in (a, b))
        scores: Tensor = Scores.apply(a, b, v.to(wide))  # type: ignore[no-untyped-call]
        return scores.view(shape).to(narrow)


#: Up to so many numbers autograd's own bookkeeping costs less than tiles do.
SMALL = 2**17
#: How many numbers a tile holds: 1 MiB in float32, which a cache keeps from one pass over it to the next.
TILE = 2**18
#: On a GPU a tile is made by one kernel launch after another, which wants more of them at a time.
GPU_TILE = 2**24
#: How many keys a tile holds at most, so that a sum over its queries has many of them to go through.
TILE_KEYS = 512


def plain(a: Tensor, b: Tensor) -> Tensor:
    """Return u with one exponential per pair, which is right for any input."""
    return torch.sigmoid((-2 * a).unsqueeze(-2) + (-2 * b).unsqueeze(-3))


def factored(a: Tensor, b: Tensor) -> Tensor:
    """Return u with exponentials per token, which is right where `in_range` says so."""
    x, y = (-2 * a).exp().unsqueeze(-2), (2 * b).exp().unsqueeze(-3)
    return x / (x + y)


def scores_of(u: Tensor, v: Tensor) -> Tensor:
    """Sum over D; no matrix product, which autocast would take to half precision and a compiler would not fuse."""
    return v.sum() - 2 * (u * v).sum(-1)


def sums_of(u: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Sum g u (1 - u), and g u, over the second kind of token."""
    gu = grad.unsqueeze(-1) * u
    return (gu - gu * u).sum(2), gu.sum(2)


def gradients_of(
    u_of: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, v: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to a, b and v, in two passes over the pairs: a compiler fuses sums over one dimension."""
    to_a, total = sums_of(u_of(a, b), grad)
    to_b, _ = sums_of(u_of(b, a), grad.transpose(1, 2))
    return 4 * v * to_a, 4 * v * to_b, grad.sum() - 2 * total.sum((0, 1))


def in_range(a: Tensor, b: Tensor) -> Tensor:
    """Tell whether every e^-2a and e^2b is a normal number (in float32: |a|, |b| < 42.8), and so the sum of two.

    The smaller may vanish in the sum, and then u = 0 or 1 is right. NaN is not in range.
    """
    limit = -0.49 * math.log(torch.finfo(a.dtype).tiny)
    return torch.maximum(a.abs().amax(), b.abs().amax()) < limit


def either(compute: Callable[..., Any], a: Tensor, b: Tensor, *others: Tensor) -> Any:
    """Compute with the `factored` u where that is right, else the `plain` one, in a graph that a compiler takes whole.

    A GPU waits for memory, not for exponentials: it takes the plain one, and need not ask.
    """
    if a.device.type != "cpu":
        return compute(plain, a, b, *others)
    branches = (lambda *args: compute(factored, *args)), (lambda *args: compute(plain, *args))
    return torch.cond(in_range(a, b), *branches, (a, b, *others))


class Scores(torch.autograd.Function):
    """scores[n, i, j] = vᵀ tanh(a[n, i] + b[n, j]), for a [N, Q, D], b [N, K, D], v [D]; memory for one tile.

    A compiler fuses the passes over a pair, and then no tile is ever stored.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, v: Tensor) -> Tensor:
        """Keep what there is per token, and nothing per pair."""
        ctx.save_for_backward(a, b, v)
        if torch.compiler.is_compiling():
            fused: Tensor = either(lambda u_of, a, b, v: scores_of(u_of(a, b), v), a, b, v)
            return fused
        scores = a.new_empty(*a.shape[:2], b.shape[1])
        for t, out in tiles(a.unsqueeze(2), b.unsqueeze(1), scores):
            out.copy_(torch.mv(t.flatten(0, 2), v).view_as(out))
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Make every tanh again."""
        a, b, v = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return either(gradients_of, a, b, v, grad)
        a, b = a.unsqueeze(2), b.unsqueeze(1)
        a_grad, b_grad, v_grad = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(v)
        for t, g, ga, gb in tiles(a, b, grad, a_grad, b_grad):
            v_grad.addmv_(t.flatten(0, 2).t(), g.reshape(-1))
            s = torch.ops.aten.tanh_backward.grad_input(g.unsqueeze(3), t, grad_input=t)  # g (1 - t²), in one pass
            ga.add_(s.sum(2, keepdim=True))
            gb.add_(s.sum(1, keepdim=True))
        return a_grad.squeeze(2) * v, b_grad.squeeze(1) * v, v_grad


def tiles(a: Tensor, b: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut [N, Q, K, D] into tiles; yield tanh(a + b) there, to be written over, and the same part of other tensors.

    Args:
        a: [N, Q, 1, D].
        b: [N, 1, K, D].
        others: of at least three dimensions, N, Q and K, each as long or 1.
    """
    (N, Q, _, D), K = a.shape, b.shape[2]
    room = max(1, (TILE if a.device.type == "cpu" else GPU_TILE) // D)
    keys = max(1, min(K, TILE_KEYS, room))
    queries = max(1, min(Q, room // keys))
    sizes = [max(1, min(N, room // (keys * queries))), queries, keys]
    memory = a.new_empty(math.prod(sizes) * D)
    for a_tile, b_tile, *parts in cut(sizes, a, b, *others):
        shape = (*a_tile.shape[:2], b_tile.shape[2], D)
        t = memory[: math.prod(shape)].view(shape)
        torch.add(a_tile, b_tile, out=t)
        yield t.tanh_(), *parts


def cut(sizes: list[int], *tensors: Tensor, dim: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors into blocks of `sizes`, dimension by dimension; a dimension of 1 goes with every block."""
    if dim == len(sizes):
        yield tensors
    elif all(tensor.shape[dim] <= sizes[dim] for tensor in tensors):
        yield from cut(sizes, *tensors, dim=dim + 1)
    else:
        split = (torch.split(t, sizes[dim], dim) if t.shape[dim] > sizes[dim] else repeat(t) for t in tensors)
        for blocks in zip(*split, strict=False):
            yield from cut(sizes, *blocks, dim=dim + 1)


@hookimpl
def register_scoring(register: Register) -> None:
    """Contribute `additive`."""
    register("additive", Additive)
