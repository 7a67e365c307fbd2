"""A training step of experiment=imdb_keras, beside a bare PyTorch loop, and Keras 3 with TensorFlow, of the same model.

    pip install -e '.[benchmark]'  # without it, the bare loop alone
    python tests/benchmarks/imdb.py [trainer.threads=2] [task.archive=PATH]

The three take turns, 60 steps of 32 reviews each, so that the machine's changes of speed hit all alike, and in changing
order, for each leaves the machine to the next as it used it; Keras computes in a process of its own, with as many
threads as it likes. Printed: the median milliseconds a step of each, and turn by turn the ratio of ours to the bare
loop, and of Keras to ours: median, first and third quartile.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["FORCE_COLOR"] = "1"  # the bar is drawn as in a terminal

import pytorch_lightning as pl
import torch
import yaml
from omegaconf import OmegaConf

from attnbench.experiment import Experiment, Ledger, loader, plan, stride_loader
from attnbench.folder import typed
from attnbench.registry import Registry
from attnbench.reports.progress import Bar
from attnbench.run import EventLog, build, make_trainer, quiet

TURN, TURNS, WARM_UP = 60, 40, 2


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
    _, bare_model = build(config, registry)
    batches, total = plan(task, settings, 0)
    parts = Experiment(task, bare_model, optimizer_config, total).configure_optimizers()
    optimizer, schedule = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    stream = iter(loader(task, "train", plan(task, settings, 0)[0]))
    times: dict[str, list[float]] = {"attnbench": [], "bare": []}

    def bare_turn() -> None:
        start = time.perf_counter()
        for _ in range(TURN):
            optimizer.zero_grad()
            task.loss(bare_model, next(stream)).backward()
            optimizer.step()
            schedule.step()
        times["bare"].append((time.perf_counter() - start) / TURN * 1e3)

    reviews = task.data("train")[list(range(32 * TURN))]
    keras: subprocess.Popen[str] | None = None
    if importlib.util.find_spec("keras") and importlib.util.find_spec("tensorflow"):
        times["keras"] = []
        program = [sys.executable, str(Path(__file__).with_name("imdb_keras.py"))]
        keras = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def keras_turn() -> None:
        if keras is not None:
            json.dump([reviews.rows.squeeze(-1).tolist(), reviews.label.tolist()], keras.stdin)
            print(file=keras.stdin, flush=True)
            times["keras"].append(float(keras.stdout.readline()) / TURN * 1e3)

    class Turns(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if ledger.steps % TURN == 0:
                times["attnbench"].append((time.perf_counter() - self.start) / TURN * 1e3)
                for turn in (bare_turn, keras_turn) if ledger.steps // TURN % 2 else (keras_turn, bare_turn):
                    turn()
                self.start = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(settings, total, batches.size)
        callbacks = [ledger, Bar(ledger, "benchmark", True), Turns()]
        trainer = make_trainer(settings, EventLog(Path(folder)), callbacks)
        ours = Experiment(task, model, optimizer_config, total, clip=settings.gradient_clip)
        trainer.fit(ours, stride_loader(task, batches, settings, total))
    kept = {name: values[WARM_UP:] for name, values in times.items()}
    for name, values in kept.items():
        print(f"{name:18} {statistics.median(values):.2f} ms a step")
    for slow, fast in (("attnbench", "bare"), ("keras", "attnbench")):
        if slow in kept:
            ratios = [one / other for one, other in zip(kept[slow], kept[fast], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"{slow} / {fast}  {middle:.3f}  ({low:.3f} to {high:.3f}, {len(ratios)} turns)")


if __name__ == "__main__":
    main()
