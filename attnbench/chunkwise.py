"""Causal attention in linear time: a state that decays (`decayed_linear`), a state that is corrected (`delta_rule`).

Both run a matrix S [Dk, Dv] along the keys, and a query at place t reads o_t = S_tᵀ q_t. Within a chunk of keys the
queries meet the keys in products of matrices, as in attention; from chunk to chunk only S is handed on. The same
context is a product with a mixing matrix, o = weights · v, which both return on request, exactly.

No exponent is positive, no two sums of log gates are subtracted and nothing is divided: what decays between two places
is the product of the gates that lie between them. So a gate of 0, a log gate of -inf, is exact, and small gates lose no
digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from attnbench.masking import full_precision

#: Numbers of an array that are worked on at once on a processor, a power of two.
CACHED = 1 << 18


class Mixed(NamedTuple):
    """What `decayed_linear` and `delta_rule` return.

    Attributes:
        context: [*B, Q, Dv], in the dtype of v.
        weights: [*B, Q, T], the mixing matrix, in the dtype of v: context = weights · v, plus what an initial state
            gives. None unless asked for: it takes Q x T memory, and the delta rule's a triangular solve of T x T.
        state: [*B, Dk, Dv], S after the last key, in float32 or wider.
    """

    context: Tensor
    weights: Tensor | None
    state: Tensor


def decayed_linear(
    q: Float[Tensor, "*B Q Dk"],
    k: Float[Tensor, "*B T Dk"],
    v: Float[Tensor, "*B T Dv"],
    log_decay: Float[Tensor, "*B T"] | Float[Tensor, "*B T Dk"] | None = None,
    *,
    causal: bool = True,
    padding: Bool[Tensor, "B T"] | None = None,
    state: Float[Tensor, "*B Dk Dv"] | None = None,
    need_weights: bool = False,
    chunk: int | None = None,
) -> Mixed:
    """Linear attention whose state decays (Yang et al. 2023, arXiv:2312.06635; Dao, Gu 2024, arXiv:2405.21060).

    S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ
    o_t = S_tᵀ q_t                                       (causal; otherwise o_i = S_Tᵀ q_i)
    weights[t, j] = Σ_d q[t, d] k[j, d] exp(log_decay[j+1, d] + ... + log_decay[t, d]), j <= t

    Time and memory are linear in T; on a GPU, and compiled, states take log T times as much (`_scan`). Half precision
    is computed in float32.

    Args:
        q: the queries; as many as keys where causal. A scale such as 1 / sqrt(Dk) is the caller's.
        k: the keys.
        v: the values.
        log_decay: at most 0, and may be -inf: one for each key, [*B, T], or one for each channel of each key,
            [*B, T, Dk]. None: nothing decays.
        causal: query t reads S_t; otherwise each query reads the last state.
        padding: True where there is a key; elsewhere nothing decays and nothing is added.
        state: S before the first key; None: zeros.
        need_weights: return the mixing matrix too.
        chunk: keys in a chunk, a power of two; None: what was measured to be fast on a CPU. The results differ by
            rounding only.

    Raises:
        ValueError: the shapes do not fit, or chunk is no power of two.
    """
    _check(q, k, v, None, log_decay, causal, chunk)
    with full_precision(q):
        qf, kf, vf, _, a, S = _flatten(q, k, v, None, log_decay, padding, state)
        if causal:
            weights = _mixing((qf,), kf, a)[0] if need_weights else None
            C = _chunk_size(chunk, kf, 32 if a is None else 16)
            contexts = []
            for kc, qc, values, ac in _parts(C, kf, qf, vf, a):
                vc = values.contiguous()  # for two products
                (pairs,), (read,), reach, gate = _pairs((qc,), kc, ac)
                before, S = _scan(None if gate is None else gate.mT, reach.mT @ vc, S)
                contexts.append(_plus(pairs @ vc, read, before))
            context = _join(contexts, qf.shape[1])
        else:
            reach = _decay(kf, _suffix(a))
            S = _decay(S, None if a is None else a.sum(dim=1).unsqueeze(-1)) + reach.mT @ vf
            context, weights = qf @ S, qf @ reach.mT if need_weights else None
    return _finish(q, v, context, weights, S)


def delta_rule(
    q: Float[Tensor, "*B Q Dk"],
    k: Float[Tensor, "*B T Dk"],
    v: Float[Tensor, "*B T Dv"],
    beta: Float[Tensor, "*B T"],
    log_decay: Float[Tensor, "*B T"] | Float[Tensor, "*B T Dk"] | None = None,
    *,
    causal: bool = True,
    padding: Bool[Tensor, "B T"] | None = None,
    state: Float[Tensor, "*B Dk Dv"] | None = None,
    need_weights: bool = False,
    chunk: int | None = None,
) -> Mixed:
    """Linear attention whose state is corrected: what k_t recalls moves to v_t (Yang et al. 2024, arXiv:2406.06484).

    S' = diag(exp(log_decay_t)) S_{t-1}
    S_t = S' + beta_t k_t (v_t - S'ᵀ k_t)ᵀ
    o_t = S_tᵀ q_t                                       (causal; otherwise o_i = S_Tᵀ q_i)
    weights = A(q) (I + strictly lower A(beta k))⁻¹ diag(beta), where A(q) are the weights of `decayed_linear`

    One gate for each key is arXiv:2412.06464, one for each channel arXiv:2510.26692. The state stays bounded where
    |k_t| = 1 and 0 <= beta <= 2. A chunk turns S into M S + X; one triangular solve finds M and X of all chunks, and
    only S -> M S + X goes from one to the next.

    Args:
        q: the queries; as many as keys where causal. A scale is the caller's.
        k: the keys, of length 1.
        v: the values.
        beta: how far what k_t recalls moves: 0 not at all, 1 to v_t, 2 as far beyond.
        log_decay, causal, padding, state, need_weights, chunk: as of `decayed_linear`, and what it raises.
    """
    _check(q, k, v, beta, log_decay, causal, chunk)
    with full_precision(q):
        qf, kf, vf, b, a, S = _flatten(q, k, v, beta, log_decay, padding, state)
        weights = None
        if need_weights:
            recalled, *seen = _mixing((b * kf, qf) if causal else (b * kf,), kf, a)
            read = seen[0] if causal else qf @ _decay(kf, _suffix(a)).mT
            weights = torch.linalg.solve_triangular(recalled, read, upper=False, left=False, unitriangular=True) * b.mT
        C = _chunk_size(chunk, kf, 16)
        kept = torch.eye(kf.shape[-1], dtype=kf.dtype, device=kf.device)
        widths = (vf.shape[-1], kf.shape[-1])  # of U and W: v_t - S'ᵀ k_t, times beta_t, is U - W S
        contexts = []
        for keys, vc, bc, ac, qc in _parts(C, kf, vf, b, a, qf if causal else None):
            kc = keys.contiguous()  # for several products
            rows = (bc * kc,) if qc is None else (bc * kc, qc)
            (recalled, *seen), (recall, *reads), reach, gate = _pairs(rows, kc, ac)
            sides = torch.cat((bc * vc, recall), dim=-1)
            # transposed, since so a row-major result needs no copies
            solved = torch.linalg.solve_triangular(recalled.mT, sides.mT, upper=True, left=False, unitriangular=True).mT
            added, lost = (reach.mT @ solved).split(widths, dim=-1)
            before, S = _scan((kept if gate is None else kept * gate.mT) - lost, added, S)
            if qc is not None:
                new, old = (seen[0] @ solved).split(widths, dim=-1)
                contexts.append(_plus(new, reads[0] - old, before))
        context = _join(contexts, qf.shape[1]) if causal else qf @ S
    return _finish(q, v, context, weights, S)


class _Pairs(NamedTuple):
    """What the keys of one chunk, [..., C, D], are to each other, to the state before them and to the one after.

    Attributes:
        A: A[t, j] = Σ_d row[t, d] k[j, d] gate[j+1, d] ... gate[t, d], 0 where j > t, [..., C, C] for each of the rows.
        rows: each of the rows, decayed by the gates up to its place: how it reads the state before the chunk.
        k: the keys, decayed by the gates after their place: how they reach the state after the chunk.
        gate: of the whole chunk, [..., 1, D]; None where nothing decays.
    """

    A: list[Tensor]
    rows: list[Tensor]
    k: Tensor
    gate: Tensor | None


def _pairs(rows: tuple[Tensor, ...], k: Tensor, a: Tensor | None) -> _Pairs:
    """Return the pairs of `rows` and 2^n keys with log gates a, one for each key or for each channel."""
    pairs = _at_once if _any_length(k) else _tree
    if a is not None and a.shape[-1] == k.shape[-1]:
        return pairs(rows, k, a)
    rows, k = tuple(row.contiguous() for row in rows), k.contiguous()  # for two products
    if a is None:
        return _Pairs([(row @ k.mT).tril_() for row in rows], list(rows), k, None)
    one = torch.ones_like(a)
    (decay,), (prefix,), suffix, gate = pairs((one,), one, a)
    return _Pairs([(row @ k.mT) * decay for row in rows], [row * prefix for row in rows], k * suffix, gate)


def _tree(rows: tuple[Tensor, ...], k: Tensor, a: Tensor) -> _Pairs:
    """Do as `_pairs`, in blocks of 1 key, of 2, of 4 and so on, each made of two of half its size.

    What the second half of a block sees of the first is a product of matrices, in which both are decayed as far as the
    border between them; then both are decayed on, as far as the ends of the block: in their place where no backward
    pass will want what they were.
    """
    gate, half, recorded = a.exp(), 1, _recorded()
    k = k if recorded else k * torch.ones_like(gate)  # a copy; under torch.func.vmap batched where gate is
    q = [row * gate for row in rows]
    A = [(row * k).sum(dim=-1) for row in rows]
    A = [x.unsqueeze(-1).unsqueeze(-1) if recorded else torch.diag_embed(x) for x in A]  # recorded [..., blocks, 1, 1]
    while half < a.shape[-2]:
        (k1, k2), (gate1, gate2) = _halves(k, half), _halves(gate, 1)
        for i, (q1, q2) in enumerate([_halves(x, half) for x in q]):
            low = q2 @ k1.mT
            if recorded:
                A1, A2 = _cut(A[i], -3, (-1, 2)).unbind(dim=-3)
                A[i] = torch.cat((F.pad(A1, (0, half)), torch.cat((low, A2), dim=-1)), dim=-2)
                q[i] = torch.cat((q1, q2 * gate1), dim=-2).flatten(-3, -2)
            else:
                blocks = _cut(_cut(A[i], -1, (-1, 2, half)), -4, (-1, 2, half))
                blocks[..., 1, :, :, 0, :].diagonal(dim1=-4, dim2=-2).copy_(low.movedim(-3, -1))
                q2.mul_(gate1)
        if recorded:
            k = torch.cat((k1 * gate2, k2), dim=-2).flatten(-3, -2)
        else:
            k1.mul_(gate2)
        gate, half = (gate1 * gate2).squeeze(-2), 2 * half
    return _Pairs([x.squeeze(-3) for x in A] if recorded else A, q, k, gate)


def _recorded() -> bool:
    """Tell whether a backward pass or a compiler may be to come, for which nothing is written over."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def _at_once(rows: tuple[Tensor, ...], k: Tensor, a: Tensor) -> _Pairs:
    """Do as `_pairs` without a loop, in C x C x D memory."""
    C = k.shape[-2]
    seen = torch.ones(C, C, dtype=torch.bool, device=k.device).tril().unsqueeze(-1)
    between = torch.where(seen & ~seen.transpose(0, 1), a.unsqueeze(-2), 0.0)
    sums = between.cumsum(dim=-3)  # [..., t, j, D], of what follows j up to t
    decay = sums.exp() * seen
    A = [(row.unsqueeze(-2) * decay * k.unsqueeze(-3)).sum(dim=-1) for row in rows]
    prefix = a.cumsum(dim=-2).exp()
    return _Pairs(A, [row * prefix for row in rows], k * decay[..., -1, :, :], prefix[..., -1:, :])


