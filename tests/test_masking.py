import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench import fused_attention, hide_masked, masked_softmax, valid_lengths_to_mask
from attnbench.kernels import overwriting_softmax
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


@pytest.mark.parametrize("mask", [None, torch.tensor([[[True, True, False]], [[False] * 3]])])
def test_weights_in_the_place_of_their_scores_are_the_same_to_the_second_derivative(mask):
    def made(scores, overwrite):
        return (overwriting_softmax if overwrite else masked_softmax)(2 * scores, mask)

    scores = torch.randn(2, 4, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()
    grad = torch.arange(24.0, dtype=torch.double).view(2, 4, 3)
    twice = [
        [weights, *torch.autograd.grad(weights, scores, grad)] for weights in (made(scores, True), made(scores, False))
    ]
    torch.testing.assert_close(*twice)
    assert torch.autograd.gradcheck(made, (scores, True)) and torch.autograd.gradgradcheck(made, (scores, True))
    product = torch.randn(2, 4, 3)
    assert overwriting_softmax(product, mask).data_ptr() == product.data_ptr()


def test_weights_in_the_place_of_their_scores_can_be_mapped_over_examples():
    def first(scores):
        return overwriting_softmax(2 * scores)[0, 0]

    scores = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mapped = torch.func.vmap(torch.func.grad(first))(scores)
    torch.testing.assert_close(mapped, torch.autograd.grad(torch.softmax(2 * scores, dim=-1)[:, 0, 0].sum(), scores)[0])


def test_what_comes_back_from_a_hidden_key_is_not_looked_at():
    product = torch.zeros(1, 1, 2, requires_grad=True)
    weights = overwriting_softmax(1 * product, torch.tensor([[[True, False]]]))
    weights.backward(torch.tensor([[[1.0, math.nan]]]))
    assert product.grad.tolist() == [[[0.0, 0.0]]]


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


@pytest.mark.parametrize("shape", [(2,), (2, 3), ()])
@pytest.mark.parametrize("rows", [1, 4])
def test_fused_attention_is_the_plain_one(shape, rows):
    query, key, value = (torch.randn(*shape, n, 6, dtype=torch.double) for n in (4, 5, 5))
    mask = torch.rand(*shape, rows, 5) > 0.4
    mask[..., 0, :] = False
    plain = masked_softmax(0.3 * query @ key.mT, mask) @ value
    torch.testing.assert_close(fused_attention(query, key, value, mask, scale=0.3), plain)
    assert not fused_attention(query, key, value, mask)[..., 0, :].any(), "a row that may attend nothing"
    assert not fused_attention(query, key, value, scale=0.3).isnan().any()


def operations(call):
    names = []

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    with Names():
        call()
    return " ".join(names)


def test_of_three_dimensions_the_fused_kernel_is_used_too():
    query, key, value = (torch.randn(2, n, 8) for n in (4, 5, 5))
    names = operations(lambda: fused_attention(query, key, value, torch.ones(2, 1, 5, dtype=torch.bool)))
    assert "flash_attention" in names and "softmax" not in names


@pytest.mark.parametrize("keys", [8, 9])
def test_of_few_keys_training_takes_the_plain_products_and_the_same_gradients(keys):
    given = [torch.randn(2, n, 8, requires_grad=True) for n in (4, keys, keys)]
    names = operations(lambda: fused_attention(*given))
    assert ("flash_attention" in names) == (keys == 9)
    with torch.no_grad():
        assert "flash_attention" in operations(lambda: fused_attention(*given))
    direction = torch.randn(2, 4, 8)
    plain = masked_softmax(0.3 * given[0] @ given[1].mT) @ given[2]
    fused = fused_attention(*given, scale=0.3)
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(
        torch.autograd.grad(fused, given, direction), torch.autograd.grad(plain, given, direction)
    )


def test_the_plain_products_have_derivatives_of_derivatives():
    given = [torch.randn(2, n, 6, requires_grad=True) for n in (3, 4, 4)]
    found = []
    for few in (True, False):
        context = fused_attention(*given, scale=0.3) if few else masked_softmax(0.3 * given[0] @ given[1].mT) @ given[2]
        slopes = torch.autograd.grad(context.square().sum() + given[0].pow(3).sum(), given, create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), given))
    torch.testing.assert_close(*found)


def test_a_mask_without_a_dimension_for_examples_is_for_all_of_them():
    query, key, value = (torch.randn(2, n, 6) for n in (4, 5, 5))
    mask = torch.rand(4, 5) > 0.3
    torch.testing.assert_close(
        fused_attention(query, key, value, mask), fused_attention(query, key, value, mask.expand(2, -1, -1))
    )
