"""Fused paths: softmax attention on torch's kernels, and gradients that copy nothing; private operations are here."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnbench.interfaces import ScoringFunction
from attnbench.masking import (
    FLOAT16,
    NORMALISERS,
    Normaliser,
    check_mask,
    full_precision,
    is_cast,
    lower_triangle,
    masked_softmax,
)
from attnbench.shapes import Look


def attend(
    score: ScoringFunction | None,
    query: Float[Tensor, "*B Q Dq"],
    key: Float[Tensor, "*B K Dk"],
    value: Float[Tensor, "*B K Dv"],
    mask: Bool[Tensor, "*#B #Q K"] | None = None,
    *,
    causal: bool = False,
    need_weights: bool = True,
    normaliser: Normaliser = "softmax",
    query_places: Int[Tensor, "*#B Q"] | None = None,
    key_places: Int[Tensor, "*#B K"] | None = None,
) -> tuple[Float[Tensor, "*B Q Dv"], Float[Tensor, "*B Q K"] | None]:
    """Score, normalise, weigh: softmax attention with any scoring function, on a fused kernel where there is one.

    A scoring function that factors runs on `fused_attention` when no weights are needed, and its weights take the place
    of its scores when they are.

    Args:
        score: the scoring function; None for query·key.
        query, key, value: leading dimensions may be examples and heads.
        mask: True where a query may attend; it broadcasts over leading dimensions.
        causal: query i sees keys up to i only.
        need_weights: whether weights are returned; else None.
        normaliser: what turns scores into weights.
        query_places, key_places: for a positional scoring function; None means 0, 1, ....
    """
    places = (query_places, key_places) if score is not None and score.positional else ()
    factors = _factor(score, query, key, places) if normaliser == "softmax" else None
    if factors is not None and not need_weights:
        return fused_attention(*factors, value, mask, causal=causal), None
    allowed = _spelled_out(mask, query, causal)
    if factors is not None:
        weights = _weights(*factors, allowed)
    else:
        scores = query @ key.mT if score is None else score(query, key, *places)
        weights = NORMALISERS[normaliser](scores, allowed)
    return weights @ value, weights if need_weights else None


def prepare(
    score: ScoringFunction | None,
    query_dim: int,
    key: Float[Tensor, "*B K Dk"],
    value: Float[Tensor, "*B K Dv"],
    mask: Bool[Tensor, "*#B 1 K"] | None = None,
    *,
    normaliser: Normaliser = "softmax",
) -> Look:
    """Return `attend` with these keys, a function of `query` and `need_weights`: what is of keys alone is done once.

    The arguments are those of `attend`, and the width of a query. A positional scoring function takes queries and keys
    to stand at 0, 1, ....
    """
    factors = None
    if normaliser == "softmax":
        factors = _factor(score, key.new_empty(*key.shape[:-2], 0, query_dim), key, ())
    score_keys = None if score is None or factors is not None else score.prepare(key)

    def look(query: Tensor, *, need_weights: bool = True) -> tuple[Tensor, Tensor | None]:
        if factors is not None:
            query, _ = _factor(score, query, key[..., :0, :], ())  # type: ignore[misc]
            if not need_weights:
                return fused_attention(query, factors[1], value, mask), None
            weights = _weights(query, factors[1], mask)
        else:
            scores = query @ key.mT if score_keys is None else score_keys(query)
            weights = NORMALISERS[normaliser](scores, mask)
        return weights @ value, weights if need_weights else None

    return look


def _factor(
    score: ScoringFunction | None, query: Tensor, key: Tensor, places: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor] | None:
    if score is None:
        return query, key
    if type(score).factor is ScoringFunction.factor:  # a positional function that does not factor need not say so
        return None
    return score.factor(query, key, *places)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(query·key) in the place of the products; of float16 in float32, as the fused kernels do it."""
    if query.dtype != torch.float16:
        return overwriting_softmax(query @ key.mT, mask)
    with full_precision(query):
        return overwriting_softmax(query.float() @ key.float().mT, mask).to(query.dtype)


def _spelled_out(mask: Tensor | None, query: Tensor, causal: bool) -> Tensor | None:
    """As `causal_mask`, with any leading dimensions."""
    if not causal:
        return mask
    return lower_triangle(query) if mask is None else mask & lower_triangle(query)


def overwriting_softmax(
    scores: Float[Tensor, "*batch Q K"], mask: Bool[Tensor, "*#batch #Q K"] | None = None
) -> Float[Tensor, "*batch Q K"]:
    """`masked_softmax` written over its scores, which saves the time and the memory of a second tensor.

    For scores that nobody else holds, and that were made by what does not keep them for its gradient, as a product of
    matrices does not.
    """
    check_mask(mask, scores.shape[-2], scores.shape[-1])
    if _rewritten(scores):
        return masked_softmax(scores, mask)
    weights: Tensor = _SoftmaxInPlace.apply(scores, None if mask is None else ~mask)  # type: ignore[no-untyped-call]
    return weights


