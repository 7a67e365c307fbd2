"""Hard attention: one position."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from attnbench import Attention, MakeScore, Register, causal_mask, hide_masked, hookimpl, masked_softmax
from attnbench.shapes import BKD, BKV, BQD, Look, Mask


class Hard(Attention):
    """Looks at one key (Xu et al. 2015, arXiv:1502.03044), trained straight through Gumbel-softmax noise.

    soft = softmax((score(query, key) + g) / temperature), g Gumbel noise while training, 0 else
    weights = 1 at the largest of soft, 0 elsewhere; their gradient is that of soft
    context = weights · value

    The largest of scores + g is a draw from softmax(scores); the gradient is the straight-through estimator of Jang,
    Gu, Poole 2016 (arXiv:1611.01144), not the paper's REINFORCE. As in the paper, some examples of a training step are
    shown the expected value of the draw in its place, weights = softmax(scores): where there are many keys, draws alone
    seldom find what to look at.

    Args:
        temperature: a lower one brings soft nearer to the draw, at the price of gradients that vary more.
        expected: the share of examples that are shown the expected value, in training (the paper: a half).

    Raises ValueError when temperature is not positive, or expected is no share.
    """

    excused = {
        "gradients": "the choice of one key has no slope; the gradient is that of the soft weights behind it",
        "second_derivatives": "as gradients",
        "forward_mode": "as gradients",
    }

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        value_dim: int,
        score: MakeScore,
        *,
        temperature: float = 1.0,
        expected: float = 0.5,
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        if not temperature > 0:
            raise ValueError(f"temperature is positive, not {temperature}")
        if not 0 <= expected <= 1:
            raise ValueError(f"expected is a share, from 0 to 1, not {expected}")
        self.score = score(query_dim, key_dim)
        self.positional = self.score.positional
        self.temperature, self.expected = temperature, expected

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Draw a key while training, take the best one else."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        return self.attend(partial(self.score, key=key), value, causal_mask(mask, query, causal), query, need_weights)

    def prepare(self, key: BKD, value: BKV, mask: Mask = None) -> Look:
        """Prepare the keys' part of the scores."""
        key, value = hide_masked(None, key, value, mask, widths=self.widths)
        return partial(self.attend, self.score.prepare(key), value, mask)

    def attend(
        self, score: Callable[..., Tensor], value: BKV, mask: Mask, query: BQD, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q Dv"], Float[Tensor, "B 1 Q K"] | None]:
        """Attend; `score` knows the keys."""
        scores = score(query)
        noisy = scores + gumbel(scores) if self.training else scores
        soft = masked_softmax(noisy / self.temperature, mask)
        chosen = torch.zeros_like(soft)
        if value.shape[1]:
            chosen = chosen.scatter(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
        if mask is not None:
            chosen = chosen.masked_fill(~mask, 0.0)
        weights = chosen + (soft - soft.detach())  # exactly `chosen`: the difference is 0
        if self.training and self.expected > 0:
            shown = torch.rand(len(weights), 1, 1, device=weights.device) < self.expected
            weights = torch.where(shown, masked_softmax(scores, mask), weights)
        return weights @ value, weights.unsqueeze(1) if need_weights else None


def gumbel(scores: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Draw Gumbel noise, -log of an exponential."""
    draw = torch.empty_like(scores, dtype=torch.float32).exponential_()
    return -draw.clamp(min=torch.finfo(torch.float32).tiny).log().to(scores.dtype)


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `hard`."""
    register("hard", Hard)
