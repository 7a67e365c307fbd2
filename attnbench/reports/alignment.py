"""Whether attention looks in the right place, in numbers: a point of each curve at each validation."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from attnbench.answers import AttentionMap
from attnbench.training.experiment import Experiment


def entropy(shares: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """-Σ p log p, in nats: 0 where one key has it all, log K where all have the same."""
    return -torch.xlogy(shares, shares).sum(dim=-1)


def measure(maps: Iterable[AttentionMap]) -> dict[str, float]:
    """Measure where the weights of some examples lie.

    Each row of weights is taken as shares, p = |w| / Σ |w|; a row without weight is left out. The numbers are means
    over the rows of all examples and heads:

    - `alignment`: the share on the keys that `truth` marks, over the rows that have a truth.
    - `alignment_argmax`: how often the key with the most weight is one of them; of keys that tie, their share.
    - `entropy`: of the shares, in nats.
    - `head_disagreement`: the Jensen-Shannon divergence of the heads' shares, in nats: the entropy of their mean less
      the mean of their entropies; 0 where all heads look alike, log H where no two share a key. Needs two heads.

    Returns:
        Those of them that can be told from these maps.
    """
    measured: dict[str, list[Tensor]] = {}
    for attention_map in maps:
        weights_HQK = attention_map.weights.detach().double().abs()
        mass_HQ = weights_HQK.sum(dim=-1)
        p_HQK = weights_HQK / mass_HQ.clamp_min(torch.finfo(torch.double).tiny).unsqueeze(-1)
        alive_HQ = mass_HQ > 0
        entropy_HQ = entropy(p_HQK)
        measured.setdefault("entropy", []).append(entropy_HQ[alive_HQ])
        if len(p_HQK) > 1:
            everywhere_Q = alive_HQ.all(dim=0)
            divergence_Q = (entropy(p_HQK.mean(dim=0)) - entropy_HQ.mean(dim=0)).clamp_min(0.0)
            measured.setdefault("head_disagreement", []).append(divergence_Q[everywhere_Q])
        if attention_map.truth is not None:
            truth_QK = attention_map.truth.to(p_HQK.device)
            asked_HQ = alive_HQ & truth_QK.any(dim=-1)
            most_HQK = (p_HQK == p_HQK.amax(dim=-1, keepdim=True)).double()
            right_HQ = (most_HQK * truth_QK).sum(dim=-1) / most_HQK.sum(dim=-1)
            measured.setdefault("alignment", []).append((p_HQK * truth_QK).sum(dim=-1)[asked_HQ])
            measured.setdefault("alignment_argmax", []).append(right_HQ[asked_HQ])
    joined = {name: torch.cat(values) for name, values in measured.items()}
    return {name: float(values.mean()) for name, values in joined.items() if len(values)}


class Alignment(pl.Callback):
    """Measure the same validation examples at each validation: `attention/<what>`, see `measure`."""

    def __init__(self, examples: int = 100) -> None:
        self.examples = examples

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the numbers; each process measures the same examples."""
        assert isinstance(pl_module, Experiment)
        measured = {f"attention/{name}": value for name, value in measure(pl_module.maps(self.examples)).items()}
        pl_module.log_dict(measured, logger=False)
        if trainer.logger is not None:
            trainer.logger.log_metrics(measured, pl_module.steps)
