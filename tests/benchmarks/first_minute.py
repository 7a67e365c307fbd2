"""What the default run takes, by its parts, over `import torch` and the bare loop of its steps.

    python tests/benchmarks/first_minute.py 3

The number says how often; medians are printed, and of the ratios the least and the most. A run before them, which is
not counted, leaves Python's bytecode behind. In one process the parts of `python -m attnbench`, from start to
`result.json`, are timed as they pass, in CPU seconds, by which other work on the machine counts little; then the same
steps are done in a bare loop. `import torch` is timed in a process of its own, and in one that makes an optimizer, as a
bare loop has to, by which torch imports its compiler. The ratio to both is printed.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIMIZER = "import torch; torch.optim.Adam([torch.zeros(1, requires_grad=True)])"
BARE = 150  # steps of the bare loop that are timed


def cpu(code: str) -> float:
    """Return the CPU seconds of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(parts: dict[str, float], name: str, owner: object, method: str) -> None:
    """Add to a part what the calls of a function take, less what parts within it take."""
    inner = getattr(owner, method)

    def call(*arguments, **options):
        start, within = time.process_time(), sum(parts.values())
        try:
            return inner(*arguments, **options)
        finally:
            spent = time.process_time() - start
            parts[name] = parts.get(name, 0.0) + spent - (sum(parts.values()) - within)

    setattr(owner, method, call)


def run_once() -> None:
    """Do the default run and print its parts, a line each."""
    parts: dict[str, float] = {}
    sys.argv = ["attnbench", "trainer.progress_bar=false"]
    from attnbench.plugins.task.date import DateConversion

    from attnbench import run
    from attnbench.__main__ import main
    from attnbench.registry import Registry
    from attnbench.reports.attention import Pictures
    from attnbench.training.experiment import Experiment

    parts["imports"] = time.process_time()
    timed(parts, "plugins", Registry, "load")
    timed(parts, "preparing data", DateConversion, "prepare")
    timed(parts, "steps", Experiment, "training_step")
    for method in ("validation_step", "on_validation_epoch_end", "maps"):
        timed(parts, "validation", Experiment, method)
    timed(parts, "pictures", Pictures, "on_validation_end")
    timed(parts, "test", run, "test")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        assert main() == 0
        os.chdir("/")
        (result,) = Path(folder).rglob("result.json")
        steps = json.loads(result.read_text())["steps"]
    parts["all else"] = time.process_time() - sum(parts.values())
    print(*(f"{name}={seconds}" for name, seconds in parts.items()), sep="\n", file=sys.stderr)
    print(f"bare loop={steps * bare(Registry.load())}", file=sys.stderr)


def bare(registry) -> float:
    """Return the CPU seconds of a step of the default run in a bare loop."""
    import torch
    from omegaconf import OmegaConf

    from attnbench.run import build
    from attnbench.run_folder import typed
    from attnbench.training.batches import plan
    from attnbench.training.experiment import Experiment

    chosen = {"attention": {"name": "soft"}, "scoring": {"name": "additive"}, "task": {"name": "date"}}
    words = ["trainer.max_epochs=1", "trainer.val_every=84", "optimizer.lr=0.01", "optimizer.warmup=0.1"]
    config = typed(registry, chosen, words)
    torch.manual_seed(0)
    task, model = build(config, registry)
    batches, total = plan(task, OmegaConf.to_object(config.trainer), 0)
    made = Experiment(task, model, OmegaConf.to_object(config.optimizer), total).configure_optimizers()
    optimizer, schedule, data = made["optimizer"], made["lr_scheduler"]["scheduler"], task.data("train")
    rounds = range(-(-BARE // batches.round_steps))
    order = [indices for number in rounds for indices in (batches.set_epoch(number), *batches)[1:]][:BARE]
    start = time.process_time()
    for indices in order:
        optimizer.zero_grad()
        task.loss(model, data[indices]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return (time.process_time() - start) / BARE


def main() -> None:
    """Measure and print."""
    rows = []
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for turn in range(1 + int(sys.argv[1])):
        alone = {"import torch": cpu("import torch"), "with an optimizer": cpu(OPTIMIZER)}
        done = subprocess.run(
            [sys.executable, __file__, "once"], check=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        parts = dict(line.split("=") for line in done.stderr.splitlines() if "=" in line)
        spent = {name: float(value) for name, value in parts.items()}
        whole = sum(spent.values()) - spent["bare loop"]
        if turn > 0:
            rows.append({**alone, **spent, "whole run": whole})
    for name in rows[0]:
        print(f"{name:20}{statistics.median(row[name] for row in rows):8.2f} CPU s")
    for name in alone:
        ratios = [row["whole run"] / (row[name] + row["bare loop"]) for row in rows]
        print(f"ratio, {name:20}{statistics.median(ratios):8.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    run_once() if sys.argv[1] == "once" else main()
