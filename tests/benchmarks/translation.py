"""Draw what attention buys in translation: BLEU over the length of the source, a line for each mechanism.

    python tests/benchmarks/translation.py RUNS PICTURE.png

Of all runs of task=translation below RUNS: means over seeds, bars from the least to the largest. The table is printed.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from attnbench.config import mechanism


def read(folder):
    """Return each mechanism's test results, by metric."""
    found = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("**/result.json")):
        result = json.loads(path.read_text())
        if result["task"] == "translation" and result["status"] == "completed":
            for tag, value in result["metrics"].items():
                if tag.startswith("test/"):
                    found[mechanism(result["attention"], result["scoring"])][tag].append(value)
    return found


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
        for tag in ("test/bleu", *groups, "test/exact_match", "test/loss"):
            print(f"{name:16} {tag:18} {fmean(values[tag]):8.3f}  ", "  ".join(f"{value:.3f}" for value in values[tag]))
    axis.set(xlabel="words of the source", ylabel="BLEU", ylim=(0, None))
    axis.legend()
    figure.savefig(sys.argv[2])


if __name__ == "__main__":
    main()
