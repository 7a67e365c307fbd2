"""What addressing buys: five machines on the five problems of `task=memory`, three seeds each, as a table.

    python tests/benchmarks/addressing.py FOLDER [MACHINE ...]

Trains what FOLDER does not hold yet (of the machines that are named, or of all; some hours on one core), then prints
what it holds: mean and standard deviation of the bits wrong at test, in the trained range and at the farthest size
beyond it; of n-grams, of the bits of loss. Of one problem all machines see as many sequences.
"""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

BUDGETS = {
    "copy": "trainer.max_steps=2000 trainer.batch_size=8",
    "repeat_copy": "trainer.max_steps=8000 trainer.batch_size=4 task.write_first=true",
    "associative_recall": "trainer.max_steps=4000 trainer.batch_size=16 task.rows=32 task.eval_rows=128",
    "priority_sort": "trainer.max_steps=2000 trainer.batch_size=8",
    "ngrams": "trainer.max_steps=500 trainer.batch_size=8",
}
EXPERIMENTS = {"repeat_copy": "experiment=ntm_repeat_copy", "associative_recall": "experiment=ntm_recall"}
MACHINES = {
    "ntm": "",
    "content": "attention=soft scoring=bilinear",
    "uniform": "attention=uniform",
    "lstm": "task.machine=lstm optimizer.lr=1e-2",
    "transformer": "task.machine=transformer attention=multihead scoring=scaled_dot optimizer.lr=1e-3",
}
FARTHEST = {"copy": "120", "repeat_copy": "20x10", "associative_recall": "20"}
SHOWN = "trainer.stop_at_goal=false trainer.images=0 trainer.val_every=1000"


def main() -> None:
    """Train and print."""
    folder, chosen = Path(sys.argv[1]), sys.argv[2:] or MACHINES
    for machine in chosen:
        for problem, budget in BUDGETS.items():
            start = EXPERIMENTS.get(problem, "task=memory") if machine == "ntm" else "task=memory"
            words = f"{start} task.problem={problem} {budget} {MACHINES[machine]} {SHOWN} seed=0,1,2"
            command = [sys.executable, "-m", "attnbench", "-m", *words.split()]
            subprocess.run([*command, f"hydra.sweep.dir={folder / machine / problem}"], check=True)

    print(f"| machine | {' | '.join(BUDGETS)} |\n|---{'|---' * len(BUDGETS)}|")
    for machine in MACHINES:
        metrics: dict[str, list[dict[str, float]]] = defaultdict(list)
        for problem in BUDGETS:
            for path in sorted((folder / machine / problem).rglob("result.json")):
                result = json.loads(path.read_text())
                if result["status"] == "completed":
                    metrics[problem].append(result["metrics"])
        print(f"| {machine} | {' | '.join(cell(problem, metrics[problem]) for problem in BUDGETS)} |")


def cell(problem: str, runs: list[dict[str, float]]) -> str:
    """Return the cell of one machine's runs on a problem."""
    tags = ["test/bits" if problem == "ngrams" else "test/bits_wrong"]
    tags += [f"test/bits_wrong_{FARTHEST[problem]}"] if problem in FARTHEST else []
    return "; ".join(spread([metrics[tag] for metrics in runs]) for tag in tags)


def spread(values: list[float]) -> str:
    """Return mean ± standard deviation."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{values}"


if __name__ == "__main__":
    main()
