"""What addressing buys: six machines on the five problems of `task=memory`, five seeds each, as a table.

    python tests/benchmarks/addressing.py FOLDER [PROBLEM ...]

Trains what FOLDER does not hold yet (of the problems that are named, or of all; copy, recall and sort take 25 minutes
on one core), then prints what it holds: mean and standard deviation of the bits wrong at test, in the trained range and
at the farthest size beyond it; of n-grams, of the bits of loss. Of one problem all machines see as many sequences. The
seeds are fresh: recipes were chosen on 0 to 4, or from 100 on.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

BUDGETS = {
    "copy": "trainer.max_steps=2000 trainer.batch_size=8",
    "repeat_copy": "trainer.max_steps=8000 trainer.batch_size=4 task.write_first=true",
    "associative_recall": "trainer.max_steps=4000 trainer.batch_size=16 task.rows=32 task.eval_rows=128",
    "priority_sort": "trainer.max_steps=2000 trainer.batch_size=8",
    "ngrams": "trainer.max_steps=500 trainer.batch_size=8",
}
EXPERIMENTS = {"repeat_copy": "experiment=ntm_repeat_copy", "associative_recall": "experiment=ntm_recall"}
ANYWHERE = "attention.gate_bias=30 attention.max_shift=0"  # the gate is open: the last weights do not count
MACHINES = {
    "ntm": "",
    "place": "attention.gate_bias=-30",  # the gate is shut: content does not count
    "content": f"{ANYWHERE} task.start=random",  # of equal rows all weights are equal, for ever
    "nothing": f"{ANYWHERE} attention.beta_bias=-30",  # all weights are equal
    "lstm": "task.machine=lstm optimizer.lr=1e-2",
    "transformer": "task.machine=transformer attention=multihead scoring=scaled_dot optimizer.lr=1e-3",
}
FARTHEST = {"copy": "120", "repeat_copy": "20x10", "associative_recall": "20"}
SEEDS = "5,6,7,8,9"
SHOWN = "trainer.stop_at_goal=false trainer.images=0 trainer.val_every=1000"


def main() -> None:
    """Train and print."""
    folder, chosen = Path(sys.argv[1]), sys.argv[2:] or BUDGETS
    for problem in chosen:
        for machine, options in MACHINES.items():
            start = "task=memory" if "task.machine" in options else EXPERIMENTS.get(problem, "task=memory")
            words = f"{start} task.problem={problem} {BUDGETS[problem]} {options} {SHOWN} seed={SEEDS}"
            command = [sys.executable, "-m", "attnbench", "-m", *words.split()]
            subprocess.run([*command, f"hydra.sweep.dir={folder / machine / problem}"], check=True)

    shown = [problem for problem in BUDGETS if (folder / "nothing" / problem).exists()]
    print(f"| machine | {' | '.join(shown)} |\n|---{'|---' * len(shown)}|")
    for machine in MACHINES:
        print(f"| {machine} | {' | '.join(cell(folder / machine / problem) for problem in shown)} |")


def cell(folder: Path) -> str:
    """Return the cell of one machine's runs on a problem."""
    problem = folder.name
    results = [json.loads(path.read_text()) for path in folder.rglob("result.json")]
    runs = [result["metrics"] for result in results if result["status"] == "completed"]
    tags = ["test/bits" if problem == "ngrams" else "test/bits_wrong"]
    tags += [f"test/bits_wrong_{FARTHEST[problem]}"] if problem in FARTHEST else []
    return "; ".join(spread([metrics[tag] for metrics in runs]) for tag in tags)


def spread(values: list[float]) -> str:
    """Return mean ± standard deviation."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{values}"


if __name__ == "__main__":
    main()
