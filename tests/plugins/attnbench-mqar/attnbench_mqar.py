"""Multi-query associative recall: look up what stood behind a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import AttentionMap, MakeAttention, Register, Split, Task, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric

GAP_POWER = 0.01  # Zoology's power_a: how far behind the pairs a key is asked for


class Batch(NamedTuple):
    """Tokens [B, L]; where the N queries stand [B, N]; and the value that belongs to each [B, N]."""

    tokens: Int[Tensor, "B L"]
    places: Int[Tensor, "B N"]
    values: Int[Tensor, "B N"]


class Recall(Dataset[Batch]):
    """Examples made when they are asked for: each is a function of the seed and its index alone.

    key value key value ... then keys again, at places drawn with a preference for near ones, among random tokens.
    """

    def __init__(self, size: int, vocabulary: int, length: int, pairs: int, seed: int) -> None:
        self.size, self.vocabulary, self.length, self.pairs, self.seed = size, vocabulary, length, pairs, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: list[int]) -> Batch:
        half, pairs, context = self.vocabulary // 2, self.pairs, 2 * self.pairs
        slots = (self.length - context) // 2
        key_noise, value_noise, slot_noise, filler_noise = chances(
            indices, self.seed, half - 1 + (self.vocabulary - half) + slots + self.length
        ).split([half - 1, self.vocabulary - half, slots, self.length], dim=1)
        keys = 1 + key_noise.topk(pairs).indices
        values = half + value_noise.topk(pairs).indices
        near = (GAP_POWER - 1) * torch.arange(1, slots + 1).log()
        gaps = (near - (-slot_noise.log()).log()).topk(pairs).indices  # Gumbel: a draw without replacement
        tokens = (filler_noise * self.vocabulary).long()
        tokens[:, :context] = torch.stack([keys, values], dim=-1).flatten(1)
        places = context + 2 * gaps
        return Batch(tokens.scatter(1, places, keys), places, values)


def chances(indices: list[int], seed: int, count: int) -> Float[Tensor, "B N"]:
    """Give `count` numbers in (0, 1) for each index, by SplitMix64 (Steele, Lea, Flood 2014) in counter mode."""
    x = torch.tensor(indices).unsqueeze(1) * count + torch.arange(count) + seed * 2**48
    x = (x + 1) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ _shifted(x, shift)) * factor
    x = x ^ _shifted(x, 31)
    return (_shifted(x, 11).double() + 0.5) * 2.0**-53  # float32 would repeat itself


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class Host(nn.Module):
    """One layer: what stood behind this token the last time? A key is the token before its value.

    x_t     = embedding of token and place
    context = attention(x_t; keys x_0..x_{t-1}, values x_1..x_t)
    logits  = W' LayerNorm(W context_t + x_t)
    """

    def __init__(self, make_attention: MakeAttention, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        self.attention = make_attention(width, width, width)
        self.context = nn.Linear(self.attention.out_dim, width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, vocabulary)

    def forward(
        self, tokens: Int[Tensor, "B L"], *, need_weights: bool = False
    ) -> tuple[Float[Tensor, "B L V"], Float[Tensor, "B H L L"] | None]:
        """Give the logits at every place, and the weights when asked."""
        x = self.token(tokens) + self.place
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        mask = self.mask(tokens.shape[1], tokens.device).expand(len(tokens), -1, -1)
        context, weights = self.attention(x, before, x, mask, need_weights=need_weights)
        return self.out(self.norm(self.context(context) + x)), weights

    @staticmethod
    def mask(length: int, device: torch.device) -> Bool[Tensor, "L L"]:
        """True where a place may look: itself and what came before."""
        return torch.ones(length, length, dtype=torch.bool, device=device).tril()


class MultiQueryRecall(Task):
    """Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv:2312.04927).

    `a 7 b 3 ... b . a` : what stood behind b, and behind a? Examples are made anew for every step.

    Args:
        examples: how many to train on, each seen once in a pass.
        vocabulary: half of it keys, half of it values.
        length: tokens in an example.
        pairs: keys to remember, and to be asked for.
        width: of the embeddings and of the attention.
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        "defaults": [{"override /attention": "multihead"}, {"override /scoring": "scaled_dot"}],
        "trainer": {"max_epochs": 1, "batch_size": 128, "val_every": 100},
        "optimizer": {"lr": 5e-3},
    }
    primary = "accuracy"

    def __init__(
        self, *, examples: int = 64_000, vocabulary: int = 128, length: int = 32, pairs: int = 4, width: int = 64
    ) -> None:
        if pairs < 1 or length < 4 * pairs:
            raise ValueError(
                f"{pairs} pairs and as many questions need length={4 * max(1, pairs)} or more, not {length}"
            )
        if vocabulary < 2 * pairs + 2:
            raise ValueError(f"{pairs} pairs need vocabulary={2 * pairs + 2} or more, not {vocabulary}")
        self.examples, self.vocabulary, self.length, self.pairs, self.width = examples, vocabulary, length, pairs, width

    def data(self, split: Split) -> Dataset[Any]:
        """Give a split; each has a seed of its own."""
        sizes: dict[Split, int] = {"train": self.examples, "val": 1_000, "test": 4_000}
        return Recall(sizes[split], self.vocabulary, self.length, self.pairs, seed=list(sizes).index(split))

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the host."""
        return Host(make_attention, self.vocabulary, self.length, self.width)

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of the values asked for (nats)."""
        return F.cross_entropy(_answers(model(batch.tokens)[0], batch).flatten(0, 1), batch.values.flatten())

    def metrics(self) -> dict[str, Metric]:
        """accuracy: the share of questions answered rightly."""
        from torchmetrics import MeanMetric

        return {"accuracy": MeanMetric()}

    def evaluate(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric]) -> Float[Tensor, ""]:
        """Count the right answers."""
        logits = _answers(model(batch.tokens)[0], batch)
        metrics["accuracy"].update((logits.argmax(dim=-1) == batch.values).float())
        return F.cross_entropy(logits.flatten(0, 1), batch.values.flatten())

    def maps(self, model: nn.Module, batch: Batch) -> list[AttentionMap]:
        """Rows and columns are the tokens; a row may look at those before it."""
        if not model.attention.has_weights:
            return []
        _, weights = model(batch.tokens, need_weights=True)
        labels = [[str(token) for token in tokens.tolist()] for tokens in batch.tokens]
        mask = Host.mask(self.length, batch.tokens.device)
        return [AttentionMap(weights[i], labels[i], labels[i], mask) for i in range(len(weights))]


def _answers(logits: Tensor, batch: Batch) -> Tensor:
    """Take the logits where the questions stand: [B, L, V] -> [B, N, V]."""
    return logits.gather(1, batch.places.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `mqar`."""
    register("mqar", MultiQueryRecall)