def _halves(x: Tensor, half: int) -> tuple[Tensor, ...]:
    return _cut(x, -2, (-1, 2, half)).unbind(dim=-3)


def _cut(x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    return x.unflatten(dim, sizes)  # type: ignore[no-untyped-call, no-any-return]


def _mixing(rows: tuple[Tensor, ...], k: Tensor, a: Tensor | None) -> list[Tensor]:
    """Return A [n, T, T] for each of `rows`, of all keys at once."""
    T = k.shape[1]
    if _any_length(k):
        return _pairs(rows, k, a).A
    size = _power_of_two(T)
    *padded, k = (F.pad(x, (0, 0, 0, size - T)) for x in (*rows, k))
    a = None if a is None else F.pad(a, (0, 0, 0, size - T))
    return [A[:, :T, :T] for A in _pairs(tuple(padded), k, a).A]


def _scan(kept: Tensor | None, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, [n, N, Dk, Dv], and after the last: S_{c+1} = kept_c S_c + added_c.

    kept_c is a matrix [Dk, Dk], or a gate for each row, [Dk, 1]; None keeps all. A CPU goes from chunk to chunk. A GPU,
    and a compiler, which would unroll that loop, take log N rounds: after round r a chunk's two terms are those of the
    2^r chunks up to it.
    """
    if kept is None:
        sums = torch.cat((state.unsqueeze(1), added), dim=1).cumsum(dim=1)
        return sums[:, :-1], sums[:, -1]
    times = torch.mul if kept.shape[-1] == 1 else torch.matmul
    if added.device.type == "cpu" and not torch.compiler.is_compiling():
        before = []
        for k, x in zip(kept.unbind(dim=1), added.unbind(dim=1), strict=True):
            before.append(state)
            state = torch.addcmul(x, k, state) if times is torch.mul else torch.baddbmm(x, k, state)
        return torch.stack(before, dim=1) if before else added, state
    added, behind = torch.cat((state.unsqueeze(1), added), dim=1), 1
    kept = torch.cat((torch.zeros_like(kept[:, :1]), kept), dim=1)
    while behind < added.shape[1]:
        later = kept[:, behind:]
        added = torch.cat((added[:, :behind], added[:, behind:] + times(later, added[:, :-behind])), dim=1)
        kept = torch.cat((kept[:, :behind], times(later, kept[:, :-behind])), dim=1)
        behind *= 2
    return added[:, :-1], added[:, -1]


def _plus(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return x + a @ b."""
    return torch.baddbmm(*(y.flatten(0, 1) for y in (x, a, b))).view(x.shape)


def _decay(x: Tensor, log_gates: Tensor | None) -> Tensor:
    return x if log_gates is None else x * log_gates.exp()


def _suffix(a: Tensor | None) -> Tensor | None:
    """Return the sum of the log gates after each key, [n, T, D]."""
    return None if a is None else F.pad(a, (0, 0, 0, 1))[:, 1:].flip(1).cumsum(dim=1).flip(1)


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _chunk_size(chunk: int | None, k: Tensor, narrow: int) -> int:
    """Return the keys in a chunk: where none is said `narrow`, and twice that where the state is large."""
    if _any_length(k):
        return k.shape[1]
    return min(chunk or (narrow if k.shape[-1] <= 32 else 2 * narrow), _power_of_two(k.shape[1]))


def _parts(size: int, *inputs: Any) -> Iterator[tuple[Any, ...]]:
    """Yield k and other inputs in chunks, [n, N, C, D], a part of the keys at a time: what a processor's cache holds.

    All are one part for a backward pass, which keeps them anyway, on other devices, and where it is traced. Behind the
    last keys are zeros, where nothing happens.
    """
    k, T = inputs[0], inputs[0].shape[1]
    if _any_length(k):
        yield tuple(None if x is None else x.unsqueeze(1) for x in inputs)
        return
    whole = torch.is_grad_enabled() or k.device.type != "cpu" or torch.compiler.is_compiling()
    part = max(size, CACHED // _power_of_two(k.shape[0] * k.shape[2]))
    if part < T and not whole:
        for start in range(0, T, part):
            yield from _parts(size, *(None if x is None else x[:, start : start + part] for x in inputs))
        return
    rest = -T % size
    padded = (x if x is None or not rest else F.pad(x, (0, 0, 0, rest)) for x in inputs)
    yield tuple(None if x is None else _cut(x, 1, ((T + rest) // size, size)) for x in padded)


def _join(parts: list[Tensor], length: int) -> Tensor:
    flat = [x.flatten(1, 2) for x in parts]
    return (flat[0] if len(flat) == 1 else torch.cat(flat, dim=1))[:, :length]


def _any_length(x: Tensor) -> bool:
    """Tell whether torch.export traces for sequences of any length: no loop over chunks can be, so that all is one."""
    return isinstance(x.shape[-2], torch.SymInt)


def _flatten(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None,
    padding: Tensor | None,
    state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Any, Tensor | None, Tensor]:
    """Return all as [n, T, D] in float32 or wider, with nothing at the keys that are padding, and the first state."""
    wide = torch.promote_types(v.dtype, torch.float32)
    n = math.prod(k.shape[:-2])
    hidden = None if padding is None else ~padding.view(padding.shape[0], *(1,) * (k.dim() - 3), padding.shape[1], 1)

    def flat(x: Tensor | None, by_key: bool = True) -> Any:
        if x is None:
            return None
        x = x.unsqueeze(-1) if x.dim() < k.dim() else x
        x = x.masked_fill(hidden, 0.0) if by_key and hidden is not None else x
        return x.expand(*k.shape[:-2], *x.shape[-2:]).reshape(n, *x.shape[-2:]).to(wide)

    first = k.new_zeros(n, k.shape[-1], v.shape[-1], dtype=wide) if state is None else flat(state, by_key=False)
    return flat(q, by_key=False), flat(k), flat(v), flat(beta), flat(log_decay), first


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None,
    causal: bool,
    chunk: int | None,
) -> None:
    """Raise ValueError unless the shapes fit, and chunk is a power of two."""
    T, Dk = k.shape[-2:]
    if q.dim() < 3 or q.shape[-1] != Dk or v.shape[:-1] != k.shape[:-1] or q.shape[:-2] != k.shape[:-2]:
        shapes = f"{list(q.shape)}, {list(k.shape)} and {list(v.shape)}"
        raise ValueError(f"q, k and v are [*B, Q, Dk], [*B, T, Dk] and [*B, T, Dv], not {shapes}")
    if causal and q.shape[-2] != T:
        raise ValueError(f"causal takes as many queries as keys, not {q.shape[-2]} and {T}")
    if beta is not None and beta.shape != k.shape[:-1]:
        raise ValueError(f"beta is one number for each key, {list(k.shape[:-1])}, not {list(beta.shape)}")
    if log_decay is not None and log_decay.shape not in (k.shape, k.shape[:-1]):
        raise ValueError(f"log_decay is {list(k.shape[:-1])} or {list(k.shape)}, not {list(log_decay.shape)}")
    if chunk is not None and (chunk < 1 or chunk != _power_of_two(chunk)):
        raise ValueError(f"chunk is a power of two, not {chunk}; try chunk={_power_of_two(max(chunk, 1))}")


def _finish(q: Tensor, v: Tensor, context: Tensor, weights: Tensor | None, state: Tensor) -> Mixed:
    batch = q.shape[:-2]

    def whole(x: Tensor) -> Tensor:
        return x.reshape(*batch, *x.shape[-2:])

    return Mixed(whole(context).to(v.dtype), None if weights is None else whole(weights).to(v.dtype), whole(state))
