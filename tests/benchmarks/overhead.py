"""What Lightning, the progress bar and TensorBoard cost a step of `task=date`, over a bare loop of the same model.

    python tests/benchmarks/overhead.py

Both loops run in one process and take turns, 20 steps each (as many as lie between two points of a curve), so that the
machine's changes of speed hit both alike. Printed: the median milliseconds a step of each, and their ratio pair by
pair: median, first and third quartile.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["FORCE_COLOR"] = "1"  # the bar is drawn as in a terminal

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from attnbench.registry import Registry
from attnbench.reports.progress import Bar
from attnbench.reports.tensorboard import EventLog
from attnbench.run import build
from attnbench.run_folder import typed
from attnbench.training.batches import chunk_loader, loader, plan
from attnbench.training.callbacks import TrainingRecord
from attnbench.training.experiment import Experiment
from attnbench.training.process import flush_denormals, quiet
from attnbench.training.trainer import make_trainer

TURN, TURNS, WARM_UP = 20, 50, 4


@flush_denormals()
def main() -> None:
    """Measure and print."""
    registry = Registry.load()
    chosen = {"attention": {"name": "soft"}, "scoring": {"name": "additive"}, "task": {"name": "date", "lines": 20_000}}
    steps = TURN * (TURNS + WARM_UP)
    config = typed(registry, chosen, [f"trainer.max_steps={steps}", f"trainer.val_every={steps}"])
    settings, optimizer_config = OmegaConf.to_object(config.trainer), OmegaConf.to_object(config.optimizer)
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
    times: dict[str, list[float]] = {"bare": [], "attnbench": []}

    def bare_turn() -> None:
        start = time.perf_counter()
        for _ in range(TURN):
            optimizer.zero_grad()
            task.loss(bare_model, next(stream)).backward()
            torch.nn.utils.clip_grad_norm_(bare_model.parameters(), settings.gradient_clip)
            optimizer.step()
            schedule.step()
        times["bare"].append((time.perf_counter() - start) / TURN * 1e3)

    class Turns(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            times["attnbench"].append((time.perf_counter() - self.start) / TURN * 1e3)
            bare_turn()
            self.start = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        record = TrainingRecord(settings, total, batches.size)
        callbacks = [record, Bar(record, "benchmark", True), Turns()]
        trainer = make_trainer(settings, EventLog(Path(folder)), callbacks)
        ours = Experiment(task, model, optimizer_config, total, clip=settings.gradient_clip)
        trainer.fit(ours, chunk_loader(task, batches, settings, total))
    kept = {name: values[WARM_UP:] for name, values in times.items()}
    for name, values in kept.items():
        print(f"{name:10} {statistics.median(values):.2f} ms a step")
    ratios = [slow / fast for slow, fast in zip(kept["attnbench"], kept["bare"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"ratio      {middle:.3f}  ({low:.3f} to {high:.3f}, {len(ratios)} pairs)")


if __name__ == "__main__":
    main()
