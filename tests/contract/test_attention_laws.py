"""The laws are themselves tested: for each a component that breaks it, and that it must catch."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

import pytest
import torch
from also_broken import ALSO_BROKEN, ALSO_BROKEN_SCORES
from broken import BROKEN, BROKEN_SCORES, Good, Ordered, Poisonous, Silent, Unclean, Unnormalised
from fading import Dropping, Fading
from torch import Tensor

from attnbench import MakeScore, PrefixAttention, ScoringFunction
from attnbench.contract import LAWS, check, laws_for
from attnbench.contract.harness import BilinearScore, PlainAttention
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.schema import options

REGISTRY = Registry.load()
SHIPPED = [(c.kind, c.name) for kind in LAWS for c in REGISTRY.of(kind) if c.origin.endswith("(shipped)")]


def found(cls: type[Any], registry: Registry, law: str, kind: str = "attention") -> Any:
    return check(Component(kind, "mine", cls, __file__), registry, laws=[law])[0]


def test_every_law_has_a_component_that_breaks_it() -> None:
    assert set(BROKEN) == set(laws_for("attention"))
    assert set(BROKEN) | set(BROKEN_SCORES) >= set(laws_for("scoring"))


@pytest.mark.parametrize("law", sorted(laws_for("attention")))
def test_a_component_that_breaks_a_law_is_caught_and_a_good_one_is_not(law: str, registry: Registry) -> None:
    finding = found(BROKEN[law], registry, law)
    assert finding.status == "broken", finding
    assert finding.detail
    good = found(PlainAttention if law == "scorings" else Good, registry, law)
    assert good.status == "passed", good


@pytest.mark.parametrize(("law", "cls", "says"), [*ALSO_BROKEN, *ALSO_BROKEN_SCORES])
def test_what_else_breaks_a_law_is_caught(law: str, cls: type[Any], says: str, registry: Registry) -> None:
    finding = found(cls, registry, law, "scoring" if issubclass(cls, ScoringFunction) else "attention")
    assert finding.status == "broken" and "Error" not in finding.detail, finding
    assert re.search(says, finding.detail), finding


@pytest.mark.parametrize("law", sorted(BROKEN_SCORES))
def test_a_score_that_breaks_a_law_is_caught_and_a_good_one_is_not(law: str, registry: Registry) -> None:
    assert found(BROKEN_SCORES[law], registry, law, "scoring").status == "broken"
    assert found(BilinearScore, registry, law, "scoring").status == "passed"


def test_asked_for_weights_it_has_none_of_a_class_may_not_be_silent(registry: Registry) -> None:
    assert "None" in found(Silent, registry, "need_weights").detail


@pytest.mark.parametrize("law", ["need_weights", "empty_rows"])
def test_what_is_wrong_at_equal_widths_alone_is_caught(law: str, registry: Registry) -> None:
    class Fused(Good):
        """Its path without weights is wrong, where another kernel would be chosen."""

        def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
            context, weights = super().forward(query, key, value, mask, causal=causal, need_weights=need_weights)
            other = not need_weights and query.shape[-1] == key.shape[-1] == value.shape[-1]
            return context + float(other), weights

    finding = found(Fused, registry, law)
    assert finding.status == "broken"
    assert "widths=(8, 8, 8)" in finding.detail


def test_the_case_that_is_shown_is_the_smallest(registry: Registry) -> None:
    assert found(Unnormalised, registry, "rows").detail.startswith("B=1 Q=1 K=1 mask=none")
    assert found(Ordered, registry, "permutation").detail.startswith("B=1 Q=1 K=2")


class Excused(Ordered):
    excused: ClassVar[Mapping[str, str]] = {"permutation": "order is the point"}


def test_a_declared_excuse_is_shown_with_its_reason(registry: Registry) -> None:
    finding = found(Excused, registry, "permutation")
    assert (finding.status, finding.detail) == ("excused", "order is the point")


class Needless(Good):
    excused: ClassVar[Mapping[str, str]] = {"permutation": "order is the point"}


def test_an_excuse_that_is_not_needed_is_broken(registry: Registry) -> None:
    finding = found(Needless, registry, "permutation")
    assert (finding.status, finding.detail) == ("broken", "excused, yet it holds: take the excuse away")


class Halving(Good):
    """By an option its rows sum to a half; it says so."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, *, half: bool = False) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.half = half
        if half:
            self.excused = {"rows": "they sum to a half"}

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        return super().weigh(scores, mask) / (2 if self.half else 1)


