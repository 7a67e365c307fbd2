"""Next-token tasks: a generator of tokens makes a whole task."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnbench.answers import AttentionMap, Prediction
from attnbench.errors import UsageError, first_line
from attnbench.hosts.transformer import Positions, Transformer
from attnbench.interfaces import MakeAttention, Split, Task
from attnbench.sampling import EXAMPLES, Draws
from attnbench.sequences import NOWHERE, Generated, Sequences, TokenBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.data import Dataset
    from torchmetrics import Metric

TRAIN, VAL, TEST = 0, 1, 2  # streams of random numbers; test slice s has stream TEST + s
EMBEDDING_STD = 0.02  # as GPT-2 begins: what attention writes then soon outweighs what a token is
MOST_LISTED = 30  # tokens, to a user who has typed another


class TokenTask(Task):
    """A next-token task: its author writes `generate`, and has all the rest.

    For instance recall, with 2 pairs; `-` is not scored:

        tokens   a 7 c 3 . c . a
        targets  - - - - - 3 - 7
        truth    - - - - - 3 - 1

    Training data are fresh at each step, a function of (run's seed, step); validation and test data are the same for
    all seeds. The host is a causal `Transformer`. Logits are computed only where something is scored.

    A subclass keeps each option of its constructor in an attribute of the same name (as `dataclasses.replace` and
    scikit-learn's `clone` want it), and calls `super().__init__` with the number of its tokens and what it wants to set
    of the host; which of the host's options are the user's, its own signature says. It writes

        generate(draws)    sequences, targets, which places are scored, and where the answer stands if that is known
        slices()           further test data: name -> changed options, {"longer": {"length": 128}}; measured apart
        label(token)       what a token is called in pictures and texts; `predict` reads typed ones
        answer_length(tokens)   how many tokens answer typed ones, if not 1
        measure(...)       other values than `accuracy`, listed in `measures`

    Args:
        num_tokens: V, how many different tokens there are.
        width: of the host.
        layers: of the host; how many blocks.
        mlp: hidden units of the feed-forward, in multiples of the width; 0 for none.
        conv: how many inputs a causal convolution before the attention sees; 0 for none.
        positions: none, learned or sinusoidal.
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        "defaults": [{"override /attention": "multihead"}, {"override /scoring": "scaled_dot"}],
        "trainer": {"max_steps": 300, "batch_size": 64, "val_every": 100, "eval_batch_size": 250},
        "optimizer": {"name": "adamw", "lr": 1e-2, "warmup": 0.1},
    }
    primary = "accuracy"
    fresh: bool = True
    #: What `measure` returns, by name; of each, the test also tells every slice's, `<name>_<slice>`.
    measures: ClassVar[tuple[str, ...]] = ("accuracy",)
    #: Whether `sequence_accuracy` is measured, the share of sequences that are right at every scored place.
    whole_sequences: ClassVar[bool] = False
    #: The options that slices vary: the test draws the primary metric over each. A slice that changes several of them
    #: is of the first.
    over: ClassVar[tuple[str, ...]] = ()
    #: What stands between tokens in texts.
    separator: ClassVar[str] = " "
    #: How many examples validation has, and each slice of the test.
    val_examples: ClassVar[int] = 1_000
    test_examples: ClassVar[int] = 1_000

    def __init__(
        self,
        num_tokens: int,
        *,
        width: int = 32,
        layers: int = 1,
        mlp: int = 0,
        conv: int = 0,
        positions: Positions = "none",
    ) -> None:
        self.num_tokens, self.width, self.layers = num_tokens, width, layers
        self.mlp, self.conv, self.positions = mlp, conv, positions

    @staticmethod
    def recipe_with(**trainer: Any) -> Mapping[str, Any]:
        """Return the recipe above with other options of the trainer: `recipe_with(max_steps=400)`."""
        return {**TokenTask.recipe, "trainer": {**TokenTask.recipe["trainer"], **trainer}}

    @abstractmethod
    def generate(self, draws: Draws) -> Sequences:
        """Return `len(draws)` sequences made of these random numbers alone, all of one length: pad behind."""

    def slices(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the test's slices beside the task as it is: name -> the options that are different there."""
        return {}

    def label(self, token: int) -> str:
        """Return what a token is called."""
        return str(token)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a typed text, with spaces between those whose labels are longer than a letter.

        Raises:
            UsageError: there is no such token.
        """
        labels = [self.label(token) for token in range(self.num_tokens)]
        letters = max(map(len, labels)) == 1
        number = {label: token for token, label in enumerate(labels)}
        typed = list("".join(text.split())) if letters else text.split()
        if unknown := [word for word in typed if word not in number]:
            known = labels if len(labels) <= MOST_LISTED else [*labels[:3], "...", labels[-1]]
            raise UsageError(f"predict: {unknown[0]!r} is no token of this task; there are: {' '.join(known)}")
        return [number[word] for word in typed]

    def answer_length(self, tokens: Sequence[int]) -> int:
        """Return how many tokens answer a text of these."""
        return 1

    def measure(self, logits: Float[Tensor, "N V"], batch: TokenBatch) -> Mapping[str, Float[Tensor, " N"]]:
        """Return what is measured at each of the N scored places, row by row: the mean over a slice is its metric."""
        return {"accuracy": (logits.argmax(dim=-1) == batch.targets[batch.scored]).float()}

    def variant(self, name: str, options: Mapping[str, Any]) -> TokenTask:
        """Return this task with other options; ValueError where they do not fit."""
        parameters = inspect.signature(type(self)).parameters
        if unknown := [option for option in options if option not in parameters]:
            raise TypeError(f"{type(self).__name__}.slices: {name} changes {unknown[0]}, which is no option")
        try:
            return type(self)(**{option: getattr(self, option) for option in parameters} | dict(options))
        except ValueError as error:
            raise ValueError(f"the slice {name} ({_listed(options)}) does not fit: {first_line(error)}") from error

    def variants(self) -> list[TokenTask]:
        """Return the tasks of the test: this one, and one for each slice."""
        return [self, *(self.variant(name, options) for name, options in self.slices().items())]

    def prepared_variants(self) -> list[TokenTask]:
        """Return them with their data prepared; this one has been."""
        variants = self.variants()
        for variant in variants[1:]:
            variant.prepare()
        return variants

    def data(self, split: Split) -> Dataset[Any]:
        """Return a split: training data go by the run's seed, the others are always the same."""
        if split == "train":
            return Generated([self.generate], 2**EXAMPLES, seed=self.seed, stream=TRAIN)
        if split == "val":
            return Generated([self.generate], self.val_examples, seed=0, stream=VAL)
        parts = [variant.generate for variant in self.prepared_variants()]
        return Generated(parts, self.test_examples, seed=0, stream=TEST)

    def question(self, batch: TokenBatch) -> Tensor:
        """Return the tokens."""
        return batch.tokens

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the host; ValueError where options, or a slice's, do not fit, or the attention is not causal."""
        longest = None
        if self.positions == "learned":
            longest = max(variant.generate(Draws(0, [0])).tokens.shape[1] for variant in self.prepared_variants())
        else:
            self.variants()
        embed = nn.Embedding(self.num_tokens, self.width)
        nn.init.normal_(embed.weight, std=EMBEDDING_STD)
        model = Transformer(
            make_attention,
            embed,
            self.num_tokens,
            width=self.width,
            layers=self.layers,
            mlp=self.mlp,
            conv=self.conv,
            positions=self.positions,
            max_length=longest,
            position_scale=EMBEDDING_STD,
        )
        _refuse_acausal(model)
        return model

    def loss(self, model: nn.Module, batch: TokenBatch) -> Float[Tensor, ""]:
        """Cross-entropy of the scored places (nats)."""
        return _cross_entropy(model(batch.tokens, batch.scored), batch)

    def terms(self, batch: TokenBatch) -> int:
        """Count the scored places."""
        return int(batch.scored.sum())

    def metrics(self) -> dict[str, Metric]:
        """Each of `measures`, and of each slice `<name>_<slice>`; a slice that no example is of is left out."""
        from attnbench.slice_mean import SliceMean

        names = (*self.measures, *(["sequence_accuracy"] if self.whole_sequences else []))
        return {f"{name}{suffix}": SliceMean() for name in names for suffix in self._suffixes()}

    def _suffixes(self) -> list[str]:
        return ["", *(f"_{name}" for name in self.slices())]

    def evaluate(self, model: nn.Module, batch: TokenBatch, metrics: Mapping[str, Metric]) -> Float[Tensor, ""]:
        """Measure the scored places, slice by slice."""
        logits = model(batch.tokens, batch.scored)
        rows = batch.scored.nonzero()[:, 0]
        for name, values in self.measure(logits, batch).items():
            self._update(metrics, name, values, batch.slice[rows])
        if self.whole_sequences:
            wrong = (logits.argmax(dim=-1) != batch.targets[batch.scored]).float()
            right = torch.zeros(len(batch.slice), device=wrong.device).index_add(0, rows, wrong) == 0
            self._update(metrics, "sequence_accuracy", right.float(), batch.slice)
        return _cross_entropy(logits, batch)

    def _update(self, metrics: Mapping[str, Metric], name: str, values: Tensor, of_slice: Tensor) -> None:
        for number, suffix in enumerate(self._suffixes()):
            metrics[f"{name}{suffix}"].update(values[of_slice == number])

    def lines(self) -> Mapping[str, Sequence[float]]:
        """Return what is known of the primary metric beside a run's, of the task and of each slice: here chance."""
        return {} if self.floor is None else {"chance": [self.floor for _ in self._suffixes()]}

    def figures(self, values: Mapping[str, Any]) -> Mapping[str, Figure]:
        """Draw the primary metric over each of `over`."""
        from attnbench.slice_figure import draw_slices

        names = [f"{self.primary}{suffix}" for suffix in self._suffixes()]
        variants, changes, figures = self.variants(), [{}, *self.slices().values()], {}
        for option in self.over:
            first = [next((other for other in self.over if other in changed), option) for changed in changes]
            chosen = [i for i, name in enumerate(names) if first[i] == option and values[name].numel()]
            chosen.sort(key=lambda i: getattr(variants[i], option))
            if len(chosen) > 1:
                figures[f"{self.primary}_over_{option}"] = draw_slices(
                    self.primary,
                    option,
                    [float(getattr(variants[i], option)) for i in chosen],
                    [float(values[names[i]]) for i in chosen],
                    trained=float(getattr(self, option)),
                    lines={name: [line[i] for i in chosen] for name, line in self.lines().items()},
                )
        return figures

    def maps(self, model: nn.Module, batch: TokenBatch) -> list[AttentionMap]:
        """Weights of the last layer, all heads; rows and columns are the tokens. None of a mechanism without."""
        assert isinstance(model, Transformer)
        logits, weights = model.with_weights(batch.tokens, batch.scored)
        if not weights:
            return []
        length = batch.tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=batch.tokens.device).tril()
        known = bool((batch.truth != NOWHERE).any())
        truth = batch.truth.unsqueeze(-1) == torch.arange(length, device=batch.truth.device)
        titles = self._lines(batch, logits.argmax(dim=-1))
        labels = [[self.label(token) for token in tokens] for tokens in batch.tokens.tolist()]
        return [
            AttentionMap(weights[-1][i], labels[i], labels[i], causal, titles[i], truth[i] if known else None)
            for i in range(len(labels))
        ]

    def texts(self, model: nn.Module, batch: TokenBatch) -> list[str]:
        """Each sequence, what was written at its scored places, and what was right if that differs."""
        return self._lines(batch, model(batch.tokens, batch.scored).argmax(dim=-1))

    def _lines(self, batch: TokenBatch, written: Int[Tensor, " N"]) -> list[str]:
        counts = batch.scored.sum(dim=1).tolist()
        lines = []
        for tokens, got, right in zip(
            batch.tokens, torch.split(written, counts), torch.split(batch.targets[batch.scored], counts), strict=True
        ):
            line = f"{self._labels(tokens)} → {self._labels(got)}"
            lines.append(line if torch.equal(got, right) else f"{line} (right: {self._labels(right)})")
        return lines

    def _labels(self, tokens: Tensor) -> str:
        return self.separator.join(self.label(token) for token in tokens.tolist())

    def predict(self, model: nn.Module, text: str) -> Prediction:
        """Answer a typed text: its likeliest next tokens, and the attention weights of the first."""
        assert isinstance(model, Transformer)
        typed = self.encode(text)
        if not typed:
            raise UsageError("predict: the text has no tokens")
        tokens, probability, attention = list(typed), 1.0, None
        for _ in range(self.answer_length(typed)):
            logits, weights = model.with_weights(torch.tensor([tokens], device=next(model.parameters()).device))
            if weights and attention is None:
                labels = [self.label(token) for token in tokens]
                attention = AttentionMap(weights[-1][0, :, -1:], labels[-1:], labels, title=text)
            best, token = logits[0, -1].softmax(dim=-1).max(dim=-1)
            probability *= float(best)
            tokens.append(int(token))
        return Prediction(self.separator.join(map(self.label, tokens[len(typed) :])), probability, attention)


def _cross_entropy(logits: Float[Tensor, "N V"], batch: TokenBatch) -> Float[Tensor, ""]:
    targets = batch.targets[batch.scored]
    return F.cross_entropy(logits, targets, reduction="sum") / max(1, len(targets))


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _refuse_acausal(model: Transformer) -> None:
    """Raise ValueError where the mechanism cannot be causal, asking the model a sequence of two."""
    advice = "a next-token task needs a causal attention, such as attention=multihead scoring=scaled_dot"
    if any(getattr(module, "recurrent", False) for module in model.modules()):
        raise ValueError(f"{advice}; this one is asked one query after the other")
    parameter = next(model.parameters())
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(torch.zeros(1, 2, dtype=torch.long, device=parameter.device))
    except ValueError as error:
        raise ValueError(f"{advice}: {first_line(error)}") from error
    model.train()
