"""Seconds and bytes of a call, measured so that they can be compared."""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

Call = Callable[[], None]
#: What is measured of a module.
MODES = ("forward", "forward+backward")
#: How long one timing lasts at least, in seconds: a shorter call is repeated within it.
LASTS = 0.02


@contextmanager
def kept_threads() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processor() -> str:
    """Return the processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def time_in_turn(
    calls: Mapping[str, Call], rounds: int, device: torch.device, tell: Call = lambda: None
) -> dict[str, list[float]]:
    """Time calls, each once a round, so that what slows the machine down meanwhile slows them all.

    Args:
        calls: what to time, by name.
        rounds: how often.
        device: what they compute on.
        tell: called at the beginning of each round, and of the one before them that only warms up.

    Returns:
        The seconds of a call, one number for each round. The first timing of each call only warms it up.
    """
    once = _events if device.type == "cuda" else _clock
    tell()
    repeats = {name: max(1, math.ceil(LASTS / max(once(call, 1), 1e-9))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        tell()
        for name in list(calls)[:: -1 if number % 2 else 1]:  # nobody always comes after the same other
            times[name].append(once(calls[name], repeats[name]))
    return times


def _clock(call: Call, repeats: int) -> float:
    # a run measures no time, and torch's timer costs the import of its compiler
    from torch.utils.benchmark import Timer

    # torch's timer sets torch's number of threads while it measures, so it is told to keep it
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    seconds: float = timer.timeit(repeats).mean
    return seconds


def _events(call: Call, repeats: int) -> float:
    """Time by the device's own clock: the host only queues work, and is ahead of it."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    call()
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / repeats


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def extra_memory(call: Call, device: torch.device) -> int | None:
    """Return the most bytes a call has in use at once, beyond what was in use before it; None where that is unknown."""
    call()  # what is loaded or compiled once belongs to no call
    if not reset_peak_memory(device):
        return None
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else _resident("VmRSS")
    call()
    return max(0, peak_memory(device) - before)


def reset_peak_memory(device: torch.device) -> bool:
    """Let the next `peak_memory` speak of what comes from now on; False where the system cannot do that.

    On a GPU it is what the allocator handed out. Elsewhere it is the process's resident memory, of which Linux keeps
    the peak, and lets it be reset; what was freed is handed back to the system first.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use at once: of the GPU's allocations, elsewhere of the process."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        return _resident("VmHWM")
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


def available_memory(device: torch.device) -> float:
    """Return the bytes that are still available; infinity where that is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return 1024.0 * int(Path("/proc/meminfo").read_text(encoding="ascii").partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError):
        return math.inf


def exponent(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit cost = c · length^p to three or more (length, cost), by least squares of the logarithms.

    Returns:
        p, and its standard error.
    """
    lengths, costs = ([math.log(value) for value in values] for values in zip(*points, strict=True))
    slope, intercept = statistics.linear_regression(lengths, costs)
    residuals = sum((cost - intercept - slope * length) ** 2 for length, cost in zip(lengths, costs, strict=True))
    middle = statistics.fmean(lengths)
    spread = sum((length - middle) ** 2 for length in lengths)
    return slope, math.sqrt(residuals / (len(points) - 2) / spread)
