"""The Neural Turing Machine over a whole sequence, in C: `_memory_steps.c`, compiled where a run first needs it.

What `_memory_by_hand.py` does for float32 on a CPU, ten times as fast. Compiling takes two seconds, each time anew.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._memory_by_hand import Sizes, State, Weights

FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")
SIZES = "T B D N M R W S write_first every"
ARRAYS = (
    "x gating gating_t telling telling_t bias strength "
    "reads h c looked memory norm gates told likeness content shifted "
    "to_h to_reads to_gates to_told to_strength to_reads_0 to_h_0 to_c_0 to_looked_0 to_memory_0"
)


class Sequence(ctypes.Structure):
    """What the functions in C take; there it says what each number and array is."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES.split()),
        *((name, ctypes.c_void_p) for name in ARRAYS.split()),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Compile; where that fails, say so, once, and give None."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "cc")
    source = Path(__file__).with_name("_memory_steps.c")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "steps.so"
        command = [*compiler.split(), *FLAGS, "-shared", "-fPIC", str(source), "-o", str(made), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            return ctypes.CDLL(str(made))
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
            reason = next(iter(said.strip().splitlines()), str(error))
            print(f"memory: the steps cannot be compiled, and take several times as long ({reason})", file=sys.stderr)
            return None


def call(name: str, sizes: dict[str, int], arrays: dict[str, Tensor]) -> None:
    """Call a function of the library on contiguous float32 arrays."""
    given = Sequence(**sizes, **{key: array.data_ptr() for key, array in arrays.items()})
    if getattr(library(), name)(ctypes.byref(given)):
        raise MemoryError("no memory for a step's scratch numbers")


class CompiledSteps(torch.autograd.Function):
    """All steps of a sequence: h [T, B, D], reads [T, B, R M], and where the heads looked [T, B, R + W, N].

    What is given: sizes; x [T, B, G], the inputs' share of the LSTM's gates; the parts of a State; those of Weights.
    """

    @staticmethod
    def forward(ctx: Any, sizes: Sizes, x: Float[Tensor, "T B G"], *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do them all."""
        state, weights = State(*given[:5]), Weights(*given[5:])
        (T, B, G), (H, N), M = x.shape, state.looked.shape[1:], sizes.width
        every = any(ctx.needs_input_grad)
        O, kept = len(weights.bias), T if every else 1  # noqa: E741
        room = {
            "reads": (T + 1, B, sizes.readers * M),
            "h": (T + 1, B, G // 4),
            "c": (T + 1, B, G // 4),
            "looked": (T + 1, B, H, N),
            "memory": (kept + 1, B, M, N),
            "norm": (kept + 1, B, N),
            "gates": (kept, B, G),
            "told": (kept, B, O),
            "likeness": (kept, B, H, N),
            "content": (kept, B, H, N),
            "shifted": (kept, B, H, N),
        }
        arrays = {name: x.new_empty(shape) for name, shape in room.items()}
        for name, part in state._asdict().items():
            arrays[name][0] = part
        arrays |= {
            "x": x.contiguous(),
            "gating": weights.gating.contiguous(),
            "gating_t": weights.gating.t().contiguous(),
            "telling": weights.telling.contiguous(),
            "telling_t": weights.telling.t().contiguous(),
            "bias": weights.bias.contiguous(),
            "strength": weights.strength.exp(),
        }
        numbers = T, B, G // 4, N, M, sizes.readers, sizes.writers, sizes.shifts, sizes.write_first, every
        ctx.sizes = dict(zip(SIZES.split(), map(int, numbers), strict=True))
        call("forward", ctx.sizes, arrays)
        ctx.arrays = arrays if every else {}
        h, reads, looked = (arrays[name][1:] for name in ("h", "reads", "looked"))
        ctx.mark_non_differentiable(looked)
        return h, reads, looked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_h: Tensor, to_reads: Tensor, _: Tensor) -> Any:
        """Undo them, the last one first."""
        kept = ctx.arrays
        first = {f"to_{name}_0": torch.zeros_like(kept[name][0]) for name in State._fields}
        to_gates, to_told = torch.empty_like(kept["gates"]), torch.empty_like(kept["told"])
        to_strength = torch.zeros_like(kept["strength"])
        found = {"to_gates": to_gates, "to_told": to_told, "to_strength": to_strength}
        call(
            "backward",
            ctx.sizes,
            {**kept, "to_h": to_h.contiguous(), "to_reads": to_reads.contiguous(), **found, **first},
        )
        seen, h = torch.cat([kept["reads"][:-1], kept["h"][:-1]], dim=-1), kept["h"][1:]
        to_gating = to_gates.flatten(0, 1).t() @ seen.flatten(0, 1)
        to_telling = to_told.flatten(0, 1).t() @ h.flatten(0, 1)
        return None, to_gates, *first.values(), to_gating, to_telling, to_told.sum((0, 1)), to_strength.view(-1, 1)
