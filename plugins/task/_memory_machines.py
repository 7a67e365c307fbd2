"""What learns the memory's problems: the Neural Turing Machine, an LSTM, a Transformer."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, MakeAttention

from ._memory_by_hand import Sizes, Steps, Weights
from ._memory_compiled import CompiledSteps, library

Controller = Literal["lstm", "feedforward"]
Start = Literal["constant", "learned", "random"]

EARNED = 100_000  # steps of training, of all sequences, after which `compile=auto` compiles: as long as compiling takes


class State(NamedTuple):
    """What a step of a Neural Turing Machine hands to the next.

    Attributes:
        reads: [B, R], what was read.
        memory: [B, N, M].
        controller: h and c, both [B, H].
        looked: for each head the weights that it gave, None before the first step.
        queries: [B, t, H], all so far, for attention that goes by their place; else None.
    """

    reads: Tensor
    memory: Tensor
    controller: tuple[Tensor, Tensor]
    looked: tuple[Tensor | None, ...]
    queries: Tensor | None


class Trace(NamedTuple):
    """What a Neural Turing Machine did, step by step.

    Attributes:
        writings: [B, T, heads, N], where each write head wrote.
        readings: [B, T, heads, N], where each read head read.
        adds: [B, T, heads, M], what was added.
        reads: [B, T, R], what was read.
    """

    writings: Tensor
    readings: Tensor
    adds: Tensor
    reads: Tensor


def write(
    memory: Float[Tensor, "B N M"],
    weights: Float[Tensor, "B H N"],
    erase: Float[Tensor, "B H M"],
    add: Float[Tensor, "B H M"],
) -> Float[Tensor, "B N M"]:
    """Erase, then add, of all heads: memory Π_h (1 - w_h e_hᵀ) + Σ_h w_h a_hᵀ (eqs. 3 and 4)."""
    kept = memory
    for w, e in zip(torch.split(weights, 1, dim=1), torch.split(erase, 1, dim=1), strict=True):
        kept = torch.addcmul(kept, kept * w.mT, e, value=-1)
    return torch.baddbmm(kept, weights.mT, add)


class LSTM(nn.Module):
    """One step of an LSTM whose input is known in two parts: x beforehand, and what is read as it goes.

    i, f, o = sigmoid(W [x; r; h] + b); u = tanh(W' [x; r; h] + b')
    c = f c + i u; h = o tanh(c)

    The first state is learned, and weights begin uniform in ±5/sqrt(fan-in), both as in pytorch-ntm
    (github.com/loudinthecloud/pytorch-ntm, ntm/controller.py).
    """

    def __init__(self, inputs: int, read: int, hidden: int) -> None:
        super().__init__()
        self.x, self.rh = nn.Linear(inputs, 4 * hidden), nn.Linear(read + hidden, 4 * hidden, bias=False)
        bound = 5 / math.sqrt(inputs + read + hidden)
        for layer in (self.x, self.rh):
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.zeros_(self.x.bias)
        self.start = nn.Parameter(torch.zeros(2, hidden))
        self.hidden = hidden

    def begin(self, batch: int) -> tuple[Tensor, Tensor]:
        """Give the first state."""
        h, c = self.start.unsqueeze(1).expand(-1, batch, -1)
        return h, c

    def forward(
        self, x: Float[Tensor, "B G"], read: Float[Tensor, "B R"], state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Step; `x` has been through `self.x`."""
        h, c = state
        gates = torch.addmm(x, torch.cat([read, h], dim=-1), self.rh.weight.t())
        opened, u = torch.split(gates, [3 * self.hidden, self.hidden], dim=-1)
        i, f, o = torch.sigmoid(opened).chunk(3, dim=-1)
        c = torch.addcmul(f * c, i, torch.tanh(u))
        return o * torch.tanh(c), c


