"""Runs that are killed at random moments, and go on to the result they would have had, to the last digit.

    python tests/benchmarks/kills.py FOLDER [KILLS] [RUN ...]

Trains each of `RUNS` (or those named) whole, in FOLDER. Then it is begun anew and all its processes are killed with
SIGKILL at a moment drawn over its length; what is started next, `resume=` or the command itself where nothing can be
resumed yet, is killed at a moment drawn over twice its length, until it has ended. So again until KILLS kills (50) have
hit. Prints a line for each run that ended, and ends with 1 if a result, a count or a weight differs, or a command
failed. A run is forked from this process, which has imported all; those of ddp start as usual.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import reviews  # noqa: E402 (of the tests)

Words = tuple[str, ...]
SMALL = ("trainer.images=1", "trainer.val_every=10", "trainer.progress_bar=false", "trainer.max_steps=30")
TINY = ("task.length=16", "task.pairs=4", "task.vocabulary=16", "task.width=8", "trainer.batch_size=8")
#: The words of each run; the film reviews are those of the tests.
RUNS: dict[str, Words] = {
    "date": ("attention=hard", "task.lines=600", "task.hidden_dim=16", *SMALL),
    "memory": ("task=memory", "task.eval_rows=32", *SMALL),
    "imdb": ("task=imdb", "trainer.batch_size=8", *SMALL),
    "recall": ("task=recall", "attention=deltanet", *TINY, *SMALL),
    "ddp": ("trainer=ddp", "task.lines=600", "task.hidden_dim=16", "trainer.batch_size=16", *SMALL),
}


def start(words: Words, seconds: float | None = None) -> str | None:
    """Run to the end, and return None, or what was said where it failed; or kill it, and return 'killed'."""
    with Path("said.txt").open("w+", encoding="utf-8") as said:
        child, began = os.fork(), time.perf_counter()
        if child == 0:
            _become(words, said.fileno())
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                said.seek(0)
                return None if status == 0 else said.read()
            if seconds is not None and time.perf_counter() - began > seconds:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "killed"
            time.sleep(0.002)


def _become(words: Words, said: int) -> NoReturn:
    """Be a run, in a process group of its own, and end with it."""
    os.setpgid(0, 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if words[0] in ("trainer=ddp", "resume=ddp"):
        os.execv(sys.executable, [sys.executable, "-m", "attnbench", *words])
    code = 1
    try:
        from attnbench.__main__ import main

        sys.argv[1:] = words
        code = main()
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def read(folder: Path) -> dict[str, Any]:
    """Return what two runs of one command have alike."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in result["curve"]]
    weights = {
        name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "last")
    }
    kept = {name: result[name] for name in ("status", "metrics", "steps", "examples_seen")}
    return {**kept, "curve": curve, "weights": weights}


def same(one: Any, other: Any) -> bool:
    """Compare, to the last digit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def kill(name: str, rng: random.Random, length: float, whole: dict[str, Any]) -> tuple[int, str]:
    """Kill a run until it has ended; return how often, and how it went."""
    folder, moments = Path(name), []
    shutil.rmtree(folder, ignore_errors=True)
    while True:
        begun = (folder / "config.yaml").is_file()
        words = (f"resume={name}",) if begun else (*RUNS[name], f"hydra.run.dir={name}")
        moment = rng.uniform(0, 2 * length if moments else length)
        said = start(words, moment)
        if said is None:
            break
        if said != "killed":
            return len(moments), f"FAILED after {moments}: {said.strip().splitlines()[-1]}"
        moments.append(round(moment, 2))
    return len(moments), f"{'the same' if same(read(folder), whole) else 'DIFFERS'}, killed after {moments} s"


def try_run(name: str, kills: int) -> bool:
    """Train whole, and then under so many kills; return whether all came to the same."""
    shutil.rmtree(name, ignore_errors=True)
    before = time.perf_counter()
    said = start((*RUNS[name], f"hydra.run.dir={name}"))
    length, done, fine = time.perf_counter() - before, 0, said is None
    print(f"{name}: whole in {length:.1f} s {said or ''}", flush=True)
    whole, rng = read(Path(name)) if fine else {}, random.Random(name)
    while fine and done < kills:
        times, line = kill(name, rng, length, whole)
        done, fine = done + times, line.startswith("the same")
        print(f"{name}, {done} kills: {line}", flush=True)
    return fine


def main() -> None:
    """Train, kill, and compare."""
    from attnbench.plugins.task.imdb import archive

    from attnbench import run as _  # noqa: F401 (imported once)
    from attnbench.registry import Registry

    torch.set_num_threads(1)
    Registry.load()
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    os.chdir(sys.argv[1])
    os.environ |= {"ATTNBENCH_DATA": "cache", "OMP_NUM_THREADS": "1"}
    made = reviews.write(Path("reviews.tar.gz"))
    archive.PER_LABEL, archive.fetch = reviews.PER_LABEL, lambda folder: made.resolve()
    kills = int(next((word for word in sys.argv[2:] if word.isdecimal()), 50))
    names = [word for word in sys.argv[2:] if not word.isdecimal()] or RUNS
    sys.exit(sum(not try_run(name, kills) for name in names) > 0)


if __name__ == "__main__":
    main()
