"""How reliably the recipes of `task=memory` learn: each on many seeds, as a table with Wilson's interval.

    python tests/benchmarks/recipes.py FOLDER [RECIPE ...] [FIRST-LAST]

Trains what FOLDER does not hold yet, one run after the other (of the recipes that are named, or of all; twenty seeds,
7 to 25 minutes a recipe on one core), then prints what it holds: of each recipe how many seeds reached its goal at
test, with Wilson's 95 % interval, the median and the worst value of each metric, the seeds that failed, and CPU-minutes
of a run, start to end. The seeds are the first that are fresh: `copy` was chosen on 0 to 4, `recall` on 0 to 2, the
others on 100 and above and by what failed before on 0 to 39 (`repeat_copy`) and on 0 to 66 (`copy_long`).
"""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from attnbench.reports.statistics import wilson

#: The command's words; the goal: of each metric at test the value that it stays under; and the first fresh seed.
RECIPES: dict[str, tuple[str, dict[str, float], int]] = {
    "copy": ("task=memory", {"bits_wrong": 0.1}, 5),
    "copy_long": ("experiment=ntm_copy_long", {"bits_wrong_120": 1.0, "bits_wrong": 0.1}, 67),
    "recall": ("experiment=ntm_recall", {"bits_wrong": 0.1}, 3),
    "repeat_copy": ("experiment=ntm_repeat_copy", {"bits_wrong": 0.1}, 40),
}
SEEDS = 20


def main() -> None:
    """Train and print."""
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    chosen = [word for word in words if word in RECIPES] or list(RECIPES)
    ends = next((word.split("-") for word in words if re.fullmatch(r"\d+-\d+", word)), None)
    for recipe in chosen:
        command, _, fresh = RECIPES[recipe]
        seeds = range(fresh, fresh + SEEDS) if ends is None else range(int(ends[0]), int(ends[1]) + 1)
        for seed in seeds:
            train(folder / recipe / str(seed), f"{command} seed={seed}")
    print("| recipe | seeds | reached the goal | Wilson 95 % | median; worst | failed | CPU-minutes: median; most |")
    print("|---|---|---|---|---|---|---|")
    for recipe in chosen:
        print(row(recipe, folder / recipe))


def train(folder: Path, words: str) -> None:
    """Run a recipe, unless the folder holds its result."""
    if (folder / "cpu_seconds").exists():
        return
    before = sum(os.times()[2:4])
    options = f"hydra.run.dir={folder} trainer.images=0 trainer.progress_bar=false"
    subprocess.run([sys.executable, "-m", "attnbench", *words.split(), *options.split()], check=True)
    (folder / "cpu_seconds").write_text(str(sum(os.times()[2:4]) - before))


def row(recipe: str, folder: Path) -> str:
    """Return the table's row of a recipe: of its fresh seeds."""
    _, goal, fresh = RECIPES[recipe]
    runs = {seed: path.parent for path in folder.glob("*/cpu_seconds") if (seed := int(path.parent.name)) >= fresh}
    metrics: dict[int, dict[str, Any]] = {
        seed: json.loads((run / "result.json").read_text())["metrics"] for seed, run in sorted(runs.items())
    }
    reached = [seed for seed, of in metrics.items() if all(of[f"test/{name}"] < most for name, most in goal.items())]
    failed = ", ".join(str(seed) for seed in metrics if seed not in reached) or "none"
    low, high = wilson(len(reached), len(metrics))
    values = {name: [of[f"test/{name}"] for of in metrics.values()] for name in goal}
    cells = ", ".join(f"{name} {statistics.median(of):.3f}; {max(of):.3f}" for name, of in values.items())
    minutes = [float((run / "cpu_seconds").read_text()) / 60 for run in runs.values()]
    cost = f"{statistics.median(minutes):.1f}; {max(minutes):.1f}"
    share = f"{len(reached)} of {len(metrics)} | {low:.2f} to {high:.2f}"
    return f"| {recipe} | {', '.join(map(str, metrics))} | {share} | {cells} | {failed} | {cost} |"


if __name__ == "__main__":
    main()
