"""`list`: all there is, or all about one, for people and for programs."""

import json

import pytest

from attnbench.registry import Registry


def test_a_name_shows_docstring_options_origin_and_what_it_fits(cli):
    said = cli("list", "multihead")
    assert said.code == 0
    for line in (
        "attention=multihead  MultiHead",
        "    num_heads: H; divides embed_dim.",
        "    attention.num_heads=4  (int)",
        "    attention.embed_dim=null  (int | None)",
        "from: plugins/attention/multihead.py (shipped)",
        "may go with task=date",
    ):
        assert line in said.out.splitlines() or line in said.out


def test_a_name_may_say_its_kind(cli):
    assert cli("list", "attention=uniform").out.startswith("attention=uniform  Uniform")


def test_a_scoring_function_says_which_attention_uses_it_and_why_others_do_not(cli):
    out = cli("list", "dot").out.splitlines()
    assert "may go with attention=soft" in out
    assert "not with attention=uniform: it uses no scoring function" in out


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("multihed", "multihed: no such component; did you mean 'multihead'?"),
        ("attention=multihed", "attention=multihed: no such attention; did you mean 'multihead'?"),
    ],
)
def test_an_unknown_name_is_one_line_that_offers_the_nearest(word, line, cli):
    said = cli("list", word)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"attnbench: {line}")
    assert len(said.err.splitlines()) == 1


def test_json_holds_every_component_and_nothing_else_is_printed(cli):
    listed = json.loads(cli("list", "--json").out)
    registry = Registry.load()
    assert {(row["kind"], row["name"]) for row in listed["components"]} == set(registry.components)
    assert listed["failures"] == listed["disabled"] == []
    (row,) = [row for row in listed["components"] if row["name"] == "multihead"]
    assert {"name": "num_heads", "type": "int", "default": "4"} in row["options"]
    assert row["summary"] == row["docstring"].splitlines()[0]
    assert row["fits"]["task=date"] is None


def test_json_of_one_name_holds_that_one(cli):
    (row,) = json.loads(cli("list", "dot", "--json").out)["components"]
    assert (row["kind"], row["name"]) == ("scoring", "dot")
