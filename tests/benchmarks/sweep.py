"""A sweep of many tiny jobs of which a tenth fail: it loses none, names each, and its memory does not grow.

    python tests/benchmarks/sweep.py FOLDER [JOBS] [LAUNCHER]

Sweeps 200 jobs in FOLDER, which must not exist, by the launcher basic or another one of Hydra's, such as joblib.
Prints what became of them, and by how much the resident memory of all processes of the sweep grew a job, after the
first ten. Ends with 1 where a job is lost, or a failed one is not named, or memory grew by 1 MB a job or more.
"""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

TINY = ("task.lines=300", "trainer.max_steps=2", "trainer.val_every=2", "trainer.images=0", "trainer.eval_train=0")
WIDTHS = "4,5,6,7,8,9,10,11,12,-1"  # of a tenth there is no model


def resident(process: int) -> int:
    """Return the bytes that a process and those below it hold in memory, shared pages with each."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    own = re.search(r"VmRSS:\s+(\d+) kB", status)
    return (1024 * int(own[1]) if own else 0) + sum(resident(int(child)) for child in below)


def main() -> None:
    """Sweep, and watch."""
    folder = Path(sys.argv[1])
    jobs = int(next((word for word in sys.argv[2:] if word.isdecimal()), 200))
    launcher = next((word for word in sys.argv[2:] if not word.isdecimal()), "basic")
    command = [sys.executable, "-m", "attnbench", "-m", f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}"]
    command += [*TINY, f"task.hidden_dim={WIDTHS}", f"seed=range({jobs // 10})"]
    folder.mkdir()
    began, held = time.perf_counter(), {}
    with (folder / "said.txt").open("w+", encoding="utf-8") as said:
        with subprocess.Popen(command, stdout=said, stderr=said) as sweep:
            while sweep.poll() is None:
                time.sleep(0.5)
                held[sum(1 for _ in folder.rglob("result.json"))] = resident(sweep.pid)
        said.seek(0)
        text = said.read()
    statuses = Counter(json.loads(path.read_text())["status"] for path in folder.rglob("result.json"))
    named = {int(seed) for seed in re.findall(r"failed: .*task\.hidden_dim=-1 seed=(\d+): ", text)}
    print(*[line for line in text.splitlines() if re.match(r"attnbench: \d+ (jobs:|of)", line)], sep="\n")
    first, *_, last = (number for number, size in held.items() if size and number >= 10)
    growth = (held[last] - held[first]) / 2**20 / max(1, last - first)
    print(f"{launcher}: {dict(statuses)} in {time.perf_counter() - began:.0f} s; {len(named)} failed jobs are named")
    print(
        f"from job {first} to {last}: {held[first] / 2**20:.0f} to {held[last] / 2**20:.0f} MB, {growth:.2f} MB a job"
    )
    whole = statuses == {"completed": jobs - jobs // 10, "failed": jobs // 10} and len(named) == jobs // 10
    sys.exit(not whole or growth >= 1)


if __name__ == "__main__":
    main()
