"""The task: its options, data, loss, metrics, and what it shows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import AttentionMap, MakeAttention, Prediction, Split, Task, UsageError, downloads
from attnbench.hosts import Cell, Decoded, EncoderDecoder, EncoderDecoderTransformer

from . import corpus, vocabulary
from .figures import draw_lengths
from .sampled import sampled_cross_entropy
from .sentences import Batch, Sentences, encode
from .text import count_words, join_words, split_words
from .vocabulary import END, PAD, SPECIAL, START, Tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tokenizers import Tokenizer
    from torchmetrics import Metric

GROUPS = {"1-4": 4, "5-6": 6, "7-8": 8, "9-10": 10, "11-12": 12}  # words of a source, marks not counted: the most

VOCABULARIES = "vocabularies.json"

Host = EncoderDecoder | EncoderDecoderTransformer

log = logging.getLogger("attnbench.translation")


class Translation(Task):
    """Translate a sentence, word by word: `i don't have any money .` in, `je n' ai pas d' argent .` out.

    English to French by default (Tatoeba's pairs, as ManyThings serves them), or any file of pairs. All translations
    of a source stay with it, and no source stands in two of train, validation and test, also not once its unknown words
    are one symbol. `bleu` is corpus BLEU over words and marks, with all translations as references; at test it is also
    measured by the length of the source.

    Args:
        file: pairs, one a line, separated by tabs; or an archive (.zip) of such a text; null downloads it once.
        source: the column that is read; the first is 0.
        target: the column that is written.
        max_words: pairs with more words on either side, marks not counted, are left out.
        lower: whether upper case is made lower case.
        tokens: words, or bpe, pieces of words; a word that is not among the most frequent is one symbol.
        source_vocabulary: how many words or pieces are known of what is read.
        target_vocabulary: likewise of what is written.
        data_seed: shares the sources out; apart from the run's seed, so that seeds share their data.
        model: recurrent; or transformer, the mechanism in all of its slots, the width that of an embedding.
        layers: of the transformer, blocks that read and blocks that write.
        cell: gru or lstm, of the recurrent encoder and decoder.
        embed_dim: the width of a word's embedding, which is also the output's matrix.
        hidden_dim: the recurrent encoder's width in each direction; the decoder is twice as wide.
        feed: whether the recurrent decoder is fed the hidden layer of the step before, made of context and state.
        bridge: whether the recurrent decoder begins with the encoder's last states; else with zeros, so that attention
            alone tells it of the source.
        drawn: how many words compete with a batch's own in the training loss; 0 for all words.
    """

    recipe = {
        "trainer": {"max_steps": 2400, "batch_size": 32, "val_every": 800, "eval_batch_size": 250},
        "optimizer": {"lr": 4e-3, "warmup": 0.05},
    }
    primary = "bleu"
    goal = 100.0
    stepwise = True

    def __init__(
        self,
        *,
        file: Path | None = None,
        source: int = 0,
        target: int = 1,
        max_words: int = 12,
        lower: bool = True,
        tokens: Tokens = "words",
        source_vocabulary: int = 8000,
        target_vocabulary: int = 10_000,
        data_seed: int = 0,
        model: Literal["recurrent", "transformer"] = "recurrent",
        layers: int = 2,
        cell: Cell = "lstm",
        embed_dim: int = 256,
        hidden_dim: int = 64,
        feed: bool = False,
        bridge: bool = False,
        drawn: int = 500,
    ) -> None:
        if min(source, target) < 0 or source == target:
            raise ValueError(f"source={source} and target={target} are two columns, the first is 0")
        if max_words < 1 or min(source_vocabulary, target_vocabulary) <= len(SPECIAL) or drawn < 0:
            raise ValueError(
                f"max_words={max_words} is at least 1, source_vocabulary={source_vocabulary} and target_vocabulary="
                f"{target_vocabulary} at least {len(SPECIAL) + 1}, drawn={drawn} at least 0"
            )
        self.file, self.columns, self.max_words, self.lower = file, (source, target), max_words, lower
        if model == "transformer" and (feed or bridge):
            option = "feed" if feed else "bridge"
            raise ValueError(
                f"{option}=true is for model=recurrent: a transformer's decoder sees all that was written, and the "
                f"source through attention alone; try {option}=false"
            )
        self.kind, self.layers = model, layers
        self.tokens, self.sizes, self.data_seed = tokens, (source_vocabulary, target_vocabulary), data_seed
        self.cell, self.embed_dim, self.hidden_dim = cell, embed_dim, hidden_dim
        self.feed, self.bridge, self.drawn = feed, bridge, drawn
        self.vocabularies: tuple[Tokenizer, Tokenizer] | None = None
        self.frequency = torch.zeros(0)

    def prepare(self) -> None:
        """Fetch or read the pairs, share them out, and number their words."""
        from .bleu import SIGNATURE

        log.info("bleu: %s", SIGNATURE)
        path = self.file
        if path is None:
            home = downloads.cache_folder("translation")
            with downloads.exclusive(home):
                path = corpus.fetch(home)
        pairs = corpus.parse(corpus.read(path), self.columns, self.max_words, self.lower, f"task.file={path}")
        parts = corpus.split(pairs, self.data_seed)
        if self.vocabularies is None:
            sources = [source for source, _ in parts["train"]]
            targets = [target for _, references in parts["train"] for target in references]
            self.vocabularies = (
                vocabulary.learn(sources, self.tokens, self.sizes[0]),
                vocabulary.learn(targets, self.tokens, self.sizes[1]),
            )
        self.splits: dict[Split, Sentences] = {}
        seen: set[tuple[int, ...]] = set()
        for split in ("train", "val", "test"):
            self.splits[split] = encode(parts[split], self.vocabularies, seen, every=split == "train")
            kept, shared = len(self.splits[split]), len(parts[split])
            log.info("%s: %d pairs of %d sources", split, kept, shared)
            if not kept:
                reason = f"no source of {split} is left that differs from those of train by known words"
                raise UsageError(f"task.source_vocabulary={self.sizes[0]}: {reason}; try a larger one")
        counts = self.splits["train"].target.flatten().bincount(minlength=self.vocabularies[1].get_vocab_size())
        counts[PAD] = 0
        self.frequency = counts / counts.sum()

    def data(self, split: Split) -> Dataset[Any]:
        """Return the split's pairs."""
        return self.splits[split]

    def lengths(self, split: Split) -> Tensor:
        """Return the lengths of the sources."""
        return self.splits[split].lengths

    def question(self, batch: Batch) -> Tensor:
        """Return the source."""
        return batch.source

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the encoder-decoder, or the Transformer."""
        assert self.vocabularies is not None
        read, written = (words.get_vocab_size() for words in self.vocabularies)
        sparse = self.sparse and self.drawn > 0
        if self.kind == "transformer":
            return EncoderDecoderTransformer(
                make_attention, written, source_vocabulary=read, width=self.embed_dim, layers=self.layers,
                sparse=sparse, pad=PAD, start=START, end=END,
            )  # fmt: skip
        return EncoderDecoder(
            make_attention, written, source_vocabulary=read, embed_dim=self.embed_dim, hidden_dim=self.hidden_dim,
            cell=self.cell, feed=self.feed, bridge=self.bridge, tied=True, sparse=sparse, pad=PAD, start=START, end=END,
        )  # fmt: skip

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of each word, knowing those before it (nats), over a sample of words."""
        assert isinstance(model, Host)
        if not self.drawn:
            return self._loss(model, batch)
        where = batch.target != PAD
        features, target = model.features(batch.source, batch.target)[where], batch.target[where]
        return sampled_cross_entropy(
            features, target, model.out.weight, model.out.bias, self.frequency.to(features), self.drawn
        )

    def _loss(self, model: Host, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy over all words."""
        logits = model(batch.source, batch.target)
        return F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), ignore_index=PAD)

    def terms(self, batch: Batch) -> int:
        """Count the words."""
        return int((batch.target != PAD).sum())

    def metrics(self) -> dict[str, Metric]:
        """bleu; bleu_1-4 and so on, of sources of so many words; exact_match, the share that equals a reference."""
        from torchmetrics import MeanMetric

        from .bleu import Bleu

        return {"bleu": Bleu(), "exact_match": MeanMetric(), **{f"bleu_{group}": Bleu() for group in GROUPS}}

    def decode(self, model: nn.Module, batch: Batch) -> Batch:
        """Translate greedily."""
        return batch._replace(decoded=self._decoded(model, batch))

    def _decoded(self, model: nn.Module, batch: Batch) -> Decoded:
        assert isinstance(model, Host)
        return batch.decoded or model.greedy(batch.source, self._most(), need_weights=True)

    def evaluate(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric]) -> Float[Tensor, ""]:
        """Translate greedily and compare."""
        assert isinstance(model, Host)
        written = self._written(self._decoded(model, batch).tokens)
        metrics["bleu"].update(written, batch.references)
        right = [text in references for text, references in zip(written, batch.references, strict=True)]
        metrics["exact_match"].update(torch.tensor(right).float())
        lengths = [self._group(row) for row in batch.source.tolist()]
        for group in GROUPS:
            chosen = [i for i, length in enumerate(lengths) if length == group]
            metrics[f"bleu_{group}"].update([written[i] for i in chosen], [batch.references[i] for i in chosen])
        return self._loss(model, batch)

    def _group(self, source: list[int]) -> str:
        """Return the group of sources of so many words; the last one is also that of longer ones."""
        assert self.vocabularies is not None
        words = count_words(vocabulary.decode(self.vocabularies[0], source).split())
        return next((group for group, most in GROUPS.items() if words <= most), [*GROUPS][-1])

    def _most(self) -> int:
        """Return how many words are written at most."""
        return 2 * self.max_words + 4

    def _written(self, tokens: Tensor) -> list[str]:
        assert self.vocabularies is not None
        return [vocabulary.decode(self.vocabularies[1], row) for row in tokens.tolist()]

    def figures(self, values: Mapping[str, Any]) -> dict[str, Figure]:
        """Draw BLEU over the length of the source."""
        groups = {group: float(value) for group in GROUPS if (value := values[f"bleu_{group}"]).numel()}
        return {"bleu_over_length": draw_lengths(groups, float(values["bleu"]))}

    def maps(self, model: nn.Module, batch: Batch) -> list[AttentionMap]:
        """Rows are the words written, columns the words read; there are none where attention has no weights."""
        assert self.vocabularies is not None
        tokens, weights = self._decoded(model, batch)
        if weights is None:
            return []
        read, written = self.vocabularies
        maps = []
        for i, title in enumerate(self._titles(tokens, batch)):
            columns = vocabulary.pieces(read, batch.source[i][batch.source[i] != PAD].tolist())
            rows = vocabulary.pieces(written, tokens[i][tokens[i] != PAD].tolist())
            maps.append(AttentionMap(weights[i, :, : len(rows), : len(columns)], rows, columns, title=title))
        return maps

    def texts(self, model: nn.Module, batch: Batch) -> list[str]:
        """Source, what was written, and a reference if it is none of them."""
        return self._titles(self._decoded(model, batch).tokens, batch)

    def _titles(self, tokens: Tensor, batch: Batch) -> list[str]:
        assert self.vocabularies is not None
        sources = [vocabulary.decode(self.vocabularies[0], row) for row in batch.source.tolist()]
        return [
            f"{join_words(source)} → {join_words(text)}"
            + ("" if text in references else f" (reference: {join_words(references[0])})")
            for source, text, references in zip(sources, self._written(tokens), batch.references, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Write the vocabularies."""
        assert self.vocabularies is not None
        vocabulary.save(self.vocabularies, folder / VOCABULARIES)

    def restore(self, folder: Path) -> None:
        """Read them; UsageError if there are none."""
        self.vocabularies = vocabulary.load(folder / VOCABULARIES)

    def predict(self, model: nn.Module, text: str) -> Prediction:
        """Translate one sentence."""
        assert isinstance(model, Host) and self.vocabularies is not None
        read, written = self.vocabularies
        words = split_words(text, self.lower)
        if not words:
            raise UsageError("predict: the text has no words")
        numbers = vocabulary.encode(read, [" ".join(words)])[0]
        source = torch.tensor([numbers], device=model.embed.weight.device)
        tokens, weights = model.greedy(source, self._most(), need_weights=True)
        answer = join_words(self._written(tokens)[0])
        of_each = model(source, tokens).softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).flatten()
        columns = words if self.tokens == "words" else vocabulary.pieces(read, numbers)
        rows = vocabulary.pieces(written, tokens[0].tolist())
        looked = None if weights is None else AttentionMap(weights[0], rows, columns, title=f"{text} → {answer}")
        return Prediction(answer, float(of_each.prod()), looked, of_each.tolist())
