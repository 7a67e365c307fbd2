"""Do the next-token tasks tell mechanisms apart? Each arm is tuned alike, then run anew on seeds that chose nothing.

    python tests/benchmarks/calibrate.py FOLDER [TASK ...] [--narrow]

Every arm tries the same learning rates with tuning seed 100, the best by validation is run on seeds 0 to 4. A best rate
at the grid's edge widens the grid by one step for that task, for every arm alike, unless `--narrow` leaves it. Runs
that are there are not repeated. The table is printed, and written to FOLDER/TASK.md: mechanisms down, slices across,
mean and t interval of five seeds. FOLDER/TASK.png draws the metric over what slices vary, a line for each mechanism.
"""

import json
import math
import statistics
import sys
import time
from pathlib import Path

from hydra import compose, initialize_config_module
from matplotlib.figure import Figure

from attnbench.registry import Registry
from attnbench.reports.statistics import interval, separation, wilson
from attnbench.run import run

TUNING, REPORTED = (100,), (0, 1, 2, 3, 4)
RATES = (3e-3, 1e-2, 3e-2)
WIDEST = (3e-4, 3e-1)
ALIKE = 0.005  # of rates whose validation differs by less, the one nearest to the grid's middle
SOFTMAX = {
    "multihead": ["attention=multihead", "scoring=scaled_dot"],
    "multihead, rope": ["attention=multihead", "scoring=rope"],
    "multihead, alibi": ["attention=multihead", "scoring=alibi"],
    "sliding_window, 8": ["attention=sliding_window", "scoring=bilinear", "attention.window=8"],
    "forgetting": ["attention=forgetting", "scoring=scaled_dot"],
    "stick_breaking": ["attention=stick_breaking", "scoring=scaled_dot"],
    "path": ["attention=path"],
}
STATES = {
    "linear_attention": ["attention=linear_attention"],
    "retention": ["attention=retention"],
    "mamba2": ["attention=mamba2"],
    "gla": ["attention=gla"],
    "deltanet": ["attention=deltanet"],
    "deltanet, negative": ["attention=deltanet", "attention.negative=true"],
    "gated_deltanet": ["attention=gated_deltanet"],
}
CONTROLS = {"uniform": ["attention=uniform"], "last": ["attention=last"]}
ARMS = {**SOFTMAX, **STATES, **CONTROLS}
#: What is run of each task, and the arms that say something there; the first is the intended winner.
TASKS = {
    "recall": (
        ["task=recall", "task.pairs=16", "task.length=64", "task.vocabulary=128", "trainer.max_steps=1200",
         "trainer.batch_size=32", "trainer.val_every=400"],
        ["multihead", "multihead, rope", "sliding_window, 8", "linear_attention", "retention", "mamba2", "gla",
         "deltanet", "gated_deltanet", "uniform", "last"],
    ),
    "state_tracking": (
        ["task=state_tracking"],
        ["deltanet, negative", "deltanet", "gated_deltanet", "gla", "mamba2", "multihead", "multihead, rope",
         "forgetting", "path", "uniform", "last"],
    ),
    "flip_flop": (
        ["task=flip_flop"],
        ["path", "forgetting", "stick_breaking", "multihead", "multihead, rope", "multihead, alibi", "gla", "deltanet",
         "gated_deltanet", "uniform", "last"],
    ),
    "induction": (
        ["task=induction"],
        ["forgetting", "multihead", "multihead, rope", "multihead, alibi", "linear_attention", "gla", "deltanet",
         "sliding_window, 8", "uniform", "last"],
    ),
    "copy": (
        ["task=copying"],
        ["multihead, rope", "multihead", "multihead, alibi", "linear_attention", "gla", "deltanet", "mamba2", "uniform",
         "last"],
    ),
    "selective": (
        ["task=copying", "task.kind=selective", "task.longest=4", "task.blanks=12"],
        ["multihead", "multihead, rope", "linear_attention", "gla", "mamba2", "gated_deltanet", "deltanet", "uniform",
         "last"],
    ),
    "markov": (
        ["task=markov"],
        ["multihead", "multihead, rope", "linear_attention", "gla", "deltanet", "mamba2", "uniform", "last"],
    ),
}  # fmt: skip


def measured(folder: Path, registry: Registry, overrides: list[str]) -> dict:
    """The result of a run, which is run if it is not there."""
    name = "_".join(o.replace("=", "-") for o in overrides)
    path = folder / "runs" / name
    if (path / "result.json").exists():
        result = json.loads((path / "result.json").read_text())
        if result["status"] == "completed":
            return result
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
    path.mkdir(parents=True, exist_ok=True)
    quiet = ["trainer.progress_bar=false", "trainer.images=0"]
    with initialize_config_module("attnbench.conf", version_base="1.3"):
        config = compose("config", overrides=[*overrides, *quiet])
    if not any(o.startswith("scoring") for o in overrides):
        config.scoring = None
    run(config, path, registry, overrides)
    return json.loads((path / "result.json").read_text())


def score(result: dict, split: str) -> float:
    """The primary metric, more is better."""
    value = result["metrics"][result["primary"].replace("test/", f"{split}/")]
    return (value if result["mode"] == "max" else -value) if math.isfinite(value) else -math.inf


