"""The events of a run, as TensorBoard reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams


class EventLog(TensorBoardLogger):
    """TensorBoard events in the run folder itself; config.yaml holds what Lightning would write as hparams.yaml.

    Args:
        folder: the run folder.
        resumed_from: the step that a resumed run goes on from: later points, which it draws again, are purged.
    """

    def __init__(self, folder: Path, resumed_from: int | None = None) -> None:
        again = None if resumed_from is None else resumed_from + 1
        super().__init__(str(folder), name="", version="", default_hp_metric=False, flush_secs=10, purge_step=again)

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

    def hyperparameters(self, config: Mapping[str, Any], final: Mapping[str, float]) -> None:
        """Write the row of the HParams page: what was chosen, and the final metrics."""
        words = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in config.items()
        }
        for summary in hparams(words, dict(final)):  # type: ignore[no-untyped-call]
            self.experiment.file_writer.add_summary(summary)
