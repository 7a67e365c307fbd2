"""Masks: one meaning everywhere, True = may attend, and normalisers that keep to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor


def valid_lengths_to_mask(lengths: Int[Tensor, "B *Q"], max_length: int) -> Bool[Tensor, "B rows K"]:
    """Turn the number of valid keys into a mask, True where a key may be attended.

    Args:
        lengths: [B], one length for each example, or [B, Q], one for each query.
        max_length: K, the number of keys, padding included.

    Returns:
        [B, 1, K] from 1-D lengths, [B, Q, K] from 2-D lengths. A length of 0 masks the whole row.

    Raises:
        ValueError: the lengths are neither 1-D nor 2-D, or not integers.
    """
    if lengths.dim() not in (1, 2):
        raise ValueError(f"valid lengths are [B] or [B, Q], not {list(lengths.shape)}")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"valid lengths are whole numbers, not {lengths.dtype}")
    per_query = lengths.unsqueeze(1) if lengths.dim() == 1 else lengths
    return torch.arange(max_length, device=lengths.device) < per_query.unsqueeze(-1)


def check_mask(mask: Tensor | None, queries: int, keys: int) -> None:
    """Refuse a mask that is not bool, or not [..., 1 or `queries`, `keys`].

    Raises:
        TypeError: the mask holds numbers: whether they are added or multiplied, and which of them hides a
            key, differs between libraries, so that guessing would be silently wrong half the time.
        ValueError: the shape does not fit the scores.
    """
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(
            f"a mask is bool, True where a query may attend, not {mask.dtype}: "
            "pass `mask > 0` or `mask == 0`, whichever means 'may attend' where it comes from"
        )
    if mask.dim() < 2 or mask.shape[-1] != keys or mask.shape[-2] not in (1, queries):
        raise ValueError(f"a mask for these scores is [..., 1 or {queries}, {keys}], not {list(mask.shape)}")


def masked_softmax(
    scores: Float[Tensor, "*batch Q K"],
    mask: Bool[Tensor, "*#batch #Q K"] | None = None,
    *,
    overwrite: bool = False,
) -> Float[Tensor, "*batch Q K"]:
    """Softmax over the last dimension, over the keys that the mask allows.

    weights[..., i, j] = mask[..., i, j] exp(scores[..., i, j]) / sum over allowed l of exp(scores[..., i, l])

    A masked key has weight 0 whatever its score, NaN and infinity included. A row that may attend nothing is
    all zeros, with zero gradient. `scores` is not written to, unless `overwrite` allows it.

    Args:
        scores: as above.
        mask: True where a query may attend.
        overwrite: let the weights take the scores' place, which saves the time and the memory of a second tensor: for
            scores that nobody else holds, and that were made by what does not keep them for its gradient, as a product
            of matrices does not.

    Raises:
        TypeError, ValueError: the mask is not bool or does not fit (see `check_mask`).
    """
    if mask is not None:
        check_mask(mask, scores.shape[-2], scores.shape[-1])
    if overwrite and not _rewritten(scores):
        hidden = None if mask is None else ~mask
        weights: Tensor = _SoftmaxInPlace.apply(scores, hidden)  # type: ignore[no-untyped-call]
        return weights
    if mask is None:
        return torch.softmax(scores, dim=-1)
    hidden = ~mask
    lowest = torch.finfo(scores.dtype).min  # finite, so that an empty row is 0/K and not NaN
    return torch.softmax(scores.masked_fill(hidden, lowest), dim=-1).masked_fill(hidden, 0.0)


def _rewritten(x: Tensor) -> bool:
    """Tell whether operations are compiled, cast or, by torch.func, transformed: each of which wants them plain."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
        return True
    transformed: bool = torch._C._are_functorch_transforms_active()  # what autograd.Function.apply asks too
    return transformed


class _SoftmaxInPlace(torch.autograd.Function):
    """`masked_softmax` written over its scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, hidden: Tensor | None) -> Tensor:
        """Turn scores into weights."""
        if hidden is not None:
            scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
        torch.softmax(scores, dim=-1, out=scores)
        if hidden is not None:
            scores.masked_fill_(hidden, 0.0)
        ctx.mark_dirty(scores)
        ctx.save_for_backward(scores, hidden)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Give what softmax gives, whatever comes back from a hidden key."""
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
) -> Float[Tensor, "*B Q Dv"]:
    """`masked_softmax(scale query·key, mask) value`, on torch's fused kernel, which never holds all weights at once.

    The kernel is for four dimensions: handed three, torch computes the weights after all, and takes twice as long. On a
    CPU it also wants a value as wide as the key. A GPU's kernels may give a row that attends nothing a context: here it
    is 0. Plain products take up to a third less time on a CPU, derivatives included, where nothing is masked and there
    are no more keys than numbers in a key; those are taken there.
    """
    if mask is None and _few(query, key, value):
        context: Tensor = _Products.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
        return context
    if mask is not None and not query.is_cpu:
        empty = ~mask.any(dim=-1, keepdim=True)
        return _kernel(query, key, value, mask | empty, scale).masked_fill(empty, 0.0)
    return _kernel(query, key, value, mask, scale)


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
        """Give the gradients of query, key and value."""
        query, key, value, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # theirs are asked for too, which kept weights do not lead to
            weights = torch.softmax(ctx.scale * (query @ key.mT), dim=-1)
        slope = torch.ops.aten._softmax_backward_data(grad @ value.mT, weights, -1, weights.dtype).mul_(ctx.scale)
        return slope @ key, slope.mT @ query, weights.mT @ grad, None


