import enum
from typing import Literal

import pytest

from attnbench.errors import UsageError, nearest
from attnbench.schema import check_signature, constructor_arguments, fill, node, options


class Colour(enum.Enum):
    red = 1
    blue = 2


class Good:
    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        *,
        width: int | None = None,
        rate: float = 0.5,
        on: bool = True,
        kind: Literal["soft", "hard"] = "soft",
        colour: Colour = Colour.red,
        other: Colour | None = None,
        mood: Literal["up", "down"] | None = None,
        sizes: tuple[int, ...] = (1, 2),
    ) -> None:
        self.given = (width, rate, on, kind, colour, other, mood, sizes)


def filled(**values):
    return constructor_arguments(fill("scoring", node("good", Good), values), Good)


def test_options_are_the_keyword_only_arguments():
    assert [str(option) for option in options(Good)] == [
        "width=null", "rate=0.5", "on=true", "kind=soft", "colour=red", "other=null", "mood=null", "sizes=[1,2]",
    ]  # fmt: skip


def test_a_default_survives_the_round_trip():
    assert filled() == {
        "width": None, "rate": 0.5, "on": True, "kind": "soft", "colour": Colour.red, "other": None, "mood": None,
        "sizes": (1, 2),
    }  # fmt: skip


def test_words_as_typed_become_the_constructors_types():
    words = {"width": "8", "rate": "1", "on": "false", "kind": "hard", "colour": "blue", "other": "red", "mood": "up"}
    assert filled(**words, sizes=[3]) == {
        "width": 8, "rate": 1.0, "on": False, "kind": "hard", "colour": Colour.blue, "other": Colour.red, "mood": "up",
        "sizes": (3,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"widht": 3}, r"scoring\.widht: scoring 'good' has no option 'widht'; did you mean 'width'\?"),
        ({"width": "eight"}, r"scoring\.width: Value 'eight' of type 'str' could not be converted to Integer"),
        ({"kind": "sof"}, r"scoring\.kind: Invalid value 'sof', expected one of \[soft, hard\]"),
        ({"colour": "green"}, r"expected one of \[red, blue\]"),
        ({"rate": None}, r"scoring\.rate: "),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(values, line):
    with pytest.raises(UsageError, match=line):
        filled(**values)


def without_type(self, query_dim, key_dim, *, width=3): ...
def without_default(self, query_dim, key_dim, *, width: int): ...
def mutable(self, query_dim, key_dim, *, widths: list[int] = []): ...  # noqa: B006
def swallowing(self, query_dim, key_dim, **rest: int): ...
def wrong_positional(self, width, key_dim): ...
def named(self, query_dim, key_dim, *, name: str = "x"): ...
def unsupported(self, query_dim, key_dim, *, made: complex = 1j): ...
def not_a_choice(self, query_dim, key_dim, *, kind: Literal["a", "b"] = "c"): ...  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("constructor", "line"),
    [
        (without_type, "option 'width' has no type"),
        (without_default, "option 'width' has no default: write `width: int = ...`"),
        (mutable, "option 'widths' has a mutable default: write a tuple"),
        (swallowing, r"takes \*\*rest"),
        (wrong_positional, r"__init__\(self, width, key_dim\) does not fit: a scoring is"),
        (named, "option 'name' is reserved"),
        (unsupported, "is not one that a config can hold"),
        (not_a_choice, "its default 'c' is not one of"),
    ],
)
def test_a_constructor_that_cannot_be_configured_is_refused(constructor, line):
    with pytest.raises(TypeError, match=line):
        check_signature("scoring", type("Bad", (), {"__init__": constructor}))


def test_the_nearest_name_is_offered_only_when_it_is_near():
    assert nearest("multihed", ["soft", "multihead"]) == "did you mean 'multihead'? (there are: multihead, soft)"
    assert nearest("xyz", ["soft"]) == "there are: soft"
