"""The Neural Turing Machine over a whole sequence, in C: `steps.c`, compiled when a run first needs it.

For float32 on a CPU, several times as fast as the modules, which are its reference. Compiling takes two seconds, each
time anew.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence as Parts
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnbench import Attention

FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")
SIZES = "T B D N M R W S write_first keep"
ARRAYS = (
    "x gate_w gate_w_t head_w head_w_t bias strength "
    "reads h c weights memory norm gates params similarity content shifted "
    "d_h d_reads d_gates d_params d_strength d_reads_0 d_h_0 d_c_0 d_weights_0 d_memory_0"
)
STATE = ("reads", "h", "c", "weights", "memory")  # what a step hands to the next


class Sequence(ctypes.Structure):
    """The only argument of the functions in C; `steps.c` says what each number and array is."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES.split()),
        *((name, ctypes.c_void_p) for name in ARRAYS.split()),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library; where compiling fails, say so, once, and return None."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "cc")
    source = Path(__file__).with_name("steps.c")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "steps.so"
        command = [*compiler.split(), *FLAGS, "-shared", "-fPIC", str(source), "-o", str(target), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            return ctypes.CDLL(str(target))
        except (OSError, subprocess.CalledProcessError) as error:
            message = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
            reason = next(iter(message.strip().splitlines()), str(error))
            print(
                "memory: the steps cannot be compiled, and training takes 4 to 20 times as long: install a C compiler, "
                f"or name it in $CC ({reason})",
                file=sys.stderr,
            )
            return None


class HeadParameters(NamedTuple):
    """What the attention modules of all heads compute with.

    Attributes:
        weights: of each head [M + 3 + S, D].
        biases: of each head [M + 3 + S].
        log_strengths: of each head the logarithm of the scoring function's own factor on β.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    log_strengths: list[Tensor]

    def shifts(self, width: int) -> int:
        """Return S, how many shifts a head chooses from, where rows are M = `width` wide."""
        return len(self.biases[0]) - width - 3


def head_parameters(heads: Parts[Attention]) -> HeadParameters | None:
    """Return the heads' parameters where all offer the kernel `ntm` with a score that offers `cosine`, else None."""
    ntm = [offer for head in heads if (offer := head.kernel("ntm")) is not None]
    cosine = [offer for head in ntm if (offer := head["score"].kernel("cosine")) is not None]
    if len(cosine) < len(heads):
        return None
    weights, biases = [head["weight"] for head in ntm], [head["bias"] for head in ntm]
    return HeadParameters(weights, biases, [score["log_beta"] for score in cosine])


def sequence(
    x: Float[Tensor, "B T G"],
    controller: tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]],
    memory: Float[Tensor, "B N M"],
    gate_w: Float[Tensor, "G _"],
    heads: HeadParameters,
    writers: list[nn.Linear],
    write_first: bool,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T R"], Float[Tensor, "B T H N"]]:
    """Return the controller's states, what was read, and every head's weights.

    Args:
        x: the inputs' share of the LSTM's gates.
        controller: its first state, h and c.
        memory: at the start.
        gate_w: of the LSTM's gates: what was read, then h.
        heads: those that read, then those that write.
        writers: of each write head the layer whose outputs become erase and add.
        write_first: whether a step writes before it reads.
    """
    B, N, M = memory.shape
    H, W = len(heads.weights), len(writers)
    weights = x.new_zeros(B, H, N)
    weights[..., 0] = 1
    h, reads, weights = Steps.apply(  # type: ignore[no-untyped-call]
        (H - W, W, heads.shifts(M), write_first),
        x.transpose(0, 1),
        x.new_zeros(B, (H - W) * M),
        *controller,
        weights,
        memory.mT,
        gate_w,
        torch.cat([*heads.weights, *(layer.weight for layer in writers)]),
        torch.cat([*heads.biases, *(layer.bias for layer in writers)]),
        torch.stack(heads.log_strengths),
    )
    return h.transpose(0, 1), reads.transpose(0, 1), weights.transpose(0, 1)


