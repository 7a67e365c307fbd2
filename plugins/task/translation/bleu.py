"""Corpus BLEU over the words of the task."""

from __future__ import annotations

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.text import SacreBLEUScore

#: How it is measured, in the words of sacrebleu.
SIGNATURE = f"nrefs:var|case:mixed|eff:no|tok:none|smooth:none|torchmetrics:{torchmetrics.__version__}"


class Bleu(SacreBLEUScore):
    """BLEU from 0 to 100 (Papineni et al. 2002), of words with blanks between, with all references of a source.

    Of two references that are as near in length to what was written the first one's counts: in order of length it is
    the shorter, as sacrebleu has it. An empty tensor, which is not logged, where no sentence was measured.
    """

    plot_upper_bound = 100.0

    def __init__(self) -> None:
        super().__init__(tokenize="none")

    def compute(self) -> Tensor:
        """Return the score."""
        return 100 * super().compute() if bool(self.target_len) else torch.empty(0, device=self.target_len.device)
