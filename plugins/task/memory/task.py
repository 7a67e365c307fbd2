"""The task: data, machines, loss, metrics and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import MakeAttention, Split, Task
from attnbench.hosts import Transformer

from .lstm import PlainLSTM, lstm_of_size
from .machine import Controller, Start, TuringMachine
from .problems import PROBLEMS, Batch, NGrams, Problem, Size, bayes_bits, joined, uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torchmetrics import Metric

SPLITS: tuple[Split, ...] = ("train", "val", "test")
CELL, DPI = 4, 100  # pixels a side, of a number that is drawn; and in an inch
EXAMPLES = 1_000_000  # of the training split; each is drawn when it is read


class FreshExamples(Dataset[Batch]):
    """Training examples: a batch is of one size, which its first example draws."""

    def __init__(self, problem: Problem, sizes: list[Size], seed: int) -> None:
        self.problem, self.sizes, self.seed = problem, sizes, seed

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, indices: list[int]) -> Batch:
        place = float(uniform(self.seed + 1, indices[:1], 1))
        return self.problem.draw(self.seed, indices, self.sizes[int(place * len(self.sizes))])


class FixedSizes(Dataset[Batch]):
    """Validation or test examples: `beyond` of each size beyond the trained range, then `within` from that range.

    The sizes of the trained range come equally often, in order. One of them stands first, so that the first few
    examples give every metric a value.
    """

    def __init__(self, problem: Problem, sizes: list[Size], within: int, beyond: int, seed: int) -> None:
        self.problem, self.seed = problem, seed
        trained = [(sizes[i * len(sizes) // within], 0) for i in range(within)]
        others = [(size, group) for group, size in enumerate(problem.beyond, start=1)]
        self.plan = [trained[0], *others * beyond, *trained[1:]]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, indices: list[int]) -> Batch:
        by_size: dict[tuple[Size, int], list[int]] = {}
        for index in indices:
            by_size.setdefault(self.plan[index], []).append(index)
        batches = [
            self.problem.draw(self.seed, same, size)._replace(group=torch.full((len(same),), group))
            for (size, group), same in by_size.items()
        ]
        place = {index: row for row, index in enumerate(index for same in by_size.values() for index in same)}
        order = torch.tensor([place[index] for index in indices])
        return Batch(*(part[order] for part in joined(batches)))


class Memory(Task):
    """Algorithms on an external memory: copy, repeat copy, recall, n-grams, sort (Graves et al. 2014, arXiv:1410.5401).

    Examples are drawn on the fly. What an example holds depends on data_seed and its index alone; a training batch is
    of one size, drawn with its first example, and the sizes of validation and test examples are set beforehand.

    Args:
        problem: what is to be learned (§4 of the paper).
        machine: the Neural Turing Machine (ntm), an LSTM of as many parameters (lstm), or a transformer.
        low: the shortest length to train on; null takes the paper's. Lengths are vectors (copy), vectors and repeats
            (repeat_copy), items (associative_recall), bits (ngrams), inputs (priority_sort).
        high: the longest; null takes the paper's.
        controller: of the ntm: lstm, or feedforward, which remembers nothing by itself.
        controller_dim: the width of its state.
        rows: of the memory.
        eval_rows: rows when not in training; null takes as many.
        width: of a row.
        read_heads: how many heads read, each with an attention module of its own.
        write_heads: how many heads write, likewise.
        start: what the memory holds at first: 1e-6 everywhere (constant), learned rows, or noise (random).
        write_first: whether a step writes before it reads.
        write_shift_bias: as shift_bias of attention=ntm, but of the heads that write alone: with a positive one they
            start by writing row after row, and heads that read are free to go elsewhere. Nothing to other attention.
        transformer_dim: the width of the transformer.
        layers: of the transformer.
        compile: whether whole sequences of an LSTM with attention=ntm scoring=cosine run in C, compiled in two seconds;
            false, like any other machine, runs its modules step by step.
        data_seed: draws the examples; apart from the run's seed, which only orders them.
    """

    recipe = {
        "defaults": [{"override /attention": "ntm"}, {"override /scoring": "cosine"}],
        "trainer": {"max_steps": 2_000, "batch_size": 8, "val_every": 100, "eval_batch_size": 100, "images": 1},
        "optimizer": {"lr": 3e-3, "warmup": 0.0},
    }
    primary = "bits_wrong"
    mode = "min"
    goal = 0.005
    stepwise = True
    excused = {
        "splits": "short sequences are few: one vector is one of 256",
        "slots": "to write is to have weights, so that an attention without them is refused",
    }

    def __init__(
        self,
        *,
        problem: Literal["copy", "repeat_copy", "associative_recall", "ngrams", "priority_sort"] = "copy",
        machine: Literal["ntm", "lstm", "transformer"] = "ntm",
        low: int | None = None,
        high: int | None = None,
        controller: Controller = "lstm",
        controller_dim: int = 100,
        rows: int = 128,
        eval_rows: int | None = None,
        width: int = 20,
        read_heads: int = 1,
        write_heads: int = 1,
        start: Start = "constant",
        write_first: bool = False,
        write_shift_bias: float = 0.0,
        transformer_dim: int = 64,
        layers: int = 2,
        compile: bool = True,  # noqa: A002 (the word on the command line)
        data_seed: int = 0,
    ) -> None:
        self.name, self.problem, self.data_seed = problem, PROBLEMS[problem], data_seed
        smallest = self.problem.low if low is None else low
        largest = self.problem.high if high is None else high
        if not self.problem.least <= smallest <= largest:
            raise ValueError(
                f"{problem} has lengths from {self.problem.least}, and low at most high, not {smallest}..{largest}"
            )
        self.sizes = self.problem.sizes(smallest, largest)
        self.machine = {"ntm": self.turing_machine, "lstm": self.lstm, "transformer": self.transformer}[machine]
        self.transformer_dim, self.layers = transformer_dim, layers
        self.turing: dict[str, Any] = {
            "controller": controller,
            "controller_dim": controller_dim,
            "rows": rows,
            "width": width,
            "read_heads": read_heads,
            "write_heads": write_heads,
            "start": start,
            "write_first": write_first,
            "write_shift_bias": write_shift_bias,
            "eval_rows": eval_rows,
            "compile": compile,
        }

    def data(self, split: Split) -> Dataset[Any]:
        """Return a split; no two share a random number."""
        seed = 8 * self.data_seed + 2 * SPLITS.index(split)
        if split == "train":
            return FreshExamples(self.problem, self.sizes, seed)
        within, beyond = (1_000, 4) if split == "val" else (4_000, 50)
        return FixedSizes(self.problem, self.sizes, within, beyond, seed)

    def question(self, batch: Batch) -> Tensor:
        """Return what is read."""
        return batch.inputs

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the machine."""
        return self.machine(make_attention)

    def turing_machine(self, make_attention: MakeAttention) -> TuringMachine:
        """Build the Neural Turing Machine."""
        return TuringMachine(make_attention, self.problem.inputs, self.problem.outputs, **self.turing)

    def lstm(self, make_attention: MakeAttention) -> PlainLSTM:
        """Build an LSTM of as many parameters as the Neural Turing Machine has."""
        parameters = sum(parameter.numel() for parameter in self.turing_machine(make_attention).parameters())
        return lstm_of_size(parameters, self.problem.inputs, self.problem.outputs)

    def transformer(self, make_attention: MakeAttention) -> Transformer:
        """Build a causal Transformer."""
        width, layers = self.transformer_dim, self.layers
        embed, outputs = nn.Linear(self.problem.inputs, width), self.problem.outputs
        return Transformer(make_attention, embed, outputs, width=width, layers=layers, positions="sinusoidal")

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of the scored bits (nats)."""
        mask = batch.mask
        return F.binary_cross_entropy_with_logits(model(batch.inputs)[mask], batch.targets[mask])

    def terms(self, batch: Batch) -> int:
        """Count the scored steps."""
        return int(batch.mask.sum())

    def metrics(self) -> dict[str, Metric]:
        """bits_wrong in a sequence, sequence_accuracy: the share without a wrong bit, bits of loss in a sequence.

        Of the trained range, and bits_wrong_<size> of each size that is tested by itself. ngrams has best_bits beside
        bits: the loss of the best estimator there is.
        """
        from torchmetrics import MeanMetric

        sizes = [f"bits_wrong_{size}" for size in self.problem.beyond]
        best = ["best_bits"] if isinstance(self.problem, NGrams) else []
        return {name: MeanMetric() for name in ("bits_wrong", "sequence_accuracy", "bits", *sizes, *best)}

    def evaluate(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric]) -> Float[Tensor, ""]:
        """Count the bits."""
        logits, scored = evaluation_logits(model, batch), batch.mask.unsqueeze(-1)
        wrong = (((logits > 0) != (batch.targets > 0.5)) & scored).sum(dim=(1, 2)).float()
        loss = F.binary_cross_entropy_with_logits(logits, batch.targets, weight=scored.float(), reduction="none")
        trained = batch.group == 0
        metrics["bits_wrong"].update(wrong[trained])
        metrics["sequence_accuracy"].update((wrong[trained] == 0).float())
        metrics["bits"].update(loss.sum(dim=(1, 2))[trained] / math.log(2))
        for group, size in enumerate(self.problem.beyond, start=1):
            metrics[f"bits_wrong_{size}"].update(wrong[batch.group == group])
        if "best_bits" in metrics:
            bits = torch.cat([batch.inputs[:, :1], batch.targets], dim=1)[..., 0]
            metrics["best_bits"].update(bayes_bits(bits, F.pad(batch.mask, (1, 0))))
        return loss.sum() / (scored.sum() * loss.shape[-1])

    def images(self, model: nn.Module) -> Mapping[str, Figure]:
        """Draw the paper's figures, time to the right, for the largest size of the trained range and of those beyond.

        memory/<size>/outputs: inputs, outputs, targets. memory/<size>/vectors: what is added, what is read.
        memory/<size>/places: where each write head writes, then where each read head reads, the first row on top.
        """
        pictures: dict[str, Figure] = {}
        device = next(model.parameters()).device
        for size in dict.fromkeys([self.sizes[-1], *self.problem.beyond[-1:]]):
            batch = self.problem.draw(8 * self.data_seed + 6, [0], size)
            inputs = batch.inputs.to(device)
            logits, trace = model.run(inputs) if isinstance(model, TuringMachine) else (model(inputs), None)
            outputs = logits.sigmoid().cpu() * batch.mask.unsqueeze(-1)
            named = {"inputs": batch.inputs[0], "outputs": outputs[0], "targets": batch.targets[0]}
            about = f"{self.name}, size {size}: "
            pictures[f"memory/{size}/outputs"] = tiled(about + "bits, 0 black to 1 white", named)
            if trace is not None:
                three = {"add": trace.adds, "write": trace.write_weights, "read": trace.read_weights}
                adds, writes, reads = (
                    {f"{word} {n}": part for n, part in enumerate(parts[0].unbind(dim=1), start=1)}
                    for word, parts in three.items()
                )
                vectors = {name: (part + 1) / 2 for name, part in {**adds, "read": trace.reads[0]}.items()}
                what = "what is written and read, -1 black to 1 white"
                pictures[f"memory/{size}/vectors"] = tiled(about + what, vectors)
                what = "weight of each row of the memory, 0 black to 1 white"
                pictures[f"memory/{size}/places"] = tiled(about + what, {**writes, **reads})
        return pictures


def evaluation_logits(model: nn.Module, batch: Batch) -> Float[Tensor, "B T O"]:
    """Return the logits; examples of the trained range do not go through the steps of the longer ones beside them."""
    logits = torch.zeros_like(batch.targets)
    for rows in (batch.group == 0, batch.group > 0):
        if rows.any():
            steps = int(batch.mask[rows].any(dim=0).nonzero().max()) + 1
            logits[rows, :steps] = model(batch.inputs[rows, :steps]).to(logits.dtype)
    return logits


def tiled(title: str, parts: Mapping[str, Float[Tensor, "T _"]]) -> Figure:
    """Draw series one below the other, a channel a row and a step a column, with a grey line between."""
    from matplotlib.figure import Figure

    line = torch.full((1, len(next(iter(parts.values())))), 0.5)
    rows = torch.cat([row for part in parts.values() for row in (part.cpu().mT, line)][:-1])
    middles, first = [], 0
    for part in parts.values():
        middles.append(first + (part.shape[1] - 1) / 2)
        first += part.shape[1] + 1
    height, width = (CELL * side / DPI for side in rows.shape)
    whole_width, whole_height = max(4.5, width + 1.0), height + 1.0
    figure = Figure(figsize=(whole_width, whole_height), dpi=DPI)
    axis = figure.add_axes((0.8 / whole_width, 0.55 / whole_height, width / whole_width, height / whole_height))
    axis.imshow(rows.float().numpy(), cmap="gray", vmin=0.0, vmax=1.0, aspect="auto", interpolation="none")
    axis.set_yticks(middles, list(parts), fontsize=8)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    figure.text(0.1 / whole_width, 1 - 0.25 / whole_height, title, fontsize=8)
    return figure
