"""Linear attention: cost linear in length, with one of several feature maps."""

from attnbench import Register, hookimpl

from .attention import LinearAttention


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `linear_attention`."""
    register("linear_attention", LinearAttention)
