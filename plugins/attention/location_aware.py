"""Location-aware attention: it moves from its last weights."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, Register, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.shapes import BKD, BKV, BQD, Look, Mask


class LocationAware(Attention):
    """Additive attention that also sees its last weights (Chorowski et al. 2015, arXiv:1506.07503).

    f = F * previous, a convolution along the keys; 0 at the first query
    weights = softmax over the keys of wᵀ tanh(W query + V key + U f + b)
    context = weights · value

    Of the paper's variants this is the plain one: no window around the last place, no sharpening, no smoothing.

    Args:
        hidden_dim: the width of the layer; null takes the key's.
        channels: how many filters F has.
        kernel_size: how many keys a filter spans; odd (the paper: 201 frames of speech).

    Raises ValueError when a size is not positive or kernel_size is even; and when called with several queries, for
    where it looks depends on where it looked: hand it one query, and as `previous` the weights it returned last.
    """

    recurrent = True
    excused = {"permutation": "it convolves over the keys' positions, so that order is the point"}

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        hidden_dim: int | None = None,
        channels: int = 10,
        kernel_size: int = 15,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        width = key_dim if hidden_dim is None else hidden_dim
        if min(width, channels, kernel_size) < 1 or kernel_size % 2 == 0:
            raise ValueError(
                "hidden_dim, channels and kernel_size are at least 1, and kernel_size is odd, "
                f"not {width}, {channels} and {kernel_size}"
            )
        self.W = nn.Linear(query_dim, width)
        self.V = nn.Linear(key_dim, width, bias=False)
        self.U = nn.Linear(channels, width, bias=False)
        self.F = nn.Conv1d(1, channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.w = nn.Linear(width, 1, bias=False)

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
                f"location_aware takes one query at a time, not {query.shape[1]}: where it looks depends on where it "
                "looked; pass query[:, t : t + 1], and as previous= the weights of the last call"
            )
        return self.attend(self.V(key), value, causal_mask(mask, query, causal), query, need_weights, previous)

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Project the keys once."""
        key, value = hide_masked(None, key, value, mask, widths=self.widths)
        return partial(self.attend, self.V(key), value, mask)

    def attend(
        self,
        of_keys: Float[Tensor, "B K D"],
        value: BKV,
        mask: Mask,
        query: Float[Tensor, "B 1 Dq"],
        need_weights: bool = True,
        previous: Float[Tensor, "B 1 1 K"] | None = None,
    ) -> tuple[Float[Tensor, "B 1 Dv"], Float[Tensor, "B 1 1 K"] | None]:
        """Attend for one query, given V key."""
        layer = self.W(query) + of_keys
        if previous is not None:
            layer = layer + self.U(self.F(previous.squeeze(1)).mT)
        weights = masked_softmax(self.w(torch.tanh(layer)).mT, mask)
        return weights @ value, weights.unsqueeze(1) if need_weights else None

    def state_size(self, length: int) -> int:
        """Return the numbers of all keys and values, and of the last weights."""
        return length * (self.widths[1] + self.widths[2] + 1)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `location_aware`."""
    register("location_aware", LocationAware)
