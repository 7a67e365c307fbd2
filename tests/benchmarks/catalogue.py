"""What every mechanism costs under causality, by length: a table in Markdown.

    python tests/benchmarks/catalogue.py [length ...] [mechanism ...]

One example of width 64 on one thread, each mechanism with its own defaults and with scaled dot products where it takes
a scoring function, without weights. A cell has CPU milliseconds forward, and forward and backward, the least of three
rounds up to 2,048 tokens and one beyond; then the exponents of both from 512 on, and at the two longest lengths the
memory of both together beyond what was in use. Left out are what attends query after query, and takes no causal mask.
"""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from causal import WIDTH, exponent, processor, seconds

from attnbench.measure import available_memory, extra_memory
from attnbench.registry import Registry
from attnbench.schema import takes_score

LENGTHS = (128, 512, 2048, 8192)


def arms(registry: Registry) -> dict[str, torch.nn.Module]:
    """Return every mechanism that attends to all queries at once, and multihead with positions."""
    found = {}
    for component in registry.of("attention"):
        name = component.name
        scored = takes_score(component.cls)
        for scoring in ("scaled_dot", "rope", "alibi") if name == "multihead" else ("scaled_dot",):
            widths = dict.fromkeys(("query_dim", "key_dim", "value_dim"), WIDTH)
            score = {"name": scoring} if scored else None
            module = registry.build_attention({"name": name}, score, **widths)
            if not module.recurrent:
                found[name if scoring == "scaled_dot" else f"{name} {scoring}"] = module
    return found


def row(module: torch.nn.Module, lengths: list[int]) -> list[str]:
    """Return the cells of a mechanism; empty where memory does not suffice, going by the last length."""

    def call(x: torch.Tensor) -> torch.Tensor:
        return module(x, x, x, causal=True, need_weights=False)[0]

    times, memory = {}, {}
    for length in lengths:
        last = list(memory)[-1:]
        if last and memory[last[0]] * (length / last[0]) ** 2 > 0.7 * available_memory(torch.device("cpu")):
            break
        x = torch.randn(1, length, WIDTH)
        memory[length] = extra_memory(lambda x=x: seconds(call, x, backward=True), x.device)
        rounds = 3 if length <= 2048 else 1
        times[length] = [min(seconds(call, x, backward=both) for _ in range(rounds)) for both in (False, True)]
    cells = [" / ".join(number(1000 * s) for s in times[n]) if n in times else "" for n in lengths]
    long = [n for n in times if n >= 512]
    slopes = [exponent({n: times[n][both] for n in long}) for both in (0, 1)] if len(long) > 1 else []
    sizes = [number(memory[n] / 1e6) if n in memory else "" for n in lengths[-2:]]
    return [*cells, " / ".join(f"{slope:.2f}" for slope in slopes), " / ".join(sizes)]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lengths = [int(word) for word in sys.argv[1:] if word.isdigit()] or list(LENGTHS)
    names = [word for word in sys.argv[1:] if not word.isdigit()]
    print(f"{processor()}, one thread, torch {torch.__version__}, one example of width {WIDTH}\n")
    print("| | " + " | ".join(f"{n:,}" for n in lengths) + " | exponent | MB |")
    print("|---" * (len(lengths) + 3) + "|")
    for name, module in arms(Registry.load()).items():
        if names and name.split()[0] not in names:
            continue
        try:
            print(f"| `{name}` | " + " | ".join(row(module, lengths)) + " |", flush=True)
        except ValueError as error:  # it has no causal form
            print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)


if __name__ == "__main__":
    main()
