"""Cross-entropy over a sample of the vocabulary."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor


def sampled_cross_entropy(
    features: Float[Tensor, "N F"],
    target: Int[Tensor, " N"],
    weight: Float[Tensor, "V F"],
    bias: Float[Tensor, " V"],
    frequency: Float[Tensor, " V"],
    drawn: int,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy (nats) where only the targets, and `drawn` words besides, compete.

    After Jean et al. 2015 (arXiv:1412.2007). The gradient of `weight` is sparse: a step costs as much as the words it
    has, whatever the vocabulary. Each logit is lessened by the log of the chance that its word is in the sample: on
    average all words then count in the sum that normalises, as without a sample (the paper leaves this out).

    Args:
        features: what a logit is made of.
        target: the right words.
        weight: of the output layer.
        bias: likewise.
        frequency: each word's share of the training text.
        drawn: how many words are drawn, all alike.
    """
    more = torch.randint(len(weight), (drawn,), device=target.device)
    words: Tensor = torch.cat([target, more]).unique()  # type: ignore[no-untyped-call]
    absent = len(target) * torch.log1p(-frequency[words]) + drawn * math.log1p(-1 / len(weight))
    chance = torch.log(-torch.expm1(absent))
    logits = torch.addmm(bias[words] - chance, features, F.embedding(words, weight, sparse=True).t())
    return F.cross_entropy(logits, torch.searchsorted(words, target))
