"""The Transformer that reads one sequence and writes another, with three kinds of slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnbench.hosts.attend import Unrolled, attend, prepare_keys
from attnbench.hosts.encoder_decoder import Decoded
from attnbench.hosts.transformer import Block, sinusoids
from attnbench.interfaces import MakeAttention
from attnbench.shapes import State


class Written(NamedTuple):
    """What a block of the decoder has to know of the tokens before.

    Attributes:
        tokens: of its self-attention, what `Attention.step` holds; None before the first token.
        asked: of its attention to what was read.
    """

    tokens: State | None = None
    asked: Unrolled = Unrolled()


class CrossBlock(nn.Module):
    """A block of the decoder: causal self-attention, attention to what was read, feed-forward; the norm comes first."""

    def __init__(self, make_attention: MakeAttention, width: int, mlp: int) -> None:
        super().__init__()
        self.block = Block(make_attention, width, 0, 0, causal=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = make_attention(width, width, width)
        self.out_proj = nn.Linear(self.attention.out_dim, width)
        self.feed = nn.Sequential(nn.Linear(width, mlp * width), nn.GELU(), nn.Linear(mlp * width, width))

    def forward(
        self, x: Float[Tensor, "B T D"], states: Float[Tensor, "B S D"], mask: Bool[Tensor, "B 1 S"]
    ) -> Float[Tensor, "B T D"]:
        """Return the block's output."""
        x, _ = self.block(x, None, False, None)
        context, _ = attend(self.attention, self.norms[0](x), states, states, mask, need_weights=False)
        x = x + self.out_proj(context)
        output: Tensor = x + self.feed(self.norms[1](x))
        return output

    def step(
        self,
        x: Float[Tensor, "B 1 D"],
        before: Written,
        look: Callable[..., tuple[Tensor, Unrolled]],
        *,
        need_weights: bool,
    ) -> tuple[Float[Tensor, "B 1 D"], Written]:
        """Return `forward`'s last row, and what it takes to go on; `look` knows what was read (`prepare_keys`)."""
        h = self.block.norms[0](x)
        context, tokens = self.block.attention.step(h, h, h, before.tokens)
        x = x + self.block.out_proj(context)
        context, asked = look(self.norms[0](x), before.asked, need_weights=need_weights)
        x = x + self.out_proj(context)
        return x + self.feed(self.norms[1](x)), Written(tokens, asked)


class EncoderDecoderTransformer(nn.Module):
    """Blocks that read, blocks that write, and attention between them (Vaswani et al. 2017, arXiv:1706.03762).

        source [B, S]                              start, target up to t [B, T]
          │ embed, + sines and cosines               │ embed, + sines and cosines
          ▼                                          ▼
        `layers` x (self, feed-forward)            `layers` x (causal self, attention to the states, feed-forward)
          │ norm                                     │        ▲
          └── states [B, S, D] ──────────────────────│────────┘
                                                     ▼ norm
                                                   logits [B, T, V], by the embedding of the target's tokens

    Differs from the paper: the norm stands before each part and not behind, there is no dropout, source and target have
    embeddings of their own, and queries, keys and values are projected by the mechanism in the slot or not at all.

    Args:
        make_attention: fills all slots, 3 · layers.
        vocabulary: V, the tokens that can be written.
        source_vocabulary: the tokens that can be read.
        width: D, of a token's embedding and of all blocks; even.
        layers: how many blocks read, and how many write.
        mlp: a feed-forward's hidden layer is this many times as wide as the model.
        sparse: whether embeddings have sparse gradients; a loss then reads `features` and not logits.
        pad: the token behind the end of a source or target; it is not read.
        start: the token that a target begins after.
        end: the token after which nothing is written any more.

    Raises ValueError when a size is not positive, or the width is odd.
    """

    def __init__(
        self,
        make_attention: MakeAttention,
        vocabulary: int,
        *,
        source_vocabulary: int,
        width: int,
        layers: int = 2,
        mlp: int = 4,
        sparse: bool = False,
        pad: int = 0,
        start: int = 1,
        end: int = 2,
    ) -> None:
        super().__init__()
        if min(width, layers, mlp) < 1 or width % 2:
            raise ValueError(f"width={width}, layers={layers} and mlp={mlp} are at least 1, and the width is even")
        self.pad, self.start, self.end = pad, start, end
        self.embed = nn.Embedding(vocabulary, width, padding_idx=pad, sparse=sparse)
        self.source_embed = nn.Embedding(source_vocabulary, width, padding_idx=pad, sparse=sparse)
        self.encoder = nn.ModuleList(Block(make_attention, width, mlp, 0, causal=False) for _ in range(layers))
        self.decoder = nn.ModuleList(CrossBlock(make_attention, width, mlp) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.out = nn.Linear(width, vocabulary)
        for embed in (self.embed, self.source_embed):
            nn.init.normal_(embed.weight, std=width**-0.5)
            nn.init.zeros_(embed.weight[pad])
        self.out.weight = self.embed.weight

    def encode(self, source: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B 1 S"]]:
        """Read a source: its states, and where something stands."""
        mask = (source != self.pad).unsqueeze(1)
        x = self._placed(self.source_embed(source))
        for block in self.encoder:
            x, _ = block(x, mask, False, None)
        return self.norms[0](x), mask

    def forward(self, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Teacher forcing: return the logits of each target token, knowing those before it."""
        logits: Tensor = self.out(self.features(source, target))
        return logits

    def features(self, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return what `out` makes the logits of, for a loss that needs not all of them."""
        start = torch.full_like(target[:, :1], self.start)
        (states, mask), x = self.encode(source), self._placed(self.embed(torch.cat([start, target[:, :-1]], dim=1)))
        for block in self.decoder:
            x = block(x, states, mask)
        features: Tensor = self.norms[1](x)
        return features

    def greedy(self, source: Int[Tensor, "B S"], length: int, *, need_weights: bool = False) -> Decoded:
        """Write one token after the other, the likeliest each time, until each target has ended or is `length` long.

        The weights are those of the last block over what was read.
        """
        states, mask = self.encode(source)
        blocks = [block for block in self.decoder if isinstance(block, CrossBlock)]
        looks = [prepare_keys(block.attention, states, states, mask) for block in blocks]
        written = [Written() for _ in blocks]
        tokens: list[Tensor] = []
        weights: list[Tensor] = []
        token = torch.full((len(source), 1), self.start, device=source.device)
        ended = torch.zeros_like(token, dtype=torch.bool)
        while len(tokens) < length and not bool(ended.all()):
            x = self._placed(self.embed(token), len(tokens))
            for i, (block, look) in enumerate(zip(blocks, looks, strict=True)):
                x, written[i] = block.step(x, written[i], look, need_weights=need_weights and block is blocks[-1])
            token = self.out(self.norms[1](x)).argmax(dim=-1).masked_fill(ended, self.pad)
            ended = ended | (token == self.end)
            tokens.append(token)
            if need_weights and (of_last := written[-1].asked.weights) is not None:
                weights.append(of_last)
        return Decoded(torch.cat(tokens, dim=1), torch.cat(weights, dim=2) if weights else None)

    def _placed(self, embedded: Float[Tensor, "B T D"], first: int = 0) -> Float[Tensor, "B T D"]:
        """Scale embeddings to about 1, as the paper does, and add the places', of which `first` is the first."""
        _, steps, width = embedded.shape
        places = sinusoids(first, steps, width, embedded.device).to(embedded.dtype)
        scaled: Tensor = embedded * width**0.5 + places
        return scaled
