"""Linear attention: cost linear in length."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnbench import Attention, Register, causal_mask, full_precision, hide_masked, hookimpl


class LinearAttention(Attention):
    """Attention as a product of feature maps (Katharopoulos et al. 2020, arXiv:2006.16236).

    φ(x) = elu(x) + 1
    weights = φ(query)·φ(key) / sum over the keys of φ(query)·φ(key)
    context = φ(query) · (sum over the keys of φ(key) valueᵀ) / φ(query)·(sum over the keys of φ(key))

    The sums over the keys are the same for all queries, so that no array of Q x K is made. Asked for weights, or
    given a mask that differs between queries (a causal one, say), it computes the Q x K weights, to the same context.

    Raises ValueError when query and key differ in width.
    """

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.widths = query_dim, key_dim, value_dim
        if query_dim != key_dim:
            raise ValueError(
                f"linear_attention needs query and key of one width, not {query_dim} and {key_dim}; "
                "attention=multihead takes any"
            )
        self.out_dim = value_dim

    def forward(
        self,
        query: Float[Tensor, "B Q Dq"],
        key: Float[Tensor, "B K Dk"],
        value: Float[Tensor, "B K Dv"],
        mask: Bool[Tensor, "B #Q K"] | None = None,
        *,
        causal: bool = False,
        need_weights: bool = True,
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend, in linear time when no weights are needed and one mask serves all queries."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        mask = causal_mask(mask, query, causal)
        dtype, wide = value.dtype, torch.promote_types(value.dtype, torch.float32)
        with full_precision(value):  # float16 ends at 65,504, which the sums soon exceed
            q, k, value = positive(query.to(wide)), positive(key.to(wide)), value.to(wide)
            if not need_weights and (mask is None or mask.shape[1] == 1):
                if mask is not None:
                    k = k.masked_fill(~mask.mT, 0.0)
                total = q @ k.sum(dim=1).unsqueeze(-1)
                return (q @ (k.mT @ value) / total.masked_fill(total == 0, 1.0)).to(dtype), None
            products = q @ k.mT
            if mask is not None:
                products = products.masked_fill(~mask, 0.0)
            total = products.sum(dim=-1, keepdim=True)
            weights = products / total.masked_fill(total == 0, 1.0)
            return (weights @ value).to(dtype), weights.to(dtype).unsqueeze(1) if need_weights else None


def positive(x: Float[Tensor, "*batch N D"]) -> Float[Tensor, "*batch N D"]:
    """Return φ(x) = elu(x) + 1, as e^x below 0 and x + 1 above: elu(x) + 1 rounds to 0 already at x = -17."""
    return torch.exp(x.clamp(max=0.0)) + x.clamp(min=0.0)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `linear_attention`."""
    register("linear_attention", LinearAttention)
