"""A report card as one page that needs no network: the verdict, the table, the figures, and how it all came about."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import fmean

from attnbench.files import write_text
from attnbench.reports import card_figures as figures
from attnbench.reports.attention import draw
from attnbench.reports.card import MULTIHEAD, Card, Pair, Standing, at_chance, size_of, telling, verdict
from attnbench.reports.card_export import latex_table
from attnbench.reports.card_tables import NONE, alike, between, digits, good_rates, method, tuned
from attnbench.reports.compare import printable
from attnbench.reports.statistics import interval, wilson

TITLE, BODY = "__TITLE__", "__BODY__"
#: Columns of words, not of numbers.
WORDS = (
    "cannot be distinguished from", "verdict", "number", "of what", "what differs", "source", "task", "rates tried",
    "chosen", "good rates", "seeds", "versions", "words",
)  # fmt: skip


class Markup(str):
    """A piece of a page; any other text is escaped where it becomes part of one."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str) -> Markup:
    """Return an element; attributes are named as in Python, `class_`, and text is escaped."""
    named = "".join(f' {key.rstrip("_")}="{escape(printable(value))}"' for key, value in attributes.items())
    return Markup(f"<{name}{named}>{''.join(map(markup, children))}</{name}>")


def markup(text: str) -> str:
    """Return a piece of a page as it is, and any other text escaped."""
    return text if isinstance(text, Markup) else escape(printable(text))


