"""`list`: all there is, or all about one, for people and for programs."""

import json
from inspect import Parameter, Signature
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from attnbench.config import OptimizerConfig, TrainerConfig
from attnbench.interfaces import Attention
from attnbench.loading import Component
from attnbench.registry import Registry
from attnbench.reports import catalogue
from attnbench.reports.usage import settings


def test_a_name_shows_docstring_options_origin_and_what_it_fits(cli):
    said = cli("list", "multihead")
    assert said.code == 0
    for line in (
        "attention=multihead  MultiHead",
        "    num_heads: H; divides embed_dim.",
        "    attention.num_heads=4  (int)",
        "    attention.embed_dim=null  (int | None)",
        "from: plugins/attention/multihead.py (shipped)",
    ):
        assert line in said.out
    (goes,) = [line for line in said.out.splitlines() if line.startswith("goes with task=")]
    assert {"date", "recall"} <= set(goes.removeprefix("goes with task=").split(","))


def test_a_name_may_say_its_kind(cli):
    assert cli("list", "attention=uniform").out.startswith("attention=uniform  Uniform")


def test_a_scoring_function_says_which_attention_uses_it_and_why_others_do_not(cli):
    lines = cli("list", "dot").out.splitlines()
    (goes,) = [line.removeprefix("goes with attention=") for line in lines if line.startswith("goes with ")]
    assert {"soft", "multihead"} <= set(goes.split(","))
    (reason,) = [line for line in lines if line.startswith("not with ")]
    assert "uniform" in reason.removeprefix("not with attention=").split(":")[0].split(",")
    assert reason.endswith(": it uses no scoring function")


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
    assert row["family"] == "attention=NAME with any scoring=NAME"
    assert row["fits"]["task=date"] is None


def test_json_of_one_name_holds_that_one(cli):
    (row,) = json.loads(cli("list", "dot", "--json").out)["components"]
    assert (row["kind"], row["name"]) == ("scoring", "dot")


def takes(*arguments: str, **attributes: object) -> Registry:
    """Return a registry of one attention module of somebody's, whose constructor takes these arguments."""
    names = ("query_dim", "key_dim", "value_dim", *arguments)
    summary = f"Loud keys (Doe 2031, arXiv:3101.00001), {'at length ' * 20}"
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    loud = type("Loud", (Attention,), {"__doc__": summary, "__signature__": Signature(parameters), **attributes})
    return Registry({("attention", "loud"): Component("attention", "loud", loud, "/home/doe/plugins/loud.py")})


@pytest.mark.parametrize(
    ("registry", "heading"),
    [
        (takes("score"), "attention=NAME with any scoring=NAME"),
        (takes(), "attention=NAME, with weights of its own"),
        (takes(masks="prefix"), "attention=NAME, with a state that runs along the keys"),
        (takes(baseline=True), "attention=NAME, baselines"),
    ],
)
def test_anyones_component_is_listed_in_the_family_that_its_contract_says(registry, heading):
    assert list(catalogue.families(registry)) == [heading]


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_a_list_is_wider_than_the_terminal(width, monkeypatch):
    terminal = Console(force_terminal=True, width=width, record=True, soft_wrap=True, file=StringIO())
    monkeypatch.setattr(catalogue, "Console", lambda **options: terminal)
    catalogue.show_list(Registry.load())
    lines = terminal.export_text().splitlines()
    assert len(lines) > 20
    assert max(map(cell_len, lines)) <= width


def test_a_component_of_ones_own_is_listed_with_its_file_and_at_full_length_where_it_is_no_terminal(capsys):
    catalogue.show_list(takes())
    out = capsys.readouterr().out
    assert f"  loud  Loud keys (Doe 2031), {'at length ' * 20}".rstrip() in out
    assert "\n        from /home/doe/plugins/loud.py\n" in out


@pytest.mark.parametrize(("group", "config"), [("trainer", TrainerConfig), ("optimizer", OptimizerConfig)])
def test_every_option_of_a_run_is_described(group, config, cli):
    for setting in settings(config):
        assert setting.description, f"{group}.{setting.name} has no comment in attnbench/config.py"
    out = cli("list", group).out
    assert all(f"{group}.{setting.name}={setting.default} " in out for setting in settings(config))


def test_a_setting_shows_the_words_that_it_may_be():
    (precision,) = [setting for setting in settings(TrainerConfig) if setting.name == "precision"]
    assert (precision.type, precision.default) == ("float32 | bfloat16 | float16", "float32")
