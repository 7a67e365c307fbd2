"""The addressing of the Neural Turing Machine: by content, then by place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Register, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.shapes import BKD, BKV, BQD, Mask

NOTHING = 1e-30  # a weight so small that adding it changes none that counts, and large enough to have a logarithm


class NTM(Attention):
    """Finds a key by content, or steps on from where it was (Graves, Wayne, Danihelka 2014, arXiv:1410.5401).

    k, β, g, s, γ = W query + b, as k = tanh, β = softplus, g = sigmoid, s = softmax, γ = 1 + softplus
    content = softmax over the keys of β score(k, key)                   eq. 5
    gated   = g content + (1 - g) w_prev                                 eq. 7
    shifted = Σ_j s(j) gated moved on by j keys, round the edge          eq. 8
    weights = shifted^γ / Σ shifted^γ                                    eq. 9
    context = weights · value

    w_prev is `previous`; at the first query all of it lies on the first key, for heads that start with equal weights
    on equal rows can never tell one row from another. Keys that are masked are no part of the ring that s moves round.
    With scoring=cosine, whose own strength multiplies β, and scoring.beta=1 this is the paper's measure.

    Args:
        query_dim: Dq, the width of a query: the controller's state.
        key_dim: Dk, the width of a key: of a row of the memory.
        score: makes the scoring function, of k and a key.
        max_shift: how many keys s can move on or back.
        beta_bias: what b gives β at the start; a large one looks sharply from the first.
        gate_bias: what b gives g at the start; a negative one goes by where it was, until it learns to look by content.
        shift_bias: what b gives the step to the next key at the start; a positive one walks on.
        stay_bias: what b gives no step at the start; a positive one stays where it is.
        gamma_bias: what b gives γ at the start; a large one keeps the weights on one key from the first.

    Raises ValueError when max_shift is negative; and when called with several queries, for where it looks depends on
    where it looked: hand it one query, and as `previous` the weights that it returned last.
    """

    recurrent = True
    excused = {"permutation": "it steps from one key to the next, so that order is the point"}

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        max_shift: int = 1,
        beta_bias: float = 0.0,
        gate_bias: float = 0.0,
        shift_bias: float = 0.0,
        stay_bias: float = 0.0,
        gamma_bias: float = 0.0,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        if max_shift < 0:
            raise ValueError(f"max_shift is at least 0, not {max_shift}")
        self.score = score(key_dim, key_dim)
        self.parts = (key_dim, 1, 1, 2 * max_shift + 1, 1)
        self.head = nn.Linear(query_dim, sum(self.parts))
        nn.init.xavier_uniform_(self.head.weight, gain=1.4)
        nn.init.normal_(self.head.bias, std=0.01)
        stay = key_dim + 2 + max_shift  # where b gives no shift, behind the shift by one key
        starts = (
            (key_dim, beta_bias),
            (key_dim + 1, gate_bias),
            (stay - min(1, max_shift), shift_bias),
            (stay, stay_bias),
            (-1, gamma_bias),
        )
        with torch.no_grad():
            for place, bias in starts:
                self.head.bias[place] += bias

    def forward(
        self,
        query: BQD,
        key: BKD,
        value: BKV,
        mask: Mask = None,
        *,
        causal: bool = False,
        need_weights: bool = True,
        previous: Float[Tensor, "B 1 Q K"] | None = None,
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend for one query, knowing the weights of the one before."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths, previous=previous)
        if query.shape[1] != 1:
            raise ValueError(
                f"ntm takes one query at a time, not {query.shape[1]}: where it looks depends on where it looked; "
                "pass query[:, t : t + 1], and as previous= the weights of the last call"
            )
        mask = causal_mask(mask, query, causal)
        k, beta, g, s, gamma = self.head(query).split(self.parts, dim=-1)
        content = masked_softmax(F.softplus(beta) * self.score(torch.tanh(k), key), mask)
        w_prev = first(key, mask) if previous is None else previous.squeeze(1)
        gated = torch.lerp(w_prev.to(content.dtype), content, torch.sigmoid(g).to(content.dtype))
        weights = sharpen(shift(gated, torch.softmax(s, dim=-1), mask), 1 + F.softplus(gamma), mask)
        return torch.bmm(weights, value), weights.unsqueeze(1) if need_weights else None

    def kernel(self, name: str) -> Mapping[str, Any] | None:
        """Offer `ntm`: weight and bias of k, β, g, s, γ = W query + b, and the score, all else being as above."""
        if name != "ntm" or type(self) is not NTM:
            return None
        return {"weight": self.head.weight, "bias": self.head.bias, "score": self.score}

    def state_size(self, length: int) -> int:
        """Return the numbers of all keys and values, and of the last weights."""
        return length * (self.widths[1] + self.widths[2] + 1)


def first(key: Float[Tensor, "B K Dk"], mask: Bool[Tensor, "B 1 K"] | None) -> Float[Tensor, "B 1 K"]:
    """Return the weights that lie on the first key there is."""
    allowed = key.new_ones(key.shape[0], 1, key.shape[1]) if mask is None else mask.to(key.dtype)
    return allowed * (allowed.cumsum(dim=-1) == 1)


def shift(
    gated: Float[Tensor, "B 1 K"], s: Float[Tensor, "B 1 S"], mask: Bool[Tensor, "B 1 K"] | None = None
) -> Float[Tensor, "B 1 K"]:
    """Move weights round the ring of the allowed keys: shifted(i) = Σ_j s(j) gated(i - j), j from S // 2 down."""
    keys, most = gated.shape[-1], s.shape[-1] // 2
    if mask is None and most <= keys:
        ring = torch.cat([gated[..., keys - most :], gated, gated[..., :most]], dim=-1)
        return torch.bmm(s, ring.squeeze(1).unfold(-1, keys, 1))
    allowed = torch.ones_like(gated, dtype=torch.bool) if mask is None else mask.expand_as(gated)
    rank = allowed.cumsum(dim=-1) - 1
    back = torch.arange(most, -most - 1, -1, device=gated.device).unsqueeze(-1)
    behind = (rank - back) % allowed.sum(dim=-1, keepdim=True).clamp(min=1)
    order = allowed.byte().argsort(dim=-1, descending=True, stable=True)  # of the keys, the allowed ones first
    source = order.expand_as(behind).gather(-1, behind)
    return (s @ gated.expand(-1, len(back), -1).gather(-1, source)).masked_fill(~allowed, 0.0)


def sharpen(
    shifted: Float[Tensor, "B 1 K"], gamma: Float[Tensor, "B 1 1"], mask: Bool[Tensor, "B 1 K"] | None = None
) -> Float[Tensor, "B 1 K"]:
    """Return shifted^γ / Σ shifted^γ, as the softmax of γ log shifted: no γ brings the sum to 0."""
    wide = shifted if shifted.dtype == torch.float64 else shifted.float()  # half precision does not know NOTHING
    return masked_softmax(gamma * (wide + NOTHING).log(), mask).to(shifted.dtype)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `ntm`."""
    register("ntm", NTM)
