"""Selective attention: tokens say which of those before them are needed no more."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Register, append, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.heads import head_width, merge_heads, split_heads
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, State

#: Queries that are worked on at once: a block's scores fit a processor's cache, and keys behind it take none.
BLOCK = 64


class Selective(Attention):
    """One head's scores also select what later queries leave out (Leviathan et al. 2024, arXiv:2410.02703).

    S_lj = relu(score of head 0 of q_l and k_j) where 0 < j < l, else 0       what query l selects, to be left out
    F_ij = Σ S_lj over the queries l before i
    weights_ij = softmax over j of score(q_i, k_j) - F_ij                     in every head, head 0 too
    context = Wo [weights · v of each head]

    There are no parameters beyond multi-head attention's. The first key, <BOS> in the paper, is never selected, nor is
    one that the query may not attend. Without a causal mask query i stands at place i too, and selects only before it:
    nobody has selected the keys after it. Left out are the paper's pruning of what was selected, and its loss for it.
    Projections begin as PyTorch's.

    Args:
        num_heads: H; divides embed_dim.
        embed_dim: E, the width of all heads together and of the context; null takes the query's.

    Raises ValueError when num_heads does not divide embed_dim. State: 2 E numbers a token, and its F.
    """

    positional = True
    excused = {"permutation": "a query selects among the keys before it, so that order is the point"}

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        num_heads: int = 4,
        embed_dim: int | None = None,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.out_dim = query_dim if embed_dim is None else embed_dim
        width = head_width(self.out_dim, num_heads)
        self.num_heads = num_heads
        self.score = score(width, width)
        self.q_proj = nn.Linear(query_dim, self.out_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, self.out_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, self.out_dim, bias=False)
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        mask = causal_mask(mask, query, causal)
        q, k, v = (
            split_heads(project(x), self.num_heads)
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        Q, K = query.shape[1], key.shape[1]
        whole = isinstance(Q, torch.SymInt) or Q <= BLOCK  # torch.export traces for any Q: no loop can be
        selected = q.new_zeros(q.shape[0], 1, K, dtype=torch.promote_types(q.dtype, torch.float32))
        heads, weights = [], []
        for first in (0,) if whole else range(0, Q, BLOCK):
            rows = slice(None) if whole else slice(first, first + BLOCK)
            seen = min(first + BLOCK, K) if causal and not whole else K
            may = None if mask is None else mask[:, rows if mask.shape[1] > 1 else slice(None), :seen]
            places = (torch.arange(Q, device=q.device)[rows],) if self.score.positional else ()
            scores = self.score(q[:, :, rows], k[:, :, :seen], *places)
            sums = F.pad(selections(scores, may, first).cumsum(dim=1), (0, 0, 1, 0)) + selected[..., :seen]
            shares = less(scores, sums[:, :-1], may)
            selected = F.pad(sums[:, -1:], (0, K - seen))
            heads.append(shares @ v[:, :, :seen])
            if need_weights:
                weights.append(F.pad(shares, (0, K - seen)))
        context = self.out_proj(merge_heads(torch.cat(heads, dim=2)))
        return context, torch.cat(weights, dim=2) if need_weights else None

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Attend to all projected keys and values so far, and add to what is selected of them."""
        keys, values = append(None if state is None else state[:2], self.k_proj(key), self.v_proj(value))
        q, k, v = (split_heads(x, self.num_heads) for x in (self.q_proj(query), keys, values))
        now = keys.shape[1] - 1
        places = (torch.full((1,), now, device=query.device),) if self.score.positional else ()
        scores = self.score(q, k, *places)
        selection = selections(scores, None, now)
        selected = torch.zeros_like(selection) if state is None else F.pad(state[2], (0, 1)).unsqueeze(1)
        heads = less(scores, selected, None) @ v
        return self.out_proj(merge_heads(heads)), (keys, values, (selected + selection).squeeze(1))

    def state_size(self, length: int) -> int:
        """Return L (2 E + 1): every projected key and value, and how much each was selected."""
        return length * (2 * self.out_dim + 1)


def selections(
    scores: Float[Tensor, "B H Q K"], mask: Bool[Tensor, "B #Q K"] | None, first: int = 0
) -> Float[Tensor, "B Q K"]:
    """Return S of queries that stand at the places from `first` on, in float32 at least."""
    # a float16 score that overflowed counts as the largest, so that sums stay finite
    S = scores[:, 0].clamp(0.0, torch.finfo(scores.dtype).max).to(torch.promote_types(scores.dtype, torch.float32))
    seen = torch.arange(S.shape[-1], device=S.device) > 0
    return S.masked_fill(~(seen if mask is None else mask & seen), 0.0).tril(first - 1)


def less(
    scores: Float[Tensor, "B H Q K"], selected: Float[Tensor, "B Q K"], mask: Bool[Tensor, "B #Q K"] | None
) -> Float[Tensor, "B H Q K"]:
    """Return the softmax of all heads' scores less what was selected."""
    left = (scores.to(selected.dtype) - selected.unsqueeze(1)).to(scores.dtype)
    return masked_softmax(left, None if mask is None else mask.unsqueeze(1))


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `selective`."""
    register("selective", Selective)
