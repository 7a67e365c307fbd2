"""What every mechanism costs under causality on a GPU, eager and compiled, by length: a table in Markdown.

    python tests/benchmarks/gpu.py [length ...] [mechanism ...]

Eight examples of width 64, each mechanism with its own defaults, as in catalogue.py, without weights. Each has a
process of its own, since compiling takes longer than all else: at each length all compile side by side, behind
`multihead`, whose code each takes from the cache, and then are measured one after the other, each in turn with
`multihead` compiled. A cell has the median milliseconds of the compiled module forward / forward and backward, and
those of the eager one; then the exponents of the compiled one from 512 on, and at the two longest lengths the ratio of
forward and backward to `multihead`, and the megabytes. What is left out, since compiling failed or took longer than
`PATIENCE` seconds, or memory did not suffice, is "-", and stderr says why. The table is printed with the eager ones
alone, and anew after each length.
"""

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # a process has a core

import torch
from catalogue import LENGTHS, arms, number
from causal import BATCH, WIDTH, exponent

from attnbench.bench import forward, forward_backward
from attnbench.measure import extra_memory, quartiles, time_in_turn
from attnbench.registry import Registry

PATIENCE = 120
ROUNDS = 5
DEVICE = torch.device("cuda")
FIRST = "multihead"


class Causal(torch.nn.Module):
    """Attends under causality, and returns the context."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x, x, x, causal=True, need_weights=False)[0]


def work(pipe: Connection, name: str) -> None:
    """Measure one mechanism: asked to (`eager`, `compile` or `compiled`) at a length, answer with values or a fault."""
    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(0)
    modules = {key: Causal(module).to(DEVICE) for key, module in arms(Registry.load()).items()}
    ways = {"eager": modules[name], **dict.fromkeys(("compiled", FIRST))}
    ways["compiled"], ways[FIRST] = (torch.compile(modules[n], dynamic=False) for n in (name, FIRST))
    while True:
        asked, length = pipe.recv()
        x = torch.randn(BATCH, length, WIDTH, device=DEVICE, requires_grad=True)
        pairs = {way: (forward(module, x), forward_backward(module, x)) for way, module in ways.items()}
        try:
            pipe.send(answer(asked, pairs))
        except (RuntimeError, ValueError, TypeError) as error:  # no memory for it, or no causal form
            pipe.send(str(error).splitlines()[0])
        torch.cuda.empty_cache()


def answer(asked: str, pairs: dict[str, Any]) -> Any:
    """Return the seconds of each way and the bytes of training; of `compile` True."""
    if asked == "compile":
        return all(call() is None for way in (FIRST, "compiled") for call in pairs[way])
    ways = ["eager"] if asked == "eager" else ["compiled", FIRST]
    memory = extra_memory(pairs[ways[0]][1], DEVICE)
    times = [time_in_turn({way: pairs[way][both] for way in ways}, ROUNDS, DEVICE) for both in (0, 1)]
    return {way: [quartiles(of[way])[1] for of in times] for way in ways}, memory


def main() -> None:
    """Measure and print."""
    lengths = [int(word) for word in sys.argv[1:] if word.isdigit()] or list(LENGTHS)
    chosen = [word for word in sys.argv[1:] if not word.isdigit()]
    names = [name for name in arms(Registry.load()) if not chosen or name.split()[0] in (*chosen, FIRST)]
    names.sort(key=lambda name: name != FIRST)
    context, processes, pipes = multiprocessing.get_context("spawn"), {}, {}
    for name in names:
        pipes[name], other = context.Pipe()
        processes[name] = context.Process(target=work, args=(other, name), daemon=True)
        processes[name].start()
        other.close()

    def ask(name: str, asked: str, length: int, until: float | None = None) -> Any:
        """Return the answer; None, with a line, where there is none, and end what does not answer."""
        found = f"no answer in {PATIENCE} s"
        if pipes[name].poll(None if until is None else max(0.0, until - time.monotonic())):
            try:
                found = pipes[name].recv()
            except EOFError:
                found = "it ended; see above"
        else:
            processes[name].kill()
            processes[name].join()
        if isinstance(found, str):
            print(f"{length:,}: {name} {asked}: {found}", file=sys.stderr, flush=True)
            return None
        return found

    def alive() -> list[str]:
        return [name for name in names if processes[name].is_alive()]

    eager: dict[str, dict[int, Any]] = {name: {} for name in names}
    compiled: dict[str, dict[int, Any]] = {name: {} for name in names}
    for length in lengths:
        for name in alive():
            pipes[name].send(("eager", length))
            eager[name][length] = ask(name, "eager", length)
    show(eager, compiled, lengths)
    for length in lengths:
        ready = []
        for group in ([FIRST], names[1:]):
            asked = [name for name in alive() if name in group]
            for name in asked:
                pipes[name].send(("compile", length))
            until = time.monotonic() + PATIENCE
            ready += [name for name in asked if ask(name, "compile", length, until)]
        for name in ready:
            pipes[name].send(("compiled", length))
            compiled[name][length] = ask(name, "compiled", length)
        print(f"{length:,}: {len(ready)} compiled", file=sys.stderr, flush=True)
        show(eager, compiled, [n for n in lengths if n <= length])
    for process in processes.values():
        process.kill()


def show(eager: dict[str, dict[int, Any]], compiled: dict[str, dict[int, Any]], lengths: list[int]) -> None:
    """Print the table of what is known so far."""
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, {BATCH} examples of width {WIDTH}\n")
    print("| | " + " | ".join(f"{n:,}" for n in lengths) + " | exponent | of `multihead` | MB |")
    print("|---" * (len(lengths) + 4) + "|")
    for name, plain in eager.items():
        if not any((*plain.values(), *compiled[name].values())):  # it has no causal form
            continue
        of = {n: found for n, found in compiled[name].items() if found}
        cells = [
            f"{ms(of[n][0]['compiled']) if n in of else '-'}; "
            f"{ms(found[0]['eager']) if (found := plain.get(n)) else '-'}"
            for n in lengths
        ]
        long = [n for n in of if n >= 512]
        slopes = [exponent({n: of[n][0]["compiled"][both] for n in long}) for both in (0, 1)] if len(long) > 1 else []
        last = lengths[-2:]
        ratios = [f"{of[n][0]['compiled'][1] / of[n][0][FIRST][1]:.2f}" if n in of else "-" for n in last]
        sizes = [number(of[n][1] / 1e6) if n in of else "-" for n in last]
        more = (" / ".join(f"{slope:.2f}" for slope in slopes), " / ".join(ratios), " / ".join(sizes))
        print(f"| `{name}` | " + " | ".join((*cells, *more)) + " |", flush=True)


def ms(seconds: list[float]) -> str:
    return " / ".join(number(1000 * s) for s in seconds)


if __name__ == "__main__":
    main()
