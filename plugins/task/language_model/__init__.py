"""A character language model: what comes next in a text?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from attnbench import (
    Draws,
    MakeAttention,
    Published,
    Register,
    Sequences,
    Split,
    TokenBatch,
    TokenTask,
    UsageError,
    hookimpl,
)

from .reading import read, read_characters

PARTS: Mapping[Split, tuple[float, float]] = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}


class LanguageModel(TokenTask):
    """Predict each character of a text from those before it, in a window of `block` characters.

        tokens   a t t e n t i o
        targets  t t e n t i o n

    `bits` is the loss in bits a character. 80% of the text train, 10% validate, 10% test; windows begin anywhere.
    At this size mechanisms differ hardly more than seeds: a sanity check. The text that ships is soon learned by heart.

    Args:
        file: the text, UTF-8; or an archive, .tar.gz, whose .txt members are read one after the other, such as that of
            the film reviews; null takes the text that ships. At most 4 million characters are read.
        block: characters of a window.
        width: of the host.
        layers: of the host.
        positions: none, learned or sinusoidal.
    """

    recipe = {
        **TokenTask.recipe,
        "trainer": {"max_steps": 500, "batch_size": 32, "val_every": 100, "eval_batch_size": 250},
        "optimizer": {"name": "adamw", "lr": 3e-3, "warmup": 0.1},
    }
    primary = "bits"
    mode = "min"
    goal = 0.0
    measures = ("bits",)
    separator = ""
    published = (
        Published("2.71 bits (1.88 nats)", "karpathy/nanoGPT, README", "4 layers, d=128, block 64, 2,000 steps",
                  "1.1 MB of Shakespeare, with dropout; 3 minutes of CPU"),
    )  # fmt: skip

    def __init__(
        self,
        *,
        file: Path | None = None,
        block: int = 64,
        width: int = 64,
        layers: int = 2,
        positions: Literal["none", "learned", "sinusoidal"] = "learned",
    ) -> None:
        if block < 2:
            raise ValueError(f"block is at least 2, not {block}")
        super().__init__(1, width=width, layers=layers, mlp=4, positions=positions)
        self.file, self.block = file, block
        self.characters: list[str] = []
        self.text = torch.zeros(0, dtype=torch.long)
        self.part = PARTS["train"]

    def prepare(self) -> None:
        """Read the text; UsageError if it cannot be read, is no text, or too short."""
        text = read(self.file, least=10 * (self.block + 1))
        if not self.characters:
            self._know(sorted(set(text)))
        unknown = sorted(set(text) - set(self.characters))
        if unknown:
            raise UsageError(f"task.file={self.file}: the character {unknown[0]!r} is not in the text of the training")
        number = {character: i for i, character in enumerate(self.characters)}
        self.text = torch.tensor([number[character] for character in text])

    def _know(self, characters: list[str]) -> None:
        self.characters, self.num_tokens = characters, len(characters)
        self.floor = math.log2(len(characters))

    def save(self, folder: Path) -> None:
        """Write the characters that are known."""
        (folder / "characters.json").write_text(json.dumps(self.characters), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Read them; UsageError if there are none."""
        self._know(read_characters(folder / "characters.json"))

    def data(self, split: Split) -> Dataset[Any]:
        """Return windows of the split's part of the text."""
        other = LanguageModel(file=self.file, block=self.block)
        other.characters, other.text, other.part, other.seed = self.characters, self.text, PARTS[split], self.seed
        return TokenTask.data(other, split)

    def model(self, make_attention: MakeAttention) -> nn.Module:
        """Build the host."""
        if not len(self.text):  # to predict; a host with learned places asks for the length of a window
            self.text = torch.zeros(10 * (self.block + 1), dtype=torch.long)
        return super().model(make_attention)

    def generate(self, draws: Draws) -> Sequences:
        """Draw windows."""
        first, last = (int(share * len(self.text)) for share in self.part)
        start = first + draws.integers(last - first - self.block, 1)
        window = self.text[start + torch.arange(self.block + 1)]
        return Sequences(window[:, :-1], window[:, 1:], torch.ones_like(window[:, 1:], dtype=torch.bool))

    def measure(self, logits: Float[Tensor, "N V"], batch: TokenBatch) -> Mapping[str, Float[Tensor, " N"]]:
        """bits: the loss of each character."""
        return {"bits": F.cross_entropy(logits, batch.targets[batch.scored], reduction="none") / math.log(2)}

    def label(self, token: int) -> str:
        """A character; a line's end as a sign."""
        return self.characters[token].replace("\n", "⏎")

    def encode(self, text: str) -> list[int]:
        """Read characters, the last `block` less what is to be written; 20 are written behind them."""
        for character in text:
            if character not in self.characters:
                raise UsageError(f"{character!r} does not occur in the text of the training")
        return [self.characters.index(character) for character in text][-max(1, self.block - 20) :]

    def answer_length(self, tokens: Sequence[int]) -> int:
        """Return 20, or what is left of a window."""
        return max(1, min(20, self.block - len(tokens)))


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `language_model`."""
    register("language_model", LanguageModel)
