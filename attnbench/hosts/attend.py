"""Call an attention module as its kind wants it: all queries at once, or one after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attnbench.interfaces import Attention
from attnbench.kernels import has_hooks
from attnbench.shapes import Look


class Unrolled(NamedTuple):
    """What a mechanism that is called one query at a time has to know of the queries before.

    Attributes:
        weights: [B, H, 1, K], of the last query; None before the first, and where the mechanism has none.
        queries: [B, t, Dq], all so far, for a mechanism that goes by their places; else None.
    """

    weights: Tensor | None = None
    queries: Tensor | None = None


def attend(
    attention: Attention,
    query: Float[Tensor, "B Q Dq"],
    key: Float[Tensor, "B K Dk"],
    value: Float[Tensor, "B K Dv"],
    mask: Bool[Tensor, "B #Q K"] | None = None,
    *,
    causal: bool = False,
    need_weights: bool = True,
) -> tuple[Float[Tensor, "B Q Dout"], Float[Tensor, "B H Q K"] | None]:
    """Attend with all queries: at once, or one after the other where the mechanism is recurrent.

    A recurrent mechanism returns its weights in any case: it moves by them.
    """
    if not attention.recurrent:
        return attention(query, key, value, mask, causal=causal, need_weights=need_weights)
    contexts, weights, state = [], [], Unrolled()
    ask = None if causal or (mask is not None and mask.shape[1] > 1) else prepare_keys(attention, key, value, mask)
    for i, one in enumerate(torch.split(query, 1, dim=1)):
        if ask is not None:
            context, state = ask(one, state)
        else:
            row = None if mask is None else mask if mask.shape[1] == 1 else mask[:, i : i + 1]
            if causal:
                before = torch.arange(key.shape[1], device=key.device) <= i
                row = before.expand(len(key), 1, -1) if row is None else row & before
            context, state = attend_next(attention, one, key, value, row, state)
        assert state.weights is not None  # a recurrent mechanism moves from its weights
        contexts.append(context)
        weights.append(state.weights)
    return torch.cat(contexts, dim=1), torch.cat(weights, dim=2)


def attend_next(
    attention: Attention,
    query: Float[Tensor, "B 1 Dq"],
    key: Float[Tensor, "B K Dk"],
    value: Float[Tensor, "B K Dv"],
    mask: Bool[Tensor, "B 1 K"] | None,
    state: Unrolled,
    *,
    need_weights: bool = True,
) -> tuple[Float[Tensor, "B 1 Dout"], Unrolled]:
    """Attend with the next query of a host that learns it only now, and return what the one after has to know.

    A recurrent mechanism is handed its last weights; one that goes by places is asked all queries so far again, of
    which the last counts. Keys that stay are prepared once: `prepare_keys`.
    """
    look = partial(attention, key=key, value=value, mask=mask)
    return _ask(attention, look, query, state, need_weights=need_weights)


def prepare_keys(
    attention: Attention,
    key: Float[Tensor, "B K Dk"],
    value: Float[Tensor, "B K Dv"],
    mask: Bool[Tensor, "B 1 K"] | None = None,
) -> Callable[..., tuple[Tensor, Unrolled]]:
    """Return `attend_next` with keys that stay, a function of `query`, `state` and `need_weights`."""
    watched = any(has_hooks(module) for module in attention.modules())  # hooks see calls of a module alone
    look = partial(attention, key=key, value=value, mask=mask) if watched else attention.prepare(key, value, mask)
    return partial(_ask, attention, look)


def _ask(
    attention: Attention,
    look: Look,
    query: Float[Tensor, "B 1 Dq"],
    state: Unrolled,
    *,
    need_weights: bool = True,
) -> tuple[Float[Tensor, "B 1 Dout"], Unrolled]:
    if attention.recurrent:
        context, weights = look(query, previous=state.weights)
        return context, Unrolled(weights)
    queries = None
    if attention.positional:
        query = queries = query if state.queries is None else torch.cat([state.queries, query], dim=1)
    need_weights = need_weights and attention.has_weights
    context, weights = look(query, need_weights=need_weights)
    if query.shape[1] > 1:
        context, weights = context[:, -1:], None if weights is None else weights[:, :, -1:]
    return context, Unrolled(weights, queries)