def test_an_excuse_may_depend_on_the_options(registry: Registry) -> None:
    component = Component("attention", "mine", Halving, __file__)
    for half, status in ((False, "passed"), (True, "excused")):
        assert check(component, registry, laws=["rows"], options={"half": half})[0].status == status


class Forgetful(PlainAttention):
    """It does not say that it goes by places where its scoring function does."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: MakeScore) -> None:
        super().__init__(query_dim, key_dim, value_dim, score)
        self.positional = False


def test_who_does_not_say_that_it_goes_by_places_decodes_wrongly_and_is_caught(registry: Registry) -> None:
    detail = found(Forgetful, registry, "scorings").detail
    assert detail.startswith("scoring=alibi B=1 Q=2 K=2 mask=causal=True: the context of `step` (set self.positional")


def choices() -> Iterator[tuple[str, str, str, Any]]:
    """Yield each value other than its default of what ships as an option with few values."""
    for kind, name in SHIPPED:
        for option in options(REGISTRY.get(kind, name).cls) if kind != "task" else ():
            values = (True, False) if option.type is bool else get_args(option.type)
            for value in values if get_origin(option.type) in (Literal, None) else ():
                if value != option.default:
                    yield kind, name, option.name, value


#: What an option may change beyond the law of options itself, of the laws that cost little.
BY_OPTION = ("declarations", "rows", "extremes", "decoding", "second_derivatives", "mixing")


@pytest.mark.parametrize(("kind", "name", "option", "value"), list(choices()))
def test_what_ships_obeys_the_laws_with_each_choice_of_its_options(
    kind: str, name: str, option: str, value: Any, registry: Registry
) -> None:
    laws = [law for law in BY_OPTION if law in laws_for(kind)]
    findings = check(registry.get(kind, name), registry, laws=laws, options={option: value})
    assert not [finding for finding in findings if finding.status == "broken"]


def test_an_error_in_a_component_is_a_broken_law_with_its_case(registry: Registry) -> None:
    class Raising(Good):
        def scores(self, query: Tensor, key: Tensor) -> Tensor:
            if key.shape[1] > 1:
                raise RuntimeError("only one key")
            return super().scores(query, key)

    assert found(Raising, registry, "rows").detail.startswith("B=1 Q=1 K=2 mask=none")
    assert "RuntimeError: only one key" in found(Raising, registry, "rows").detail


def test_checking_leaves_the_random_state_alone(registry: Registry) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found(Good, registry, "rows")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=[f"{k}={n}" for k, n in SHIPPED])
def test_what_ships_obeys_the_laws(kind: str, name: str, registry: Registry) -> None:
    findings = check(registry.get(kind, name), registry)
    assert not [finding for finding in findings if finding.status == "broken"]


# States along the keys


def broken(cls: type[Any], registry: Registry, kind: str = "attention") -> dict[str, str]:
    findings = check(Component(kind, "mine", cls, __file__), registry)
    return {finding.law: finding.told() for finding in findings if finding.status == "broken"}


def test_a_state_that_fades_obeys_every_law(registry: Registry) -> None:
    assert broken(Fading, registry) == {}


def test_a_state_dropped_every_16_keys_in_all_forms_alike_is_caught(registry: Registry) -> None:
    """It is as it were another mechanism, but for this: padding before the keys moves its chunks."""
    assert "padding" in broken(Dropping, registry)


def test_nan_at_a_later_place_is_caught_where_padding_is_clean(registry: Registry) -> None:
    assert found(Unclean, registry, "masked_nan").status == "passed"
    assert "sees nan at" in found(Unclean, registry, "later").detail


def test_signed_weights_are_zero_where_masked_all_the_same(registry: Registry) -> None:
    class Signed(Good):
        signed = True

        def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
            return scores if mask is None else scores.masked_fill(~mask, 0.0)

    class Seeing(Signed):
        def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
            return scores - 1e-3 * scores.mean(dim=-1, keepdim=True)

    assert found(Signed, registry, "rows").status == "passed"
    assert "a masked key has weight" in found(Seeing, registry, "rows").detail


# Excuses for one kind of mask


class Lowering(Good):
    """With a random mask its weights sum to less than one."""

    excused: ClassVar[Mapping[str, str]] = {"rows:random": "it halves what it does not know"}

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        weights = super().weigh(scores, mask)
        known = mask is None or mask.shape[1] == 1 or torch.equal(mask, mask.tril())
        return weights if known else weights / 2


def test_an_excuse_may_name_a_kind_of_mask(registry: Registry) -> None:
    finding = found(Lowering, registry, "rows")
    assert (finding.status, finding.detail) == ("passed", "but for random: it halves what it does not know")
    assert found(Lowering, registry, "declarations").status == "passed"


def test_an_excuse_for_a_mask_that_is_not_needed_is_broken(registry: Registry) -> None:
    class Spared(Good):
        excused: ClassVar[Mapping[str, str]] = {"rows:random": "just in case"}

    assert found(Spared, registry, "rows").detail.startswith("excused for random, yet it holds there")


def test_an_excuse_names_a_kind_of_mask_that_there_is(registry: Registry) -> None:
    class Misspelt(Good):
        excused: ClassVar[Mapping[str, str]] = {"rows:randon": "just in case"}

    assert "names no kind of mask" in found(Misspelt, registry, "declarations").detail


# One cause is told once


class Narrow(ScoringFunction):
    """A dot product that does not refuse widths that differ."""

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.mT


class NarrowNaN(Narrow):
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return (query @ key.mT) * float("nan")


class Tensors(Fading):
    """Its `step` returns a tensor as state."""

    def step(self, query: Tensor, key: Tensor, value: Tensor, state: Any = None) -> Any:
        context, state = super().step(query, key, value, state)
        return context, state[0]


def test_what_is_expected_is_told(registry: Registry) -> None:
    assert found(Unnormalised, registry, "rows").detail.endswith("row 0 of example 0, head 0 sums to 0.9, not 1")
    assert "state a tuple of tensors, not a Tensor" in found(Tensors, registry, "decoding").detail


def test_an_error_of_attnbench_is_told_with_its_own_line(registry: Registry) -> None:
    class Missing(PrefixAttention):
        """It hands its widths to nobody."""

        def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
            super().__init__()
            self.out_dim = value_dim

        def mix(self, query, key, value, *, causal, padding, state, need_weights):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    assert re.search(r"has no attribute 'widths' \(prefix\.py:\d+\)", broken(Missing, registry)["runs"])


def test_nan_is_told_once(registry: Registry) -> None:
    (cause,) = broken(Poisonous, registry).items()
    assert cause[0] == "runs" and "the output is NaN or infinite" in cause[1] and "(broken.py:" in cause[1]


def test_widths_that_do_not_fit_are_told_once_with_the_line_and_the_cure(registry: Registry) -> None:
    (cause,) = broken(Narrow, registry, "scoring").items()
    assert cause[0] == "widths"
    for part in (
        "query_dim=8, key_dim=12",
        "RuntimeError",
        "(test_attention_laws.py:",
        "raise ValueError in the constructor",
    ):
        assert part in cause[1]


def test_nan_is_not_hidden_by_widths_that_do_not_fit(registry: Registry) -> None:
    assert set(broken(NarrowNaN, registry, "scoring")) == {"runs", "widths"}


def test_an_error_that_breaks_many_laws_is_told_at_the_first(registry: Registry) -> None:
    class Raising(Good):
        def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
            if mask is not None:
                raise NotImplementedError("masks are for later")
            return super().weigh(scores, mask)

    findings = check(Component("attention", "mine", Raising, __file__), registry)
    told = [finding for finding in findings if "masks are for later" in finding.detail]
    assert [finding.law for finding in told if finding.status == "broken"] == ["shapes"]
    assert "the error that breaks 'shapes', again" in {finding.detail for finding in findings}


@pytest.mark.parametrize("weighs", [True, False])
@pytest.mark.parametrize("said", [True, False])
def test_whatever_looks_at_numbers_on_one_path_alone_is_not_compiled_or_not_exported(
    weighs: bool, said: bool, registry: Registry
) -> None:
    class Looking(Good):
        """It looks at numbers in Python, with weights or without, where causality is said or not."""

        def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):  # type: ignore[no-untyped-def]
            context, weights = super().forward(query, key, value, mask, causal=causal, need_weights=need_weights)
            looks = need_weights == weighs and causal == said
            return context * (2 - (float(context.detach().sum()) < math.inf)) if looks else context, weights

    statuses = [found(Looking, registry, law).status for law in ("compiles", "exports")]
    assert sorted(statuses) == ["broken", "passed"]


def test_the_compiler_keeps_its_log_to_itself(registry: Registry, capfd: pytest.CaptureFixture[str]) -> None:
    assert found(BROKEN["compiles"], registry, "compiles").status == "broken"
    assert found(BROKEN["exports"], registry, "exports").status == "broken"
    assert capfd.readouterr() == ("", "")
