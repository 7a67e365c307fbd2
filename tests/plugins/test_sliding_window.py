"""Mechanisms that are linear in the length, against the quadratic form and by the memory that they take."""

import math

import pytest
import torch
from by_hand import KEY, VALUE, close, make


def test_linear_attention_by_hand() -> None:
    """phi([1, 0]) = [2, 1]; the keys' are [2, 1], [1, 2], [2, 2]: products 5, 4, 6 of 15."""
    for need_weights in (True, False):
        context, weights = make("linear_attention")(torch.tensor([[[1.0, 0.0]]]), KEY, VALUE, need_weights=need_weights)
        close(context, [[[(5 + 8 + 24) / 15, (50 + 80) / 15]]])
        if need_weights:
            close(weights, [[[[5 / 15, 4 / 15, 6 / 15]]]])


def test_linear_attention_maps_negatives_by_their_exponential() -> None:
    query, key = torch.tensor([[[-1.0, -2.0]]]), torch.tensor([[[-3.0, 0.0], [0.0, -40.0]]])
    products = [math.exp(-4) + math.exp(-2), math.exp(-1) + math.exp(-42)]
    _, weights = make("linear_attention")(query, key, VALUE[:, :2])
    close(weights[0, 0, 0], [p / sum(products) for p in products])


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("need_weights", [True, False])
def test_linear_attention_sums_over_more_keys_than_float16_can_count(need_weights: bool, autocast: bool) -> None:
    """64 features and 2,048 keys: the sums are about 2e5, and float16 ends at 65,504."""
    torch.manual_seed(0)
    attend = make("linear_attention", (64, 64, 4))
    query, key, value = torch.randn(1, 3, 64).half(), torch.randn(1, 2_048, 64).half(), torch.randn(1, 2_048, 4).half()
    wanted, _ = attend(query.double(), key.double(), value.double())
    if autocast:
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        context, weights = attend(query, key, value, need_weights=need_weights)
    assert context.dtype == value.dtype
    close(context, wanted, atol=1e-3, rtol=0)
    if need_weights:
        close(weights.sum(dim=-1), torch.ones(1, 1, 3), atol=2e-2, rtol=0)


def test_linear_attention_makes_no_array_of_all_pairs() -> None:
    """At 40,000 x 40,000 such an array takes 6.4 GB; the sums take kilobytes."""
    x = torch.randn(1, 40_000, 2)
    context, _ = make("linear_attention")(x, x, x, torch.ones(1, 1, 40_000, dtype=torch.bool), need_weights=False)
    assert context.shape == (1, 40_000, 2)


def test_sliding_window_sees_its_neighbours() -> None:
    """Scores all 0, window 1, four queries over three keys; and with a causal mask only those behind."""
    attend = make("sliding_window", scoring="dot", window=1)
    half, third = 1 / 2, 1 / 3
    context, weights = attend(torch.zeros(1, 5, 2), KEY, VALUE)
    close(weights[0, 0], [[half, half, 0], [third] * 3, [0, half, half], [0, 0, 1], [0, 0, 0]])
    close(context[0, 4], [0, 0])
    causal = torch.ones(1, 3, 3, dtype=torch.bool).tril()
    _, weights = attend(torch.zeros(1, 3, 2), KEY, VALUE, causal)
    close(weights[0, 0], [[1, 0, 0], [half, half, 0], [0, half, half]])


@pytest.mark.parametrize("window", [0, 1, 16, 100])
def test_sliding_window_is_soft_attention_under_a_band(window: int) -> None:
    torch.manual_seed(0)
    soft = make("soft", (3, 3, 2), scoring="dot")
    attend = make("sliding_window", (3, 3, 2), scoring="dot", window=window)
    for queries, keys in ((1, 1), (5, 40), (40, 5), (33, 33), (64, 64)):
        query, key, value = torch.randn(2, queries, 3), torch.randn(2, keys, 3), torch.randn(2, keys, 2)
        band = ((torch.arange(queries).unsqueeze(-1) - torch.arange(keys)).abs() <= window).expand(2, -1, -1)
        for mask in (None, torch.rand(2, 1, keys) < 0.7, torch.rand(2, queries, keys) < 0.7):
            wanted, weights = soft(query, key, value, band if mask is None else band & mask)
            close(attend(query, key, value, mask)[0], wanted)
            close(attend(query, key, value, mask)[1], weights)
            close(attend(query, key, value, mask, need_weights=False)[0], wanted)


@pytest.mark.parametrize("need_weights", [True, False])
def test_sliding_window_is_safe_from_a_key_that_its_mask_allows_only_beyond_the_window(need_weights: bool) -> None:
    attend, x = make("sliding_window", (4, 4, 4), scoring="dot", window=2), torch.randn(1, 12, 4)
    mask = torch.ones(1, 12, 12, dtype=torch.bool)
    mask[0, :11, 5] = False
    poisoned = x.clone()
    poisoned[0, 5] = torch.nan
    context, _ = attend(x, x, x, mask, need_weights=need_weights)
    assert torch.equal(attend(x, poisoned, poisoned, mask, need_weights=need_weights)[0], context)


def test_sliding_window_makes_no_array_of_all_pairs() -> None:
    """At 40,000 x 40,000 such an array takes 1.6 GB of bools alone."""
    x = torch.randn(1, 40_000, 2)
    mask = torch.ones(1, 1, 40_000, dtype=torch.bool)
    context, _ = make("sliding_window", scoring="dot")(x, x, x, mask, need_weights=False)
    assert context.shape == (1, 40_000, 2)


@pytest.mark.parametrize("window", [0, 1, 16, 100])
@pytest.mark.parametrize("need_weights", [True, False])
def test_causal_it_sees_itself_and_a_window_behind(window: int, need_weights: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 70, 4)
    i = torch.arange(70)
    band = ((i.unsqueeze(1) - i >= 0) & (i.unsqueeze(1) - i <= window)).expand(2, -1, -1)
    expected, matrix = make("soft", (4, 4, 4), scoring="dot")(x, x, x, band)
    sliding = make("sliding_window", (4, 4, 4), scoring="dot", window=window)
    context, weights = sliding(x, x, x, causal=True, need_weights=need_weights)
    close(context, expected)
    if need_weights:
        close(weights, matrix)


def test_causal_it_makes_no_array_of_all_pairs_forward_and_backward() -> None:
    x = torch.randn(1, 40_000, 2, requires_grad=True)
    context, _ = make("sliding_window", scoring="dot")(x, x, x, causal=True, need_weights=False)
    context.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
