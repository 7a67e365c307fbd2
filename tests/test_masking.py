import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench import (
    NORMALISERS,
    causal_mask,
    hide_masked,
    masked_entmax15,
    masked_softmax,
    masked_sparsemax,
    prefix_mask,
    valid_lengths_to_mask,
)
from attnbench.masking import check_mask


def test_lengths_of_examples_become_a_mask_for_all_their_queries():
    mask = valid_lengths_to_mask(torch.tensor([2, 0, 3]), 3)
    assert mask.tolist() == [[[True, True, False]], [[False] * 3], [[True] * 3]]


def test_lengths_of_queries_become_a_mask_for_each():
    mask = valid_lengths_to_mask(torch.tensor([[1, 2], [3, 0]]), 3)
    assert mask.shape == (2, 2, 3)
    assert mask.sum(-1).tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize("lengths", [torch.ones(2, 2, 2, dtype=torch.long), torch.tensor([1.0]), torch.tensor([True])])
def test_lengths_of_another_shape_or_type_are_refused(lengths):
    with pytest.raises(Exception, match=r"valid lengths|Type-check"):
        valid_lengths_to_mask(lengths, 3)


def test_masked_softmax_by_hand():
    scores = torch.tensor([[0.0, math.log(3.0), 100.0]])
    weights = masked_softmax(scores, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.75, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_row_with_nothing_to_attend_gives_zeros_and_finite_gradients(dtype):
    scores = torch.randn(2, 3, 4, dtype=dtype, requires_grad=True)
    mask = valid_lengths_to_mask(torch.tensor([0, 2]), 4)
    weights = masked_softmax(scores, mask)
    assert not weights[0].any()
    weights.square().sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[0].any()


def test_the_scores_are_not_written_to():
    scores = torch.randn(1, 2, 3)
    before = scores.clone()
    masked_softmax(scores, torch.tensor([[[True, False, False]]]))
    assert torch.equal(scores, before)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_masked_score_does_not_matter_whatever_it_is(poison):
    mask = torch.tensor([[[True, True, False]]])
    scores = torch.tensor([[[0.1, 0.2, poison]]])
    torch.testing.assert_close(masked_softmax(scores, mask)[..., :2], torch.softmax(scores[..., :2], -1))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_rows_sum_to_one_and_masked_keys_have_no_weight(batch, queries, keys, random):
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    scores = 30 * torch.randn(batch, queries, keys, generator=generator)
    mask = torch.rand(batch, queries, keys, generator=generator) < 0.6
    weights = masked_softmax(scores, mask)
    assert not weights[~mask].any()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), mask.any(-1).float())


def test_a_float_mask_is_refused_with_the_reason():
    with pytest.raises(TypeError, match=r"a mask is bool, True where a query may attend, not torch\.float32"):
        check_mask(torch.zeros(1, 2, 3), 2, 3)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 4), (1, 5, 3)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"is \[\.\.\., 1 or 2, 3\], not"):
        check_mask(torch.ones(shape, dtype=torch.bool), 2, 3)


def test_nan_in_padding_reaches_neither_values_nor_keys():
    mask = valid_lengths_to_mask(torch.tensor([1]), 2)
    poisoned = torch.tensor([[[1.0], [math.nan]]])
    key, value = hide_masked(torch.zeros(1, 2, 1), poisoned, poisoned, mask)
    assert key.tolist() == value.tolist() == [[[1.0], [0.0]]]


SUM_TO_ONE = (masked_softmax, masked_sparsemax, masked_entmax15)


def test_an_allowed_score_as_low_as_there_is_counts_all_the_same():
    scores = torch.tensor([[[torch.finfo(torch.float32).min] * 2 + [1.0, 2.0]]])
    mask = torch.tensor([[[True, True, False, False]]])
    for normalise in SUM_TO_ONE:  # however low all are
        torch.testing.assert_close(normalise(scores, mask), torch.tensor([[[0.5, 0.5, 0.0, 0.0]]]))


