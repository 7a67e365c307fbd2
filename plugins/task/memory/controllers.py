"""Controllers of a Neural Turing Machine: each takes its input in two parts, x known beforehand and what was read."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LSTM(nn.Module):
    """One step of an LSTM (Hochreiter and Schmidhuber 1997).

    i, f, o = sigmoid(W [x; r; h] + b); u = tanh(W' [x; r; h] + b')
    c = f c + i u; h = o tanh(c)

    As in pytorch-ntm (github.com/loudinthecloud/pytorch-ntm, ntm/controller.py) the first state is learned, and
    weights begin uniform in ±5/sqrt(fan-in). `torch.nn.LSTMCell` orders its gates i, f, u, o and has two biases.
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

    def begin(self, batch: int) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Return the first state, h and c."""
        h, c = self.start.unsqueeze(1).expand(-1, batch, -1)
        return h, c

    def forward(
        self, x: Float[Tensor, "B G"], read: Float[Tensor, "B R"], state: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Return the next state; `x` has been through `self.x`."""
        h, c = state
        gates = torch.addmm(x, torch.cat([read, h], dim=-1), self.rh.weight.t())
        ifo, u = torch.split(gates, [3 * self.hidden, self.hidden], dim=-1)
        i, f, o = torch.sigmoid(ifo).chunk(3, dim=-1)
        c = torch.addcmul(f * c, i, torch.tanh(u))
        return o * torch.tanh(c), c


class FeedForward(nn.Module):
    """h = tanh(W [x; r] + b): a controller that remembers nothing by itself."""

    def __init__(self, inputs: int, read: int, hidden: int) -> None:
        super().__init__()
        self.x, self.r = nn.Linear(inputs, hidden), nn.Linear(read, hidden, bias=False)

    def begin(self, batch: int) -> tuple[Float[Tensor, "B 0"], Float[Tensor, "B 0"]]:
        """Return an empty state."""
        empty = self.r.weight.new_zeros(batch, 0)
        return empty, empty

    def forward(
        self, x: Float[Tensor, "B G"], read: Float[Tensor, "B R"], state: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B 0"]]:
        """Return h and an empty c; `x` has been through `self.x`."""
        h = torch.tanh(torch.addmm(x, read, self.r.weight.t()))
        return h, state[1]
