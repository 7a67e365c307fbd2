"""How long `compare` takes over 1,000 run folders: python tests/benchmarks/compare.py"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

CONFIG = {
    "seed": 0,
    "trainer": {f"option_{n}": n for n in range(16)},
    "optimizer": {"name": "adam", "lr": 0.01, "weight_decay": 0.0, "schedule": "cosine", "warmup": 0.1},
    "attention": {"name": "multihead", "num_heads": 4, "embed_dim": None, "bias": True},
    "scoring": {"name": "additive", "hidden_dim": None},
    "task": {"name": "date", "lines": 50000, "file": None, "embed_dim": 32},
}


def write(folder: Path, heads: int, seed: int) -> None:
    """Write a run folder with a curve of 20 validations."""
    folder.mkdir(parents=True)
    accuracy = random.random()
    attention = {**CONFIG["attention"], "num_heads": heads}
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "seed": seed, "attention": attention}))
    curve = [
        {"step": 84 * n, "examples": n, "seconds": n, "val/loss": 0.1, "val/exact_match": n / 20} for n in range(20)
    ]
    costs = {"parameters": 50692, "epochs": 1.0, "train_seconds": 20.0, "examples_per_second": 1000.0}
    result = {"status": "completed", "primary": "test/exact_match", "mode": "max", "goal": 1.0, **costs}
    result |= {"curve": curve, "metrics": {"test/exact_match": accuracy}}
    (folder / "result.json").write_text(json.dumps(result, indent=2))


def main() -> None:
    """Time the command, as a user would call it, on 200 groups of 5 seeds."""
    with tempfile.TemporaryDirectory() as top:
        for number in range(1000):
            write(Path(top) / f"{number:04}", heads=number // 5, seed=number % 5)
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "attnbench", "compare", top], check=True, stdout=subprocess.DEVNULL)
            print(f"compare over 1,000 run folders: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
