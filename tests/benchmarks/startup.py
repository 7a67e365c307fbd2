"""How long `--help` and `list` take, over `import torch` alone.

    python tests/benchmarks/startup.py

The three take turns, as whole processes. Printed: medians in seconds, and the ratio to `import torch` round by round.
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 11
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "--help": ["-m", "attnbench", "--help"],
    "list": ["-m", "attnbench", "list"],
}


def seconds(arguments: list[str]) -> float:
    """Time one process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    for arguments in COMMANDS.values():
        seconds(arguments)
    rounds = [{name: seconds(arguments) for name, arguments in COMMANDS.items()} for _ in range(ROUNDS)]
    for name in COMMANDS:
        ratio = statistics.median(taken[name] / taken["import torch"] for taken in rounds)
        print(f"{name:14} {statistics.median(taken[name] for taken in rounds):.2f} s   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
