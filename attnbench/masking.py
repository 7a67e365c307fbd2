"""Masks: one meaning everywhere, True = may attend, and normalisers that keep to it."""

from __future__ import annotations

import contextlib
import math
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
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"a mask is bool, True where a query may attend, not {getattr(mask, 'dtype', type(mask).__name__)}: "
            "pass `mask > 0` or `mask == 0`, whichever means 'may attend' where it comes from"
        )
    if mask.dim() < 2 or mask.shape[-1] != keys or mask.shape[-2] not in (1, queries):
        raise ValueError(f"a mask for these scores is [..., 1 or {queries}, {keys}], not {list(mask.shape)}")


def masked_softmax(
    scores: Float[Tensor, "*batch Q K"], mask: Bool[Tensor, "*#batch #Q K"] | None = None
) -> Float[Tensor, "*batch Q K"]:
    """Softmax over the last dimension, over the keys that the mask allows.

    weights[..., i, j] = mask[..., i, j] exp(scores[..., i, j]) / sum over allowed l of exp(scores[..., i, l])

    A masked key has weight 0 whatever its score, NaN and infinity included. A row that may attend nothing is
    all zeros, with zero gradient. `scores` is not written to. A float16 score that overflowed counts as 65,504, the
    largest number of its type: torch's fused kernels, which score in float32, give no NaN there either.

    Args:
        scores: as above.
        mask: True where a query may attend.

    Raises:
        TypeError, ValueError: the mask is not bool or does not fit (see `check_mask`).
    """
    check_mask(mask, scores.shape[-2], scores.shape[-1])
    scores = _in_range(scores)
    if mask is None:
        return torch.softmax(scores, dim=-1)
    hidden = ~mask
    # an empty row is NaN only until the second fill, which keeps it from the gradient too
    return torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1).masked_fill(hidden, 0.0)


FLOAT16 = (torch.finfo(torch.float16).min, torch.finfo(torch.float16).max)


def _in_range(scores: Tensor) -> Tensor:
    return scores.clamp(*FLOAT16) if scores.dtype == torch.float16 else scores


def masked_sparsemax(
    scores: Float[Tensor, "*batch Q K"], mask: Bool[Tensor, "*#batch #Q K"] | None = None
) -> Float[Tensor, "*batch Q K"]:
    """Project the scores onto the simplex: most weights are 0 (Martins, Astudillo 2016, arXiv:1602.02068).

    weights = max(scores - tau, 0), tau such that a row sums to 1

    Masks, rows that may attend nothing and overflow are as in `masked_softmax`. Sorting finds the support; tau is then
    a function of the scores on it, which autograd differentiates.

    Raises:
        TypeError, ValueError: the mask is not bool or does not fit (see `check_mask`).
    """
    if not scores.shape[-1]:
        return scores
    z, hidden = _below_the_best(_in_range(scores), mask)
    with torch.no_grad():
        rank, ordered, total = _ranked(z)
        size = (1 + rank * ordered > total).sum(dim=-1, keepdim=True)
        support = _support(z, ordered, size)
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
    if not scores.shape[-1]:
        return scores
    z, hidden = _below_the_best(_in_range(scores) / 2, mask)
    with torch.no_grad():
        raised = z + 1  # 0 where no weight can be: the sums of such keys, however many, then lose no digits
        rank, ordered, total = _ranked(raised)
        mean = total / rank
        spread = ordered.square().cumsum(dim=-1) / rank - mean.square()
        # a key at 0 has no weight, though tau is 0 too where one key takes all
        reached = (mean - (1 / rank - spread).clamp(min=0).sqrt() <= ordered) & (ordered > 0)
        size = reached.sum(dim=-1, keepdim=True)
        support = _support(raised, ordered, size)
    count = support.sum(dim=-1, keepdim=True).to(z.dtype)
    mean = z.masked_fill(~support, 0.0).sum(dim=-1, keepdim=True) / count
    spread = (z - mean).masked_fill(~support, 0.0).square().sum(dim=-1, keepdim=True) / count
    tau = mean - (1 / count - spread).clamp(min=torch.finfo(z.dtype).tiny).sqrt()
    return _finished((z - tau).clamp(min=0).masked_fill(~support, 0.0).square(), hidden, scores)