class FeedForward(nn.Module):
    """h = tanh(W [x; r] + b): a controller that remembers nothing by itself."""

    def __init__(self, inputs: int, read: int, hidden: int) -> None:
        super().__init__()
        self.x, self.r = nn.Linear(inputs, hidden), nn.Linear(read, hidden, bias=False)
        self.hidden = hidden

    def begin(self, batch: int) -> tuple[Tensor, Tensor]:
        """Give a state of nothing."""
        nothing = self.r.weight.new_zeros(batch, 0)
        return nothing, nothing

    def forward(
        self, x: Float[Tensor, "B G"], read: Float[Tensor, "B R"], state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Step; `x` has been through `self.x`."""
        h = torch.tanh(torch.addmm(x, read, self.r.weight.t()))
        return h, state[1]


class WriteHead(nn.Module):
    """erase = sigmoid(W h), add = tanh(W' h)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, 2 * width)
        nn.init.xavier_uniform_(self.project.weight, gain=1.4)
        nn.init.normal_(self.project.bias, std=0.01)

    def forward(self, h: Float[Tensor, "B T H"]) -> tuple[Float[Tensor, "B T M"], Float[Tensor, "B T M"]]:
        """Say what to erase and what to add."""
        erase, add = self.project(h).chunk(2, dim=-1)
        return torch.sigmoid(erase), torch.tanh(add)


Step = Callable[[Tensor, State], State]


def compiled(step: Step, x: Float[Tensor, "B G"], state: State) -> Step:
    """Compile a step, forward and backward, by a trial on these tensors; where that fails, say so and give the step.

    Whether there is a C++ compiler, and whether it takes the attention module, shows only in trying.
    """
    torch.compiler.reset()  # the machines before in this process, of which it would keep no more than eight
    quick: Step = torch.compile(step, fullgraph=True, dynamic=False)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what the compiler does to others' code
            start = apart((x, state))
            found = [tensor for tensor in flat(quick(*start)) if tensor.requires_grad]
            given = [tensor for tensor in flat(start) if tensor.requires_grad]
            torch.autograd.grad(found, given, [torch.ones_like(tensor) for tensor in found], allow_unused=True)
    except Exception as error:  # whatever the compiler trips over
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        print(f"memory: the step cannot be compiled and runs as it is ({reason})", file=sys.stderr)
        return step
    return quick


def apart(nested: Any) -> Any:
    """Give the same tensors without where they come from, in the same tuples."""
    if isinstance(nested, tuple):
        parts = [apart(part) for part in nested]
        return type(nested)(*parts) if hasattr(nested, "_fields") else tuple(parts)
    return None if nested is None else nested.detach().requires_grad_(nested.requires_grad)


def flat(nested: Any) -> list[Tensor]:
    """Give the tensors in tuples of tuples."""
    if isinstance(nested, tuple):
        return [tensor for part in nested for tensor in flat(part)]
    return [] if nested is None else [nested]


class TuringMachine(nn.Module):
    """A controller with a memory that attention reads and writes (Graves, Wayne, Danihelka 2014, arXiv:1410.5401).

    h_t = controller(x_t, what was read at t - 1)
    read heads:  r = attention(h_t; keys and values: the rows of the memory)
    write heads: w = the weights of attention(h_t; the rows); erase, then add
    logits_t = linear([h_t; r_t])

    Each head has an attention module of its own. Write heads need its weights, of which a module with several heads
    gives the mean.

    Args:
        make_attention: fills each head's slot.
        inputs: channels read.
        outputs: channels written.
        controller: lstm, or feedforward, which remembers nothing by itself.
        controller_dim: the width of its state.
        rows: N, of the memory.
        width: M, of a row.
        read_heads: how many heads read.
        write_heads: how many heads write.
        start: what the memory holds at first: 1e-6 everywhere (Collier and Beel 2018), learned rows, or noise.
        write_first: whether a step writes before it reads.
        eval_rows: rows when not in training; null takes as many.
        compiling: whether steps are compiled: all at once where `CompiledSteps` knows the heads, else one, in training,
            with "auto" from step EARNED on.

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
        eval_rows: int | None,
        compiling: bool | str,
    ) -> None:
        super().__init__()
        if min(controller_dim, rows, width, read_heads, write_heads, rows if eval_rows is None else eval_rows) < 1:
            raise ValueError("controller_dim, rows, width, read_heads, write_heads and eval_rows are at least 1")
        if start == "learned" and eval_rows is not None:
            raise ValueError("start=learned learns `rows` rows; with eval_rows the memory starts constant or random")
        self.rows, self.eval_rows, self.width, self.start, self.write_first = rows, eval_rows, width, start, write_first
        self.compiling = compiling
        self.compiled: Step | None = None
        self.batch = 0  # examples in a batch that the compiled step takes
        self.trained: Tensor
        self.register_buffer("trained", torch.tensor(0))  # steps by modules; a resumed run compiles when it would have
        make = (make_attention(controller_dim, width, width) for _ in range(read_heads + write_heads))
        self.heads = nn.ModuleList(make)
        if not all(head.has_weights for head in self.attentions()):
            raise ValueError("this attention has no weights, and without weights there is nowhere to write")
        read = sum(head.out_dim for head in self.attentions()[:read_heads])
        self.read_heads, self.read = read_heads, read
        kind = LSTM if controller == "lstm" else FeedForward
        self.controller = kind(inputs, read, controller_dim)
        self.writers = nn.ModuleList(WriteHead(controller_dim, width) for _ in range(write_heads))
        self.out = nn.Linear(controller_dim + read, outputs)
        if start == "learned":
            self.memory = nn.Parameter(torch.randn(rows, width) / math.sqrt(rows + width))

    def attentions(self) -> list[Attention]:
        """Give the heads' attention modules, those that read first."""
        return [head for head in self.heads if isinstance(head, Attention)]

    def fresh(self, like: Tensor) -> Float[Tensor, "B N M"]:
        """Give the memory at the start."""
        if self.start == "learned":
            return self.memory.expand(len(like), -1, -1)
        rows = self.rows if self.training or self.eval_rows is None else self.eval_rows
        if self.start == "constant":
            return like.new_full((len(like), rows, self.width), 1e-6)
        bound = 1 / math.sqrt(rows + self.width)
        return like.new_empty(len(like), rows, self.width).uniform_(-bound, bound)

    def forward(self, inputs: Float[Tensor, "B T I"]) -> Float[Tensor, "B T O"]:
        """Give the logits at every step."""
        if (steps := self.at_once(inputs)) is not None:
            h, reads, _ = self.whole(inputs, steps)
            return self.logits(h, reads)
        found = zip(*((state.controller[0], state.reads) for state in self.states(inputs)), strict=True)
        return self.logits(*(torch.stack(parts, dim=1) for parts in found))

    def run(self, inputs: Float[Tensor, "B T I"]) -> tuple[Float[Tensor, "B T O"], Trace]:
        """Give the logits at every step, and what was done."""
        if (steps := self.at_once(inputs)) is not None:
            h, reads, looked = self.whole(inputs, steps)
        else:
            found = [
                (state.controller[0], state.reads, torch.cat([overall(weights) for weights in state.looked], dim=1))
                for state in self.states(inputs)
            ]
            h, reads, looked = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))
        readings, writings = looked.tensor_split([self.read_heads], dim=2)
        adds = torch.stack([writer(h)[1] for writer in self.writers], dim=2)
        return self.logits(h, reads), Trace(writings, readings, adds, reads)

    def at_once(self, inputs: Tensor) -> type[Steps] | type[CompiledSteps] | None:
        """Give what may do all steps as one operation, where the heads are ones that it knows and no hook sees them."""
        heads: list[Any] = list(self.heads)
        if not (
            isinstance(self.controller, LSTM)
            and all(is_shipped(head, "attention.ntm.NTM") for head in heads)
            and all(is_shipped(head.score, "scoring.cosine.Cosine") for head in heads)
            and heads[0].parts[3] // 2 <= min(self.rows, self.eval_rows or self.rows)
            and not any(module._forward_hooks or module._forward_pre_hooks for module in self.modules())
            and not torch.is_autocast_enabled(inputs.device.type)
        ):
            return None
        in_c = inputs.device.type == "cpu" and inputs.dtype == torch.float32
        if self.compiling and in_c and library() is not None:
            return CompiledSteps
        return None if self.compiling is True and not in_c else Steps

    def whole(
        self, inputs: Float[Tensor, "B T I"], steps: type[Steps] | type[CompiledSteps]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do all steps: give h [B, T, H], what was read [B, T, R], and where the heads looked [B, T, heads, N]."""
        controller: Any = self.controller
        heads: list[Any] = list(self.heads)
        writers: list[Any] = list(self.writers)
        sizes = Sizes(self.read_heads, len(writers), self.width, heads[0].parts[3], self.write_first)
        layers = [*(head.head for head in heads), *(writer.project for writer in writers)]
        weights = Weights(
            controller.rh.weight,
            torch.cat([layer.weight for layer in layers]),
            torch.cat([layer.bias for layer in layers]),
            torch.stack([head.score.log_beta for head in heads]).unsqueeze(-1),
        )
        x, memory = self.controller.x(inputs).transpose(0, 1), self.fresh(inputs).mT
        reads, looked = inputs.new_zeros(len(inputs), self.read), x.new_zeros(len(inputs), len(heads), memory.shape[2])
        looked[..., 0] = 1
        found = steps.apply(sizes, x, reads, memory, *self.controller.begin(len(inputs)), looked, *weights)  # type: ignore[no-untyped-call]
        h, reads, looked = (part.transpose(0, 1) for part in found)
        return h, reads, looked

    def logits(self, h: Float[Tensor, "B T H"], reads: Float[Tensor, "B T R"]) -> Float[Tensor, "B T O"]:
        """Write."""
        written: Tensor = self.out(torch.cat([h, reads], dim=-1))
        return written

    def states(self, inputs: Float[Tensor, "B T I"]) -> Iterator[State]:
        """Do all steps: the first as it is, for no head has looked yet, the others by the compiled step if there is."""
        if self.training:
            self.trained += inputs.shape[1]
        x = self.controller.x(inputs).transpose(0, 1)
        steps = x.clone(memory_format=torch.contiguous_format)  # laid out alike, however many there are, and of whom
        reads, nothing = inputs.new_zeros(len(inputs), self.read), (None,) * len(self.heads)
        memory = self.fresh(inputs).requires_grad_(torch.is_grad_enabled())  # as any later one: all steps are alike
        state = self.step(steps[0], State(reads, memory, self.controller.begin(len(inputs)), nothing, None))
        yield state
        step = self.quick(steps[0], state)
        for x in steps[1:]:
            state = step(x, state)
            yield state

    def step(self, x: Float[Tensor, "B G"], state: State) -> State:
        """Do a step; `x` has been through `self.controller.x`."""
        controller = self.controller(x, state.reads, state.controller)
        query, queries, looked = controller[0].unsqueeze(1), None, list(state.looked)
        if self.attentions()[0].positional:
            query = queries = query if state.queries is None else torch.cat([state.queries, query], dim=1)
        if self.write_first:
            memory = self.write(controller[0], query, state.memory, looked)
            reads = self.look(query, memory, looked)
        else:
            reads = self.look(query, state.memory, looked)
            memory = self.write(controller[0], query, state.memory, looked)
        return State(reads, memory, controller, tuple(looked), queries)

    def quick(self, x: Float[Tensor, "B G"], state: State) -> Step:
        """Give the step, compiled once that pays: in training only, for batches of the size that came first."""
        if not self.training or not self.compilable or (self.compiling == "auto" and self.trained < EARNED):
            return self.step
        if self.compiled is None:
            self.compiled, self.batch = compiled(self.step, x, state), len(x)
        return self.compiled if len(x) == self.batch else self.step

    @property
    def compilable(self) -> bool:
        """Tell whether the step may be compiled: wanted, of one shape whatever came before, and seen by no hook."""
        heads = self.attentions()
        return bool(self.compiling) and not any(head.positional or head.penalized for head in heads)

    def attend(self, number: int, query: Tensor, memory: Tensor, looked: list[Tensor | None]) -> Float[Tensor, "B D"]:
        """Let a head look; remember where."""
        head = self.heads[number]
        context, weights = head(query, memory, memory, previous=looked[number])
        if query.shape[1] > 1:
            context, weights = context[:, -1:], weights[:, :, -1:]
        looked[number] = weights
        seen: Tensor = context.squeeze(1)
        return seen

    def look(self, query: Tensor, memory: Tensor, looked: list[Tensor | None]) -> Float[Tensor, "B R"]:
        """Read with every read head."""
        return side_by_side([self.attend(n, query, memory, looked) for n in range(self.read_heads)], -1)

    def write(self, h: Tensor, query: Tensor, memory: Tensor, looked: list[Tensor | None]) -> Float[Tensor, "B N M"]:
        """Write with every write head, all knowing the memory before; give the memory after."""
        for number in range(self.read_heads, len(self.heads)):
            self.attend(number, query, memory, looked)
        erase, add = zip(*(writer(h.unsqueeze(1)) for writer in self.writers), strict=True)
        places = [overall(weights) for weights in looked[self.read_heads :]]
        return write(memory, *(side_by_side(parts, 1) for parts in (places, erase, add)))


def is_shipped(module: nn.Module, name: str) -> bool:
    """Tell whether a module is of exactly this class of attnbench's own plugins."""
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}" == f"attnbench.plugins.{name}"


