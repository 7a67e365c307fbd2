"""Markov chains in context: how near to the best estimate?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from attnbench import Draws, Published, Register, Sequences, TokenBatch, TokenTask, hookimpl


class Markov(TokenTask):
    """Learn a chain from the sequence itself (Edelman et al. 2024, "Statistical induction heads", arXiv:2402.11004).

    Each sequence has transitions of its own: rows of a matrix drawn from Dirichlet(1, ..., 1), the first state uniform.
    The target is each next state:

        tokens   a b b a b
        targets  b b a b b

    The best estimate is known: of b behind a, (count of ab + 1) / (count of a + V). `excess` is the loss above it, in
    nats a token. On the way a model dwells at the estimates of uniform, unigram (counts of b) and bigram; a mechanism
    that finds what stood behind the same state before reaches the last.

    Args:
        states: V.
        length: how many states are predicted.
        width, layers, mlp, conv, positions: of the host: width and blocks; hidden units of the feed-forward, in
            multiples of the width, and inputs that the causal convolution sees, 0 for none.
    """

    recipe = TokenTask.recipe_with(max_steps=600, val_every=150)
    primary = "excess"
    mode = "min"
    goal = 0.02
    over = ("length",)
    measures = ("excess",)
    excused = {"splits": "chains that hardly change their state are alike now and then"}
    published = (
        Published("plateaus at uniform, unigram, then bigram", "Edelman et al. 2024, arXiv:2402.11004",
                  "2 layers of attention alone, d=16, 100 tokens", "relative positions; 2,000 steps at 5e-4"),
    )  # fmt: skip

    def __init__(
        self,
        *,
        states: int = 3,
        length: int = 64,
        width: int = 32,
        layers: int = 2,
        mlp: int = 0,
        conv: int = 2,
        positions: Literal["none", "learned", "sinusoidal"] = "none",
    ) -> None:
        if not 2 <= states <= 26 or length < 2:
            raise ValueError(f"states is 2 to 26 and length at least 2, not {states} and {length}")
        super().__init__(states, width=width, layers=layers, mlp=mlp, conv=conv, positions=positions)
        self.states, self.length = states, length
        self.floor = round(gaps(states, length)["unigram"], 4)

    def slices(self) -> Mapping[str, Mapping[str, Any]]:
        """Twice and four times the length."""
        return {f"length{n * self.length}": {"length": n * self.length} for n in (2, 4)}

    def generate(self, draws: Draws) -> Sequences:
        """Draw the chains."""
        chain = chains(draws, self.states, self.length)
        return Sequences(chain[:, :-1], chain[:, 1:], torch.ones_like(chain[:, 1:], dtype=torch.bool))

    def measure(self, logits: Float[Tensor, "N V"], batch: TokenBatch) -> Mapping[str, Float[Tensor, " N"]]:
        """excess: nats above the best estimate."""
        loss = F.cross_entropy(logits, batch.targets[batch.scored], reduction="none")
        return {"excess": loss - losses(batch.tokens, batch.targets, self.states)["bigram"][batch.scored].to(loss)}

    def lines(self) -> Mapping[str, Sequence[float]]:
        """Return what the estimates of uniform and unigram leave above the best, at each slice's length."""
        left = [gaps(self.states, variant.length) for variant in self.variants()]  # type: ignore[attr-defined]
        return {name: [of_length[name] for of_length in left] for name in left[0]}

    def label(self, token: int) -> str:
        """A letter."""
        return chr(ord("a") + token)


def chains(draws: Draws, V: int, T: int) -> Int[Tensor, "B places"]:  # noqa: N803
    """Draw chains of T + 1 states: each draw makes a map from states to next ones, and maps compose two by two."""
    cumulated = draws.uniform(V, V).log().neg().cumsum(dim=-1)
    first = draws.integers(V, 1)
    chance = draws.uniform(T).view(-1, T, 1, 1) * cumulated[:, None, :, -1:]
    maps = (chance >= cumulated[:, None, :, :-1]).sum(dim=-1)  # [B, T, V]: the next state of each
    reach = 1
    while reach < T:
        later = maps[:, reach:].gather(2, maps[:, :-reach])
        maps, reach = torch.cat([maps[:, :reach], later], dim=1), 2 * reach
    return torch.cat([first, maps.gather(2, first.unsqueeze(1).expand(-1, T, 1)).squeeze(2)], dim=1)


def losses(
    tokens: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    V: int,  # noqa: N803
) -> Mapping[str, Float[Tensor, "B T"]]:
    """Return what each estimate, knowing the places up to t, loses on target t (nats)."""
    seen = F.one_hot(tokens, V).cumsum(dim=1).gather(2, targets.unsqueeze(2)).squeeze(2)
    same, hit = _earlier(tokens), _earlier(tokens * V + targets)
    length = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return {
        "uniform": torch.full(tokens.shape, math.log(V), dtype=torch.float64, device=tokens.device),
        "unigram": ((length + V) / (seen + 1).double()).log(),
        "bigram": ((same + V) / (hit + 1).double()).log(),
    }


def _earlier(ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Return at how many places before each the same stands."""
    there, order = ids.sort(dim=1, stable=True)
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    begins = F.pad(there[:, 1:] != there[:, :-1], (1, 0), value=True)
    return torch.empty_like(ids).scatter_(1, order, place - torch.where(begins, place, 0).cummax(dim=1).values)


@cache
def gaps(V: int, T: int) -> Mapping[str, float]:  # noqa: N803
    """Return what each estimate leaves above the best, nats a token, a mean over 2,000 chains."""
    chain = chains(Draws(0, range(2_000), stream=1), V, T)
    found = losses(chain[:, :-1], chain[:, 1:], V)
    return {name: float((loss - found["bigram"]).mean()) for name, loss in found.items()}


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `markov`."""
    register("markov", Markov)
