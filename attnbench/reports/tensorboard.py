"""The events of a run, as TensorBoard reads them."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import hparams, scalar

from attnbench.files import whole
from attnbench.interfaces import Task

#: What the tags of every run are, as TensorBoard shows it beside each chart.
DESCRIPTIONS: Mapping[str, str] = {
    "train/loss": "The loss of the last batch before this point, the penalty of the attention included.",
    "train/penalty": "What the attention's weights add to the loss.",
    "train/skipped_updates": "How many updates were left out so far, since their gradient was not finite.",
    "train/learning_rate": "The learning rate of the next update.",
    "train/examples_per_second": "Examples trained on, by the clock, without validation.",
    "attention/alignment": "Of the first validation examples: the share of weight on the keys that hold the answer.",
    "attention/alignment_argmax": "How often the key with the most weight is one that holds the answer.",
    "attention/entropy": "The entropy of a query's weights in nats: 0 where one key has all, log K where K are alike.",
    "attention/head_disagreement": "Jensen-Shannon divergence of the heads' weights in nats: 0 where all look alike.",
}


class EventLog(TensorBoardLogger):
    """TensorBoard events in the run folder itself; config.yaml holds what Lightning would write as hparams.yaml.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), name="", version="", default_hp_metric=False, flush_secs=10)
        self.descriptions = dict(DESCRIPTIONS)

    def describe(self, task: Task) -> None:
        """Let a task's docstrings tell what its metrics and pictures are."""
        metrics, maps = inspect.getdoc(task.metrics) or "", inspect.getdoc(task.maps) or ""
        for name in ("loss", *task.metrics()):
            told = inspect.getdoc(task.loss) if name == "loss" else metrics
            self.descriptions |= {f"{split}/{name}": told or "" for split in ("val", "test")}
            self.descriptions.setdefault(f"train/{name}", f"Of the first training examples. {told}")
        self.descriptions["images"] = inspect.getdoc(task.images) or ""
        self.descriptions["attention/"] = f"Where a validation example looks: the weights of its queries. {maps}"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write scalars, each tag with its description."""
        for tag, value in metrics.items():
            summary = scalar(tag, float(value))  # type: ignore[no-untyped-call]
            self._write(summary, "scalars", self.descriptions.get(tag, ""), step)

    @rank_zero_only
    def add_picture(self, tag: str, pixels: Any, step: int) -> None:
        """Write a picture, [height, width, 3], with its description."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)  # a tenth larger, in half the time
        height, width, colours = pixels.shape
        image = Summary.Image(height=height, width=width, colorspace=colours, encoded_image_string=file.getvalue())
        group = tag.partition("/")[0]
        told = self.descriptions.get(f"{group}/", "" if group == "test" else self.descriptions.get("images", ""))
        self._write(Summary(value=[Summary.Value(tag=tag, image=image)]), "images", told, step)

    def _write(self, summary: Any, plugin: str, description: str, step: int | None) -> None:
        metadata = summary.value[0].metadata
        metadata.plugin_data.plugin_name, metadata.summary_description = plugin, description
        self.experiment.file_writer.add_summary(summary, step)

    def save(self) -> None:
        """Write what is buffered."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Write what is buffered, and stay open: a run is one file, test and hyperparameters included."""
        self.experiment.flush()

    def layout(self, metrics: Iterable[str]) -> None:
        """Lay out the Custom Scalars page: train and val of a quantity in one chart, the same in every run.

        A metric `name` that has slices, `name_slice`, has one chart more, with all of them.
        """
        looking = ("alignment", "alignment_argmax", "entropy", "head_disagreement")
        metrics = list(metrics)
        slices = {name: [other for other in metrics if other.startswith(f"{name}_")] for name in metrics}
        charts: dict[str, dict[str, tuple[str, ...]]] = {
            "train and val": {name: (f"train/{name}", f"val/{name}", f"test/{name}") for name in ("loss", *metrics)},
            "val, by slice": {n: tuple(f"val/{m}" for m in (n, *others)) for n, others in slices.items() if others},
            "where it looks": {name: (f"attention/{name}",) for name in looking},
        }
        layout = {
            page: {name: ["Multiline", [f"{tag}$" for tag in tags]] for name, tags in group.items()}  # patterns
            for page, group in charts.items()
            if group
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
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-untyped]
        RawEventFileLoader,
    )
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

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


def _lasts(event: Any, step: int) -> bool:
    return bool(event.step <= step and not any(value.tag.startswith("_hparams_/") for value in event.summary.value))