def masked_softmax1(
    scores: Float[Tensor, "*batch Q K"], mask: Bool[Tensor, "*#batch #Q K"] | None = None
) -> Float[Tensor, "*batch Q K"]:
    """Softmax off by one, which may look nowhere (Miller 2023; Xiao et al. 2023, arXiv:2309.17453, section 3.3).

    weights[..., i, j] = exp(scores[..., i, j]) / (1 + sum over allowed l of exp(scores[..., i, l]))

    That is the softmax with one more key, of score 0 and value 0. Rows sum to less than one; masks are as in
    `masked_softmax`.

    Raises:
        TypeError, ValueError: the mask is not bool or does not fit (see `check_mask`).
    """
    check_mask(mask, scores.shape[-2], scores.shape[-1])
    scores = _in_range(scores)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(F.pad(scores, (0, 1)), dim=-1)[..., :-1]


def masked_sigmoid(
    scores: Float[Tensor, "*batch Q K"], mask: Bool[Tensor, "*#batch #Q K"] | None = None
) -> Float[Tensor, "*batch Q K"]:
    """Each key by itself: sigmoid attention (Ramapuram et al. 2024, arXiv:2409.04431).

    weights[..., i, j] = sigmoid(scores[..., i, j] - log n_i), n_i the number of keys that query i may attend

    Rows need not sum to one. A masked key has weight 0 whatever its score.

    Raises:
        TypeError, ValueError: the mask is not bool or does not fit (see `check_mask`).
    """
    check_mask(mask, scores.shape[-2], scores.shape[-1])
    if mask is None:
        return torch.sigmoid(scores - math.log(max(1, scores.shape[-1])))
    n = mask.sum(dim=-1, keepdim=True).clamp(min=1).to(scores.dtype)
    hidden = ~mask
    return torch.sigmoid(scores.masked_fill(hidden, 0.0) - n.log()).masked_fill(hidden, 0.0)


