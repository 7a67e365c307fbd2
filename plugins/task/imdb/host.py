"""The classifier around the attention slot."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnbench import MakeAttention, masked_softmax

from .reviews import Batch
from .vocabulary import PAD

LABELS = ("negative", "positive")


class Host(nn.Module):
    """Embedding, encoder, attention slot, pooling, dropout, classifier.

    x       = sum over the rows of a token (word, pair, triple) of their embeddings   [B, L, D]
    states  = x, or a bidirectional LSTM over it                                      [B, L, W]
    pooling "slot":       pooled = attention(a learned query, states, states)
            "mean":       pooled = mean over the tokens of attention(states, states, states)
            "attention":  pooled = sum over the tokens of softmax(v · tanh(U c)) c, c = attention(states, ...)
    logits  = linear(dropout(pooled))                                                 [B, 2]

    Args:
        make_attention: makes the module in the slot.
        size: rows of the embedding table.
        masked: whether the row PAD stands for nothing: its embedding is 0, and what is padded is masked. If not, it is
            a token like any other, with an embedding that is learned.
        sparse: whether the table's gradients are sparse.
    """

    def __init__(
        self,
        make_attention: MakeAttention,
        size: int,
        *,
        embed_dim: int,
        encoder: Literal["none", "bilstm"],
        pooling: Literal["slot", "mean", "attention"],
        dropout: float,
        row_dropout: float,
        masked: bool,
        sparse: bool = True,
        embed_scale: float,
    ) -> None:
        super().__init__()
        self.masked, self.row_dropout = masked, row_dropout
        self.table = nn.Embedding(size, embed_dim, padding_idx=PAD if masked else None, sparse=sparse)
        nn.init.uniform_(self.table.weight, -embed_scale, embed_scale)
        if masked:
            nn.init.zeros_(self.table.weight[PAD])
        bilstm = encoder == "bilstm"
        self.encoder = nn.LSTM(embed_dim, embed_dim, batch_first=True, bidirectional=True) if bilstm else None
        width = 2 * embed_dim if bilstm else embed_dim
        self.query = nn.Parameter(torch.randn(width) * width**-0.5) if pooling == "slot" else None
        self.attention = make_attention(width, width, width)
        out_dim = self.attention.out_dim
        score = nn.Sequential(nn.Linear(out_dim, out_dim), nn.Tanh(), nn.Linear(out_dim, 1))
        self.score = score if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(out_dim, len(LABELS))
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def embed(self, rows: Int[Tensor, "B L n"]) -> Float[Tensor, "B L D"]:
        """Sum the embeddings of each token's rows; in training, leave some of the rows out."""
        keep_prob = 1 - self.row_dropout if self.training else 1.0
        if keep_prob < 1:
            rows = rows.masked_fill(torch.rand(rows.shape, device=rows.device) >= keep_prob, PAD)
        if rows.shape[-1] == 1:
            x: Tensor = self.table(rows.squeeze(-1))
        else:
            flat, sparse = rows.flatten(0, 1), self.table.sparse
            x = F.embedding_bag(flat, self.table.weight, mode="sum", sparse=sparse, padding_idx=PAD)
            x = x.view(*rows.shape[:2], -1)
        return x / keep_prob if keep_prob < 1 else x

    def mask(self, batch: Batch) -> Bool[Tensor, "B 1 L"] | None:
        """True where a token stands; None where every place is one."""
        if not self.masked:
            return None
        return (torch.arange(batch.rows.shape[1], device=batch.rows.device) < batch.lengths.unsqueeze(1)).unsqueeze(1)

    def forward(
        self, batch: Batch, need_weights: bool = False
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B H Q L"] | None]:
        """Return the logits of both labels; and the slot's weights."""
        states, mask = self.embed(batch.rows), self.mask(batch)
        if self.encoder is not None:
            packed = nn.utils.rnn.pack_padded_sequence(
                states, batch.lengths.cpu(), batch_first=True, enforce_sorted=False
            )
            states, _ = nn.utils.rnn.pad_packed_sequence(
                self.encoder(packed)[0], batch_first=True, total_length=states.shape[1]
            )
        queries = states
        if self.query is not None:  # where a query goes by its place, it is asked at every place
            queries = self.query.expand(len(states), states.shape[1] if self.attention.positional else 1, -1)
        contexts, weights = self.attention(queries, states, states, mask, need_weights=need_weights)
        if contexts.shape[1] == 1:
            pooled = contexts.squeeze(1)
        elif self.score is None and mask is None:
            pooled = contexts.mean(dim=1)
        else:
            scores = contexts.new_zeros(len(contexts), 1, contexts.shape[1])
            if self.score is not None:
                scores = self.score(contexts).mT
            pooled = (masked_softmax(scores, mask) @ contexts).squeeze(1)
        return self.out(self.dropout(pooled)), weights
