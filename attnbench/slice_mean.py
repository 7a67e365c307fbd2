"""A mean that is left out, instead of NaN, where nothing was measured."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class SliceMean(MeanMetric):
    """The mean of all values; an empty tensor, which is not logged, where there were none."""

    def compute(self) -> Tensor:
        """Return the mean, or nothing."""
        return super().compute() if bool(self.weight) else torch.empty(0, device=self.device)