def tuned(folder: Path, registry: Registry, task: list[str], arms: list[str]) -> tuple[dict[str, float], list[float]]:
    """The best rate of each arm, and the grid that all of them tried."""
    rates, chosen = list(RATES), {}
    while True:
        for arm in arms:
            means = {}
            for lr in rates:
                runs = [[*task, *ARMS[arm], f"optimizer.lr={lr:g}", f"seed={seed}"] for seed in TUNING]
                means[lr] = statistics.fmean(score(measured(folder, registry, r), "val") for r in runs)
            near = [lr for lr in rates if means[lr] >= max(means.values()) - ALIKE]
            chosen[arm] = min(near, key=lambda lr: abs(math.log(lr / 1e-2)))
        low, high = any(lr == rates[0] for lr in chosen.values()), any(lr == rates[-1] for lr in chosen.values())
        wider = [rates[0] / 3] * low + rates + [rates[-1] * 3] * high
        wider = [lr for lr in wider if WIDEST[0] <= lr <= WIDEST[1]]
        if wider == rates or "--narrow" in sys.argv:  # as the grid is, however the best rates lie
            return chosen, rates
        rates = wider


def draw(picture: Path, registry: Registry, overrides: list[str], curves: dict[str, dict[str, list[float]]]) -> None:
    """Draw the primary metric over each option that slices vary: means of the seeds, bars their least and largest."""
    with initialize_config_module("attnbench.conf", version_base="1.3"):
        task = registry.build("task", compose("config", overrides=overrides).task)
    tags = [f"test/{task.primary}", *(f"test/{task.primary}_{name}" for name in task.slices())]
    variants, changes = task.variants(), [{}, *task.slices().values()]
    figure = Figure(figsize=(5 * len(task.over) + 2, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(task.over), squeeze=False)[0]
    for axis, option in zip(axes, task.over, strict=True):
        first = [next((other for other in task.over if other in changed), option) for changed in changes]
        places = sorted((getattr(variants[i], option), i) for i in range(len(tags)) if first[i] == option)
        x = [value for value, _ in places]
        axis.axvline(getattr(task, option), color="lightgrey", linewidth=6, zorder=0)
        for number, (arm, values) in enumerate(curves.items()):
            y = [statistics.fmean(values[tags[i]]) for _, i in places]
            bars = [[m - min(values[tags[i]]), max(values[tags[i]]) - m] for m, (_, i) in zip(y, places, strict=True)]
            style = ("o-", "s--", "^:")[number // 10 % 3]
            axis.errorbar(x, y, list(zip(*bars, strict=True)), fmt=style, capsize=2, markersize=4, label=arm)
        if min(x) > 0 and max(x) > 3 * min(x):
            axis.set_xscale("log", base=2)
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
        axis.set(xlabel=f"{option} (grey: trained on)", ylabel=task.primary)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(picture)


def main() -> None:
    """Calibrate."""
    folder = Path(sys.argv[1])
    names = [word for word in sys.argv[2:] if not word.startswith("-")] or list(TASKS)
    registry = Registry.load()
    registry.store()
    known = {component.name for component in registry.of("attention")}
    for name in names:
        task, wanted = TASKS[name]
        arms = [arm for arm in wanted if ARMS[arm][0].partition("=")[2] in known]
        started = time.process_time()
        chosen, rates = tuned(folder, registry, task, arms)
        rows, groups, tags, curves = [], [], [], {}
        for arm in arms:
            results = [
                measured(folder, registry, [*task, *ARMS[arm], f"optimizer.lr={chosen[arm]:g}", f"seed={seed}"])
                for seed in REPORTED
            ]
            groups.append([score(r, "test") for r in results])
            primary = results[0]["primary"]
            tags = [tag for tag in results[0]["metrics"] if tag == primary or tag.startswith(f"{primary}_")]
            cells = []
            curves[arm] = {tag: [r["metrics"][tag] for r in results] for tag in tags}
            for tag in tags:
                values = [r["metrics"][tag] for r in results]
                low, high = interval(values) or (values[0], values[0])
                cells.append(f"{statistics.fmean(values):.3f} [{low:.3f}, {high:.3f}]")
            reached = sum(
                (-score(r, "test") <= r["goal"]) if r["mode"] == "min" else (score(r, "test") >= r["goal"])
                for r in results
            )
            low, high = wilson(reached, len(results))
            seconds = statistics.median(r["train_cpu_seconds"] for r in results)
            parameters = results[0]["parameters"]
            rows.append(
                [
                    arm,
                    *cells,
                    f"{reached}/{len(results)} [{low:.2f}, {high:.2f}]",
                    f"{chosen[arm]:g}",
                    f"{seconds:.1f}",
                    f"{parameters:,}",
                ]
            )
        heads = [
            "mechanism",
            *(tag.removeprefix("test/") for tag in tags),
            "reached the goal",
            "rate",
            "CPU s",
            "parameters",
        ]
        table = [heads, ["---"] * len(heads), *rows]
        apart = separation(groups)
        text = "\n".join("| " + " | ".join(row) + " |" for row in table)
        text += f"\n\nRates tried by each arm, on seed {TUNING[0]}: {', '.join(f'{lr:g}' for lr in rates)}. "
        spread = "not known" if apart is None else f"{apart:.1f}"
        text += f"Spread between mechanisms over spread between seeds: {spread}.\n"
        (folder / f"{name}.md").write_text(text)
        draw(folder / f"{name}.png", registry, task, curves)
        print(f"{name}: {' '.join(task)}\n{text}\n{time.process_time() - started:.0f} CPU seconds\n", flush=True)


if __name__ == "__main__":
    main()
