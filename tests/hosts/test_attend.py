"""All queries at once or one after the other: the same contexts."""

import pytest
import torch

import attnbench
from attnbench.hosts import Unrolled, attend, attend_next

B, Q, K, D = 3, 5, 7, 8


def make(name, scoring=None, **options):
    torch.manual_seed(0)
    return attnbench.build("attention", name, scoring=scoring, query_dim=D, key_dim=D, value_dim=D, **options)


def inputs(queries=Q, keys=K):
    torch.manual_seed(1)
    query, key, value = torch.randn(B, queries, D), torch.randn(B, keys, D), torch.randn(B, keys, D)
    return query, key, value, torch.arange(keys) < torch.tensor([keys, 4, 2]).view(B, 1, 1)


@pytest.mark.parametrize(
    ("name", "scoring"), [("soft", "additive"), ("local", "scaled_dot"), ("location_aware", None), ("soft", "gaussian")]
)
def test_a_query_at_a_time_sees_what_all_at_once_see(name, scoring):
    attention = make(name, scoring)
    query, key, value, mask = inputs()
    context, weights = attend(attention, query, key, value, mask)
    state = Unrolled()
    for t in range(Q):
        one, state = attend_next(attention, query[:, t : t + 1], key, value, mask, state)
        torch.testing.assert_close(one, context[:, t : t + 1])
        torch.testing.assert_close(state.weights, weights[:, :, t : t + 1])


def test_a_positional_scoring_function_learns_the_place_of_each_query():
    class ByPlace(attnbench.ScoringFunction):
        positional = True

        def __init__(self, query_dim, key_dim):
            super().__init__()

        def forward(self, query, key, query_places=None, key_places=None):
            places = torch.arange(query.shape[-2]) if query_places is None else query_places
            return 3.0 * (places.unsqueeze(-1) == torch.arange(key.shape[-2])) + query @ key.mT

    class Plain(attnbench.Attention):
        def __init__(self):
            super().__init__()
            self.score, self.out_dim = ByPlace(D, D), D
            self.positional = self.score.positional

        def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):
            weights = self.score(query, key).softmax(-1)
            return weights @ value, weights.unsqueeze(1)

    attention = Plain()
    query, key, value, _ = inputs()
    context, _ = attend(attention, query, key, value)
    state = Unrolled()
    for t in range(Q):
        one, state = attend_next(attention, query[:, t : t + 1], key, value, None, state)
        torch.testing.assert_close(one, context[:, t : t + 1])


def test_a_recurrent_mechanism_that_is_unrolled_causally_sees_nothing_behind_its_query():
    attention = make("location_aware")
    query, key, value, mask = inputs(K, K)
    context, weights = attend(attention, query, key, value, mask, causal=True)
    assert not weights.triu(1).any()
    later_key, later_value = key.clone(), value.clone()
    later_key[:, 4:], later_value[:, 4:] = 9.0, 9.0
    changed, _ = attend(attention, query, later_key, later_value, mask, causal=True)
    torch.testing.assert_close(changed[:, :4], context[:, :4])
    assert not torch.allclose(changed[0, 4:], context[0, 4:])


def test_each_query_may_have_a_mask_of_its_own_when_unrolled():
    attention = make("location_aware")
    query, key, value, _ = inputs()
    mask = torch.rand(B, Q, K) < 0.5
    _, weights = attend(attention, query, key, value, mask)
    assert not weights[:, 0][~mask].any()


def test_weights_that_nobody_needs_are_not_made():
    attention = make("multihead", "scaled_dot")
    query, key, value, mask = inputs()
    assert attend(attention, query, key, value, mask, need_weights=False)[1] is None
    _, state = attend_next(attention, query[:, :1], key, value, mask, Unrolled(), need_weights=False)
    assert state.weights is None
