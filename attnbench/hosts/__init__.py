"""Models with a slot for attention, which tasks share."""

from attnbench.hosts.attend import Unrolled, attend, attend_next
from attnbench.hosts.transformer import Transformer

__all__ = ["Transformer", "Unrolled", "attend", "attend_next"]
