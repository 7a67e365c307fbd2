"""Make the reference results of a suite: every arm of its `references`, tuned alike, then run on the reported seeds.

    python tests/benchmarks/references.py FOLDER [SUITE] [task=TASK,...]

Runs go under FOLDER and are not repeated; the results are written to conf/suite/SUITE.json, beside the suite's file.
With `task=` only those tasks are run, and what is known of the others is kept.
"""

import sys
from dataclasses import replace
from pathlib import Path

from attnbench.registry import Registry
from attnbench.report import read_references, write_references
from attnbench.suite import Plan, find_suite
from attnbench.sweep import follow


def main() -> None:
    """Run what is missing, and write."""
    folder, words = sys.argv[1], sys.argv[2:]
    name = next((word for word in words if "=" not in word), "standard")
    suite, registry = find_suite(name), Registry.load()
    before, notes = read_references(suite, registry)
    tasks = next((word.partition("=")[2].split(",") for word in words if word.startswith("task=")), list(suite.tasks))
    suite = replace(suite, tasks={task: suite.tasks[task] for task in tasks})
    plan = Plan(suite, registry)
    arms = [words.split() for words in suite.references]
    follow(registry, lambda _, launch: plan.follow(arms, launch), [f"hydra.sweep.dir={folder}"])
    path = Path(__file__).parents[2] / "conf" / "suite" / f"{suite.name}.json"
    write_references(path, plan, before)
    print(*notes, path, sep="\n")


if __name__ == "__main__":
    main()
