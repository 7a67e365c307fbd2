"""Spatial, then channel-wise attention: where to look, and which features of what is there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, MakeScore, Register, attend, hide_masked, hookimpl
from attnbench.shapes import BKD, BKV, BQD, Mask


class SpatialChannel(Attention):
    """Attention over places, then over the features of what was seen (SCA-CNN: Chen et al. 2016, arXiv:1611.05594).

    α = softmax over the keys of score(query, key)                              (spatial)
    z = α · value
    b = tanh((w_c ⊗ z + b_c) ⊕ W_hc query), [Dv, hidden_dim]                    (channel-wise)
    β = softmax over the Dv features of w_i · b
    context = Dv β ∘ z

    This is the paper's S-C. Its C-S weighs the features first, of keys and values alike, which here need not be the
    same; the factor Dv is added, so that equal weights leave z as it is. The weights returned are α.

    Args:
        hidden_dim: the width of the layer that weighs features: the same for each of them.

    Raises ValueError when hidden_dim is not positive.
    """

    excused = {"mixing": "the features of weights · value are weighed before they are the context"}

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: MakeScore, *, hidden_dim: int = 16) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim is at least 1, not {hidden_dim}")
        self.score = score(query_dim, key_dim)
        self.positional = self.score.positional
        self.w_c = nn.Linear(1, hidden_dim)  # with b_c
        self.W_hc = nn.Linear(query_dim, hidden_dim, bias=False)
        self.w_i = nn.Linear(hidden_dim, 1, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Look at the places, and weigh the features of what is there."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        z, alpha = attend(self.score, query, key, value, mask, causal=causal, need_weights=need_weights)
        return self.weigh(query, z), None if alpha is None else alpha.unsqueeze(1)

    def weigh(self, query: Float[Tensor, "B Q Dq"], z: Float[Tensor, "B Q Dv"]) -> Float[Tensor, "B Q Dv"]:
        """Weigh each feature by itself and the query."""
        b = torch.tanh(self.w_c(z.unsqueeze(-1)) + self.W_hc(query).unsqueeze(-2))
        beta = self.w_i(b).squeeze(-1).softmax(dim=-1)
        context: Tensor = z.shape[-1] * beta * z
        return context


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `spatial_channel`."""
    register("spatial_channel", SpatialChannel)
