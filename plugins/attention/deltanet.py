"""DeltaNet: a state that is corrected, key by key, towards what it should recall."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import PrefixAttention, Register, hookimpl
from attnbench.chunkwise import delta_rule
from attnbench.heads import split_heads
from attnbench.prefix import join_heads, normalise_heads, share_width, unit, widen
from attnbench.shapes import BKD, BKV, BQD, Pad, State


class DeltaNet(PrefixAttention):
    """DeltaNet (Schlag, Irie, Schmidhuber 2021, arXiv:2102.11174; in chunks, Yang et al. 2024, arXiv:2406.06484).

    S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ = (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ
    head_t = norm(S_tᵀ q_t / sqrt(D))
    context = Wo [head_1; ...; head_H]

    q = silu(Wq query) and k = silu(Wk key) are divided by their lengths, v = Wv value, β_t = sigmoid(Wβ key): H heads
    of width D = Dq / H, rounded down. Not causal, every query reads the last state. Weights are a mixing matrix,
    divided by the norm; later keys take back what earlier ones wrote. The state is H D² numbers, whatever the length.

    `negative` doubles β, so that I - β k kᵀ turns signs: a state may then count parity (Grazzini et al. 2024,
    arXiv:2411.12537). `steps` corrects n times for each key, by n keys and values of its own (DeltaProduct, Siems
    et al. 2025, arXiv:2502.10297); there are weights for each head and step, H x n.

    As fla's layer: SiLU, RMSNorm for each head, how linear layers begin. Left out is the short convolution of q, k and
    v, which is the host's, and with it the SiLU of v that follows it: so context = weights · value.

    Args:
        query_dim: Dq, the width of a query, and of the context.
        num_heads: H.
        negative: β is between 0 and 2, not 0 and 1.
        steps: n, corrections for each key.

    Raises ValueError when there are no heads, more heads than width, or no steps.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        *,
        num_heads: int = 4,
        negative: bool = False,
        steps: int = 1,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"deltanet needs steps of at least 1, not {steps}")
        self.widths, self.out_dim = (query_dim, key_dim, value_dim), query_dim
        self.num_heads, self.negative, self.steps = num_heads, negative, steps
        self.head_dim = share_width("deltanet", query_dim, num_heads)
        inner = num_heads * self.head_dim
        self.q_proj = nn.Linear(query_dim, inner, bias=False)
        self.k_proj = nn.Linear(key_dim, steps * inner, bias=False)
        self.v_proj = nn.Linear(value_dim, steps * inner, bias=False)
        self.b_proj = nn.Linear(key_dim, steps * num_heads, bias=False)
        self.norm = nn.Parameter(torch.ones(self.head_dim))
        self.out_proj = nn.Linear(inner, query_dim, bias=False)

    def mix(
        self, query: BQD, key: BKD, value: BKV, *, causal: bool, padding: Pad, state: State | None, need_weights: bool
    ) -> tuple[Float[Tensor, "B Q Dq"], Float[Tensor, "B H Q K"] | None, State]:
        """Correct the state for each key, `steps` times, and read it."""
        n = self.steps
        q = unit(split_heads(F.silu(self.q_proj(query)), self.num_heads)) * self.head_dim**-0.5
        k, v, b = (
            split_heads(self._in_steps(x), self.num_heads)
            for x in (F.silu(self.k_proj(key)), self.v_proj(value), self.b_proj(key))
        )
        beta = widen(b.squeeze(-1)).sigmoid() * (2 if self.negative else 1)
        if n > 1 and causal:  # a query reads the state after the last of its steps
            q = F.pad(q.unsqueeze(3), (0, 0, n - 1, 0)).flatten(2, 3)
        if n > 1 and padding is not None:
            padding = padding.repeat_interleave(n, dim=1)
        first = None if state is None else state[0]
        mixed = delta_rule(
            q, unit(k), widen(v), beta, causal=causal, padding=padding, state=first, need_weights=need_weights
        )
        if n > 1 and causal:
            rows = None if mixed.weights is None else mixed.weights[:, :, n - 1 :: n]
            mixed = mixed._replace(context=mixed.context[:, :, n - 1 :: n], weights=rows)
        context, weights, after = normalise_heads(mixed)
        if n > 1 and weights is not None:  # a map for each step
            weights = weights.reshape(*weights.shape[:3], key.shape[1], n).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return self.out_proj(join_heads(context * self.norm, value.dtype)), weights, (after,)

    def _in_steps(self, x: Float[Tensor, "B K nHD"]) -> Float[Tensor, "B nK HD"]:
        return x.view(x.shape[0], x.shape[1] * self.steps, x.shape[2] // self.steps)

    def state_size(self, length: int) -> int:
        """Return H D²."""
        return self.num_heads * self.head_dim**2


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `deltanet`."""
    register("deltanet", DeltaNet)
