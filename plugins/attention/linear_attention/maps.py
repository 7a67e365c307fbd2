"""Feature maps of linear attention: φ(q)·φ(k) stands for exp(q·k)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import full_precision
from attnbench.prefix import widen


class Elu(nn.Module):
    """φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, arXiv:2006.16236)."""

    #: The width that queries and keys are projected to; None leaves it to the mechanism.
    takes = None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = width

    def forward(self, x: Float[Tensor, "*B D"], keys: bool) -> Float[Tensor, "*B F"]:
        """Return e^x below 0 and x + 1 above: elu(x) + 1 rounds to 0 already at x = -17."""
        x = widen(x)
        above = torch.relu(x)  # whose backward pass is cheap, unlike that of clamp
        return (x - above).exp_() + above


class Taylor(nn.Module):
    """φ(x) = [1, x / d^¼, x xᵀ / sqrt(2 d)] (Based, Arora et al. 2024, arXiv:2402.18668).

    With s = q·k / sqrt(d), φ(q)·φ(k) = 1 + s + s²/2, the exponential's first terms; d = 16 as in the paper.
    """

    takes = 16

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = 1 + width + width * width

    def forward(self, x: Float[Tensor, "*B D"], keys: bool) -> Float[Tensor, "*B F"]:
        """Return the constant, the entries and their products."""
        x = widen(x) / x.shape[-1] ** 0.25
        products = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) / math.sqrt(2)
        return torch.cat((torch.ones_like(x[..., :1]), x, products), dim=-1)


class Hedgehog(nn.Module):
    """φ(x) = max(softmax([2 y, -2 y]), 1e-12), y = W x + b (Zhang et al. 2024, arXiv:2402.04347).

    W = 1 and b = 0 at first, as in fla; the paper trains W to imitate a softmax, here it is trained with all else. The
    bound is that of the authors' LoLCATs: of large queries and keys one feature is 1, and without it the others are 0,
    and so is the product with every key.
    """

    takes = None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = 2 * width
        self.layer = nn.Linear(width, width)
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Float[Tensor, "*B D"], keys: bool) -> Float[Tensor, "*B F"]:
        """Return the softmax over features, none of them 0."""
        y = 2 * widen(self.layer(x))
        return torch.softmax(torch.cat((y, -y), dim=-1), dim=-1).clamp(min=1e-12)


class Performer(nn.Module):
    """φ(k) = exp(ω·y - |y|²/2) + 1e-4, φ(q) = exp(ω·y - max ω·y) + 1e-4 (Choromanski et al. 2020, arXiv:2009.14794).

    y = x / d^¼, for 2 d vectors ω, and the maximum is over them. But for the 1e-4, φ(q)·φ(k) is on average a multiple
    of exp(q·k / sqrt(d)), one for each query. As in the paper's code, the ω are drawn once, orthogonal in blocks of d
    and as long as normal vectors are. The maximum keeps a query's exponentials within 1; keys have none, since one over
    keys, as there, would let later keys change earlier ones.
    """

    takes = None
    omega: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = 2 * width
        blocks = [torch.linalg.qr(torch.randn(width, width)).Q for _ in range(2)]
        self.register_buffer("omega", torch.cat(blocks) * torch.randn(2 * width, width).norm(dim=-1, keepdim=True))

    def forward(self, x: Float[Tensor, "*B D"], keys: bool) -> Float[Tensor, "*B F"]:
        """Return the exponentials: of keys at most exp(|ω|²/2), and exp(80) where that is too much for float32."""
        y = widen(x) / x.shape[-1] ** 0.25
        with full_precision(y):
            scores: Tensor = y @ widen(self.omega).mT
        if keys:
            exponents = (scores - y.square().sum(dim=-1, keepdim=True) / 2).clamp(max=80.0)
        else:
            exponents = scores - scores.amax(dim=-1, keepdim=True)
        features: Tensor = exponents.exp() + 1e-4
        return features


FeatureMap = Literal["elu", "taylor", "hedgehog", "performer"]
FEATURE_MAPS: Mapping[FeatureMap, type[Elu | Taylor | Hedgehog | Performer]] = {
    "elu": Elu,
    "taylor": Taylor,
    "hedgehog": Hedgehog,
    "performer": Performer,
}