def write_page(card: Card, path: Path) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written.
    """
    template = (files("attnbench.reports") / "card.html").read_text(encoding="utf-8")
    title = f"attnbench report card: {', '.join(card.mine)}"
    sections = (_head, _standings, _against_each, _over_tasks, _by_task, _looks, _published, _laws, _protocol)
    body = "".join(section(card) for section in sections)
    write_text(path, template.replace(TITLE, markup(title)).replace(BODY, body))


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], name: str, marked: Callable[[int], bool] = bool
) -> Markup:
    """Return a table that scrolls where it is too wide; `marked` says which rows stand out."""
    head = tag("tr", *(tag("th", text, scope="col", class_="words" * (text in WORDS)) for text in headings))
    body = [
        tag("tr", *(cell if cell.startswith("<td") else tag("td", cell) for cell in row), class_="mine" * marked(n))
        for n, row in enumerate(rows)
    ]
    whole = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=name)


def figure(title: str, drawing: str, *says: str) -> Markup:
    """Return a drawing with its title, and what is to be known to read it."""
    labelled = drawing.replace("<svg", f'<svg role="img" aria-label="{escape(printable(title))}"', 1)
    return tag("figure", tag("h3", title), Markup(labelled), tag("figcaption", *says))


def _head(card: Card) -> str:
    facts = [f"suite {card.suite}", card.when, card.processor, *(f"{k} {v}" for k, v in card.versions.items())]
    verdicts = [tag("p", " ".join(verdict(card, arm)), class_="verdict") for arm in card.mine]
    notes = tag("ul", *(tag("li", note) for note in card.notes)) if card.notes else ""
    line = tag("p", ", ".join(filter(None, facts)), class_="soft")
    return tag("h1", f"Report card: {', '.join(card.mine)}") + line + "".join(verdicts) + notes


def _cell(text: str, below: str = "", score: float | None = None, kind: str = "") -> Markup:
    """Return a cell of a table: a number, what stands below it, and a shade for a score."""
    style = {} if score is None else {"style": f"--s: {score:.3f}", "class_": "score"}
    if kind:
        style["class_"] = kind
    return tag("td", text, *([tag("small", below)] if below else []), **style)


def _standings(card: Card) -> str:
    headings = ["mechanism", "score", *card.tasks, "goal reached", "state", "cost"]
    headings.append("cannot be distinguished from")
    rows = []
    for row in card.standings:
        parts = [_task_cell(row, task) for task in card.tasks]
        reached = _cell(f"{row.reached} of {row.runs}", between(wilson(row.reached, row.runs), 2))
        ratios = [_cell(NONE if value is None else f"{value:.2g}") for value in (row.state, row.cost and row.cost[1])]
        same = _cell(", ".join(alike(card, row)) or NONE, kind="words")
        score = _cell(digits(row.score, 2), between(row.interval, 2) if row.interval else "", row.score)
        rows.append([_cell(row.arm, kind="name"), score, *parts, reached, *ratios, same])
    mine = [row.mine for row in card.standings]
    return (
        tag("h2", "The mechanisms, best first")
        + table(headings, rows, "all mechanisms on all tasks", lambda n: mine[n])
        + tag("p", f"Of each task the mean score over seeds, and its 95% t interval; {method(card)}.", class_="soft")
    )


def _task_cell(row: Standing, task: str) -> Markup:
    if task not in row.cells:
        return _cell(NONE)
    scores = list(row.scores[task].values())
    return _cell(digits(fmean(scores), 2), between(interval(scores), 2), fmean(scores))


def _against_each(card: Card) -> str:
    return "".join(_against(card, arm) for arm in card.mine if any(one == arm for one, _ in card.pairs))


def _against(card: Card, arm: str) -> str:
    headings = ["compared with", "difference", "p (Holm)", "verdict", "smallest shown", "seeds needed", "P(better)"]
    rows, marked = [], []
    for row in card.standings:
        pair = card.pairs.get((arm, row.arm))
        if pair is None:
            continue
        share, ends = card.improvements[arm, row.arm]
        word = "cannot be distinguished" if not pair.distinct else "better" if pair.mean > 0 else "worse"
        rows.append(
            [
                _cell(row.arm, kind="name"),
                _cell(f"{pair.mean:+.3f}"),
                _cell(NONE if pair.p is None else "<0.0001" if pair.p < 1e-4 else f"{pair.p:.4f}"),
                _cell(word, kind=f"words {word if pair.distinct else ''}"),
                _cell(NONE if pair.smallest is None else size_of(pair.smallest)),
                _cell(_needed(pair)),
                _cell(f"{share:.2f}", between(ends, 2)),
            ]
        )
        marked.append(row.mine)
    says = (
        "Difference of the mean score over tasks, paired by seed; smallest shown: the smallest difference that these "
        "seeds could have shown, beside as many comparisons; seeds needed: for the one seen, had it this spread; "
        "P(better): the probability that a run is better than one of the other, a mean over tasks, with its 95% "
        "bootstrap interval (Agarwal et al. 2021)."
    )
    return (
        tag("h2", f"{arm} against each")
        + table(headings, rows, f"{arm} against each", lambda n: marked[n])
        + tag("p", says, class_="soft")
    )


def _needed(pair: Pair) -> str:
    return NONE if pair.distinct or pair.smallest is None else f"{pair.needed:,}" if pair.needed else "over 1,000"


def _over_tasks(card: Card) -> str:
    drawn = []
    if any(row.score is not None for row in card.standings):
        drawn.append(
            figure(
                "Performance profile",
                figures.profiles(card),
                "The share of runs whose score is above each value, a mean over tasks; higher is better.",
            )
        )
    drawn += [
        figure(
            f"Probability of improvement: {arm}",
            figures.improvements(card, arm),
            "That a run of it is better than one of the other; right of the dotted line it is the better one.",
        )
        for arm in card.mine
        if any(one == arm for one, _ in card.improvements)
    ]
    costs = {row.arm: row.cost[1] for row in card.standings if row.cost}
    if len(costs) > 1:
        length = max(row.cost[0] for row in card.standings if row.cost)
        drawn.append(
            figure(
                "Cost against quality",
                figures.against(card, costs, "seconds"),
                f"Forward and backward at {length:,} keys, measured beside multihead's. Up and left is better.",
            )
        )
    states = {row.arm: row.state for row in card.standings if row.state}
    if len(states) > 1:
        drawn.append(
            figure(
                "State against quality",
                figures.against(card, states, "state"),
                "Numbers kept to go on decoding, the median ratio over tasks. Up and left is better.",
            )
        )
    return tag("h2", "Over all tasks") + tag("div", *drawn, class_="grid") if drawn else ""


def _by_task(card: Card) -> str:
    return "".join(_task(card, task) for task in card.tasks if card.on(task))


def _task(card: Card, task: str) -> str:
    cells = card.on(task)
    first = next(iter(cells.values()))
    chance = [arm for arm in card.mine if arm in cells and at_chance(cells[arm])]
    words = [telling(card, task)[1], *([f"At chance: {', '.join(chance)}."] if chance else [])]
    drawn = [figure("Scores", figures.dots(card, task), "A dot for each seed, the mean and its 95% interval.")]
    if len(first.slices) > 1:
        says = "The test as the task is trained, and each of its slices; bars: 95% intervals over seeds."
        drawn.append(figure("Over difficulty", figures.difficulty(card, task), says))
    if any(value is not None for cell in cells.values() for _, value in cell.tried):
        says = (
            "Validation on the tuning seeds; ringed: the rate chosen. x: the factor by which the rates around the best "
            "go apart that are within 95% of its score."
        )
        drawn.append(figure("Rate windows", figures.rates(card, task), says))
    sheet = tuned(card, task)
    mine = [arm in card.mine for arm in cells]
    numbers = table(
        sheet.headings, ([_cell(row[0], kind="name"), *row[1:]] for row in sheet.rows), sheet.title, lambda n: mine[n]
    )
    details = tag("details", tag("summary", f"The numbers: {sheet.title}"), numbers)
    return tag("h2", task) + tag("p", " ".join(words)) + tag("div", *drawn, class_="grid") + details


def _looks(card: Card) -> str:
    shown = []
    for task in dict.fromkeys(task for task, _ in card.looks):
        arms = sorted((arm for place, arm in card.looks if place == task), key=lambda arm: arm == MULTIHEAD)
        pictures = [tag("figure", tag("h3", f"{task}: {arm}"), _picture(card, task, arm)) for arm in arms]
        shown.append(tag("div", *pictures, class_="wall"))
    says = (
        "The weights of one example of each task, by the first reported run; queries down, keys across, "
        "or a panel for each query over its image."
    )
    return tag("h2", "Where it looked") + tag("p", says, class_="soft") + "".join(shown) if shown else ""


def _picture(card: Card, task: str, arm: str) -> Markup:
    file = io.BytesIO()
    draw(card.looks[task, arm]).savefig(file, format="png")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return tag(
        "div",
        Markup(f'<img alt="{escape(printable(f"weights of {arm} on {task}"))}" src="{source}">'),
        class_="picture",
        tabindex="0",
    )


def _published(card: Card) -> str:
    rows = [
        [_cell(task, kind="name"), *(_cell(text, kind="words") for text in (p.number, p.setting, p.differs, p.source))]
        for task, p in card.published
    ]
    headings = ["task", "number", "of what", "what differs", "source"]
    says = "These are papers' numbers, of other settings: they stand beside ours, and no table above has any of them."
    return (
        tag("h2", "What papers report") + tag("p", says) + table(headings, rows, "numbers of papers", lambda n: False)
        if rows
        else ""
    )


def _laws(card: Card) -> str:
    items = []
    for component, findings in card.laws.items():
        total = Counter(finding.status for finding in findings)
        counts = ", ".join(f"{count} {status}" for status, count in total.items())
        told = [tag("li", f"{f.status}: {f.law}: {f.told()}") for f in findings if f.status in ("broken", "excused")]
        items.append(tag("p", tag("b", component), f": {counts}.") + (tag("ul", *told) if told else ""))
    return tag("h2", "Laws") + "".join(items) if items else ""


def _protocol(card: Card) -> str:
    rows = []
    for cell in (cell for cells in card.arms.values() for cell in cells.values()):
        tried = ", ".join(f"{lr:g}" for lr, _ in cell.tried)
        texts = [
            cell.task,
            tried or f"{cell.lr:g}",
            f"{cell.lr:g}",
            good_rates(cell),
            ", ".join(map(str, cell.seeds)),
            _versions(cell.versions),
            " ".join(cell.words),
        ]
        rows.append([_cell(cell.arm, kind="name"), *(_cell(text, kind="words") for text in texts)])
    headings = ["mechanism", "task", "rates tried", "chosen", "good rates", "seeds", "versions", "words"]
    facts = {
        "command": card.command,
        "date": card.when,
        "versions": _versions(card.versions),
        "processor": card.processor,
        "reported seeds": ", ".join(map(str, card.seeds)),
        "tuning seeds": ", ".join(map(str, card.tuning_seeds)),
    }
    listed = [part for name, value in facts.items() if value for part in (tag("dt", name), tag("dd", value))]
    latex = Markup("\n".join(map(markup, latex_table(card).splitlines())))
    runs = table(headings, rows, "protocol", lambda n: False)
    return (
        tag("h2", "Protocol")
        + tag("dl", *listed)
        + tag("details", tag("summary", "Rates, seeds and versions of each run"), runs)
        + tag("details", tag("summary", "The table as LaTeX"), tag("pre", latex, tabindex="0"))
    )


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