def overall(weights: Float[Tensor, "B H 1 N"] | None) -> Float[Tensor, "B 1 N"]:
    """Give a module's weights: of its several heads, the mean."""
    assert weights is not None
    return weights.squeeze(1) if weights.shape[1] == 1 else weights.mean(dim=1)


def side_by_side(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenate; one part is what it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


class PlainLSTM(nn.Module):
    """The baseline: an LSTM, and a linear layer."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, inputs: Float[Tensor, "B T I"]) -> Float[Tensor, "B T O"]:
        """Give the logits at every step."""
        logits: Tensor = self.out(self.lstm(inputs)[0])
        return logits


def lstm_like(parameters: int, inputs: int, outputs: int) -> PlainLSTM:
    """Make the LSTM whose number of parameters is nearest to this."""

    def count(hidden: int) -> int:
        return 4 * hidden * (hidden + inputs + 2) + outputs * (hidden + 1)

    around = max(1, math.isqrt(parameters // 4))
    hidden = min(range(1, around + 1), key=lambda width: abs(count(width) - parameters))
    return PlainLSTM(inputs, outputs, hidden)


class Block(nn.Module):
    """x = x + W attention(x' = norm(x)); x = x + feed-forward(norm(x))."""

    def __init__(self, make_attention: MakeAttention, width: int) -> None:
        super().__init__()
        self.attention = make_attention(width, width, width)
        self.context = nn.Linear(self.attention.out_dim, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "B T D"], mask: Tensor) -> Float[Tensor, "B T D"]:
        """Mix what is allowed."""
        seen = self.norms[0](x)
        x = x + self.context(self.attention(seen, seen, seen, mask, need_weights=False)[0])
        mixed: Tensor = x + self.feed(self.norms[1](x))
        return mixed


class Transformer(nn.Module):
    """Blocks of causal attention, and waves that tell the place (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, make_attention: MakeAttention, inputs: int, outputs: int, width: int, layers: int) -> None:
        super().__init__()
        if width < 2 or width % 2 or layers < 1:
            raise ValueError(f"width is even and layers at least 1, not {width} and {layers}")
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(Block(make_attention, width) for _ in range(layers))
        if any(block.attention.recurrent for block in self.blocks if isinstance(block, Block)):
            raise ValueError(
                "task.machine=transformer asks all its queries at once, and this attention one after the other: "
                "choose another, such as attention=multihead scoring=scaled_dot"
            )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, inputs: Float[Tensor, "B T I"]) -> Float[Tensor, "B T O"]:
        """Give the logits at every step."""
        steps = inputs.shape[1]
        x = self.embed(inputs)
        x = x + waves(steps, x.shape[-1]).to(x)
        mask = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril().expand(len(x), -1, -1)
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.out(self.norm(x))
        return logits


def waves(steps: int, width: int) -> Float[Tensor, "T D"]:
    """Sines and cosines of the place, of wavelengths from 2π to 20,000π."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(steps).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
