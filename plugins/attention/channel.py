"""Channel attention: over features, not over keys."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, Register, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.prefix import widen
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, State


class Channel(Attention):
    """Squeeze and excitation: which features matter (Hu et al. 2017, arXiv:1709.01507; Chen et al. 2016, 1611.05594).

    z = mean of the values that the mask allows                (squeeze)
    gate = sigmoid(W2 relu(W1 z + U query + b1) + b2), [Dv]    (excitation)
    context = gate ∘ z

    The query's part is SCA-CNN's (Chen et al.); squeeze and excitation has none. All keys count alike, so that there
    are no weights over keys to give.

    Args:
        key_dim: Dk, not used.
        value_dim: Dv, the width of a value and of the context: the channels.
        reduction: how many times narrower than Dv the layer between is (the paper: 16, for 256 channels and more).

    Raises ValueError when reduction is not positive; and when called with need_weights=True.
    """

    has_weights = False

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, *, reduction: int = 4) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        if reduction < 1:
            raise ValueError(f"reduction is at least 1, not {reduction}")
        width = max(1, value_dim // reduction)
        self.W1 = nn.Linear(value_dim, width)
        self.U = nn.Linear(query_dim, width, bias=False)
        self.W2 = nn.Linear(width, value_dim)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Average what the mask allows, and weigh its features."""
        if need_weights:
            raise ValueError(
                "channel attends over features and has no weights over keys to return: call it with need_weights=False"
            )
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        mask = causal_mask(mask, query, causal)
        alike = masked_softmax(
            value.new_zeros(value.shape[0], 1 if mask is None else mask.shape[1], key.shape[1]), mask
        )
        z = alike @ value
        return self.gate(query, z), None

    def gate(self, query: Float[Tensor, "B Q Dq"], z: Float[Tensor, "B #Q Dv"]) -> Float[Tensor, "B Q Dv"]:
        """Weigh the features of the mean."""
        gate = torch.sigmoid(self.W2(torch.relu(self.W1(z) + self.U(query))))
        return gate * z

    def state_size(self, length: int) -> int:
        """Return Dv + 1, for the sum of the values and their number."""
        return self.out_dim + 1

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Gate the mean so far."""
        wide = widen(value)  # bfloat16 counts to 256
        one = wide.new_ones(wide.shape[0], 1, 1)
        total, count = (wide, one) if state is None else (state[0] + wide, state[1] + one)
        return self.gate(query, (total / count).to(value.dtype)), (total, count)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `channel`."""
    register("channel", Channel)
