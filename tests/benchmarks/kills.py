"""Runs that are killed at random moments, and go on to the result they would have had, to the last digit.

    python tests/benchmarks/kills.py FOLDER [KILLS] [RUN ...]

Trains each of `RUNS` (or those named) whole, in FOLDER. Then, KILLS times (50), all processes of the same run are
killed with SIGKILL at a moment drawn over twice its length, again and again until it has ended; what is started next is
`resume=`, or the command itself where nothing can be resumed yet. Prints a line for each, and ends with 1 if a result,
a count or a weight differs, or a command failed. About half a CPU minute a kill.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import reviews  # noqa: E402 (of the tests)

SMALL = ("trainer.images=1", "trainer.val_every=10", "trainer.progress_bar=false")
#: The words of each run; the film reviews are those of the tests.
RUNS = {
    "date": ("attention=hard", "task.lines=1500", "trainer.max_steps=60"),
    "memory": ("task=memory", "trainer.max_steps=40", "task.eval_rows=64"),
    "imdb": ("task=imdb", "task.archive=reviews.tar.gz", "trainer.batch_size=8", "trainer.max_steps=40"),
    "recall": ("task=recall", "attention=deltanet", "trainer.max_steps=40", "trainer.batch_size=16"),
    "ddp": ("trainer=ddp", "task.lines=1500", "trainer.max_steps=40", "trainer.batch_size=16"),
}
FEW_REVIEWS = (
    "import runpy, attnbench.plugins.task.imdb.archive as archive; archive.PER_LABEL = 40;"
    "runpy.run_module('attnbench', run_name='__main__', alter_sys=True)"
)


def command(name: str, *words: str) -> list[str]:
    """Return what starts a run, or goes on with it."""
    return [sys.executable, *(("-c", FEW_REVIEWS) if name == "imdb" else ("-m", "attnbench")), *words]


def start(name: str, words: tuple[str, ...], seconds: float | None = None) -> str | None:
    """Run to the end, and return None, or what was said where it failed; or kill it, and return 'killed'."""
    environment = {**os.environ, "ATTNBENCH_DATA": "cache", "OMP_NUM_THREADS": "1"}
    with Path("said.txt").open("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            command(name, *words), stdout=said, stderr=said, env=environment, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "killed"
        said.seek(0)
        return None if code == 0 else said.read()


def read(folder: Path) -> dict[str, Any]:
    """Return what two runs of one command have alike."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in result["curve"]]
    weights = {
        name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "last")
    }
    return {"metrics": result["metrics"], "steps": result["steps"], "curve": curve, "weights": weights}


def same(one: Any, other: Any) -> bool:
    """Compare, to the last digit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def kill(name: str, number: int, length: float) -> str:
    """Kill a run until it has ended, and say how it went."""
    rng, folder, moments = random.Random(f"{name} {number}"), Path(f"{name}-{number}"), []
    while True:
        begun = (folder / "config.yaml").is_file()
        words = (f"resume={folder}",) if begun else (*RUNS[name], *SMALL, f"hydra.run.dir={folder}")
        moment = rng.uniform(0, 2 * length)
        said = start(name, words, moment)
        if said is None:
            break
        if said != "killed":
            return f"FAILED after {moments}: {said.strip().splitlines()[-1]}"
        moments.append(round(moment, 1))
    agrees = same(read(folder), read(Path(name)))
    return f"{'the same' if agrees else 'DIFFERS'}, killed after {moments} s"


def main() -> None:
    """Train, kill, and compare."""
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    os.chdir(sys.argv[1])
    reviews.write(Path("reviews.tar.gz"))
    kills = int(next((word for word in sys.argv[2:] if word.isdecimal()), 50))
    failed = False
    for name in [word for word in sys.argv[2:] if not word.isdecimal()] or RUNS:
        before = time.perf_counter()
        said = start(name, (*RUNS[name], *SMALL, f"hydra.run.dir={name}"))
        length = time.perf_counter() - before
        print(f"{name}: whole in {length:.1f} s {said or ''}", flush=True)
        for number in range(kills):
            line = kill(name, number, length)
            failed |= not line.startswith("the same")
            print(f"{name} {number}: {line}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
