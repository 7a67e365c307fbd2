"""What every mechanism costs under causality on a GPU, eager and compiled, by length: a table in Markdown.

    python tests/benchmarks/gpu.py [length ...] [mechanism ...]

Eight examples of width 64, each mechanism with its own defaults, as in catalogue.py, without weights. Each has a
process of its own, since compiling takes longer than all else: at each length all compile side by side, and then are
measured one after the other, each in turn with `multihead` compiled. A cell has the median milliseconds of the compiled
module forward / forward and backward, and those of the eager one; then the exponents of the compiled one from 512 on,
and at the two longest lengths the ratio of forward and backward to `multihead`, and the megabytes. A cell is empty
where compiling failed or took longer than `PATIENCE` seconds, or memory did not suffice: stderr says which. The table
is printed anew after each length.
"""

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # a process has a core

import torch
from catalogue import LENGTHS, arms, number
from causal import BATCH, WIDTH, exponent

from attnbench.bench import forward, forward_backward
from attnbench.measure import extra_memory, quartiles, time_in_turn
from attnbench.registry import Registry

PATIENCE = 150
ROUNDS = 7
DEVICE = torch.device("cuda")


class Causal(torch.nn.Module):
    """Attends under causality, and returns the context."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x, x, x, causal=True, need_weights=False)[0]


def work(pipe: Connection, name: str) -> None:
    """Compile and measure one mechanism: asked for a length, then told that it is its turn."""
    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(0)
    modules = {key: Causal(module).to(DEVICE) for key, module in arms(Registry.load()).items()}
    eager, compiled, reference = modules[name], *(torch.compile(modules[n], dynamic=False) for n in (name, "multihead"))
    while (length := pipe.recv()) is not None:
        x = torch.randn(BATCH, length, WIDTH, device=DEVICE, requires_grad=True)
        ways = {"compiled": compiled, "eager": eager, "multihead": reference}
        pairs = {way: (forward(module, x), forward_backward(module, x)) for way, module in ways.items()}
        try:
            memory = {way: [extra_memory(call, DEVICE) for call in pair] for way, pair in pairs.items()}
        except (RuntimeError, ValueError) as error:  # no memory for it, or no causal form
            pipe.send(f"{name} at {length:,}: {str(error).splitlines()[0]}")
            return
        torch.cuda.empty_cache()
        pipe.send(None)
        pipe.recv()
        times = [time_in_turn({way: pairs[way][both] for way in ways}, ROUNDS, DEVICE) for both in (0, 1)]
        seconds = {way: [quartiles(of[way])[1] for of in times] for way in ways}
        pipe.send((seconds, memory["compiled"][1]))


def main() -> None:
    """Measure and print."""
    lengths = [int(word) for word in sys.argv[1:] if word.isdigit()] or list(LENGTHS)
    chosen = [word for word in sys.argv[1:] if not word.isdigit()]
    names = [name for name in arms(Registry.load()) if not chosen or name.split()[0] in chosen]
    context, processes, pipes = multiprocessing.get_context("spawn"), {}, {}
    for name in names:
        pipes[name], other = context.Pipe()
        processes[name] = context.Process(target=work, args=(other, name), daemon=True)
        processes[name].start()
        other.close()
    found: dict[str, dict[int, tuple[dict[str, list[float]], int]]] = {name: {} for name in names}
    for length in lengths:
        ready, until = [], time.monotonic() + PATIENCE
        for name in names:
            if processes[name].is_alive():
                pipes[name].send(length)
        for name in [name for name in names if processes[name].is_alive()]:
            trouble = "compiling takes too long"
            if pipes[name].poll(max(0.0, until - time.monotonic())):
                try:
                    trouble = pipes[name].recv()
                except EOFError:
                    trouble = "it ended; see above"
            if trouble is None:
                ready.append(name)
            else:
                print(f"{length:,}: {name} left out: {trouble}", file=sys.stderr, flush=True)
                processes[name].kill()
                processes[name].join()
        for name in ready:
            pipes[name].send(None)
            found[name][length] = pipes[name].recv()
        print(f"{length:,}: {len(ready)} measured", file=sys.stderr, flush=True)
        show({name: found[name] for name in names if found[name]}, [n for n in lengths if n <= length])
    for process in processes.values():
        process.kill()


def show(found: dict[str, dict[int, tuple[dict[str, list[float]], int]]], lengths: list[int]) -> None:
    """Print the table of what is known so far."""
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, {BATCH} examples of width {WIDTH}\n")
    print("| | " + " | ".join(f"{n:,}" for n in lengths) + " | exponent | of `multihead` | MB |")
    print("|---" * (len(lengths) + 4) + "|")
    for name, of in found.items():
        cells = [ms(of[n][0]["compiled"]) + "; " + ms(of[n][0]["eager"]) if n in of else "" for n in lengths]
        long = [n for n in of if n >= 512]
        slopes = [exponent({n: of[n][0]["compiled"][both] for n in long}) for both in (0, 1)] if len(long) > 1 else []
        last = lengths[-2:]
        ratios = [f"{of[n][0]['compiled'][1] / of[n][0]['multihead'][1]:.2f}" if n in of else "" for n in last]
        sizes = [number(of[n][1] / 1e6) if n in of else "" for n in last]
        more = (" / ".join(f"{slope:.2f}" for slope in slopes), " / ".join(ratios), " / ".join(sizes))
        print(f"| `{name}` | " + " | ".join((*cells, *more)) + " |", flush=True)


def ms(seconds: list[float]) -> str:
    return " / ".join(number(1000 * s) for s in seconds)


if __name__ == "__main__":
    main()
