"""A training step of experiment=imdb_keras, beside a bare PyTorch loop, and Keras 3 with TensorFlow, of the same model.

    pip install -e '.[benchmark]'  # without it, the bare loop alone
    python tests/benchmarks/imdb.py [trainer.threads=2] [task.archive=PATH]

The three take turns, 50 steps of 32 reviews each, so that the machine's changes of speed hit all alike; Keras does so
in a process of its own, with as many threads as it likes. Printed: the median milliseconds a step of each, and turn by
turn the ratio of ours to the bare loop, and of Keras to ours: median, first and third quartile.
"""

import importlib.util
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ["FORCE_COLOR"] = "1"  # the bar is drawn as in a terminal

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from omegaconf import OmegaConf

from attnbench.experiment import Experiment, Ledger, loader, plan
from attnbench.registry import Registry
from attnbench.reports.progress import Bar
from attnbench.run import EventLog, build, make_trainer, quiet, typed

TURN, TURNS, WARM_UP = 50, 30, 2


def keras_turns(turns: Connection, tokens: np.ndarray, labels: np.ndarray) -> None:
    """Build the model in Keras; at each number received, train on so many steps of 32 and send the seconds."""
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import keras

    class SelfAttention(keras.layers.Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            self.kernel = self.add_weight(shape=(3, shape[-1], shape[-1]), initializer="uniform", name="kernel")

        def call(self, x: Any) -> Any:
            query, key, value = (keras.ops.matmul(x, self.kernel[i]) for i in range(3))
            scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 2, 1))) / 64**0.5
            return keras.ops.matmul(keras.ops.softmax(scores), value)

    words = keras.Input((tokens.shape[1],), dtype="int32")
    x = SelfAttention()(keras.layers.Embedding(20_000, 128)(words))
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling1D()(x))
    model = keras.Model(words, keras.layers.Dense(2, activation="softmax")(x))
    assert model.count_params() == 2_609_410
    rate = keras.optimizers.schedules.InverseTimeDecay(2e-4, 1, 1e-5)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", ["accuracy"])
    while steps := turns.recv():
        start = time.perf_counter()
        model.fit(tokens[: 32 * steps], labels[: 32 * steps], batch_size=32, verbose=0)
        turns.send(time.perf_counter() - start)


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

    bare = Experiment(task, bare_model, optimizer_config, total)
    parts = bare.configure_optimizers()
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

    keras: Connection | None = None
    if importlib.util.find_spec("keras") and importlib.util.find_spec("tensorflow"):
        times["keras"] = []
        reviews = task.data("train")[list(range(32 * TURN))]
        spawn = multiprocessing.get_context("spawn")
        keras, theirs = spawn.Pipe()
        arguments = (theirs, reviews.rows.squeeze(-1).int().numpy(), reviews.label.numpy())
        spawn.Process(target=keras_turns, args=arguments, daemon=True).start()
        theirs.close()  # if the process fails, so does the next recv

    def keras_turn() -> None:
        if keras is not None:
            keras.send(TURN)
            times["keras"].append(keras.recv() / TURN * 1e3)

    class Turns(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            if ledger.steps % TURN == 0:
                self.start = time.perf_counter()

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if ledger.steps % TURN == 0:
                times["attnbench"].append((time.perf_counter() - self.start) / TURN * 1e3)
                bare_turn()
                keras_turn()

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(settings, total, batches.size)
        callbacks = [ledger, Bar(ledger, "benchmark", True), Turns()]
        trainer = make_trainer(settings, EventLog(Path(folder)), callbacks)
        trainer.fit(Experiment(task, model, optimizer_config, total), loader(task, "train", batches))
    kept = {name: values[WARM_UP:] for name, values in times.items()}
    for name, values in kept.items():
        print(f"{name:18} {statistics.median(values):.2f} ms a step")
    for slow, fast in (("attnbench", "bare"), ("keras", "attnbench")):
        if slow in kept:
            ratios = [ours / theirs for ours, theirs in zip(kept[slow], kept[fast], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"{slow} / {fast}  {middle:.3f}  ({low:.3f} to {high:.3f}, {len(ratios)} turns)")


if __name__ == "__main__":
    main()
