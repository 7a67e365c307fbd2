"""A training step of experiment=imdb_keras, beside the same program in plain PyTorch, and in Keras 3 with TensorFlow.

    pip install -e '.[benchmark]'  # without it, plain PyTorch alone
    python tests/benchmarks/imdb.py trainer.threads=2 [task.archive=PATH]

The three take turns, 240 steps of 32 reviews each (of fewer, what Keras's `fit` spends before its first step would
weigh), so that the machine's changes of speed hit all alike, and in changing order, for each leaves the machine to the
next as it used it. Keras computes in a process of its own, with as many threads as it likes. Printed: the median
milliseconds a step of each, and turn by turn the ratio of ours to plain PyTorch, and of Keras to ours: median, first
and third quartile.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["FORCE_COLOR"] = "1"  # the bar is drawn as in a terminal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
import yaml
from omegaconf import OmegaConf
from torch import Tensor, nn

from attnbench.registry import Registry
from attnbench.reports.progress import Bar
from attnbench.reports.tensorboard import EventLog
from attnbench.run import build
from attnbench.run_folder import typed
from attnbench.training.batches import chunk_loader, plan
from attnbench.training.callbacks import TrainingRecord
from attnbench.training.experiment import Experiment
from attnbench.training.process import flush_denormals, quiet
from attnbench.training.trainer import make_trainer

TURN, TURNS, WARM_UP = 240, 16, 1


class Plain(nn.Module):
    """The model, as one writes it without a bench."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20_000, 128)
        self.query, self.key, self.value = (nn.Linear(128, 128, bias=False) for _ in range(3))
        self.dropout, self.out = nn.Dropout(0.5), nn.Linear(128, 2)

    def forward(self, words: Tensor) -> Tensor:
        """Give the logits."""
        x = self.table(words)
        weights = torch.softmax(self.query(x) @ self.key(x).mT / 8, dim=-1)
        return self.out(self.dropout((weights @ self.value(x)).mean(dim=1)))


def plain_steps(words: Tensor, labels: Tensor) -> Iterator[None]:
    """Train it, a step at a time."""
    model = Plain()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 1e-5 * step))
    while True:
        for chosen in torch.randperm(len(words)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(words[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
            yield


@flush_denormals()
def main() -> None:
    """Measure and print."""
    overrides = ["experiment=imdb_keras", f"trainer.max_steps={TURN * (TURNS + WARM_UP)}", *sys.argv[1:]]
    command = [sys.executable, "-m", "attnbench", "--cfg", "job", *overrides]
    composed = yaml.safe_load(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    composed["scoring"] = None  # attention=self uses none
    registry = Registry.load()
    config = typed(registry, composed, [f"trainer.val_every={TURN * (TURNS + WARM_UP)}"])
    settings, optimizer_config = OmegaConf.to_object(config.trainer), OmegaConf.to_object(config.optimizer)
    settings.eval_train, settings.eval_batches = 0, 1
    quiet()
    torch.set_num_threads(settings.threads)
    pl.seed_everything(0, verbose=False)
    task, model = build(config, registry)
    batches, total = plan(task, settings, 0)
    every = task.data("train")[list(range(25_000))]
    words, labels = every.rows.squeeze(-1), every.label
    steps = plain_steps(words, labels)
    times: dict[str, list[float]] = {"attnbench": [], "plain": []}

    def plain_turn() -> None:
        start = time.perf_counter()
        for _ in range(TURN):
            next(steps)
        times["plain"].append((time.perf_counter() - start) / TURN * 1e3)

    keras: subprocess.Popen[str] | None = None
    if importlib.util.find_spec("keras") and importlib.util.find_spec("tensorflow"):
        times["keras"] = []
        program = [sys.executable, str(Path(__file__).with_name("imdb_keras.py"))]
        keras = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def keras_turn() -> None:
        if keras is not None:
            json.dump([words[: 32 * TURN].tolist(), labels[: 32 * TURN].tolist()], keras.stdin)
            print(file=keras.stdin, flush=True)
            times["keras"].append(float(keras.stdout.readline()) / TURN * 1e3)

    class Turns(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if record.steps % TURN == 0:
                times["attnbench"].append((time.perf_counter() - self.start) / TURN * 1e3)
                for turn in (plain_turn, keras_turn) if record.steps // TURN % 2 else (keras_turn, plain_turn):
                    turn()
                self.start = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        record = TrainingRecord(settings, total, batches.size)
        callbacks = [record, Bar(record, "benchmark", True), Turns()]
        trainer = make_trainer(settings, EventLog(Path(folder)), callbacks)
        ours = Experiment(task, model, optimizer_config, total, clip=settings.gradient_clip)
        trainer.fit(ours, chunk_loader(task, batches, settings, total))
    kept = {name: values[WARM_UP:] for name, values in times.items()}
    for name, values in kept.items():
        print(f"{name:18} {statistics.median(values):.2f} ms a step")
    for slow, fast in (("attnbench", "plain"), ("keras", "attnbench")):
        if slow in kept:
            ratios = [one / other for one, other in zip(kept[slow], kept[fast], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"{slow} / {fast}  {middle:.3f}  ({low:.3f} to {high:.3f}, {len(ratios)} turns)")


if __name__ == "__main__":
    main()
