"""Draw the results that ship with a suite: the metric over what each task's slices vary, a line for each mechanism.

    python tests/benchmarks/pictures.py SUITE [FOLDER]

A picture for each task, FOLDER/TASK.png, .readme unless given: means of the seeds, bars from the least to the largest;
grey is what was trained on. Softmax attention is solid, states are dashed, controls dotted.
"""

import sys
from pathlib import Path
from statistics import fmean

from hydra import compose, initialize_config_module
from matplotlib.figure import Figure

from attnbench.registry import Registry
from attnbench.report import read_references
from attnbench.suite import find_suite

CONTROLS = ("uniform", "last", "sliding_window")
STATES = ("linear_attention", "retention", "mamba2", "log_linear", "gla", "deltanet", "gated_deltanet", "kda")


def style(arm, number):
    """Lines of one family are alike."""
    if arm.startswith(CONTROLS):
        return {"linestyle": ":", "marker": "^", "color": ("#888888", "#555555", "#bbbbbb")[number % 3]}
    dashed = arm.startswith(STATES)
    return {"linestyle": "--" if dashed else "-", "marker": "s" if dashed else "o", "color": f"C{number % 10}"}


def draw(picture, task, cells):
    """Draw a task, a panel for each option that its slices vary."""
    variants, changes = task.variants(), [{}, *task.slices().values()]
    places = {option: [] for option in task.over}  # (the option's value, which slice) of those that are of it
    for i, changed in enumerate(changes):
        for option in [o for o in task.over if o in changed][:1] or task.over:
            places[option].append((getattr(variants[i], option), i))
    drawn = {option: sorted(found) for option, found in places.items() if len(found) > 1}
    figure = Figure(figsize=(4.6 * len(drawn) + 2.6, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    family = {cell.arm: (cell.arm.startswith(CONTROLS), cell.arm.startswith(STATES)) for cell in cells}
    number = {arm: [a for a in family if family[a] == family[arm]].index(arm) for arm in family}
    for axis, (option, found) in zip(panels, drawn.items(), strict=True):
        x = [value for value, _ in found]
        axis.axvline(getattr(task, option), color="lightgrey", linewidth=6, zorder=0)
        for cell in cells:
            parts = list(cell.slices.values())
            y = [fmean(parts[i]) for _, i in found]
            bars = [[max(0, m - min(parts[i])), max(0, max(parts[i]) - m)] for m, (_, i) in zip(y, found, strict=True)]
            axis.errorbar(
                x,
                y,
                list(zip(*bars, strict=True)),
                capsize=2,
                markersize=4,
                label=cell.arm,
                **style(cell.arm, number[cell.arm]),
            )
        if min(x) > 0 and max(x) > 3 * min(x):
            axis.set_xscale("log", base=2)
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
        axis.set(xlabel=f"{option} (grey: trained on)", ylabel=task.primary)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(picture)


def main() -> None:
    """Draw all."""
    suite, registry = find_suite(sys.argv[1]), Registry.load()
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[2] / ".readme"
    found, _ = read_references(suite, registry)
    for name, words in suite.tasks.items():
        with initialize_config_module("attnbench.conf", version_base="1.3"):
            task = registry.build("task", compose("config", overrides=list(words)).task)
        draw(folder / f"{name}.png", task, [cell for cell in found.cells if cell.task == name])


if __name__ == "__main__":
    main()
