"""The Neural Turing Machine over a whole sequence, its backward pass written by hand.

For an LSTM whose heads are the attention `ntm` with the scoring function `cosine`. A step is some forty small
operations, and autograd's bookkeeping takes longer than they do; here a sequence is one operation to it, and the
weights' gradients are one product over all steps at the end. The memory lies transposed, [B, M, N], so that what is one
number for a column of it meets N numbers side by side. Each `f_back` takes the gradients to what `f` gave and what `f`
kept, and gives those to what `f` took.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

NOTHING = 1e-30  # as in the attention `ntm`
aten = torch.ops.aten


class Sizes(NamedTuple):
    """What is set before the first step.

    Attributes:
        readers: R, how many heads read.
        writers: W, how many heads write.
        width: M, of a row of the memory.
        shifts: S, how many shifts a head chooses from.
        write_first: whether a step writes before it reads.
    """

    readers: int
    writers: int
    width: int
    shifts: int
    write_first: bool

    def looks(self) -> list[slice]:
        """Give the heads that look at the same memory, in the order in which they look."""
        heads = self.readers + self.writers
        if self.write_first:
            return [slice(self.readers, heads), slice(0, self.readers)]
        return [slice(0, heads)]

    def order(self) -> Tensor:
        """Tell where, among the outputs of all heads and then of all writers, each number lies that a step takes.

        A head's outputs are k, β, g, s, γ, a writer's erase and add. A look takes its heads' k, g, β, γ, s in turn;
        the writers' erase and then add come last.
        """
        parts = [self.width, 1, 1, self.shifts, 1]
        size, heads = sum(parts), self.readers + self.writers
        places: list[Tensor] = []
        for look in self.looks():
            mine = torch.split(torch.arange(heads * size).view(heads, size)[look], parts, dim=1)
            places += [mine[part].flatten() for part in (0, 2, 1, 4, 3)]
        changes = heads * size + torch.arange(self.writers * 2 * self.width).view(self.writers, 2, self.width)
        return torch.cat([*places, changes.transpose(0, 1).flatten()])


class Look(NamedTuple):
    """What a look of H heads keeps: where they look, `weights` [B, H, N], and what led there."""

    k: Tensor
    k_norm: Tensor
    row_norm: Tensor
    g: Tensor
    strong: Tensor
    beta: Tensor
    gamma: Tensor
    s: Tensor
    rate: Tensor
    scale: Tensor
    likeness: Tensor
    content: Tensor
    before: Tensor
    ring: Tensor
    shifted: Tensor
    logs: Tensor
    weights: Tensor


def look(
    o: Float[Tensor, "B _"],
    memory: Float[Tensor, "B M N"],
    before: Float[Tensor, "B H N"],
    strength: Float[Tensor, "H 1"],
    shifts: int,
) -> Look:
    """Do what the attention `ntm` does with scoring=cosine; `strength` multiplies β."""
    (B, H, N), M = before.shape, memory.shape[1]
    k, g, strong, s = torch.split(o, [H * M, H, 2 * H, H * shifts], dim=-1)
    k, g = torch.tanh(k).view(B, H, M), torch.sigmoid(g).unsqueeze(-1)
    beta, gamma = F.softplus(strong).view(B, 2, H, 1).unbind(dim=1)
    s = torch.softmax(s.reshape(B, H, shifts), dim=-1)
    k_norm, row_norm = length(k, -1), length(memory, -2)
    rate = strength / k_norm
    scale = beta * rate
    likeness = torch.bmm(k, memory).div_(row_norm)
    content = torch.softmax(likeness * scale, dim=-1)
    ring = windows(torch.lerp(before, content, g), shifts)
    shifted = torch.bmm(s.view(B * H, 1, shifts), ring).view(B, H, N).add_(NOTHING)
    logs = shifted.log()
    weights = torch.softmax(torch.addcmul(logs, logs, gamma), dim=-1)
    return Look(
        k,
        k_norm,
        row_norm,
        g,
        strong,
        beta,
        gamma,
        s,
        rate,
        scale,
        likeness,
        content,
        before,
        ring,
        shifted,
        logs,
        weights,
    )


def look_back(
    grad: Float[Tensor, "B H N"], kept: Look, memory: Float[Tensor, "B M N"]
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients to o, in parts, and to before, and to log strength; to the memory is

    kᵀ product - rows memory, of which the last two are product [B, H, N] and rows [B, 1, N].
    """
    B, H, N = grad.shape
    sharp = softmax_back(grad, kept.weights)
    to_gamma = (sharp * kept.logs).sum(-1)
    moved = torch.addcmul(sharp, sharp, kept.gamma).div_(kept.shifted)
    to_s = torch.bmm(kept.ring, moved.view(B * H, N, 1)).view(kept.s.shape)
    shifts = kept.s.shape[-1]
    gated = torch.bmm(kept.s.flip(-1).view(B * H, 1, shifts), windows(moved, shifts)).view(B, H, N)
    to_content = gated * kept.g
    to_g = (gated * (kept.content - kept.before)).sum(-1)
    score = softmax_back(to_content, kept.content)
    to_scale = score * kept.likeness
    product = (score * kept.scale).div_(kept.row_norm)
    rows = torch.bmm(kept.scale.mT, to_scale).div_(kept.row_norm)
    to_beta = to_scale.sum(-1, keepdim=True) * kept.rate
    to_strength = to_beta * kept.beta
    shorter = unless_clamped(to_strength / kept.k_norm.square(), kept.k_norm)
    to_k = torch.addcmul(torch.bmm(product, memory.mT), kept.k, shorter, value=-1)
    strong = torch.cat([to_beta.view(B, H), to_gamma], dim=1)
    to_o = [
        aten.tanh_backward(to_k, kept.k).view(B, -1),
        aten.sigmoid_backward(to_g, kept.g.squeeze(-1)),
        aten.softplus_backward(strong, kept.strong, 1, 20),
        softmax_back(to_s, kept.s).view(B, -1),
    ]
    rows = unless_clamped(rows.div_(kept.row_norm), kept.row_norm)
    return to_o, gated.sub_(to_content), to_strength, product, rows