@pytest.mark.parametrize("normalise", SUM_TO_ONE)
def test_a_float16_score_that_overflowed_counts_as_the_largest(normalise):
    top = torch.finfo(torch.float16).max
    scores = torch.tensor([[math.inf, 1.0, -math.inf], [-math.inf, -math.inf, 0.0], [math.inf, top, 1.0]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    assert normalise(scores.half(), mask).tolist() == [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("normalise", SUM_TO_ONE)
def test_an_allowed_score_that_is_not_finite_makes_its_row_nan(normalise, poison):
    """So that a loss tells that training has diverged."""
    scores = torch.tensor([[[poison, 1.0, 2.0], [poison, 1.0, 1.0]]])
    mask = torch.tensor([[[True, True, True], [False, True, True]]])
    weights = normalise(scores, mask)
    assert weights[0, 0].isnan().all() and weights[0, 1].tolist() == pytest.approx([0.0, 0.5, 0.5])
    assert normalise(scores[0]).isnan().all()


@pytest.mark.parametrize("normalise", NORMALISERS.values(), ids=list(NORMALISERS))
def test_of_no_keys_there_are_no_weights(normalise):
    assert normalise(torch.zeros(2, 3, 0), torch.ones(2, 1, 0, dtype=torch.bool)).shape == (2, 3, 0)


def test_what_some_queries_see_and_others_do_not_is_finite():
    """NaN of a later place would reach earlier ones by 0 * NaN."""
    poisoned = torch.tensor([[[1.0], [math.nan], [-math.inf]]])
    spelled = torch.ones(1, 3, 3, dtype=torch.bool).tril()
    for options in ({"mask": None, "causal": True}, {"mask": spelled, "causal": False}):
        key, value = hide_masked(poisoned, poisoned, poisoned, options["mask"], causal=options["causal"])
        assert key.tolist() == value.tolist() == [[[1.0], [0.0], [0.0]]]
    key, _ = hide_masked(poisoned, poisoned, poisoned, None)
    assert key.isnan().any(), "all queries see it: then it is not hidden"


def test_causal_mask_spells_causality_out_with_padding():
    query = torch.zeros(2, 3, 1)
    padding = torch.tensor([[[True, True, True]], [[True, False, True]]])
    lower = [[True, False, False], [True, True, False], [True, True, True]]
    assert causal_mask(None, query, True).tolist() == [lower, lower]
    assert causal_mask(padding, query, True).tolist() == [lower, [[True, False, c] for c in (False, False, True)]]
    assert causal_mask(padding, query, False) is padding and causal_mask(None, query, False) is None


def test_prefix_mask_knows_padding_and_causality_spelled_out():
    x = torch.zeros(2, 3, 1)
    padding = torch.tensor([[True, True, True], [False, True, True]])
    rows = padding.unsqueeze(1)
    spelled = causal_mask(rows, x, True)
    for mask, causal, expected in (
        (None, False, (None, False)),
        (None, True, (None, True)),
        (rows, False, (padding, False)),
        (rows, True, (padding, True)),
        (rows.expand(2, 3, 3), False, (padding, False)),
        (spelled, False, (padding, True)),
        (spelled, True, (padding, True)),
    ):
        found, said = prefix_mask(mask, x, x, causal)
        assert said == expected[1]
        assert found is expected[0] or torch.equal(found, expected[0])
    with pytest.raises(ValueError, match="its mask is padding"):
        prefix_mask(torch.ones(2, 3, 3, dtype=torch.bool).triu(), x, x, False)


X = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ((X, X, X[:, :2]), {}, "there are 3 keys and 2 values"),
        ((X, X[:, :2], X), {}, "there are 2 keys and 3 values"),
        ((X[:1], X, X), {}, "query [1, 3, 4], key [2, 3, 4], value [2, 3, 4]: the batch sizes differ"),
        ((X[0], X[0], X[0]), {}, "each is [B, length, width]"),
        ((X[None], X[None], X[None]), {}, "each is [B, length, width]"),
        ((X, X, X), {"widths": (4, 4, 5)}, "made for the widths 4, 4, 5"),
        ((X[:, :2], X, X), {"causal": True}, "as many queries as keys"),
        ((X, X.to("meta"), X), {}, "query, key and value are on cpu, meta and cpu"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line_that_names_it(inputs, options, says):
    with pytest.raises(ValueError) as error:
        hide_masked(*inputs, None, **options)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_number_types_that_differ_are_refused_outside_autocast():
    with pytest.raises(TypeError, match=r"are torch\.float32, torch\.bfloat16 and torch\.float32"):
        hide_masked(X, X.bfloat16(), X, None)
    with torch.autocast("cpu", torch.bfloat16):
        hide_masked(X, X.bfloat16(), X, None)
