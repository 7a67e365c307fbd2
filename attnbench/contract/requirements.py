"""What laws require of answers, and how they say what is broken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from traceback import extract_tb

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Of gradients by a GPU's fused kernels some differ by 3e-5 in float32.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.01}


class Broken(AssertionError):  # noqa: N818 (a law is broken; it says so)
    """A law does not hold; the message is the smallest failing case."""


class Skipped(Exception):  # noqa: N818
    """A law cannot be tried here; the message says why."""


def first_words(error: BaseException) -> str:
    """Return an error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def root(error: BaseException) -> BaseException:
    """Return the error that the others were raised from."""
    while isinstance(error, Broken) and error.__cause__ is not None:
        error = error.__cause__
    return error


def line_in(file: str, error: BaseException) -> str:
    """Return "mine.py:31", the last line of a file that an error passed through; "" where it did not."""
    return _last(error, lambda path: path == file)


def line_called(error: BaseException) -> str:
    """Return the last line of attnbench, the laws aside, that an error passed through; "" where it did not."""
    here = Path(__file__).parent
    return _last(error, lambda path: Path(path).is_relative_to(here.parent) and not Path(path).is_relative_to(here))


def _last(error: BaseException, is_meant: Callable[[str], bool]) -> str:
    frames = [frame for frame in extract_tb(root(error).__traceback__) if is_meant(frame.filename)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def require(holds: object, otherwise: str) -> None:
    """Raise `Broken(otherwise)` unless it holds."""
    if not holds:
        raise Broken(otherwise)


@contextlib.contextmanager
def trying(where: object) -> Iterator[None]:
    """Name the case in what is raised within."""
    try:
        yield
    except Skipped:
        raise
    except Broken as broken:
        raise Broken(f"{where}: {broken}") from broken
    except Exception as error:
        raise Broken(f"{where}: {first_words(error)}") from error


def differ(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float64) -> str | None:
    """Say by how much two tensors differ, None where they are the same to rounding."""
    if a.shape != b.shape:
        return f"shapes {list(a.shape)} and {list(b.shape)}"
    a, b, tolerance = a.detach().double(), b.detach().double(), TOLERANCE[dtype]
    if torch.allclose(a, b, rtol=tolerance, atol=tolerance):
        return None
    return f"they differ by {float((a - b).abs().max()):.3g}" if a.numel() else "one has entries"


def agree(a: Tensor, b: Tensor, what: str, dtype: torch.dtype = torch.float64) -> None:
    """Require that two tensors are the same to rounding."""
    if (how := differ(a, b, dtype)) is not None:
        raise Broken(f"{what}: {how}")


def finite(tensors: Iterable[Tensor], what: str) -> None:
    """Require that no number is NaN or infinite."""
    require(all(bool(tensor.isfinite().all()) for tensor in tensors), f"{what} is NaN or infinite")


def unseen(weights: Tensor, allowed: Tensor) -> None:
    """Require of weights [B, H, Q, K] zeros where [B, Q, K] does not allow a key."""
    outside = weights.detach().masked_fill(allowed.unsqueeze(1).expand(weights.shape), 0.0)
    require(bool((outside == 0).all()), f"a masked key has weight {float(outside.abs().max()):.3g}")


def distribution(weights: Tensor, allowed: Tensor, dtype: torch.dtype) -> None:
    """Require of weights [B, H, Q, K] a distribution over the keys that are allowed [B, Q, K], or zeros."""
    weights = weights.detach()
    require(bool((weights >= 0).all()), f"a weight is {float(weights.min()):.3g}" if weights.numel() else "")
    unseen(weights, allowed)
    total = weights.double().sum(dim=-1)
    wanted = allowed.unsqueeze(1).expand(weights.shape).any(dim=-1).double()
    if total.numel():
        worst = int((total - wanted).abs().argmax())
        b, h, q = (int(place) for place in torch.unravel_index(torch.tensor(worst), total.shape))
        got, right = float(total[b, h, q]), float(wanted[b, h, q])
        says = f"row {q} of example {b}, head {h} sums to {got:.4g}, not {right:.0f}"
        require(abs(got - right) <= TOLERANCE[dtype], says)
