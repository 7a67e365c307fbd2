"""The Neural Turing Machine: a controller, and heads that read and write a memory wherever attention says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, MakeAttention, has_hooks
from attnbench.hosts import Unrolled, attend_next

from .compiled import HeadParameters, head_parameters, library, sequence
from .controllers import LSTM, FeedForward

Controller = Literal["lstm", "feedforward"]
Start = Literal["constant", "learned", "random"]


class State(NamedTuple):
    """What a step of the machine hands to the next.

    Attributes:
        reads: [B, R], what was read.
        memory: [B, N, M].
        controller: h and c, both [B, D].
        heads: of each head its last weights, and its queries so far if it needs them.
    """

    reads: Tensor
    memory: Tensor
    controller: tuple[Tensor, Tensor]
    heads: tuple[Unrolled, ...]


class Trace(NamedTuple):
    """What the machine did, step by step.

    Attributes:
        write_weights: [B, T, heads, N], where each write head wrote.
        read_weights: [B, T, heads, N], where each read head read.
        adds: [B, T, heads, M], what was added.
        reads: [B, T, R], what was read.
    """

    write_weights: Tensor
    read_weights: Tensor
    adds: Tensor
    reads: Tensor


class WriteHead(nn.Module):
    """erase = sigmoid(W h + b), add = tanh(W' h + b')."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, 2 * width)
        nn.init.xavier_uniform_(self.project.weight, gain=1.4)
        nn.init.normal_(self.project.bias, std=0.01)

    def forward(self, h: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T M"], Float[Tensor, "B T M"]]:
        """Return what to erase and what to add."""
        erase, add = self.project(h).chunk(2, dim=-1)
        return torch.sigmoid(erase), torch.tanh(add)


def write(
    memory: Float[Tensor, "B N M"],
    weights: Float[Tensor, "B H N"],
    erase: Float[Tensor, "B H M"],
    add: Float[Tensor, "B H M"],
) -> Float[Tensor, "B N M"]:
    """Erase, then add, with all heads: memory Π_h (1 - w_h e_hᵀ) + Σ_h w_h a_hᵀ (eqs. 3 and 4)."""
    erased = memory
    for w, e in zip(torch.split(weights, 1, dim=1), torch.split(erase, 1, dim=1), strict=True):
        erased = torch.addcmul(erased, erased * w.mT, e, value=-1)
    return torch.baddbmm(erased, weights.mT, add)


class TuringMachine(nn.Module):
    """A controller with a memory that attention reads and writes (Graves, Wayne, Danihelka 2014, arXiv:1410.5401).

        x_t ──> controller ──> h_t ──┬──> read heads:  r_t = attention(h_t; the rows of the memory)
                    ^                ├──> write heads: w = its weights; memory = erase, then add
                    └── r_(t-1)      └──> logits_t = linear([h_t; r_t])

    Each head has an attention module of its own, whose keys and values are the rows of the memory. Write heads need
    its weights; of a module with several heads they take the mean.

    Args:
        make_attention: fills each head's slot.
        inputs: channels read.
        outputs: channels written.
        controller, controller_dim, rows, width, read_heads, write_heads, start, write_first, write_shift_bias,
            eval_rows, compile: as the task has them; D is controller_dim, N rows and M width. A constant start is
            Collier and Beel's (2018).

    Raises ValueError when a size is not positive, learned rows are to be of two numbers, or the attention has no
    weights to write with.
    """

    def __init__(
        self,
        make_attention: MakeAttention,
        inputs: int,
        outputs: int,
        *,
        controller: Controller,
        controller_dim: int,
        rows: int,
        width: int,
        read_heads: int,
        write_heads: int,
        start: Start,
        write_first: bool,
        write_shift_bias: float,
        eval_rows: int | None,
        compile: bool,  # noqa: A002 (the word on the command line)
    ) -> None:
        super().__init__()
        if min(controller_dim, rows, width, read_heads, write_heads, rows if eval_rows is None else eval_rows) < 1:
            raise ValueError("controller_dim, rows, width, read_heads, write_heads and eval_rows are at least 1")
        if start == "learned" and eval_rows is not None:
            raise ValueError("start=learned learns `rows` rows; with eval_rows the memory starts constant or random")
        self.rows, self.eval_rows, self.width, self.start, self.write_first = rows, eval_rows, width, start, write_first
        self.compile_steps = compile
        make = (make_attention(controller_dim, width, width) for _ in range(read_heads + write_heads))
        self.heads = nn.ModuleList(make)
        if not all(head.has_weights for head in self.attentions()):
            raise ValueError("this attention has no weights, and without weights there is nowhere to write")
        self.read_heads = read_heads
        for head in self.attentions()[read_heads:]:
            bias_shift(head, width, write_shift_bias)
        self.read_dim = sum(head.out_dim for head in self.attentions()[:read_heads])
        kind = LSTM if controller == "lstm" else FeedForward
        self.controller = kind(inputs, self.read_dim, controller_dim)
        self.writers = nn.ModuleList(WriteHead(controller_dim, width) for _ in range(write_heads))
        self.out = nn.Linear(controller_dim + self.read_dim, outputs)
        if start == "learned":
            self.memory = nn.Parameter(torch.randn(rows, width) / math.sqrt(rows + width))

    def attentions(self) -> list[Attention]:
        """Return the heads' attention modules, those that read first."""
        return [head for head in self.heads if isinstance(head, Attention)]

    def initial_memory(self, like: Tensor) -> Float[Tensor, "B N M"]:
        """Return the memory at the start, one for each of `like`, with its dtype and device."""
        if self.start == "learned":
            return self.memory.expand(len(like), -1, -1)
        rows = self.rows if self.training or self.eval_rows is None else self.eval_rows
        if self.start == "constant":
            return like.new_full((len(like), rows, self.width), 1e-6)
        bound = 1 / math.sqrt(rows + self.width)
        return like.new_empty(len(like), rows, self.width).uniform_(-bound, bound)

    def forward(self, inputs: Float[Tensor, "B T I"]) -> Float[Tensor, "B T O"]:
        """Return the logits at every step."""
        h, reads, _ = self.unroll(inputs)
        return self.logits(h, reads)

    def run(self, inputs: Float[Tensor, "B T I"]) -> tuple[Float[Tensor, "B T O"], Trace]:
        """Return the logits at every step, and what was done."""
        h, reads, weights = self.unroll(inputs)
        read_weights, write_weights = weights.tensor_split([self.read_heads], dim=2)
        adds = torch.stack([writer(h)[1] for writer in self.writers], dim=2)
        return self.logits(h, reads), Trace(write_weights, read_weights, adds, reads)

    def logits(self, h: Float[Tensor, "B T D"], reads: Float[Tensor, "B T R"]) -> Float[Tensor, "B T O"]:
        """Return the logits of states and of what was read."""
        logits: Tensor = self.out(torch.cat([h, reads], dim=-1))
        return logits

    def unroll(
        self, inputs: Float[Tensor, "B T I"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T R"], Float[Tensor, "B T H N"]]:
        """Return the controller's states, what was read, and every head's weights."""
        memory = self.initial_memory(inputs)
        if isinstance(self.controller, LSTM) and (heads := self.in_c(memory)) is not None:
            layers = [writer.project for writer in self.writers if isinstance(writer, WriteHead)]
            x, start = self.controller.x(inputs), self.controller.begin(len(inputs))
            return sequence(x, start, memory, self.controller.rh.weight, heads, layers, self.write_first)
        states = [
            (state.controller[0], state.reads, torch.cat([head_mean(head) for head in state.heads], dim=1))
            for state in self.states(inputs, memory)
        ]
        h, reads, weights = (torch.stack(parts, dim=1) for parts in zip(*states, strict=True))
        return h, reads, weights

    def in_c(self, memory: Float[Tensor, "B N M"]) -> HeadParameters | None:
        """Return the heads' parameters where an LSTM's sequence can run in C, else None.

        It can in float32 on a CPU, if all heads offer their parameters, no hook has to see a module's call, and there
        is a C compiler.
        """
        if not self.compile_steps or memory.device.type != "cpu" or memory.dtype != torch.float32:
            return None
        if torch.is_autocast_enabled("cpu") or any(has_hooks(module) for module in self.modules()):
            return None
        heads = head_parameters(self.attentions())
        if heads is None or heads.shifts(self.width) // 2 > memory.shape[1] or library() is None:
            return None
        return heads

    def states(self, inputs: Float[Tensor, "B T I"], memory: Float[Tensor, "B N M"]) -> Iterator[State]:
        """Do all steps by the modules."""
        reads, heads = inputs.new_zeros(len(inputs), self.read_dim), (Unrolled(),) * len(self.heads)
        state = State(reads, memory, self.controller.begin(len(inputs)), heads)
        for x in self.controller.x(inputs).unbind(1):
            state = self.step(x, state)
            yield state

    def step(self, x: Float[Tensor, "B G"], state: State) -> State:
        """Do a step; `x` has been through `self.controller.x`."""
        controller, heads = self.controller(x, state.reads, state.controller), list(state.heads)
        h = controller[0].unsqueeze(1)
        if self.write_first:
            memory = self.write(h, state.memory, heads)
            reads = self.read(h, memory, heads)
        else:
            reads = self.read(h, state.memory, heads)
            memory = self.write(h, state.memory, heads)
        return State(reads, memory, controller, tuple(heads))

    def attend(self, number: int, h: Tensor, memory: Tensor, heads: list[Unrolled]) -> Float[Tensor, "B D"]:
        """Return what a head sees; what it has to know at the next step replaces what it knew.

        Nothing is prepared: each head projects rows with a module of its own, once between two changes of the memory.
        """
        head: Any = self.heads[number]
        context, heads[number] = attend_next(head, h, memory, memory, None, heads[number])
        return context.squeeze(1)

    def read(self, h: Float[Tensor, "B 1 D"], memory: Tensor, heads: list[Unrolled]) -> Float[Tensor, "B R"]:
        """Read with every read head."""
        return side_by_side([self.attend(n, h, memory, heads) for n in range(self.read_heads)], -1)

    def write(self, h: Float[Tensor, "B 1 D"], memory: Tensor, heads: list[Unrolled]) -> Float[Tensor, "B N M"]:
        """Write with every write head, all of which see the memory before; return the memory after."""
        for number in range(self.read_heads, len(self.heads)):
            self.attend(number, h, memory, heads)
        erase, add = zip(*(writer(h) for writer in self.writers), strict=True)
        weights = [head_mean(head) for head in heads[self.read_heads :]]
        return write(memory, *(side_by_side(parts, 1) for parts in (weights, erase, add)))


def bias_shift(head: Attention, width: int, bias: float) -> None:
    """Add to what a head's bias gives the shift by one row at the start, if it has one."""
    offer = head.kernel("ntm")
    if offer is not None and (shifts := len(offer["bias"]) - width - 3) > 1:  # of k, β, g, s, γ
        with torch.no_grad():
            offer["bias"][width + 2 + shifts // 2 - 1] += bias


def head_mean(head: Unrolled) -> Float[Tensor, "B 1 N"]:
    """Return an attention module's last weights: of several heads, the mean."""
    assert head.weights is not None
    return head.weights.squeeze(1) if head.weights.shape[1] == 1 else head.weights.mean(dim=1)


def side_by_side(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Return the parts concatenated; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)
