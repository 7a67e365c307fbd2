"""State tracking: running products in a group."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch

from attnbench import Draws, Published, Register, Sequences, TokenTask, hookimpl

Group = Literal["parity", "z5", "s3", "a5", "s5"]


class StateTracking(TokenTask):
    """The product of all group elements so far (Merrill, Petty, Sabharwal 2024, arXiv:2404.08819).

    Tokens are elements g_1 ... g_T, drawn alike; the target at t is g_1 · g_2 ··· g_t, scored everywhere. Parity:

        tokens   1 0 1 1 0
        targets  1 1 0 1 1

    It tells what can count. Parity is an alternation, which a state with eigenvalues in [0, 1] cannot follow and one
    with negative ones can; s3, a5 and s5 do not commute, and a5 and s5 are not solvable: a fixed number of layers of
    softmax attention cannot hold them at any length. Runs either learn it or do not: look at the share of seeds that
    reach the goal, and at the longest slice that stays right.

    Args:
        group: parity (2 elements), z5 (sums modulo 5), s3 (6 permutations), a5 (60) or s5 (120).
        length: tokens in a sequence.
        width, layers, mlp, conv, positions: of the host: width and blocks; hidden units of the feed-forward, in
            multiples of the width, and inputs that the causal convolution sees, 0 for none.
    """

    goal = 0.99
    over = ("length",)
    published = (
        Published("accuracy 1.00", "Grazzi et al. 2024, arXiv:2411.12537", "parity, DeltaNet, eigenvalues in [-1, 1]",
                  "scaled between chance 0 and 1; trained on 3 to 40 tokens, tested on 40 to 256"),
        Published("accuracy .0", "Grazzi et al. 2024, arXiv:2411.12537", "parity, DeltaNet, eigenvalues in [0, 1]",
                  "as above"),
    )  # fmt: skip

    def __init__(
        self,
        *,
        group: Group = "parity",
        length: int = 32,
        width: int = 32,
        layers: int = 1,
        mlp: int = 0,
        conv: int = 0,
        positions: Literal["none", "learned", "sinusoidal"] = "none",
    ) -> None:
        if length < 2:
            raise ValueError(f"length is at least 2, not {length}")
        self.table = torch.tensor(product_table(group))
        super().__init__(len(self.table), width=width, layers=layers, mlp=mlp, conv=conv, positions=positions)
        self.group, self.length = group, length
        self.floor = 1 / len(self.table)

    def slices(self) -> Mapping[str, Mapping[str, Any]]:
        """Twice, four and eight times the length."""
        return {f"length{n * self.length}": {"length": n * self.length} for n in (2, 4, 8)}

    def generate(self, draws: Draws) -> Sequences:
        """Draw elements, and multiply: each doubling of the distance composes twice as many."""
        tokens = draws.integers(len(self.table), self.length)
        products, reach = tokens, 1
        while reach < self.length:
            later = self.table[products[:, :-reach], products[:, reach:]]
            products, reach = torch.cat([products[:, :reach], later], dim=1), 2 * reach
        return Sequences(tokens, products, torch.ones_like(tokens, dtype=torch.bool))


@cache
def product_table(group: Group) -> Sequence[Sequence[int]]:
    """Return the group's table, [a][b] = a · b; element 0 is the neutral one. Permutations go a first, then b."""
    if group in ("parity", "z5"):
        order = range(2 if group == "parity" else 5)
        return [[(a + b) % len(order) for b in order] for a in order]
    elements = list(itertools.permutations(range(int(group[1:]))))
    if group.startswith("a"):
        elements = [p for p in elements if sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0]
    number = {element: i for i, element in enumerate(elements)}
    return [[number[tuple(b[i] for i in a)] for b in elements] for a in elements]


@hookimpl
def register_task(register: Register) -> None:
    """Contribute `state_tracking`."""
    register("state_tracking", StateTracking)
