"""What drawing its data costs a next-token task: its share of a training step, CPU time.

    python tests/benchmarks/draws.py [steps]

Of each task of the standard suite and of language_model: the mean milliseconds of a batch, drawn as training draws it,
and of the rest of a step (loss, gradient, AdamW's update) with softmax attention, the cheapest mechanism.
"""

import sys
import time
from statistics import fmean

import torch
from hydra import compose, initialize_config_module

from attnbench.measure import processor
from attnbench.registry import Registry
from attnbench.run import build
from attnbench.run_folder import plain, typed
from attnbench.suite import find_suite

WARM = 16


def main() -> None:
    """Measure and print."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 320
    torch.set_num_threads(1)
    registry = Registry.load()
    registry.store()
    print(f"{processor()}, torch {torch.__version__}, one thread")
    for name, words in {**find_suite("standard").tasks, "language_model": ["task=language_model"]}.items():
        with initialize_config_module("attnbench.conf", version_base="1.3"):
            composed = plain(compose("config", [*words, "attention=multihead", "scoring=scaled_dot"]))
        config = typed(registry, composed, [])
        task, model = build(config, registry)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        data, size, spent = task.data("train"), config.trainer.batch_size, []
        for step in range(WARM + steps):
            begin = time.process_time()
            batch = data[list(range(step * size, (step + 1) * size))]
            drawn = time.process_time()
            optimizer.zero_grad()
            task.loss(model, batch).backward()
            optimizer.step()
            spent.append((drawn - begin, time.process_time() - drawn))
        draw, rest = (1e3 * fmean(part) for part in zip(*spent[WARM:], strict=True))
        print(f"{name:<15} {draw:.3f} ms of {draw + rest:.2f} ms, {draw / (draw + rest):.1%}", flush=True)


if __name__ == "__main__":
    main()
