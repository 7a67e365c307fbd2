"""What a run asks of its process: ranks, signals, denormals, and what is printed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.utilities import rank_zero_only

from attnbench.config import TrainerConfig
from attnbench.errors import UsageError

STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def is_rank_zero() -> bool:
    """Whether this process is the one that writes the run folder."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's number and how many share the run; (0, 1) where it is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@contextlib.contextmanager
def shared(folder: Path, settings: TrainerConfig) -> Iterator[None]:
    """Let Lightning start the other processes of a run, each as `python -m attnbench resume=FOLDER`.

    Lightning repeats the command line in them. That of a sweep would run the sweep again, and one with the time in
    the run folder's name would make another folder; the folder's own config.yaml is what they are to share. Raises
    UsageError where this program is not one that can be repeated.
    """
    if settings.devices == 1 or not is_rank_zero():
        yield
        return
    import __main__

    spec = getattr(__main__, "__spec__", None)
    command = spec is None and Path(sys.argv[0]).name == "attnbench" and Path(sys.argv[0]).is_file()
    if not command and (spec is None or spec.name != "attnbench.__main__"):
        raise UsageError("trainer.devices: several processes need the command `attnbench`, and the launcher basic")
    arguments, variables, config = sys.argv[1:], os.environ.copy(), HydraConfig.instance().cfg
    sys.argv[1:] = [f"resume={folder.resolve()}"]
    HydraConfig.instance().cfg = None  # else Lightning repeats Hydra's command line
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))  # else Lightning takes all cores
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv[1:], HydraConfig.instance().cfg = arguments, config
        os.environ.clear()
        os.environ.update(variables)


@contextlib.contextmanager
def flush_denormals() -> Iterator[None]:
    """Let the processor count numbers below 1e-38 as 0, as GPUs and TensorFlow do.

    It takes twenty times as long with such numbers, and Adam's moments of a word that is rare come to them. This holds
    for the calling thread and for those that it starts.
    """
    before = not (torch.tensor(1e-40) * 0.5).item()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """Print no OSError of a thread: TensorBoard's, which writes events, hands it to the next who adds one."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not issubclass(failed.exc_type, OSError):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt, as Ctrl-C does, on a signal to stop and when the terminal is closed.

    Where a signal is ignored, as under `nohup`, it stays ignored. Python handles signals in its main thread only: in
    another one nothing changes.
    """
    handled = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        handled = []

    def stop(number: int, frame: FrameType | None) -> None:
        for each in handled:  # once: what is left to be written is written
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quiet() -> None:
    """Keep Lightning's remarks about choices made here on purpose out of the terminal."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in (
        "sync_dist=True",  # metrics gather over processes by themselves
        "does not have many workers",
        "smaller than the logging interval",
        "GPU available but not used",
        "was called before the ``update`` method",  # a slice of which this evaluation has no example
        "`isinstance\\(treespec, LeafSpec\\)`",
    ):
        warnings.filterwarnings("ignore", message=f".*{remark}.*")
