"""Draw what attention buys in translation: BLEU over the length of the source, a line for each mechanism.

    python tests/benchmarks/translation.py RUNS PICTURE.png

Of all runs of task=translation below RUNS: means over seeds, bars from the least to the largest. The table is printed,
and with it BLEU over all test sources of 9 and more words together, of each run's best checkpoint.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure

from attnbench import run, run_folder
from attnbench.config import OptimizerConfig, mechanism
from attnbench.registry import Registry
from attnbench.training.experiment import Experiment
from attnbench.training.trainer import load_weights

LONG = ("9-10", "11-12")


def read(folder):
    """Return each mechanism's test results, by metric."""
    found = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("**/result.json")):
        result = json.loads(path.read_text())
        if result["task"] == "translation" and result["status"] == "completed":
            of_mechanism = found[mechanism(result["attention"], result["scoring"])]
            for tag, value in result["metrics"].items():
                if tag.startswith("test/"):
                    of_mechanism[tag].append(value)
            of_mechanism["9 and more words"].append(of_long_sources(path.parent))
            of_mechanism["CPU seconds"].append(result["cpu_seconds"])
    return found


@torch.no_grad()
def of_long_sources(folder):
    """Return a run's BLEU over the test sources of 9 and more words together."""
    registry = Registry.load()
    task, model = run.build(run_folder.load(folder, registry, []), registry, folder)
    checkpoint = run_folder.best_checkpoint(folder)
    experiment = Experiment(task, model, OptimizerConfig(), total_steps=1)
    load_weights(experiment, run_folder.read_checkpoint(checkpoint), checkpoint)
    data, metrics = task.data("test"), task.metrics()
    rows = [i for i, source in enumerate(data.source.tolist()) if task._group(source) in LONG]
    task.evaluate(model.eval(), data[rows], metrics)
    return float(metrics["bleu"].compute())


def main():
    """Print the table and write the picture."""
    found = read(Path(sys.argv[1]))
    groups = [tag for tag in next(iter(found.values())) if tag.startswith("test/bleu_")]
    figure = Figure(figsize=(5.5, 3.6), dpi=110, layout="constrained")
    axis = figure.subplots()
    names = [tag.removeprefix("test/bleu_") for tag in groups]
    for name, values in sorted(found.items(), key=lambda item: -fmean(item[1]["test/bleu"])):
        means = [fmean(values[tag]) for tag in groups]
        reach = [[fmean(values[tag]) - min(values[tag]) for tag in groups],
                 [max(values[tag]) - fmean(values[tag]) for tag in groups]]  # fmt: skip
        axis.errorbar(
            names, means, reach, fmt="o-", capsize=3, label=f"{name}: {fmean(values['test/bleu']):.1f} of all"
        )
        for tag in ("test/bleu", *groups, "9 and more words", "test/exact_match", "test/loss", "CPU seconds"):
            print(f"{name:16} {tag:18} {fmean(values[tag]):8.3f}  ", "  ".join(f"{value:.3f}" for value in values[tag]))
    axis.set(xlabel="words of the source", ylabel="BLEU", ylim=(0, None))
    axis.legend()
    figure.savefig(sys.argv[2])


if __name__ == "__main__":
    main()
