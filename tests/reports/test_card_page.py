"""A page of a report card, read as text and opened in a browser."""

import html
import re

import pytest
import torch
from cards import GOOD, MIDDLE, POOR, card, cell

from attnbench.answers import AttentionMap
from attnbench.contract.findings import Finding
from attnbench.interfaces import Published
from attnbench.reports.card import MULTIHEAD
from attnbench.reports.card_page import write_page

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of an arm with a hostile name among seven that ship, with everything that a card may hold."""
    tasks, tried = ["recall", "parity"], [(0.003, 0.9), (0.01, 1.0), (0.03, 0.98)]
    arms = [MULTIHEAD, "gla", "deltanet negative=true", *(f"other{n}" for n in range(7))]
    shipped = [cell(task, arm, MIDDLE, longer=POOR, tried=tried) for task in tasks for arm in arms]
    mine = [cell("recall", HOSTILE, GOOD, longer=MIDDLE, tried=tried, state=50)]
    mine += [cell("parity", HOSTILE, POOR, longer=POOR, tried=tried, state=25)]
    weights = torch.eye(4)[None]
    looks = {
        ("recall", arm): AttentionMap(weights, list("abcd"), list("wxyz"), title=arm) for arm in (HOSTILE, MULTIHEAD)
    }
    made = card(
        mine,
        shipped,
        notes=["recall: </script><b>note</b>"],
        laws={"attention=mine": [Finding("shapes", "passed"), Finding("causal", "excused", "order & point")]},
        costs={HOSTILE: {512: 0.9, 2048: 0.5}, MULTIHEAD: {2048: 1.0}, "gla": {2048: 0.25}},
        looks=looks,
        published=[("recall", Published("accuracy .22", "Yang et al. 2024, table 1", "GLA, 512 tokens", "two layers"))],
        command=f"python -m attnbench suite attention={HOSTILE}",
        when="2026-11-27",
        versions={"attnbench": "0.1.0", "torch": "2.13.0"},
        processor="a processor",
    )
    path = tmp_path_factory.mktemp("card") / "report.html"
    write_page(made, path)
    return path


def test_the_page_holds_the_verdict_the_table_the_protocol_and_the_published_numbers(report):
    text = report.read_text(encoding="utf-8")
    words = re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", text)))

    assert f"{HOSTILE} has place 1 of 11 with a score of 0." in words
    assert "Forward and backward at 2,048 keys take 0.5 times as long" in words
    assert re.search(r"x onerror=alert\(1\)> 0\.\d\d 0\.\d\d to 0\.\d\d 0\.79 0\.77 to 0\.82 0\.02", words)
    # the scores of recall are 0.8, 0.77, 0.81, 0.81, 0.77: 0.792 ± 2.776 · 0.0205 / √5
    assert "It is at chance on parity." in words
    assert "\\\\\n\\bottomrule\n" in text
    assert "accuracy .22 GLA, 512 tokens two layers Yang et al. 2024, table 1" in words
    assert "1 passed, 1 excused" in words and "excused: causal: order & point" in words
    assert "0.003, 0.01, 0.03 0.01 0.01 to 0.03 (x3) 0, 1, 2, 3, 4 attnbench 0.1.0, torch 2.13.0" in words
    assert "a processor" in words and "recall: </script><b>note</b>" in words


def test_the_page_asks_the_network_for_nothing_and_runs_no_program(report):
    text = report.read_text(encoding="utf-8")

    assert not re.search(r"<script|<link|<iframe|@import|url\((?!#)|https?:", text)
    assert set(re.findall(r'src="(\w+:[\w/]+)', text)) == {"data:image/png"}
    assert {link for link in re.findall(r'href="([^"]*)"', text) if not link.startswith("#")} == set()
    assert "__BODY__" not in text


def test_text_is_escaped_also_in_figures(report):
    text = report.read_text(encoding="utf-8")

    assert "<img src=x" not in text
    assert "<b>note" not in text


def test_figures_take_their_colours_from_the_page(report):
    drawings = re.findall(r"<svg.*?</svg>", report.read_text(encoding="utf-8"), re.DOTALL)

    assert len(drawings) == 10  # profile, improvement, cost, state; scores, difficulty and rates of two tasks
    assert all("var(--" in drawing for drawing in drawings)
    assert not set(re.findall("#[0-9a-f]{6}", "".join(drawings)))


def test_the_page_is_as_wide_as_its_window_and_its_letters_can_be_read(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("h1").inner_text() == f"Report card: {HOSTILE}"
    heights = page.evaluate("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
    assert len(heights) > 100
    assert min(heights) >= 8
