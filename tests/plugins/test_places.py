"""A scoring function that goes by places is told them by every module that takes one, decoding step by step too."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from attnbench import ScoringFunction
from attnbench.contract import check
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.schema import takes_score

REGISTRY = Registry.load()
TAKE_SCORES = [c for c in REGISTRY.of("attention") if takes_score(c.cls) and not c.cls.recurrent]


class Near(ScoringFunction):
    """q·k less a tenth of the distance between their places."""

    positional = True
    excused: ClassVar[Mapping[str, str]] = {"permutation": "it goes by places"}

    def __init__(self, query_dim: int, key_dim: int) -> None:
        if query_dim != key_dim:
            raise ValueError(f"near needs one width, not {query_dim} and {key_dim}")
        super().__init__()

    def forward(
        self, query: Tensor, key: Tensor, query_places: Tensor | None = None, key_places: Tensor | None = None
    ) -> Tensor:
        i = torch.arange(query.shape[-2], device=query.device) if query_places is None else query_places
        j = torch.arange(key.shape[-2], device=key.device) if key_places is None else key_places
        return query @ key.mT - 0.1 * (i.unsqueeze(-1) - j.unsqueeze(-2)).abs().to(query.dtype)


class Turning(Near):
    """The same of a factored kind: two features turned by the place."""

    def forward(
        self, query: Tensor, key: Tensor, query_places: Tensor | None = None, key_places: Tensor | None = None
    ) -> Tensor:
        q, k = self.factor(query, key, query_places, key_places)
        return q @ k.mT

    def factor(
        self, query: Tensor, key: Tensor, query_places: Tensor | None = None, key_places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return turned(query, query_places), turned(key, key_places)


def turned(x: Tensor, places: Tensor | None) -> Tensor:
    angle = 0.3 * (torch.arange(x.shape[-2], device=x.device) if places is None else places).unsqueeze(-1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)  # float32 until here: bfloat16 knows no place 1,001
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@pytest.mark.parametrize("score", [Near, Turning])
@pytest.mark.parametrize("component", TAKE_SCORES, ids=lambda component: component.name)
def test_decoding_step_by_step_goes_by_the_same_places(component: Any, score: Any) -> None:
    module = component.cls(8, 8, 8, score).eval()
    x = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    whole, _ = module(x, x, x, causal=True, need_weights=False)
    state, held = None, module.state_size(40)
    for t in range(40):
        context, state = module.step(*(x[:, t : t + 1],) * 3, state)
        torch.testing.assert_close(context, whole[:, t : t + 1])
    assert sum(part[0].numel() for part in state) == held


@pytest.mark.parametrize("score", [Near, Turning])
def test_blocks_of_a_window_are_scored_at_their_places(score: Any) -> None:
    make = {c.name: c.cls for c in TAKE_SCORES}
    x = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    i = torch.arange(50)
    band = ((i.unsqueeze(1) - i).abs() <= 3).expand(2, -1, -1)
    expected, matrix = make["soft"](8, 8, 8, score)(x, x, x, band)
    for need_weights in (True, False):
        context, weights = make["sliding_window"](8, 8, 8, score, window=3)(x, x, x, need_weights=need_weights)
        torch.testing.assert_close(context, expected)
        assert weights is None or torch.allclose(weights, matrix, atol=1e-6)


@pytest.mark.usefixtures("plain_signatures")
@pytest.mark.parametrize("score", [Near, Turning])
def test_a_positional_score_obeys_the_laws_but_for_the_order_of_keys(score: Any) -> None:
    findings = check(Component("scoring", "near", score, __file__), REGISTRY)
    assert not [finding for finding in findings if finding.status == "broken"]
