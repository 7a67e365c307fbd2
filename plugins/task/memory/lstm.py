"""What the Neural Turing Machine is compared with: an LSTM of as many parameters."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn


class PlainLSTM(nn.Module):
    """`torch.nn.LSTM`, and a linear layer."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, inputs: Float[Tensor, "B T I"]) -> Float[Tensor, "B T O"]:
        """Return the logits at every step."""
        logits: Tensor = self.out(self.lstm(inputs)[0])
        return logits


def lstm_of_size(parameters: int, inputs: int, outputs: int) -> PlainLSTM:
    """Return the LSTM whose number of parameters is nearest to this."""

    def count(hidden: int) -> int:
        return 4 * hidden * (hidden + inputs + 2) + outputs * (hidden + 1)

    around = max(1, math.isqrt(parameters // 4))
    hidden = min(range(1, around + 1), key=lambda width: abs(count(width) - parameters))
    return PlainLSTM(inputs, outputs, hidden)
