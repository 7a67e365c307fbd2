"""The recurrent encoder-decoder with a slot: what is read, what is written, and attention between them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnbench.hosts.attend import Unrolled, attend, prepare_keys
from attnbench.interfaces import MakeAttention

Cell = Literal["gru", "lstm"]
CELLS: dict[Cell, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}

Hidden = Tensor | tuple[Tensor, Tensor]  # [1, B, W]; of an LSTM h and c


class Encoded(NamedTuple):
    """What a source has become.

    Attributes:
        states: [B, S, W], the keys and values.
        mask: [B, 1, S], True where something stands; None where it does everywhere.
        hidden: what the decoder begins with; None for zeros.
    """

    states: Tensor
    mask: Tensor | None
    hidden: Hidden | None


class Decoded(NamedTuple):
    """What was written for a source.

    Attributes:
        tokens: [B, T], padding behind an end symbol.
        weights: [B, H, T, S], the attention weights of each step; None where nobody asked, or the mechanism has none.
    """

    tokens: Tensor
    weights: Tensor | None


class EncoderDecoder(nn.Module):
    """Encoder, attention slot, decoder (Bahdanau, Cho, Bengio 2014, arXiv:1409.0473; here the state asks as it is new).

        source [B, S]                                      start, target up to t [B, T]
          │ embed                                            │ embed
          ▼                                                  ▼
        bidirectional cell ── bridge: last states ──────▶  cell
          │                                                  │
          ▼ states [B, S, 2h]: keys and values               ▼ queries [B, T, 2h]
          └────────────────▶ attention(queries, states, states, mask)
                                       │ context               │
                                       ▼                       ▼
                                logits [B, T, V] = out([context; query])

    With `tied` the output has a hidden layer as wide as an embedding, tanh(W [context; query]), and the embedding of
    the tokens is its matrix (Press, Wolf 2016, arXiv:1608.05859). With `feed` the decoder reads, of each token, its
    embedding + U f / F, where f [F] is what the logits of the step before were made of ("input feeding", Luong et al.
    2015, which concatenates the two); queries are then asked one after the other. Undivided, F inputs whose weights
    Adam moves by equal steps outgrow the token's embedding.

    Source states may also be given, [B, S, states_dim], in place of tokens: of an image, say. The decoder then begins
    with tanh(W mean of the states), as in "Show, Attend and Tell" (Xu et al. 2015, arXiv:1502.03044).

    Without `bridge` the decoder begins with zeros, and what was read reaches it through attention alone.

    Differs from the paper: the query is the decoder's state of this step and not of the last (as Luong et al. 2015,
    arXiv:1508.04025, have it), so that all queries of a known target are asked at once; without `feed` the context
    goes into the output alone, which without `tied` has no hidden layer.

    Args:
        make_attention: fills the slot.
        vocabulary: V, the tokens that can be written.
        embed_dim: the width of a token's embedding.
        hidden_dim: h, the encoder's width in each direction; the decoder is twice as wide.
        cell: gru or lstm, of encoder and decoder.
        source_vocabulary: the tokens that can be read; None where they are those that are written, and embedded alike.
        states_dim: the width of source states that are given: there is no encoder then.
        feed: whether the decoder is fed what the logits of the step before were made of.
        bridge: whether the decoder begins with the encoder's last states, or those made of the mean; else with zeros.
        tied: whether the output's matrix is the embedding of the tokens that are written.
        sparse: whether embeddings have sparse gradients; of `tied` ones a loss then reads `features` and not logits.
        pad: the token behind the end of a source or target; it is not read.
        start: the token that a target begins after.
        end: the token after which nothing is written any more; None where targets are of one length.

    Raises ValueError when a size is not positive, or both source_vocabulary and states_dim are given.
    """

    def __init__(
        self,
        make_attention: MakeAttention,
        vocabulary: int,
        *,
        embed_dim: int,
        hidden_dim: int,
        cell: Cell = "gru",
        source_vocabulary: int | None = None,
        states_dim: int | None = None,
        feed: bool = False,
        bridge: bool = True,
        tied: bool = False,
        sparse: bool = False,
        pad: int = 0,
        start: int = 1,
        end: int | None = None,
    ) -> None:
        super().__init__()
        if min(embed_dim, hidden_dim) < 1:
            raise ValueError(f"embed_dim={embed_dim} and hidden_dim={hidden_dim} are at least 1")
        if source_vocabulary is not None and states_dim is not None:
            raise ValueError("a source is tokens (source_vocabulary) or states (states_dim), not both")
        self.pad, self.start, self.end, self.bridge = pad, start, end, bridge
        width, make_cell = 2 * hidden_dim, CELLS[cell]
        self.embed = nn.Embedding(vocabulary, embed_dim, padding_idx=pad, sparse=sparse)
        self.source_embed = self.encoder = self.begin = None
        if source_vocabulary is not None:
            self.source_embed = nn.Embedding(source_vocabulary, embed_dim, padding_idx=pad, sparse=sparse)
        if states_dim is None:
            self.encoder = make_cell(embed_dim, hidden_dim, batch_first=True, bidirectional=True)
        elif bridge:
            self.begin = nn.Linear(states_dim, width if cell == "gru" else 2 * width)
        self.decoder = make_cell(embed_dim, width, batch_first=True)
        of_keys = width if states_dim is None else states_dim
        self.attention = make_attention(width, of_keys, of_keys)
        seen = self.attention.out_dim
        self.hidden = nn.Sequential(nn.Linear(seen + width, embed_dim), nn.Tanh()) if tied else nn.Identity()
        self.out = nn.Linear(embed_dim if tied else seen + width, vocabulary)
        self.feed = nn.Linear(embed_dim if tied else seen + width, embed_dim, bias=False) if feed else None
        if tied:
            nn.init.normal_(self.embed.weight, std=embed_dim**-0.5)  # logits begin of the size of the hidden layer
            nn.init.zeros_(self.embed.weight[pad])
            self.out.weight = self.embed.weight

    def encode(self, source: Tensor | Encoded, mask: Bool[Tensor, "B S"] | None = None) -> Encoded:
        """Read a source: tokens [B, S], of which padding is not read; or states [B, S, W], with a mask if any.

        What has been read stays as it is: handed to `forward` and `greedy`, a source is read once for both.
        """
        if isinstance(source, Encoded):
            return source
        if self.encoder is None:
            return Encoded(source, None if mask is None else mask.unsqueeze(1), self._first_hidden(source, mask))
        mask = source != self.pad
        embed = self.embed if self.source_embed is None else self.source_embed
        lengths, embedded = mask.sum(dim=1).cpu(), embed(source)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        if not self.bridge:
            return Encoded(padded, mask.unsqueeze(1), None)
        hidden = (_joined(last[0]), _joined(last[1])) if isinstance(last, tuple) else _joined(last)
        return Encoded(padded, mask.unsqueeze(1), hidden)

    def _first_hidden(self, states: Tensor, mask: Tensor | None) -> Hidden | None:
        if self.begin is None:
            return None
        if mask is None:
            mean = states.mean(dim=1)
        else:
            shown = mask.unsqueeze(-1).to(states.dtype)
            mean = (states * shown).sum(dim=1) / shown.sum(dim=1).clamp_min(1.0)
        first = torch.tanh(self.begin(mean)).unsqueeze(0)
        if isinstance(self.decoder, nn.GRU):
            return first
        h, c = first.chunk(2, dim=-1)
        return h.contiguous(), c.contiguous()

    def forward(
        self, source: Tensor | Encoded, target: Int[Tensor, "B T"], mask: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B T V"]:
        """Teacher forcing: return the logits of each target token, knowing those before it."""
        logits: Tensor = self.out(self.features(source, target, mask))
        return logits

    def features(
        self, source: Tensor | Encoded, target: Int[Tensor, "B T"], mask: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B T F"]:
        """Return what `out` makes the logits of, for a loss that needs not all of them."""
        states, allowed, hidden = self.encode(source, mask)
        start = torch.full_like(target[:, :1], self.start)
        embedded = self.embed(torch.cat([start, target[:, :-1]], dim=1))
        if self.feed is None:
            queries, _ = self.decoder(embedded, hidden)
            context, _ = attend(self.attention, queries, states, states, allowed, need_weights=False)
            features: Tensor = self.hidden(torch.cat([context, queries], dim=-1))
            return features
        state, last, steps = Unrolled(), None, []
        ask = prepare_keys(self.attention, states, states, allowed)
        for one in embedded.split(1, dim=1):
            query, hidden = self.decoder(self._fed(one, last), hidden)
            context, state = ask(query, state, need_weights=False)
            last = self.hidden(torch.cat([context, query], dim=-1))
            steps.append(last)
        return torch.cat(steps, dim=1)

    def _fed(self, embedded: Float[Tensor, "B 1 E"], last: Float[Tensor, "B 1 F"] | None) -> Float[Tensor, "B 1 E"]:
        """Add the features of the step before, if they are fed."""
        return embedded if self.feed is None or last is None else embedded + self.feed(last) / self.feed.in_features

    def greedy(
        self,
        source: Tensor | Encoded,
        length: int,
        mask: Bool[Tensor, "B S"] | None = None,
        *,
        need_weights: bool = False,
    ) -> Decoded:
        """Write one token after the other, the likeliest each time, until each target has ended or is `length` long."""
        states, allowed, hidden = self.encode(source, mask)
        token = torch.full((len(states), 1), self.start, device=states.device)
        ended = torch.zeros_like(token, dtype=torch.bool)
        state, tokens, weights, last = Unrolled(), [], [], None
        ask = prepare_keys(self.attention, states, states, allowed)
        for _ in range(length):
            query, hidden = self.decoder(self._fed(self.embed(token), last), hidden)
            context, state = ask(query, state, need_weights=need_weights)
            last = self.hidden(torch.cat([context, query], dim=-1))
            token = self.out(last).argmax(dim=-1)
            if self.end is not None:
                token = token.masked_fill(ended, self.pad)
                ended = ended | (token == self.end)
            tokens.append(token)
            if need_weights and state.weights is not None:
                weights.append(state.weights)
            if self.end is not None and bool(ended.all()):
                break
        return Decoded(torch.cat(tokens, dim=1), torch.cat(weights, dim=2) if weights else None)


def _joined(last: Float[Tensor, "2 B h"]) -> Float[Tensor, "1 B W"]:
    """Put the last states of both directions side by side."""
    return torch.cat([last[0], last[1]], dim=-1).unsqueeze(0)
