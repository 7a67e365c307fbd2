"""What linear-time mechanisms cost under causality, beside `multihead` with is_causal, and beside loops over the keys.

    python tests/benchmarks/causal.py [length ...]

All take turns in one process, on one thread, 8 examples of width 64, each mechanism with its own defaults. Printed:
CPU milliseconds of a call (other processes' turns are not counted), the least over the rounds; the ratio to
`multihead`, the median over rounds; and the exponent from 512 on. Then, at 2,048, `linear_attention` as it is and
through its Q x K weights, and the two engines beside fla's naive forms, a step at a time (`naive_recurrent_gla`,
`delta_rule_recurrence`), operation for operation, for one example and for eight.
"""

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import attnbench
from attnbench.chunkwise import Mixed, decayed_linear, delta_rule

NAMES = ("linear_attention", "retention", "mamba2", "gla", "deltanet", "gated_deltanet", "kda", "log_linear")
LENGTHS = (128, 512, 2048, 8192)
BATCH, WIDTH = 8, 64

Call = Callable[..., Tensor]
Seconds = dict[str, list[float]]


def seconds(call: Call, *inputs: Tensor, backward: bool) -> float:
    """Return the CPU seconds of a call."""
    leaves = [x.detach().requires_grad_(backward) for x in inputs]
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        output = call(*leaves)
        if backward:
            output.sum().backward()
    return time.process_time() - start


def in_turn(calls: Mapping[str, tuple[Call, tuple[Tensor, ...]]], backward: bool, rounds: int) -> Seconds:
    """Time each once a round, after one round that warms up."""
    times: Seconds = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, (call, inputs) in calls.items():
            lasted = seconds(call, *inputs, backward=backward)
            times[name] += [lasted] * (turn > 0)
    return times


def ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def exponent(by_length: Mapping[int, float]) -> float:
    """Return the slope of log seconds over log length, by least squares."""
    x, y = [math.log(n) for n in by_length], [math.log(s) for s in by_length.values()]
    return statistics.linear_regression(x, y).slope


def mechanisms(lengths: list[int]) -> None:
    """Print the table of all mechanisms."""
    torch.manual_seed(0)
    sizes = {"query_dim": WIDTH, "key_dim": WIDTH, "value_dim": WIDTH}
    modules = {"multihead": attnbench.build("attention", "multihead", scoring="scaled_dot", **sizes)}
    modules |= {name: attnbench.build("attention", name, **sizes) for name in NAMES}
    for backward in (False, True):
        print(f"\n{'forward+backward' if backward else 'forward'}: ms of CPU, ratio to multihead")
        least: dict[str, dict[int, float]] = {name: {} for name in modules}
        ratios: dict[str, dict[int, float]] = {name: {} for name in modules}
        for length in lengths:
            x = torch.randn(BATCH, length, WIDTH)
            calls = {
                name: ((lambda x, module=module: module(x, x, x, causal=True, need_weights=False)[0]), (x,))
                for name, module in modules.items()
            }
            times = in_turn(calls, backward, 3 if length > 2048 else 7)
            for name, values in times.items():
                least[name][length], ratios[name][length] = min(values), ratio(values, times["multihead"])
        print(f"{'':18}" + "".join(f"{length:>18,}" for length in lengths) + "   exponent")
        for name in modules:
            cells = [f"{1000 * least[name][n]:10.1f} {ratios[name][n]:6.2f}x" for n in lengths]
            long = {n: s for n, s in least[name].items() if n >= 512}
            slope = f"{exponent(long):10.2f}" if len(long) > 1 else ""
            print(f"{name:18}" + "".join(cells) + f" {slope}", flush=True)


def quadratic(length: int) -> None:
    """Print `linear_attention` beside itself with causality spelled out, which takes it through Q x K weights."""
    module = attnbench.build("attention", "linear_attention", query_dim=WIDTH, key_dim=WIDTH, value_dim=WIDTH)
    x, mask = torch.randn(BATCH, length, WIDTH), torch.ones(BATCH, length, length, dtype=torch.bool).tril()
    calls: dict[str, tuple[Call, tuple[Tensor, ...]]] = {
        "in chunks": (lambda x: module(x, x, x, causal=True, need_weights=False)[0], (x,)),
        "by weights": (lambda x: module(x, x, x, mask, need_weights=False)[0], (x,)),
    }
    report("linear_attention", calls)


def naive_gla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    o, h = torch.zeros_like(v), q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    for i in range(q.shape[2]):
        h = h * log_decay[:, :, i].exp()[..., None] + k[:, :, i][..., None] * v[:, :, i][..., None, :]
        o[:, :, i] = ((q[:, :, i] * q.shape[-1] ** -0.5)[..., None] * h).sum(-2)
    return o


def naive_delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    o, S = torch.zeros_like(v), q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    q = q * q.shape[-1] ** -0.5
    for i in range(q.shape[2]):
        new = (v[:, :, i].clone() - (S.clone() * k[:, :, i][..., None]).sum(-2)) * beta[:, :, i][..., None]
        S = S.clone() + k[:, :, i].unsqueeze(-1) * new.unsqueeze(-2)
        o[:, :, i] = torch.einsum("bhd,bhdm->bhm", q[:, :, i], S)
    return o


def scaled(engine: Callable[..., Mixed]) -> Call:
    """Return an engine's context, of queries that are scaled as fla's are."""
    return lambda q, *others: engine(q * q.shape[-1] ** -0.5, *others).context


def naive(length: int) -> None:
    """Print the engines beside loops over the keys, 4 heads of width 16."""
    for batch in (1, BATCH):
        q, k, v = (torch.randn(batch, 4, length, 16) for _ in range(3))
        beta, log_decay = torch.rand(batch, 4, length), torch.rand(batch, 4, length, 16).log()
        k = F.normalize(k, dim=-1)
        gla, delta = (q, k, v, log_decay), (q, k, v, beta)
        for engine, loop, inputs in ((decayed_linear, naive_gla, gla), (delta_rule, naive_delta, delta)):
            calls = {"in chunks": (scaled(engine), inputs), "a step at a time": (loop, inputs)}
            report(f"{engine.__name__}, {batch} of batch", calls)


def report(what: str, calls: Mapping[str, tuple[Call, tuple[Tensor, ...]]]) -> None:
    """Print two ways of one thing, and how many times as fast the first is."""
    for backward in (False, True):
        times = in_turn(calls, backward, 3)
        fast, slow = times.values()
        cells = ", ".join(f"{name} {1000 * min(values):.1f} ms" for name, values in times.items())
        mode = "forward+backward" if backward else "forward"
        print(f"{what}, {mode}: {cells}: {ratio(slow, fast):.1f} times", flush=True)


def processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(f"{processor()}, one thread, torch {torch.__version__}, {BATCH} examples of width {WIDTH}")
    mechanisms([int(word) for word in sys.argv[1:]] or list(LENGTHS))
    print("\nat 2,048")
    quadratic(2048)
    naive(2048)


if __name__ == "__main__":
    main()
