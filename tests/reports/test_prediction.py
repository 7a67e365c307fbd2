"""What `predict` prints says of what its numbers are."""

import io
import re

import torch
from rich.console import Console

from attnbench import AttentionMap, Prediction
from attnbench.reports.prediction import show


def printed(prediction):
    show(prediction, Console(file=(said := io.StringIO()), width=200))
    return said.getvalue().splitlines()


def test_an_answer_has_its_probability_and_its_words_the_weight_that_all_would_share():
    weights = torch.tensor([[[0.7, 0.1, 0.1, 0.1]]])
    first, _, last = printed(Prediction("yes", 0.75, AttentionMap(weights, ["query"], ["a", "b", "c", "d"])))
    assert first == "yes  0.750  (its probability, by the model)"
    assert last.startswith("most weight (of 0.250 if all had the same): a 0.700  b 0.100")


def test_what_is_written_piece_by_piece_has_a_line_for_each_and_blanks_can_be_seen():
    weights = torch.tensor([[[0.8, 0.2], [0.0, 1.0]]])
    said = printed(Prediction("xy", 0.5, AttentionMap(weights, ["x", "y"], ["a", " "]), [0.9, 0.6]))
    assert said[1:] == [
        "written, its probability <- read, its weight (of 0.50 if all had the same)",
        "  x 0.90 <- a 0.80  ␣ 0.20",
        "  y 0.60 <- ␣ 1.00",
    ]


def test_negative_weights_rank_by_their_size_and_keep_their_sign():
    weights = torch.tensor([[[0.5, -0.7, 0.1, 0.0]], [[0.5, -0.1, -0.3, 0.0]]])
    made = Prediction("yes", 0.75, AttentionMap(weights, ["query"], ["a", "b", "c", "d"]))
    assert printed(made)[-1] == (
        "most weight (either sign, ± where heads differ): a +0.500  b -0.400  c ±0.200  d +0.000"
    )
    console = Console(file=(said := io.StringIO()), width=200, force_terminal=True, color_system="truecolor")
    show(made, console)
    papers = [tuple(map(int, paper)) for paper in re.findall(r"48;2;(\d+);(\d+);(\d+)m", said.getvalue())]
    assert papers == [(240, 110, 30), (75, 139, 243), (203, 203, 203), (255, 255, 255)]


def test_what_a_piece_looked_at_may_have_a_negative_weight():
    weights = torch.tensor([[[0.2, -0.8], [0.3, 1.0]]])
    said = printed(Prediction("xy", 0.5, AttentionMap(weights, ["x", "y"], ["a", "b"]), [0.9, 0.6]))
    assert said[1:] == [
        "written, its probability <- read, its weight (either sign, ± where heads differ)",
        "  x 0.90 <- b -0.80  a +0.20",
        "  y 0.60 <- b +1.00  a +0.30",
    ]
