"""Does it look in the right place?"""

import math

import pytest
import torch
from attnbench.plugins.task.date import alignment

from attnbench import AttentionMap
from attnbench.reports.alignment import measure


def picture(weights, truth=None):
    weights = torch.tensor(weights)
    rows, columns = weights.shape[-2:]
    marked = None if truth is None else torch.tensor(truth, dtype=torch.bool)
    return AttentionMap(weights, ["?"] * rows, ["?"] * columns, truth=marked)


def test_alignment_is_the_share_of_weight_on_the_right_keys():
    measured = measure([picture([[[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]]], [[1, 1, 0], [0, 1, 0]])])

    assert measured["alignment"] == pytest.approx((0.75 + 0.1) / 2)
    assert measured["alignment_argmax"] == pytest.approx((1 + 0) / 2)


def test_a_row_without_truth_counts_for_the_entropy_alone():
    measured = measure([picture([[[1.0, 0.0], [0.5, 0.5]]], [[1, 0], [0, 0]])])

    assert measured["alignment"] == 1.0
    assert measured["entropy"] == pytest.approx(math.log(2) / 2)


def test_a_task_without_truth_and_a_mechanism_with_one_head_give_the_entropy_only():
    assert measure([picture([[[0.25] * 4]])]) == {"entropy": pytest.approx(math.log(4))}


def test_equal_weights_point_at_the_right_keys_as_often_as_chance_does():
    assert measure([picture([[[0.25] * 4]], [[1, 0, 0, 0]])])["alignment_argmax"] == 0.25


def test_weights_that_do_not_sum_to_one_are_taken_as_shares():
    assert measure([picture([[[3.0, -1.0]]], [[1, 0]])])["alignment"] == 0.75


@pytest.mark.parametrize(
    ("heads", "nats"),
    [([[1.0, 0.0], [1.0, 0.0]], 0.0), ([[1.0, 0.0], [0.0, 1.0]], math.log(2)), ([[0.5, 0.5], [1.0, 0.0]], 0.2157616)],
)
def test_heads_disagree_by_the_jensen_shannon_divergence(heads, nats):
    # the last: H(3/4, 1/4) - (log 2 + 0) / 2 = 0.5623351 - 0.3465736
    assert measure([picture([[head] for head in heads])])["head_disagreement"] == pytest.approx(nats, abs=1e-6)


def test_a_row_that_may_attend_nothing_is_left_out():
    assert measure([picture([[[0.0, 0.0], [1.0, 0.0]]], [[1, 0], [1, 0]])])["alignment"] == 1.0


@pytest.mark.parametrize(
    ("source", "year", "month", "day"),
    [
        ("9/27/94", "94", "9", "27"),
        ("Sep 27, 1994", "1994", "Sep", "27"),
        ("september 27, 1994", "1994", "september", "27"),
        ("TUESDAY, SEPTEMBER 27, 1994", "1994", "SEPTEMBER", "27"),
        ("Tuesday, May 7, 1994··", "1994", "May", "7"),
    ],
)
def test_the_date_task_knows_which_characters_tell_which_field(source, year, month, day):
    truth = alignment(source)
    fields = ["".join(c for c, marked in zip(source, row, strict=True) if marked) for row in truth.tolist()]

    assert fields == [year] * 4 + [""] + [month] * 2 + [""] + [day] * 2


def test_a_source_in_no_known_form_has_no_truth():
    assert not alignment("the 3rd of May").any()
