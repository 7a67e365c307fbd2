"""The events of a run, as TensorBoard reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import hparams

from attnbench.files import whole


class EventLog(TensorBoardLogger):
    """TensorBoard events in the run folder itself; config.yaml holds what Lightning would write as hparams.yaml.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), name="", version="", default_hp_metric=False, flush_secs=10)

    def save(self) -> None:
        """Write what is buffered."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Write what is buffered, and stay open: a run is one file, test and hyperparameters included."""
        self.experiment.flush()

    def layout(self, metrics: Iterable[str]) -> None:
        """Lay out the Custom Scalars page: train and val of a quantity in one chart, the same in every run."""
        looking = ("alignment", "alignment_argmax", "entropy", "head_disagreement")
        charts: dict[str, dict[str, tuple[str, ...]]] = {
            "train and val": {name: (f"train/{name}", f"val/{name}", f"test/{name}") for name in ("loss", *metrics)},
            "where it looks": {name: (f"attention/{name}",) for name in looking},
        }
        layout = {
            page: {name: ["Multiline", [f"{tag}$" for tag in tags]] for name, tags in group.items()}  # patterns
            for page, group in charts.items()
        }
        self.experiment.add_custom_scalars(layout)

    def hyperparameters(self, config: Mapping[str, Any], primary: str, value: float, step: int) -> None:
        """Write the row of the HParams page: what was chosen, and the final value of the primary metric.

        TensorBoard sorts metrics by name, so the primary one has a tag that comes first. The columns are not
        written: a run knows its own options only, and TensorBoard makes them of the options of all runs.
        """
        self.log_metrics({f"RESULT/{primary}": value}, step)
        words = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in config.items()
        }
        _, *row = hparams(words, {})  # type: ignore[no-untyped-call]
        for summary in row:
            self.experiment.file_writer.add_summary(summary)


def rewind(folder: Path, step: int) -> None:
    """Take out of a run's events what a resumed run writes again: the points after a step, and its hyperparameters.

    TensorBoard would show the first hyperparameters, and warn of points that are out of order.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        records = list(RawEventFileLoader(str(path)).Load())
        try:
            lasting = [record for record in records if _lasts(Event.FromString(record), step)]
        except DecodeError:  # somebody's damaged file
            continue
        if len(lasting) < len(records):
            with whole(path) as partial, partial.open("wb") as file:
                writer = RecordWriter(file)
                for record in lasting:
                    writer.write(record)


def _lasts(event: Event, step: int) -> bool:
    return event.step <= step and not any(value.tag.startswith("_hparams_/") for value in event.summary.value)