def length(x: Tensor, dim: int) -> Tensor:
    """Give the lengths along `dim`, at least the rounding of their type, as the scoring function `cosine` does."""
    norm: Tensor = (x * x).sum(dim, keepdim=True).sqrt_()
    return norm.clamp_(min=torch.finfo(x.dtype).eps)


def unless_clamped(grad: Tensor, norm: Tensor) -> Tensor:
    """Give the gradient to a length, which is 0 where it is `length`'s least."""
    passed: Tensor = aten.threshold_backward(grad, norm, torch.finfo(norm.dtype).eps)
    return passed


def windows(x: Float[Tensor, "B H N"], shifts: int) -> Float[Tensor, "BH S N"]:
    """Give x moved on round the ring by S // 2 keys, by one less, ..., back by S // 2."""
    most = shifts // 2
    ring = torch.cat([x[..., x.shape[-1] - most :], x, x[..., :most]], dim=-1)
    return ring.flatten(0, 1).unfold(-1, x.shape[-1], 1)


def softmax_back(grad: Tensor, out: Tensor) -> Tensor:
    """Give the gradient to what a softmax over the last dimension was given."""
    back: Tensor = aten._softmax_backward_data(grad, out, -1, out.dtype)
    return back


def write(
    memory: Float[Tensor, "B M N"],
    weights: Float[Tensor, "B H N"],
    erase: Float[Tensor, "B H M"],
    add: Float[Tensor, "B H M"],
) -> Float[Tensor, "B M N"]:
    """Erase, then add, of all heads: memory Π_h (1 - w_h e_hᵀ) + Σ_h w_h a_hᵀ (eqs. 3 and 4)."""
    if weights.shape[1] == 1:
        return torch.addcmul(memory, torch.addcmul(add.mT, memory, erase.mT, value=-1), weights)
    return torch.baddbmm(erased(memory, weights, erase)[-1], add.mT, weights)


def erased(memory: Tensor, weights: Tensor, erase: Tensor) -> list[Tensor]:
    """Give the memory before any head has erased, after the first has, and so on."""
    kept = [memory]
    for w, e in zip(torch.split(weights, 1, dim=1), torch.split(erase, 1, dim=1), strict=True):
        kept.append(torch.addcmul(kept[-1], kept[-1] * w, e.mT, value=-1))
    return kept


