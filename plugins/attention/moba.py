"""Mixture of block attention: each query attends to the few blocks of keys that fit it best."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Register, append, attend, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.heads import head_width, merge_heads, split_heads
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, State


class MoBA(Attention):
    """Softmax attention to a few blocks of keys, chosen by their means (MoBA, Lu et al. 2025, arXiv:2502.13189).

    gate_in = q_i · mean of k_j over the block n of keys j = n·block .. (n+1)·block - 1,   infinite for the block of i
    weights_ij = softmax of score(q_i, k_j) over the keys of the top_k blocks by gate_in
    context = Wo [weights · v of each head]

    Each head chooses for itself. A query's own block is one of its top_k, causal within, and no later one is. The mean
    is over the keys that the query may attend, and is taken of scores: of a dot product that is q · mean(k), so that
    any scoring function goes, and rotary positions turn keys first, as in the authors' code. The choice itself has no
    gradient. Without a causal mask query i stands at place i too: its own block, where there is one, is always chosen,
    and later ones may be.

    As in the authors' `moba_naive` the choice is a mask on all scores: exact, and slower than softmax attention; the
    time that it is to save takes their kernels for a GPU. The paper has layers of full attention too, which is a host's
    choice. Projections begin as PyTorch's. By default 128 tokens have 16 blocks, 3 of them chosen, the paper's share of
    8,192.

    Args:
        num_heads: H; divides embed_dim.
        embed_dim: E, the width of all heads together and of the context; null takes the query's.
        block: how many keys a block has.
        top_k: how many blocks a query attends to, its own among them.

    Raises ValueError when num_heads does not divide embed_dim, or when block or top_k is below 1. State: 2 E numbers a
    token.
    """

    positional = True
    excused = {"permutation": "blocks are keys side by side, so that order is the point"}

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        num_heads: int = 4,
        embed_dim: int | None = None,
        block: int = 8,
        top_k: int = 3,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        if block < 1 or top_k < 1:
            raise ValueError(f"block and top_k are at least 1, not {block} and {top_k}")
        self.out_dim = query_dim if embed_dim is None else embed_dim
        width = head_width(self.out_dim, num_heads)
        self.num_heads, self.block, self.top_k = num_heads, block, top_k
        self.score = score(width, width)
        self.q_proj = nn.Linear(query_dim, self.out_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, self.out_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, self.out_dim, bias=False)
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend; a scoring function that factors runs on a fused kernel when no weights are needed."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        mask = causal_mask(mask, query, causal)
        q, k, v = (
            split_heads(project(x), self.num_heads)
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        with torch.no_grad():
            chosen = self.chosen(self.score(q, k), mask, torch.arange(query.shape[1], device=query.device))
        heads, weights = attend(self.score, q, k, v, chosen, need_weights=need_weights)
        return self.out_proj(merge_heads(heads)), weights

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Attend to the chosen blocks of all projected keys and values so far."""
        keys, values = append(state, self.k_proj(key), self.v_proj(value))
        q, k, v = (split_heads(x, self.num_heads) for x in (self.q_proj(query), keys, values))
        now = torch.full((1,), keys.shape[1] - 1, device=query.device)
        scores = self.score(q, k, now) if self.score.positional else self.score(q, k)
        weights = masked_softmax(scores, self.chosen(scores, None, now))
        return self.out_proj(merge_heads(weights @ v)), (keys, values)

    def state_size(self, length: int) -> int:
        """Return 2 L E: every projected key and value."""
        return 2 * length * self.out_dim

    def chosen(
        self, scores: Float[Tensor, "B H Q K"], mask: Bool[Tensor, "B #Q K"] | None, places: Tensor
    ) -> Bool[Tensor, "B H Q K"]:
        """Return what each query attends to: what it may, of the blocks that it chooses."""
        K = scores.shape[-1]
        blocks = -(-K // self.block)
        allowed = scores.new_ones(1, 1, 1, K, dtype=torch.bool) if mask is None else mask.unsqueeze(1)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~allowed, 0.0)
        behind = blocks * self.block - K
        sums, counts = (
            F.pad(x, (0, behind)).reshape(*x.shape[:-1], blocks, self.block).sum(dim=-1)
            for x in (wide, allowed.to(wide.dtype))
        )
        own = places.unsqueeze(-1) // self.block == torch.arange(blocks, device=scores.device)
        gate = (sums / counts).masked_fill(own, math.inf).masked_fill(counts == 0, -math.inf)
        padded = F.pad(gate, (0, self.top_k), value=-math.inf)
        best = padded.topk(self.top_k, dim=-1).indices
        among = torch.zeros_like(padded, dtype=torch.bool).scatter(-1, best, True)[..., :blocks]
        return among.repeat_interleave(self.block, dim=-1)[..., :K] & allowed


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `moba`."""
    register("moba", MoBA)