def _rewritten(x: Tensor) -> bool:
    """Tell whether operations are compiled, cast or, by torch.func, transformed: each of which wants them plain."""
    if torch.compiler.is_compiling() or is_cast(x):
        return True
    transformed: bool = torch._C._are_functorch_transforms_active()  # what autograd.Function.apply asks too
    return transformed


class _SoftmaxInPlace(torch.autograd.Function):
    """`masked_softmax` written over its scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, hidden: Tensor | None) -> Tensor:
        """Turn scores into weights."""
        if scores.dtype == torch.float16:
            scores.clamp_(*FLOAT16)
        if hidden is not None:
            scores.masked_fill_(hidden, -math.inf)
        torch.softmax(scores, dim=-1, out=scores)
        if hidden is not None:
            scores.masked_fill_(hidden, 0.0)
        ctx.mark_dirty(scores)
        ctx.save_for_backward(scores, hidden)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return softmax's gradient; that of a hidden key is 0, whatever comes back from it."""
        weights, hidden = ctx.saved_tensors
        shown = grad if hidden is None else grad.masked_fill(hidden, 0.0)
        return torch.ops.aten._softmax_backward_data(shown, weights, -1, weights.dtype), None


def fused_attention(
    query: Float[Tensor, "*B Q D"],
    key: Float[Tensor, "*B K D"],
    value: Float[Tensor, "*B K Dv"],
    mask: Bool[Tensor, "*#B #Q K"] | None = None,
    *,
    scale: float = 1.0,
    causal: bool = False,
) -> Float[Tensor, "*B Q Dv"]:
    """`masked_softmax(scale query·key, mask) value`, on torch's fused kernel, which never holds all weights at once.

    The kernel is for four dimensions: handed three, torch computes the weights after all, and takes twice as long. On a
    CPU it also wants a value as wide as the key: the narrower is filled up with zeros, unless it would more than double
    and so cost more than it saves. A GPU's kernels may give a row that attends nothing a context: here it is 0. Plain
    products take up to a third less time on a CPU, derivatives included, where nothing is masked and there are no more
    keys than numbers in a key; those are used there. With `causal=True` and no mask none is built.

    Raises:
        ValueError: key and value differ in length, or query and key in width: the kernel would read past their end.
    """
    if key.shape[-2] != value.shape[-2] or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)}: "
            "query and key are of one width, key and value of one length"
        )
    if causal and query.shape[-2] != key.shape[-2]:
        raise ValueError(f"causal=True needs as many queries as keys, not {query.shape[-2]} and {key.shape[-2]}")
    if causal and (mask is not None or not query.numel() or not value.numel()):
        mask, causal = _spelled_out(mask, query, True), False
    if not (query.numel() and key.numel() and value.numel()):  # of what is empty the kernels make different things
        return masked_softmax(scale * query @ key.mT, mask) @ value
    if mask is None and not causal and _few(query, key, value):
        context: Tensor = _Products.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
        return context
    if mask is not None and not query.is_cpu:
        empty = ~mask.any(dim=-1, keepdim=True)
        return _kernel(query, key, value, mask | empty, scale, False).masked_fill(empty, 0.0)
    return _kernel(query, key, value, mask, scale, causal)


def _few(query: Tensor, key: Tensor, value: Tensor) -> bool:
    if not query.is_cpu or query.dtype != torch.float32 or not torch.is_grad_enabled() or _rewritten(query):
        return False
    alike = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and key.shape[-1] == value.shape[-1]
    return alike and key.shape[-2] <= key.shape[-1]


class _Products(torch.autograd.Function):
    """softmax(scale query·key) value, with a gradient that copies nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend, and keep the weights."""
        weights = (query @ key.mT).mul_(scale)
        torch.softmax(weights, dim=-1, out=weights)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scale = scale
        return weights @ value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of query, key and value."""
        query, key, value, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives need the weights' graph, which saved ones lack
            weights = torch.softmax(ctx.scale * (query @ key.mT), dim=-1)
        slope = torch.ops.aten._softmax_backward_data(grad @ value.mT, weights, -1, weights.dtype).mul_(ctx.scale)
        return slope @ key, slope.mT @ query, weights.mT @ grad, None


def _kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    narrow, wide = sorted((key.shape[-1], value.shape[-1]))
    if narrow < wide <= 2 * narrow:  # zeros change no product
        q, k, v = (F.pad(x, (0, wide - x.shape[-1])) for x in (query, key, value))
        return _kernel(q, k, v, mask, scale, causal)[..., : value.shape[-1]]
    if query.dim() != 3:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, is_causal=causal)
    q, k, v = (x.unsqueeze(1) for x in (query, key, value))
    allowed = None if mask is None else mask.unsqueeze(-3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, is_causal=causal).squeeze(1)


def has_hooks(module: nn.Module) -> bool:
    """Return whether a forward hook is registered on a module: code that does not call it would pass the hook by."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def sparse_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a sparse gradient as backward left them: numbers [N], which may repeat, and values [N, D].

    `Tensor.indices` would coalesce them first, which costs more than the update of a small model.
    """
    return gradient._indices()[0], gradient._values()
