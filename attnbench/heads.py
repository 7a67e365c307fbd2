"""Widths: one that is shared out among heads, without a copy, and one of query and key."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def head_width(width: int, num_heads: int) -> int:
    """Return the width of one of `num_heads` heads that share out `width`.

    Raises:
        ValueError: the width is not positive, or not a multiple of num_heads; the line names the nearest that divides.
    """
    if width < 1:
        raise ValueError(f"embed_dim is at least 1, not {width}")
    if num_heads < 1 or width % num_heads:
        divisors = [n for n in range(1, width + 1) if width % n == 0]
        close = min(divisors, key=lambda n: abs(n - num_heads))
        raise ValueError(
            f"num_heads={num_heads} does not divide the width {width}; try num_heads={close}, or another embed_dim"
        )
    return width // num_heads


def one_width(name: str, query_dim: int, key_dim: int) -> int:
    """Return the width of query and key; ValueError where a scoring function meets two."""
    if query_dim != key_dim:
        raise ValueError(
            f"{name} needs query and key of one width, not {query_dim} and {key_dim}; scoring=bilinear takes any"
        )
    return query_dim


def split_heads(x: Float[Tensor, "B L W"], num_heads: int) -> Float[Tensor, "B H L D"]:
    """Return a view with a dimension for the heads: [B, L, H·D] -> [B, H, L, D]."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).transpose(1, 2)


def merge_heads(x: Float[Tensor, "B H L D"]) -> Float[Tensor, "B L W"]:
    """Return heads side by side: [B, H, L, D] -> [B, L, H·D]."""
    return x.transpose(1, 2).flatten(-2)
