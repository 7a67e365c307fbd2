"""The Transformer with a slot: blocks of norm, attention, feed-forward."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnbench.hosts.attend import attend
from attnbench.interfaces import MakeAttention

Positions = Literal["none", "learned", "sinusoidal"]


class ShortConvolution(nn.Module):
    """A causal depthwise convolution over the last k inputs, beside them: y_t = x_t + b + Σ_j w_j ⊙ x_{t-j}, j < k."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        bound = kernel_size**-0.5  # as torch.nn.Conv1d begins
        self.weight = nn.Parameter(torch.empty(kernel_size, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Convolve; what lies before the first input is zero."""
        steps, taps = x.shape[1], len(self.weight)
        padded = nn.functional.pad(x, (0, 0, taps - 1, 0))
        y = torch.addcmul(self.bias, x, 1 + self.weight[0])
        for j in range(1, taps):
            y = torch.addcmul(y, padded[:, taps - 1 - j : taps - 1 - j + steps], self.weight[j])
        return y


class Block(nn.Module):
    """A block of a `Transformer`, see there."""

    def __init__(self, make_attention: MakeAttention, width: int, mlp: int, conv: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.attention = make_attention(width, width, width)
        self.out_proj = nn.Linear(self.attention.out_dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 if mlp else 1))
        self.feed = (
            nn.Sequential(nn.Linear(width, mlp * width), nn.GELU(), nn.Linear(mlp * width, width)) if mlp else None
        )
        self.conv = ShortConvolution(width, conv) if conv else None

    def forward(
        self, x: Float[Tensor, "B T D"], mask: Tensor | None, need_weights: bool, rows: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the block's output, [B, T, D], or [N, D] of the N rows asked for; and the weights if needed."""
        h = self.norms[0](x)
        if self.conv is not None:
            h = self.conv(h)
        context, weights = attend(self.attention, h, h, h, mask, causal=self.causal, need_weights=need_weights)
        if rows is not None:  # what follows concerns each place by itself
            x, context = x.flatten(0, 1).index_select(0, rows), context.flatten(0, 1).index_select(0, rows)
        x = x + self.out_proj(context)
        return (x if self.feed is None else x + self.feed(self.norms[1](x))), weights


class Transformer(nn.Module):
    """Blocks of norm, attention slot, feed-forward (Vaswani et al. 2017, arXiv:1706.03762; here the norm comes first).

        tokens [B, T]                     (or whatever `embed` takes)
          │ embed, + positions
          ▼
        x [B, T, D] ──┬── norm ── conv ── h [B, T, D] ── attention(h, h, h) ── out_proj ──┐
                      └─────────────────────────────────────────────────────────────────── + ──┐
          ┌──────────────────────────────────────────────────────────────────────────────────┘
          ├── norm ── linear ── GELU ── linear ──┐
          └───────────────────────────────────── + ── x [B, T, D], into the next of `layers` blocks
          │ places that are asked for
          ▼
        norm ── out ── logits [N, V]

    Differs from the paper: the norm stands before each part and not behind, there is no dropout, and queries, keys and
    values are projected by the mechanism in the slot or not at all.

    Args:
        make_attention: fills the slot of each block.
        embed: turns the inputs into [B, T, width]: `nn.Embedding(vocabulary, width)`, `nn.Linear(inputs, width)`.
        outputs: V, how many logits a place has.
        width: D.
        layers: how many blocks.
        mlp: the feed-forward's hidden layer is this many times as wide as the model; 0 for none.
        conv: how many inputs the causal convolution before the slot sees, the present one included; 0 for none.
        positions: what tells places apart: none (the mechanism, or the convolution), a learned vector for each place,
            or sines and cosines.
        max_length: how many places have a learned vector.
        position_scale: how large the vectors of places are at the start; of sinusoidal ones, always.
        causal: place i attends to places up to i. No [T, T] mask is built.

    Raises ValueError when a size is too small, sinusoidal positions meet an odd width, or learned ones no max_length.
    """

    def __init__(
        self,
        make_attention: MakeAttention,
        embed: nn.Module,
        outputs: int,
        *,
        width: int,
        layers: int = 1,
        mlp: int = 4,
        conv: int = 0,
        positions: Positions = "none",
        max_length: int | None = None,
        position_scale: float = 1.0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if width < 1 or layers < 1 or mlp < 0 or conv < 0:
            raise ValueError(f"width={width} and layers={layers} are at least 1, mlp={mlp} and conv={conv} at least 0")
        if positions == "sinusoidal" and width % 2:
            raise ValueError(f"positions=sinusoidal needs an even width, not {width}; try width={width + 1}")
        if conv and not causal:
            raise ValueError(f"conv={conv} is causal, and this model is not; conv=0")
        self.embed, self.positions, self.position_scale = embed, positions, position_scale
        self.blocks = nn.ModuleList(Block(make_attention, width, mlp, conv, causal) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, outputs)
        if positions == "learned":
            if max_length is None:
                raise ValueError("positions=learned needs max_length, the number of places")
            self.places = nn.Parameter(position_scale * torch.randn(max_length, width))

    def forward(
        self, inputs: Tensor, where: Bool[Tensor, "B T"] | None = None, *, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "N V"] | Float[Tensor, "B T V"]:
        """Return the logits of the N places where `where` is True, row by row; of all, [B, T, V], where it is None.

        `mask` is True at inputs that may be attended to; padding behind needs none in a causal model.
        """
        return self._run(inputs, where, mask, need_weights=False)[0]

    def with_weights(
        self, inputs: Tensor, where: Bool[Tensor, "B T"] | None = None, *, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "N V"] | Float[Tensor, "B T V"], list[Float[Tensor, "B H T T"]]]:
        """Return the logits as `forward` does, and the weights of each layer; an empty list if there are none."""
        logits, weights = self._run(inputs, where, mask, need_weights=self.has_weights)
        return logits, [layer for layer in weights if layer is not None]

    @property
    def has_weights(self) -> bool:
        """Whether the mechanism in the slots has weights to return."""
        return all(block.attention.has_weights for block in self.blocks if isinstance(block, Block))

    def _run(
        self, inputs: Tensor, where: Tensor | None, mask: Tensor | None, *, need_weights: bool
    ) -> tuple[Tensor, list[Tensor | None]]:
        x = self._embedded(inputs)
        mask = None if mask is None else mask.unsqueeze(1)
        rows = None if where is None else where.flatten().nonzero().squeeze(1)
        weights: list[Tensor | None] = []
        for i, block in enumerate(self.blocks, start=1):
            x, of_layer = block(x, mask, need_weights, rows if i == len(self.blocks) else None)
            weights.append(of_layer)
        return self.out(self.norm(x)), weights

    def _embedded(self, inputs: Tensor) -> Float[Tensor, "B T D"]:
        x: Tensor = self.embed(inputs)
        steps = x.shape[1]
        if self.positions == "learned":
            if steps > len(self.places):
                raise ValueError(f"positions=learned knows {len(self.places)} places, and there are {steps} inputs")
            return x + self.places[:steps]
        if self.positions == "sinusoidal":
            places = sinusoids(0, steps, x.shape[2], x.device)
            return torch.add(x, places.to(x.dtype), alpha=self.position_scale)
        return x


def sinusoids(first: int, steps: int, width: int, device: torch.device) -> Float[Tensor, "T D"]:
    """Return sines and cosines of places from `first` on, of wavelengths from 2π to 20,000π."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angles = torch.arange(first, first + steps, device=device).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