def call(name: str, sizes: dict[str, int], arrays: dict[str, Tensor]) -> None:
    """Call a function of the library on contiguous float32 arrays."""
    argument = Sequence(**sizes, **{key: array.data_ptr() for key, array in arrays.items()})
    if getattr(library(), name)(ctypes.byref(argument)):
        raise MemoryError("no memory for a step's scratch numbers")


class Steps(torch.autograd.Function):
    """All steps of a sequence: h [T, B, D], reads [T, B, R M], and the heads' weights [T, B, H, N].

    Arguments: R, W, S and write_first; x [T, B, G]; the first state: reads [B, R M], h and c [B, D], weights [B, H, N],
    memory [B, M, N]; gate_w [G, R M + D]; of all heads and writers head_w [O, D] and bias [O]; log_strength [H].
    """

    @staticmethod
    def forward(
        ctx: Any, numbers: tuple[int, int, int, bool], x: Float[Tensor, "T B G"], *args: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do them all."""
        state, (gate_w, head_w, bias, log_strength) = dict(zip(STATE, args[:5], strict=True)), args[5:]
        (T, B, G), (H, N), (O, D) = x.shape, state["weights"].shape[1:], head_w.shape  # noqa: E741
        M, R = state["memory"].shape[1], numbers[0]
        keep = any(ctx.needs_input_grad)
        K = T if keep else 1
        room = {
            "reads": (T + 1, B, R * M),
            "h": (T + 1, B, D),
            "c": (T + 1, B, D),
            "weights": (T + 1, B, H, N),
            "memory": (K + 1, B, M, N),
            "norm": (K + 1, B, N),
            "gates": (K, B, G),
            "params": (K, B, O),
            "similarity": (K, B, H, N),
            "content": (K, B, H, N),
            "shifted": (K, B, H, N),
        }
        arrays = {name: x.new_empty(shape) for name, shape in room.items()}
        for name, first in state.items():
            arrays[name][0] = first
        arrays |= {
            "x": x.contiguous(),
            "gate_w": gate_w.contiguous(),
            "gate_w_t": gate_w.t().contiguous(),
            "head_w": head_w.contiguous(),
            "head_w_t": head_w.t().contiguous(),
            "bias": bias.contiguous(),
            "strength": log_strength.exp(),
        }
        ctx.sizes = dict(zip(SIZES.split(), map(int, (T, B, D, N, M, *numbers, keep)), strict=True))
        call("forward", ctx.sizes, arrays)
        ctx.arrays = arrays if keep else {}
        h, reads, weights = (arrays[name][1:] for name in ("h", "reads", "weights"))
        ctx.mark_non_differentiable(weights)
        return h, reads, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_h: Tensor, d_reads: Tensor, _: Tensor) -> Any:
        """Undo them, the last one first."""
        saved = ctx.arrays
        d_state = {f"d_{name}_0": torch.zeros_like(saved[name][0]) for name in STATE}
        d_gates, d_params = torch.empty_like(saved["gates"]), torch.empty_like(saved["params"])
        d_strength = torch.zeros_like(saved["strength"])
        results = {"d_gates": d_gates, "d_params": d_params, "d_strength": d_strength}
        inputs = {"d_h": d_h.contiguous(), "d_reads": d_reads.contiguous()}
        call("backward", ctx.sizes, {**saved, **inputs, **results, **d_state})
        seen, h = torch.cat([saved["reads"][:-1], saved["h"][:-1]], dim=-1), saved["h"][1:]
        d_gate_w = d_gates.flatten(0, 1).t() @ seen.flatten(0, 1)
        d_head_w = d_params.flatten(0, 1).t() @ h.flatten(0, 1)
        return None, d_gates, *d_state.values(), d_gate_w, d_head_w, d_params.sum((0, 1)), d_strength
