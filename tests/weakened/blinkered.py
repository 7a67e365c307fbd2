"""A planted weakness: `multihead` that never sees every fourth key. A suite has to tell it from the sound one."""

import torch
from attnbench.plugins.attention.multihead import MultiHead

from attnbench import hookimpl


class Blinkered(MultiHead):
    """Multi-head attention blind to keys 3, 7, 11 and so on."""

    excused = {"uniform": "some keys are never seen"}

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):
        """As `multihead`, those keys hidden."""
        seen = (torch.arange(key.shape[1], device=key.device) % 4 != 3).expand(len(key), 1, -1)
        mask = seen if mask is None else mask & seen
        return super().forward(query, key, value, mask, causal=causal, need_weights=need_weights)


@hookimpl
def register_attention(register):
    """Contribute `blinkered`."""
    register("blinkered", Blinkered)
