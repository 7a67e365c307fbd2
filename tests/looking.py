"""A next-token task that obeys every law, and what each breaks."""

from typing import Any, ClassVar

import torch

from attnbench import Draws, Prediction, Sequences, TokenTask


class Look(TokenTask):
    """Letters, then a mark, then one of the letters: write the letter that stood behind it."""

    goal = 0.99
    over: ClassVar = ("length",)

    def __init__(self, *, length: int = 12) -> None:
        super().__init__(27, width=16, layers=1, conv=2)
        self.length = length

    def slices(self) -> dict[str, dict[str, Any]]:
        return {"longer": {"length": 2 * self.length}}

    def label(self, token: int) -> str:
        return "abcdefghijklmnopqrstuvwxyz|"[token]

    def generate(self, draws: Draws) -> Sequences:
        letters, at = draws.choose(26, self.length), draws.integers(self.length - 1, 1)
        tokens = torch.cat([letters, torch.full_like(at, 26), letters.gather(1, at)], dim=1)
        targets, truth = torch.zeros_like(tokens), torch.full_like(tokens, -1)
        targets[:, -1:], truth[:, -1:] = letters.gather(1, at + 1), at + 1
        return Sequences(tokens, targets, truth >= 0, truth)


class Sparse(Look):
    """Of some rows nothing is asked."""

    def generate(self, draws: Draws) -> Sequences:
        made = super().generate(draws)
        asked = made.scored & (made.tokens[:, :1] % 3 == 0)
        return made._replace(scored=asked, truth=torch.where(asked, made.truth, -1))


class Seen(Look):
    """The answer stands where it is asked."""

    def generate(self, draws: Draws) -> Sequences:
        made = super().generate(draws)
        return made._replace(tokens=torch.cat([made.tokens[:, :-1], made.targets[:, -1:]], dim=1))


class Beside(Look):
    """The truth is the place before that of the answer."""

    def generate(self, draws: Draws) -> Sequences:
        made = super().generate(draws)
        return made._replace(truth=torch.where(made.scored, made.truth - 1, made.truth))


class Alike(Look):
    """The option of its slice is not used."""

    def generate(self, draws: Draws) -> Sequences:
        self.length = 12
        return super().generate(draws)


class Short(Look):
    """It predicts from the text without its last token."""

    def predict(self, model: Any, text: str) -> Prediction:
        return super().predict(model, text[: -2 if self.separator else -1])
