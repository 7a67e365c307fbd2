"""The host: a small convolutional network, and a writer that looks at the grid of its features."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from attnbench import MakeAttention
from attnbench.hosts import Cell, Decoded, EncoderDecoder

FILTERS = 64  # of each convolution but the first, which has half of them, and the last


class Captioner(nn.Module):
    """A grid of features, and a decoder with the slot ("Show, Attend and Tell": Xu et al. 2015, arXiv:1502.03044).

        image [B, C, S, S]
          │ convolutions with normalisation, each of which halves it, until it is G x G; one more
          ▼
        features [B, G·G, width], each place with an embedding of its own: keys and values
          │                       └────────────▶ attention slot ◀── queries ──┐
          └── mean ──▶ first state of the decoder ──▶ cell ───────────────────┴──▶ words

    Differs from the paper: the network is trained with the rest, and not on ImageNet before; the first state is a
    layer of the mean, not two layers; the decoder is `EncoderDecoder`'s.

    Args:
        make_attention: fills the slot.
        vocabulary: how many words there are.
        channels: C, of the image.
        halvings: how often the image is halved.
        grid: G.
        width: of a feature.
        dropout: share of the filters' outputs that are left out before the last layer.
        embed_dim: the width of a word's embedding.
        hidden_dim: half of the decoder's width.
        cell: gru or lstm.
        pad: behind the end of a caption.
        start: before a caption.
        end: behind a caption.
    """

    def __init__(
        self,
        make_attention: MakeAttention,
        vocabulary: int,
        *,
        channels: int,
        halvings: int,
        grid: int,
        width: int,
        dropout: float,
        embed_dim: int,
        hidden_dim: int,
        cell: Cell,
        pad: int,
        start: int,
        end: int,
    ) -> None:
        super().__init__()
        widths = [channels, FILTERS // 2, *[FILTERS] * (halvings - 1)]
        layers = [_layer(*pair, kernel=4, stride=2) for pair in pairwise(widths)]
        self.features = nn.Sequential(*layers, nn.Dropout2d(dropout), _layer(widths[-1], width, kernel=3, stride=1))
        self.place = nn.Parameter(torch.randn(grid**2, width) / width**0.5)
        self.writer = EncoderDecoder(
            make_attention, vocabulary, embed_dim=embed_dim, hidden_dim=hidden_dim, cell=cell, states_dim=width,
            pad=pad, start=start, end=end,
        )  # fmt: skip

    def see(self, image: UInt8[Tensor, "B C S S"]) -> Float[Tensor, "B K width"]:
        """Return the features, row by row."""
        features: Tensor = self.features(image.to(self.place.dtype) / 255)
        return features.flatten(2).transpose(1, 2) + self.place

    def forward(self, image: UInt8[Tensor, "B C S S"], caption: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits of each word, knowing those before it."""
        logits: Tensor = self.writer(self.see(image), caption)
        return logits

    def greedy(self, image: UInt8[Tensor, "B C S S"], length: int, *, need_weights: bool = False) -> Decoded:
        """Write a caption of at most `length` words, the likeliest word each time."""
        return self.writer.greedy(self.see(image), length, need_weights=need_weights)


def _layer(before: int, after: int, *, kernel: int, stride: int) -> nn.Sequential:
    """Convolve, normalise, rectify. A kernel of 4 with stride 2 keeps feature i over its own patch of the image."""
    convolution = nn.Conv2d(before, after, kernel, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())
