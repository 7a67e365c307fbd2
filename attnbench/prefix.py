"""What mechanisms share whose state runs along the keys: calling them whole or by the token, heads, their norm."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import repeat

import torch
from jaxtyping import Float
from torch import Tensor

from attnbench.chunkwise import Mixed
from attnbench.heads import merge_heads
from attnbench.interfaces import Attention
from attnbench.masking import hide_masked, prefix_mask
from attnbench.shapes import BKD, BKV, BQD, Context, Mask, Pad, State

#: Numbers of an input that `by_examples` passes on at once. What takes more than 32 MB, and a mechanism may make arrays
#: several times as wide as its inputs, glibc gets from the system at each use, which costs more than to fill it.
AT_ONCE = 1 << 20


class PrefixAttention(Attention):
    """Attention whose state runs along the keys: a subclass sets `widths` and `out_dim`, and says how to `mix`.

    `forward` mixes all keys at once, `step` one token, from the state that the last one left. Under causality query t
    reads the state after key t, otherwise every query reads the last state. Padding is passed over.
    """

    masks = "prefix"
    signed = True
    excused = {"permutation": "its state runs along the keys, in their order"}

    widths: tuple[int, int, int]

    @abstractmethod
    def mix(
        self, query: BQD, key: BKD, value: BKV, *, causal: bool, padding: Pad, state: State | None, need_weights: bool
    ) -> tuple[Float[Tensor, "B Q Dout"], Float[Tensor, "B H Q K"] | None, State]:
        """Return the context, the weights where asked for, and the state after the last key.

        Keys and values are 0 where no query may attend. Under causality query t reads the state after key t; `state` is
        what an earlier call returned for the keys before these, None where there are none.
        """

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dout"], Float[Tensor, "B H Q K"] | None]:
        """Attend in linear time, and in quadratic time for the weights."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        padding, causal = prefix_mask(mask, query, key, causal)

        def mix(q: Tensor, k: Tensor, v: Tensor, padding: Pad) -> tuple[Tensor, Tensor | None, State]:
            return self.mix(q, k, v, causal=causal, padding=padding, state=None, need_weights=need_weights)

        if not need_weights:
            return by_examples(lambda *part: mix(*part)[0], query, key, value, padding), None
        context, weights, _ = mix(query, key, value, padding)
        if weights is None or weights.dtype == value.dtype:
            return context, weights
        most = min(torch.finfo(x.dtype).max for x in (weights, value))  # float16's is soon exceeded
        return context, weights.clamp(-most, most).to(value.dtype)

    def step(self, query: BQD, key: BKD, value: BKV, state: State | None = None) -> tuple[Context, State]:
        """Decode one token from the running state, in constant time."""
        context, _, state = self.mix(query, key, value, causal=True, padding=None, state=state, need_weights=False)
        return context, state


def by_examples(attend: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Return attend(*inputs), all [B, ...], of a few examples at a time where they are long.

    All at once on other devices than a processor, and where it is traced.
    """
    shown = [x for x in inputs if x is not None]
    if shown[0].is_cpu and not torch.compiler.is_compiling():
        few = max(1, AT_ONCE // max(1, *(x[:1].numel() for x in shown)))
        if few < len(shown[0]):
            parts = zip(*(repeat(None) if x is None else torch.split(x, few) for x in inputs))  # noqa: B905
            return torch.cat([attend(*part) for part in parts])
    return attend(*inputs)


def share_width(name: str, width: float, num_heads: int) -> int:
    """Return the width of each of `num_heads` heads that share `width`, rounded down.

    Raises:
        ValueError: there are no heads, no width to share, or more heads than width.
    """
    if num_heads < 1:
        raise ValueError(f"{name} needs num_heads of at least 1, not {num_heads}")
    if width < 1:
        raise ValueError(f"{name} needs heads of some width, not {width:g} for all together")
    if width < num_heads:
        raise ValueError(f"{name} needs num_heads of at most {int(width)}, the width that they share, not {num_heads}")
    return int(width) // num_heads


def join_heads(x: Float[Tensor, "B H T D"], dtype: torch.dtype) -> Float[Tensor, "B T HD"]:
    """Put heads side by side, and undo `widen`."""
    return merge_heads(x).to(dtype)


def widen(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Return x in float32 or wider: sums over keys, and norms of them, soon exceed what half precision holds."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit(x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """Return x / |x|, in float32 or wider, and 0 for 0: sqrt(|x|² + 1e-6) stands for |x|, as in fla."""
    wide = widen(x)
    return wide * (wide.square().sum(dim=-1, keepdim=True) + 1e-6).rsqrt()


def normalise_heads(mixed: Mixed, eps: float = 1e-5) -> Mixed:
    """Divide each head's context by its root mean square (RMSNorm without weight), and its row of weights alike.

    So context = weights · value holds after the norm as it did before.
    """
    scale = (mixed.context.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    return Mixed(mixed.context * scale, None if mixed.weights is None else mixed.weights * scale, mixed.state)
