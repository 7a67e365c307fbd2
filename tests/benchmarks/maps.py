"""Where do mechanisms look for one and the same example? Trained runs of a next-token task side by side.

    python tests/benchmarks/maps.py PICTURE RUN_FOLDER [RUN_FOLDER ...]

A panel for each run: the exact mixing matrix of its last layer, of the head that puts most on the right places. Rows
are the questions, columns the tokens before them. The place of each answer is outlined; blue is negative.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from attnbench.config import OptimizerConfig
from attnbench.registry import Registry
from attnbench.run import build
from attnbench.run_folder import best_checkpoint, load, read_checkpoint
from attnbench.training.experiment import Experiment
from attnbench.training.trainer import load_weights


def main() -> None:
    """Draw."""
    picture, *folders = map(Path, sys.argv[1:])
    registry = Registry.load()
    figure = Figure(figsize=(5 * len(folders), 4.2), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(folders), sharey=True, squeeze=False)[0]
    for axis, folder in zip(axes, folders, strict=True):
        config, checkpoint = load(folder, registry, []), best_checkpoint(folder)
        task, model = build(config, registry, folder)
        load_weights(Experiment(task, model, OptimizerConfig(), total_steps=1), read_checkpoint(checkpoint), checkpoint)
        batch = task.data("val")[[0]]
        with torch.no_grad():
            (example,) = task.maps(model.eval(), batch)
        rows = batch.scored[0].nonzero().flatten()
        last = int(rows.min())  # what stands before the first question
        truth = example.truth[rows, :last]
        head = int((example.weights[:, rows, :last] * truth).sum(dim=(1, 2)).argmax())
        weights = example.weights[head, rows, :last]
        largest = float(weights.abs().max())
        image = axis.imshow(weights, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="none")
        for row, column in truth.nonzero().tolist():
            axis.add_patch(_cell(column, row))
        axis.set_xticks(range(last), example.columns[:last], rotation=90, fontsize=7)
        axis.set_yticks(range(len(rows)), [example.rows[row] for row in rows], fontsize=7)
        name = config.attention.name + (f" {config.scoring.name}" if config.scoring else "")
        axis.set_title(f"{name}, head {head + 1} of {len(example.weights)}", fontsize=9)
        figure.colorbar(image, ax=axis, fraction=0.04, pad=0.02).ax.tick_params(labelsize=7)
    figure.savefig(picture)


def _cell(column: int, row: int):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=0.8)


if __name__ == "__main__":
    main()