def _below_the_best(scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return z <= 0, scores below the row's best allowed one, at least -1 (less has no weight), and what is hidden."""
    check_mask(mask, scores.shape[-2], scores.shape[-1])
    hidden = None if mask is None else ~mask
    wide = scores if scores.dtype == torch.float64 else scores.float()
    if hidden is None:
        return (wide - wide.detach().amax(dim=-1, keepdim=True)).clamp(min=-1.0), None
    wide = wide.masked_fill(hidden, torch.finfo(wide.dtype).min)
    below = (wide - wide.detach().amax(dim=-1, keepdim=True)).clamp(min=-1.0)
    return below.masked_fill(hidden, -1.0), hidden  # else they count where every allowed score is as low


def _ranked(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ranks 1..K, z from the best down, and its running sum."""
    ordered = z.sort(dim=-1, descending=True).values
    rank = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    return rank, ordered, ordered.cumsum(dim=-1)


def _support(z: Tensor, ordered: Tensor, size: Tensor) -> Tensor:
    """Return where z is among the best `size`; all of a row with NaN, so that its weights are NaN."""
    return ~(z < ordered.gather(-1, (size - 1).clamp(min=0)))


def _finished(weights: Tensor, hidden: Tensor | None, scores: Tensor) -> Tensor:
    weights = weights if hidden is None else weights.masked_fill(hidden, 0.0)
    return weights.to(scores.dtype)


#: What turns scores into weights, as an option is written: `normaliser: Normaliser = "softmax"`.
Normaliser = Literal["softmax", "sparsemax", "entmax15", "softmax1", "sigmoid"]
#: Those whose weights need not sum to one: `signed = normaliser in UNNORMALISED`.
UNNORMALISED: frozenset[Normaliser] = frozenset(("softmax1", "sigmoid"))
NORMALISERS: Mapping[Normaliser, Callable[[Tensor, Tensor | None], Tensor]] = {
    "softmax": masked_softmax,
    "sparsemax": masked_sparsemax,
    "entmax15": masked_entmax15,
    "softmax1": masked_softmax1,
    "sigmoid": masked_sigmoid,
}


def hide_masked(
    query: Tensor | None,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    causal: bool = False,
    widths: tuple[int, int, int] | None = None,
    previous: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Check that the inputs of an attention module fit together, and zero what must not be seen: what it does first.

    Keys and values that no query may attend become 0, so that NaN in padding reaches neither the output (0 * NaN is
    NaN) nor, through the backward pass, any parameter's gradient. Where some queries see a key and others do not, as
    under `causal=True`, entries become 0 that are not finite, or so large that a product of two is not (from 7e16 on in
    float32): what comes later cannot matter, whatever it is.

    Args:
        query: [B, Q, Dq]; None for keys that are prepared, to be asked by one query after the other.
        key: [B, K, Dk].
        value: [B, K, Dv].
        mask: bool [B, 1 or Q, K], True where a query may attend; None where it may attend everything.
        causal: query i sees keys up to i only.
        widths: Dq, Dk and Dv that the module was made for; None leaves them unchecked.
        previous: of a recurrent module, [B, H, 1, K].

    Returns:
        key and value, of the same shapes.

    Raises:
        TypeError: dtypes differ outside autocast, or the mask is not bool.
        ValueError: dimensions, batch sizes, lengths, widths or devices do not fit, named in one line.
    """
    if query is None:
        query = key.new_empty(len(key), 1, 0 if widths is None else widths[0])
    _check_inputs(query, key, value, mask, causal, widths)
    if previous is not None and (previous.dim() != 4 or previous.shape[::3] != key.shape[:2] or previous.shape[2] != 1):
        raise ValueError(f"previous is [B, H, 1, K], the weights of the last call, not {list(previous.shape)}")
    if mask is None and not causal:
        return key, value
    if causal or (mask is not None and mask.shape[1] > 1):
        key, value = (x if _known_tame(x) else x.masked_fill(~(x.abs() < _wild(x)), 0.0) for x in (key, value))
    if mask is not None:
        seen = causal_mask(mask, query, causal) if mask.shape[1] > 1 else mask
        assert seen is not None
        hidden = ~seen.any(dim=1).unsqueeze(-1)
        same = value is key  # as a recurrent encoder's states are
        key = key.masked_fill(hidden, 0.0)
        value = key if same else value.masked_fill(hidden, 0.0)
    return key, value


def _wild(x: Tensor) -> float:
    """Return from where on an entry cannot be multiplied safely; float16 is multiplied in float32."""
    return math.inf if x.dtype == torch.float16 else math.sqrt(torch.finfo(x.dtype).max) / 256


def _known_tame(x: Tensor) -> bool:
    """Tell whether no entry is wild, where asking is cheaper than to look at each: on a CPU."""
    if not x.is_cpu or torch.compiler.is_compiling():
        return False
    try:
        return float(torch.linalg.vector_norm(x.detach())) < _wild(x)
    except RuntimeError:  # torch.vmap and tracing answer no questions about values
        return False


def causal_mask(mask: Tensor | None, query: Tensor, causal: bool) -> Tensor | None:
    """Return the mask, [B, Q, K], with causality spelled out; the mask as it is where `causal` is False.

    For a module that has no causal path of its own. `query`, [B, Q, Dq], says how long and where it is.
    """
    if not causal:
        return mask
    earlier = lower_triangle(query)
    return earlier.expand(query.shape[0], -1, -1) if mask is None else mask & earlier


def lower_triangle(query: Tensor) -> Tensor:
    """Return [Q, Q], True where key j is not later than query i of `query`, [..., Q, Dq]."""
    Q = query.shape[-2]
    return torch.ones(Q, Q, dtype=torch.bool, device=query.device).tril()


def prefix_mask(mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> tuple[Tensor | None, bool]:
    """Return (padding, causal) for a mechanism with `masks = "prefix"`, whose state runs along the keys.

    A mask that spells causality out, with padding or without, counts as `causal=True`. It takes reading the mask, which
    a compiler cannot do: there `causal=True` has to be said.

    Args:
        mask: bool [B, 1 or Q, K] or None.
        query: [B, Q, Dq].
        key: [B, K, Dk].
        causal: whether query i sees keys up to i only.

    Returns:
        padding: bool [B, K], True where there is a key; None where all are.
        causal: whether query i sees keys up to i only.

    Raises:
        ValueError: the mask is neither padding nor causal nor both.
    """
    if mask is None:
        return None, causal
    if mask.shape[1] == 1:
        return mask[:, 0], causal
    if torch.compiler.is_compiling():
        raise ValueError(
            "a mask that differs between queries cannot be compiled here: say causal=True for a causal one"
        )
    seen = causal_mask(mask, query, causal)
    assert seen is not None
    if not causal and bool((seen == seen[:, :1]).all()):
        return seen[:, 0], False
    if query.shape[1] == key.shape[1]:
        padding = seen.diagonal(dim1=1, dim2=2)
        if torch.equal(seen, padding.unsqueeze(1) & lower_triangle(query)):
            return padding, True
    raise ValueError(
        "this mechanism's state runs along the keys: its mask is padding (the same row for all queries), causal, or "
        "both, not one that differs between queries in another way"
    )


def _check_inputs(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, widths: tuple[int, int, int] | None
) -> None:
    """Refuse what does not fit; comparisons of a few numbers, since it is asked at every call."""
    q, k, v = query.shape, key.shape, value.shape
    if not len(q) == len(k) == len(v) == 3:
        raise ValueError(
            f"{_shapes(q, k, v)}: each is [B, length, width]; one example is `x.unsqueeze(0)`, heads are examples"
        )
    if not q[0] == k[0] == v[0]:
        raise ValueError(f"{_shapes(q, k, v)}: the batch sizes differ; `x.expand(B, -1, -1)` repeats one example")
    if k[1] != v[1]:
        raise ValueError(f"{_shapes(q, k, v)}: there are {k[1]} keys and {v[1]} values; each key has one value")
    if causal and q[1] != k[1]:
        raise ValueError(f"{_shapes(q, k, v)}: causal=True needs as many queries as keys; or pass a mask")
    if widths is not None and (q[2], k[2], v[2]) != widths:
        raise ValueError(f"{_shapes(q, k, v)}: this module was made for the widths {', '.join(map(str, widths))}")
    device = query.device
    if not key.device == value.device == device:
        raise ValueError(f"query, key and value are on {device}, {key.device} and {value.device}: move them to one")
    alike = query.dtype == key.dtype == value.dtype or is_cast(query)
    if not alike or not query.is_floating_point():
        raise TypeError(
            f"query, key and value are {query.dtype}, {key.dtype} and {value.dtype}: make them floats, alike"
        )
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        check_mask(mask, q[1], k[1])
    m = mask.shape
    if not (len(m) == 3 and m[0] == q[0] and m[1] in (1, q[1]) and m[2] == k[1]):
        raise ValueError(
            f"the mask of these queries and keys is [B, 1 or Q, K], here [{q[0]}, 1 or {q[1]}, {k[1]}], not {list(m)}: "
            "of [Q, K] pass `mask.expand(B, -1, -1)`, of [B, K] `mask[:, None]`"
        )
    if mask.device != device:
        raise ValueError(f"the mask is on {mask.device}, the query on {device}: move one of them")


def _shapes(*shapes: torch.Size) -> str:
    return ", ".join(f"{name} {list(x)}" for name, x in zip(("query", "key", "value"), shapes, strict=True))


def is_cast(x: Tensor) -> bool:
    """Tell whether operations on such a tensor run under autocast, which the meta device does not know."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return a context without autocast, for sums that half precision would overflow or round away."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