def _kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if query.dim() != 3:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    q, k, v = (x.unsqueeze(1) for x in (query, key, value))
    allowed = None if mask is None else mask.unsqueeze(-3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale).squeeze(1)


def masked_sparsemax(
    scores: Float[Tensor, "*batch Q K"], mask: Bool[Tensor, "*#batch #Q K"] | None = None
) -> Float[Tensor, "*batch Q K"]:
    """Project the scores onto the simplex: most weights are 0 (Martins, Astudillo 2016, arXiv:1602.02068).

    weights = max(scores - tau, 0), tau such that a row sums to 1

    Masks and rows that may attend nothing are as in `masked_softmax`. The support is found by sorting; tau is then
    a function of the scores on it, which autograd differentiates.

    Raises:
        TypeError, ValueError: the mask is not bool or does not fit (see `check_mask`).
    """
    z, hidden = _below_the_best(scores, mask)
    with torch.no_grad():
        rank, ordered, total = _ranked(z)
        size = (1 + rank * ordered > total).sum(dim=-1, keepdim=True)
        support = z >= ordered.gather(-1, size - 1)
    count = support.sum(dim=-1, keepdim=True).to(z.dtype)
    tau = (z.masked_fill(~support, 0.0).sum(dim=-1, keepdim=True) - 1) / count
    return _finished((z - tau).clamp(min=0).masked_fill(~support, 0.0), hidden, scores)


def masked_entmax15(
    scores: Float[Tensor, "*batch Q K"], mask: Bool[Tensor, "*#batch #Q K"] | None = None
) -> Float[Tensor, "*batch Q K"]:
    """Half-way between softmax and sparsemax: 1.5-entmax (Peters, Niculae, Martins 2019, arXiv:1905.05702).

    weights = max(scores / 2 - tau, 0)^2, tau such that a row sums to 1

    Masks, rows that may attend nothing and derivatives are as in `masked_sparsemax`. With m the mean and v the
    variance of scores / 2 over the n of the support, tau = m - sqrt(1/n - v).

    Raises:
        TypeError, ValueError: the mask is not bool or does not fit (see `check_mask`).
    """
    z, hidden = _below_the_best(scores / 2, mask)
    with torch.no_grad():
        raised = z + 1  # 0 where no weight can be: the sums of such keys, however many, then lose no digits
        rank, ordered, total = _ranked(raised)
        mean = total / rank
        spread = ordered.square().cumsum(dim=-1) / rank - mean.square()
        reached = mean - (1 / rank - spread).clamp(min=0).sqrt() <= ordered
        size = reached.sum(dim=-1, keepdim=True)
        support = raised >= ordered.gather(-1, size - 1)
    count = support.sum(dim=-1, keepdim=True).to(z.dtype)
    mean = z.masked_fill(~support, 0.0).sum(dim=-1, keepdim=True) / count
    spread = (z - mean).masked_fill(~support, 0.0).square().sum(dim=-1, keepdim=True) / count
    tau = mean - (1 / count - spread).clamp(min=torch.finfo(z.dtype).tiny).sqrt()
    return _finished((z - tau).clamp(min=0).masked_fill(~support, 0.0).square(), hidden, scores)


def _below_the_best(scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Give scores as z <= 0 below the row's best allowed one, at least -1 (less has no weight), and what is hidden."""
    check_mask(mask, scores.shape[-2], scores.shape[-1])
    hidden = None if mask is None else ~mask
    wide = scores if scores.dtype == torch.float64 else scores.float()
    if hidden is not None:
        wide = wide.masked_fill(hidden, torch.finfo(wide.dtype).min)
    return (wide - wide.detach().amax(dim=-1, keepdim=True)).clamp(min=-1.0), hidden


def _ranked(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give the ranks 1..K, z from the best down, and its running sum."""
    ordered = z.sort(dim=-1, descending=True).values
    rank = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    return rank, ordered, ordered.cumsum(dim=-1)


def _finished(weights: Tensor, hidden: Tensor | None, scores: Tensor) -> Tensor:
    weights = weights if hidden is None else weights.masked_fill(hidden, 0.0)
    return weights.to(scores.dtype)


#: What turns scores into weights, as an option is written: `normaliser: Normaliser = "softmax"`.
Normaliser = Literal["softmax", "sparsemax", "entmax15"]
NORMALISERS: Mapping[Normaliser, Callable[[Tensor, Tensor | None], Tensor]] = {
    "softmax": masked_softmax,
    "sparsemax": masked_sparsemax,
    "entmax15": masked_entmax15,
}


def hide_masked(
    mask: Bool[Tensor, "*B Q K"] | None,
    key: Float[Tensor, "*B K Dk"],
    value: Float[Tensor, "*B K Dv"],
) -> tuple[Float[Tensor, "*B K Dk"], Float[Tensor, "*B K Dv"]]:
    """Zero the keys and values that no query may attend, so that NaN in padding reaches neither the output
    (0 * NaN is NaN) nor, through the backward pass, any parameter's gradient.

    Raises:
        TypeError, ValueError: the mask is not bool or does not fit (see `check_mask`), or lacks a dimension: it
            would be spread over examples in one place, and over heads in another.
    """
    if mask is None:
        return key, value
    if mask.dim() != key.dim():
        raise ValueError(
            f"the mask of these keys is [B, 1 or Q, K], not {list(mask.shape)}: "
            "of [Q, K] pass `mask.expand(B, -1, -1)`, of [B, K] `mask[:, None]`"
        )
    check_mask(mask, mask.shape[-2], key.shape[-2])
    hidden = ~mask.any(dim=-2).unsqueeze(-1)
    return key.masked_fill(hidden, 0.0), value.masked_fill(hidden, 0.0)