def write_back(
    grad: Tensor, memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients to the memory, to weights, erase and add."""
    to_add, to_weights, to_erase = torch.bmm(weights, grad.mT), torch.bmm(add, grad), torch.empty_like(erase)
    heads = weights.shape[1]
    before = [memory] if heads == 1 else erased(memory, weights, erase)
    for head in range(heads - 1, -1, -1):
        w, e = weights[:, head : head + 1], erase[:, head : head + 1]
        change = grad * before[head]
        to_weights[:, head : head + 1].baddbmm_(e, change, alpha=-1)
        to_erase[:, head : head + 1] = torch.bmm(w, change.mT).neg_()
        grad = torch.addcmul(grad, grad * w, e.mT, value=-1)
    return grad, to_weights, to_erase, to_add


class State(NamedTuple):
    """What a step hands to the next: reads [B, R M], memory [B, M, N], h and c [B, D], looked [B, R + W, N]."""

    reads: Tensor
    memory: Tensor
    h: Tensor
    c: Tensor
    looked: Tensor


class Weights(NamedTuple):
    """Of the gates [4D, R M + D]; of what h tells the heads [O, D] and its bias [O]; log strength [R + W, 1]."""

    gating: Tensor
    telling: Tensor
    bias: Tensor
    strength: Tensor


class Step(NamedTuple):
    """What a step keeps."""

    seen: Tensor
    gates: Tensor
    u: Tensor
    c: Tensor
    bent: Tensor
    h: Tensor
    memory: Tensor
    after: Tensor
    erase: Tensor
    add: Tensor
    looks: list[Look]


def step(x: Float[Tensor, "B G"], state: State, weights: Weights, sizes: Sizes) -> tuple[State, Step]:
    """Do a step; `x` is the input's share of the LSTM's gates."""
    B, D = state.h.shape
    R, W, M = sizes.readers, sizes.writers, sizes.width
    seen = torch.cat([state.reads, state.h], dim=-1)
    opened, u = torch.split(torch.addmm(x, seen, weights.gating.t()), [3 * D, D], dim=-1)
    gates, u = torch.sigmoid(opened), torch.tanh(u)
    i, f, o = gates.chunk(3, dim=-1)
    c = torch.addcmul(f * state.c, i, u)
    bent = torch.tanh(c)
    h = o * bent
    numbers = M + 3 + sizes.shifts
    heads = [W * numbers, R * numbers] if sizes.write_first else [(R + W) * numbers]
    *told, changes = torch.split(torch.addmm(weights.bias, h, weights.telling.t()), [*heads, 2 * W * M], dim=-1)
    erase, add = changes.view(B, 2, W, M).unbind(dim=1)
    erase, add = torch.sigmoid(erase), torch.tanh(add)
    if sizes.write_first:
        first = look(told[0], state.memory, state.looked[:, R:], weights.strength[R:], sizes.shifts)
        after = write(state.memory, first.weights, erase, add)
        second = look(told[1], after, state.looked[:, :R], weights.strength[:R], sizes.shifts)
        looks, looked = [first, second], torch.cat([second.weights, first.weights], dim=1)
        reads = torch.bmm(second.weights, after.mT)
    else:
        first = look(told[0], state.memory, state.looked, weights.strength, sizes.shifts)
        looks, looked = [first], first.weights
        after = write(state.memory, looked[:, R:], erase, add)
        reads = torch.bmm(looked[:, :R], state.memory.mT)
    kept = Step(seen, gates, u, state.c, bent, h, state.memory, after, erase, add, looks)
    return State(reads.flatten(1), after, h, c, looked), kept


def step_back(grad: State, kept: Step, weights: Weights, sizes: Sizes) -> tuple[State, tuple[Tensor, Tensor, Tensor]]:
    """Give the gradients to the state before; and to the gates, to what h tells, and to log strength."""
    B, R, M = len(kept.h), sizes.readers, sizes.width
    to_reads, to_where, to_placed = grad.reads.view(B, R, M), grad.looked[:, :R], grad.looked[:, R:]
    if sizes.write_first:
        first, second = kept.looks
        to_where = torch.baddbmm(to_where, to_reads, kept.after)
        told_2, before_2, strength_2, product, rows = look_back(to_where, second, kept.after)
        to_after = torch.baddbmm(
            grad.memory, torch.cat([to_reads, second.k], dim=1).mT, torch.cat([second.weights, product], dim=1)
        ).addcmul_(kept.after, rows, value=-1)
        to_memory, to_placed_2, to_erase, to_add = write_back(
            to_after, kept.memory, first.weights, kept.erase, kept.add
        )
        told, before, strength, product, rows = look_back(to_placed + to_placed_2, first, kept.memory)
        to_memory.baddbmm_(first.k.mT, product)
        told, before, strength = (
            told + told_2,
            torch.cat([before_2, before], dim=1),
            torch.cat([strength_2, strength], 1),
        )
    else:
        (first,) = kept.looks
        where, placed = first.weights[:, :R], first.weights[:, R:]
        to_memory, to_placed_2, to_erase, to_add = write_back(grad.memory, kept.memory, placed, kept.erase, kept.add)
        to_looked = torch.cat([torch.baddbmm(to_where, to_reads, kept.memory), to_placed_2.add_(to_placed)], dim=1)
        told, before, strength, product, rows = look_back(to_looked, first, kept.memory)
        to_memory.baddbmm_(torch.cat([to_reads, first.k], dim=1).mT, torch.cat([where, product], dim=1))
    to_memory.addcmul_(kept.memory, rows, value=-1)
    changes = [aten.sigmoid_backward(to_erase, kept.erase), aten.tanh_backward(to_add, kept.add)]
    to_told = torch.cat([*told, *(change.view(B, -1) for change in changes)], dim=-1)
    i, f, o = kept.gates.chunk(3, dim=-1)
    to_h = torch.addmm(grad.h, to_told, weights.telling)
    to_c = aten.tanh_backward(to_h * o, kept.bent).add_(grad.c)
    to_gates = torch.cat([to_c * kept.u, to_c * kept.c, to_h * kept.bent], dim=-1)
    to_gates = torch.cat([aten.sigmoid_backward(to_gates, kept.gates), aten.tanh_backward(to_c * i, kept.u)], dim=-1)
    reads, h = torch.split(torch.mm(to_gates, weights.gating), [R * M, len(kept.h[0])], dim=-1)
    return State(reads, to_memory, h, to_c * f, before), (to_gates, to_told, strength)


class Steps(torch.autograd.Function):
    """All steps of a sequence: h [T, B, D], reads [T, B, R M], and where the heads looked [T, B, R + W, N].

    What is given: sizes; x [T, B, G], the inputs' share of the LSTM's gates; the parts of a State; those of Weights.
    """

    @staticmethod
    def forward(ctx: Any, sizes: Sizes, x: Float[Tensor, "T B G"], *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do them all."""
        state, weights = State(*(part.contiguous() for part in given[:5])), Weights(*given[5:])
        order = sizes.order()
        weights = weights._replace(
            telling=weights.telling[order], bias=weights.bias[order], strength=weights.strength.exp()
        )
        tracked = any(ctx.needs_input_grad)
        states, ctx.kept = [], []
        for at in x.unbind(0):
            state, kept = step(at, state, weights, sizes)
            states.append(state)
            if tracked:
                ctx.kept.append(kept)
        ctx.sizes, ctx.weights, ctx.order = sizes, weights, order
        h, reads, looked = (torch.stack([getattr(one, part) for one in states]) for part in ("h", "reads", "looked"))
        ctx.mark_non_differentiable(looked)
        return h, reads, looked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_h: Tensor, to_reads: Tensor, _: Tensor) -> Any:
        """Undo them, the last one first."""
        kept, sizes, found = ctx.kept, ctx.sizes, []
        nothing = torch.zeros_like(kept[-1].h)
        looked = to_h.new_zeros(len(nothing), sizes.readers + sizes.writers, kept[-1].memory.shape[2])
        state = State(torch.zeros_like(to_reads[0]), torch.zeros_like(kept[-1].memory), nothing, nothing, looked)
        for one, h, reads in zip(reversed(kept), reversed(to_h.unbind(0)), reversed(to_reads.unbind(0)), strict=True):
            state = state._replace(h=state.h + h, reads=state.reads + reads)
            state, gradients = step_back(state, one, ctx.weights, sizes)
            found.append(gradients)
        gates, told, strength = (torch.stack(parts[::-1]) for parts in zip(*found, strict=True))
        told = told[..., ctx.order.argsort()]
        seen, h = torch.cat([one.seen for one in kept]), torch.cat([one.h for one in kept])
        to_gating, to_telling = gates.flatten(0, 1).t() @ seen, told.flatten(0, 1).t() @ h
        return None, gates, *state, to_gating, to_telling, told.sum((0, 1)), strength.sum((0, 1))
