"""One run over several processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.utilities import rank_zero_only

from attnbench.config import TrainerConfig
from attnbench.errors import UsageError


def leads() -> bool:
    """Tell whether this process is the one that writes the run folder."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


@contextmanager
def shared(folder: Path, settings: TrainerConfig) -> Iterator[None]:
    """Let Lightning start the other processes of a run, each as `python -m attnbench resume=FOLDER`.

    Lightning repeats the command line in them. That of a sweep would run the sweep again, and one with the time in
    the run folder's name would make another folder; the folder's own config.yaml is what they are to share.

    Raises:
        UsageError: this program is not one that can be repeated.
    """
    if settings.devices == 1 or not leads():
        yield
        return
    import __main__

    spec = getattr(__main__, "__spec__", None)
    if spec is None or spec.name != "attnbench.__main__":
        raise UsageError("trainer.devices: several processes need `python -m attnbench`, and the launcher basic")
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
