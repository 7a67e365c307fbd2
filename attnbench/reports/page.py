"""A comparison as one page: the tables, quality against cost, learning curves, and where each group looked."""

from __future__ import annotations

import base64
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from attnbench.files import write_text
from attnbench.reports import export
from attnbench.reports.compare import Row, Table, printable
from attnbench.reports.runs import LeftOut, Run, number
from attnbench.reports.tables import WORDS, Column, columns_of, method, remarks, title

EXAMPLES, STEPS = 4, 12  # pictures of a group: at most so many examples, at so many steps
BYTES = 24 * 2**20  # of all pictures
PLACE = "__DATA__"


def write(path: Path, tables: Sequence[Table], left_out: Sequence[LeftOut], words: Sequence[str]) -> None:
    """Write the page: one file that needs no network.

    Args:
        path: where to.
        tables: the comparison.
        left_out: what is in no table.
        words: the command that is being answered.

    Raises:
        OSError: it cannot be written.
    """
    shown = {id(row): pictures(row.runs[0].folder) for table in tables for row in table.rows}
    while sum(len(image) for steps in shown.values() for images in steps.values() for image in images) > BYTES:
        shown = {key: dict(list(steps.items())[::-2][::-1]) for key, steps in shown.items()}  # the last one stays
        if all(len(steps) < 2 for steps in shown.values()):
            break
    columns = columns_of(tables)
    data = {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": versions(tables),
        "place": str(Path.cwd()),
        "command": f"python -m attnbench {shlex.join(words)}",
        "columns": [{"name": column.heading, "words": column.heading in WORDS} for column in columns],
        "tables": [
            {
                "task": table.task,
                "title": title(table),
                "metric": table.metric,
                "mode": table.mode,
                "notes": [*table.notes, *remarks(table)],
                "method": method(table, columns_of([table])),
                "csv": export.as_csv([table]),
                "latex": export.as_latex([table]),
                "rows": [
                    _row(row, record, columns, shown[id(row)])
                    for row, record in zip(table.rows, export.rows([table]), strict=True)
                ],
            }
            for table in tables
        ],
        "left_out": [printable(entry) for entry in left_out],
    }
    template = (files("attnbench.reports") / "page.html").read_text(encoding="utf-8")
    held = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")  # no tag can begin in it
    write_text(path, template.replace(PLACE, held))


def versions(tables: Sequence[Table]) -> str:
    """Return what the runs were made by, such as `attnbench 0.1.0, torch 2.13.0`; of several versions all."""
    made_by: dict[str, set[str]] = {}
    for run in (run for table in tables for row in table.rows for run in row.runs):
        recorded = run.result.get("versions")
        for name, version in recorded.items() if isinstance(recorded, dict) else ():
            made_by.setdefault(printable(name), set()).add(printable(version))
    return ", ".join(f"{name} {' and '.join(sorted(several))}" for name, several in made_by.items())


def _row(
    row: Row, record: Mapping[str, Any], columns: Sequence[Column], shown: Mapping[int, Sequence[bytes]]
) -> dict[str, Any]:
    return {
        "label": row.label,
        "cells": [column.cell(row) for column in columns],
        "sort": [record[column.key] for column in columns],
        "verdict": row.verdict,
        "mean": row.mean,
        "interval": row.interval,
        "costs": row.costs,
        "curves": curves(row.runs),
        "pictures": [
            {"step": step, "images": [base64.b64encode(image).decode() for image in images]}
            for step, images in shown.items()
        ],
        "config": _text(row.runs[0].folder / "config.yaml"),
        "runs": [
            {"folder": str(run.folder), "seed": run.seed, "overrides": run.result.get("overrides")} for run in row.runs
        ],
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def curves(runs: Sequence[Run]) -> dict[str, list[list[float]]]:
    """Return each measured tag's curve over the runs: [step, examples, seconds, mean, lowest, highest] of each step.

    A run that ended early, with nothing left to gain, counts on with its last value.
    """
    recorded = [[e for e in c if isinstance(e, dict)] for run in runs if isinstance(c := run.result.get("curve"), list)]
    tags = sorted({tag for points in recorded for point in points for tag in point if "/" in tag})
    drawn: dict[str, list[list[float]]] = {}
    for tag in tags:
        series = [whole for points in recorded if (whole := [p for p in map(_point(tag), points) if p is not None])]
        for step in sorted({point[0] for points in series for point in points}):
            reached = [[p for p in points if p[0] <= step] for points in series]
            last = [points[-1] for points in reached if points]
            now = [p for p in last if p[0] == step]
            values = [p[3] for p in last]
            drawn.setdefault(tag, []).append(
                [step, fmean(p[1] for p in now), fmean(p[2] for p in now), fmean(values), min(values), max(values)]
            )
    return drawn


def _point(tag: str) -> Any:
    def point(entry: Mapping[str, Any]) -> tuple[float, ...] | None:
        values = tuple(number(entry.get(key)) for key in ("step", "examples", "seconds", tag))
        return None if None in values else values  # type: ignore[return-value]

    return point


def pictures(folder: Path) -> dict[int, list[bytes]]:
    """Read a run's attention pictures from its event file: {step: the PNG of each example}, steps in order."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    sizes = {"images": 0, "scalars": 1, "tensors": 1, "compressedHistograms": 1, "histograms": 1, "audio": 1}
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of what a resumed run draws again
    events = EventAccumulator(str(folder), size_guidance=sizes)
    try:
        events.Reload()
    except Exception:  # somebody's damaged file: a page without its pictures
        return {}
    tags = sorted(tag for tag in events.Tags()["images"] if tag.removeprefix("attention/").isdigit())[:EXAMPLES]
    drawn: dict[int, list[bytes]] = {}
    for tag in tags:
        for image in events.Images(tag):
            if image.encoded_image_string.startswith(b"\x89PNG"):
                drawn.setdefault(image.step, []).append(image.encoded_image_string)
    steps = sorted(step for step, images in drawn.items() if len(images) == len(tags))
    last = len(steps) - 1
    chosen = {steps[round(n * last / (STEPS - 1))] for n in range(STEPS)} if steps else set()
    return {step: drawn[step] for step in sorted(chosen)}
