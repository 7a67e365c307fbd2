"""The tables of a comparison for programs and papers: CSV, JSON, LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from attnbench.reports.compare import COSTS, Row, Table, printable, varying
from attnbench.reports.runs import LeftOut, Run, curve, reached
from attnbench.schema import format_value

#: Options that have a column whether they vary or not.
ALWAYS = ("attention", "scoring", "optimizer.lr")
#: What LaTeX reads as a command, and how it is written.
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def as_csv(tables: Sequence[Table]) -> str:
    """Return a line for each group of all tables: its options, its statistics, and the value of each seed."""
    records = []
    for record in rows(tables):
        values = record.pop("values")
        records.append(record | {f"seed_{seed}": value for seed, value in values.items()})
    return _csv(records)


def as_json(tables: Sequence[Table], left_out: Sequence[LeftOut]) -> str:
    """Return everything as JSON, in the units that the keys say."""
    records = iter(rows(tables))
    listed = [
        {
            "task": table.task,
            "metric": table.metric,
            "better": "higher" if table.mode == "max" else "lower",
            "reference": table.reference,
            "comparisons": table.comparisons,
            "separation": _finite(table.separation),
            "rows": [next(records) for _ in table.rows],
            "notes": table.notes,
        }
        for table in tables
    ]
    gone = [{"folder": str(entry.folder), "reason": entry.reason} for entry in left_out]
    return _json({"tables": listed, "left_out": gone})


def rows(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return the groups of all tables as plain values, in the units that the keys say, all with the same keys."""
    options = _options([run for table in tables for row in table.rows for run in row.runs])
    return [
        {"task": table.task, "metric": table.metric}
        | {key: _shared(row.runs, key) for key in options}
        | _statistics(row)
        for table in tables
        for row in table.rows
    ]


def _statistics(row: Row) -> dict[str, Any]:
    (low, high), difference, better = row.interval or (None, None), row.difference, row.better
    successes, success_low, success_high = row.success or (None, None, None)
    return {
        "group": row.label,
        "n": len(row.values),
        "mean": row.mean,
        "sd": row.sd,
        "low95": low,
        "high95": high,
        "interval": None if low is None else row.interval_name,
        "difference": None if difference is None else difference.mean,
        "common_seeds": None if difference is None else difference.seeds,
        "p": None if difference is None else difference.p,
        "p_holm": row.p,
        "verdict": row.verdict,
        "smallest_difference": row.smallest_difference,
        "seeds_needed": row.seeds_needed,
        "p_better": None if better is None else better.share,
        "p_better_low95": None if better is None else better.low,
        "p_better_high95": None if better is None else better.high,
        **{cost: _whole(value) for cost, value in row.costs.items()},
        "goal": row.goal,
        "successes": successes,
        "success_low95": success_low,
        "success_high95": success_high,
        "target": row.target,
        "target_reached": None if row.target is None else row.reached,
        "target_steps": _whole(row.target_steps),
        "target_seconds": row.target_seconds,
        "tried": row.tried,
        "values": row.values,
        "runs": [str(run.folder) for run in row.runs],
    }


def runs(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return the runs of all tables as plain values, those of tuning too, which are in no group: `group` is empty."""
    entered: list[tuple[Table, Row | None, Run]] = [
        (table, row, run) for table in tables for row in table.rows for run in row.runs
    ]
    entered += [(table, None, run) for table in tables for run in table.tuning]
    options = _options([run for _, _, run in entered])
    tags = sorted({tag for _, _, run in entered for tag in run.result["metrics"]})
    return [
        {
            "task": run.task,
            **{key: run.config.get(key) for key in options},
            "seed": run.seed,
            "part": "tuning" if run.tuning else "reported",
            "group": None if row is None else row.label,
            **{tag: run.value(tag) for tag in tags},
            **{cost: _whole(run.value(cost)) for cost in COSTS},
            "target": None if row is None else row.target,
            "target_steps": None if row is None or row.target is None else _steps(run, table, row.target),
            "folder": str(run.folder),
        }
        for table, row, run in entered
    ]


def runs_as_csv(tables: Sequence[Table]) -> str:
    """Return a line for each run, as pandas reads it."""
    return _csv(runs(tables))


def runs_as_json(tables: Sequence[Table]) -> str:
    """Return a list of all runs."""
    return _json(runs(tables))


def as_latex(tables: Sequence[Table]) -> str:
    """Return a tabular for each table, to be used with the package booktabs.

    The best mean is bold only where it is distinguishable from every other group.
    """
    lines = [r"% \usepackage{booktabs}; bold: best, and distinguishable from every other (paired t-tests, Holm)"]
    for table in tables:
        lines += [rf"\begin{{tabular}}{{lrr}}  % {tex(table.task)}", r"\toprule"]
        lines += [rf"{tex(table.task)} & seeds & {tex(table.metric)} \\", r"\midrule"]
        best = table.rows[0]
        for row in table.rows:
            mean = f"{row.mean:.4f}" if abs(row.mean) < 1000 else f"{row.mean:.5g}"
            bold = rf"\mathbf{{{mean}}}" if row is best and table.stands_out else mean
            spread = "" if row.sd is None else rf" \pm {row.sd:.4f}"
            lines.append(rf"{tex(row.label)} & {len(row.values)} & ${bold}{spread}$ \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Return a text as LaTeX writes it."""
    return re.sub(r"[\\~^&%$#_{}]", lambda match: SPECIAL.get(match[0], "\\" + match[0]), printable(text))


def _options(entered: Sequence[Run]) -> list[str]:
    """Return the keys of a config that have a column."""
    always = [key for key in ALWAYS if any(key in run.config for run in entered)]
    others = varying([run.config for run in entered], but=("task", "seed", "part", *always))
    return [*always, *others]


def _shared(members: Sequence[Run], key: str) -> Any:
    """Return what runs have for a key: the value, or of several all, as words."""
    values = list({format_value(run.config[key]): run.config[key] for run in members if key in run.config}.items())
    if len(values) < 2:
        return values[0][1] if values else None
    return " ".join(word for word, _ in values)


def _steps(run: Run, table: Table, target: float) -> float | None:
    point = reached(curve(run, table.metric.replace("test/", "val/", 1)), target, table.mode)
    return None if point is None else _whole(point[0])


def _whole(value: float | None) -> float | None:
    """Return an integer where it is one."""
    return int(value) if value is not None and value == int(value) else value


def _finite(value: float | None) -> float | None:
    return None if value == float("inf") else value


def _csv(records: Sequence[dict[str, Any]]) -> str:
    """Return CSV with the columns of all records; lists are separated by spaces."""
    text, headings = io.StringIO(), dict.fromkeys(key for record in records for key in record)
    writer = csv.DictWriter(text, list(headings), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in record.items()})
    return text.getvalue()


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
