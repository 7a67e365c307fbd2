"""What the Neural Turing Machine is compared with: an LSTM and a Transformer."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import MakeAttention


class PlainLSTM(nn.Module):
    """`torch.nn.LSTM`, and a linear layer."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, inputs: Float[Tensor, "B T I"]) -> Float[Tensor, "B T O"]:
        """Return the logits at every step."""
        logits: Tensor = self.out(self.lstm(inputs)[0])
        return logits


def lstm_of_size(parameters: int, inputs: int, outputs: int) -> PlainLSTM:
    """Return the LSTM whose number of parameters is nearest to this."""

    def count(hidden: int) -> int:
        return 4 * hidden * (hidden + inputs + 2) + outputs * (hidden + 1)

    around = max(1, math.isqrt(parameters // 4))
    hidden = min(range(1, around + 1), key=lambda width: abs(count(width) - parameters))
    return PlainLSTM(inputs, outputs, hidden)


class Block(nn.Module):
    """x = x + W attention(x' = norm(x)); x = x + feed-forward(norm(x))."""

    def __init__(self, make_attention: MakeAttention, width: int) -> None:
        super().__init__()
        self.attention = make_attention(width, width, width)
        self.out_proj = nn.Linear(self.attention.out_dim, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the block's output."""
        normed = self.norms[0](x)
        x = x + self.out_proj(self.attention(normed, normed, normed, causal=True, need_weights=False)[0])
        result: Tensor = x + self.feed_forward(self.norms[1](x))
        return result


class Transformer(nn.Module):
    """Blocks of causal attention over sinusoidal places (Vaswani et al. 2017, arXiv:1706.03762).

    Raises ValueError when the width is odd, there is no layer, or the attention takes one query at a time.
    """

    def __init__(self, make_attention: MakeAttention, inputs: int, outputs: int, width: int, layers: int) -> None:
        super().__init__()
        if width < 2 or width % 2 or layers < 1:
            raise ValueError(f"width is even and layers at least 1, not {width} and {layers}")
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(Block(make_attention, width) for _ in range(layers))
        if any(block.attention.recurrent for block in self.blocks if isinstance(block, Block)):
            raise ValueError(
                "task.machine=transformer asks all its queries at once, and this attention one after the other: "
                "choose another, such as attention=multihead scoring=scaled_dot"
            )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, inputs: Float[Tensor, "B T I"]) -> Float[Tensor, "B T O"]:
        """Return the logits at every step."""
        steps = inputs.shape[1]
        x = self.embed(inputs)
        x = x + sinusoids(steps, x.shape[-1]).to(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.out(self.norm(x))
        return logits


def sinusoids(steps: int, width: int) -> Float[Tensor, "T D"]:
    """Return sines and cosines of the place, of wavelengths from 2π to 20,000π."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(steps).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
