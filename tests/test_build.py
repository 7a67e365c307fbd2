"""`attnbench.build`: any registered mechanism in your own program, with the command line's checks and errors."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_overloads

import numpy as np
import pytest
import torch
from broken_plugins import scoring, write

import attnbench
from attnbench.registry import Registry

WIDTHS = {"query_dim": 8, "key_dim": 8, "value_dim": 8}


class Mine(attnbench.ScoringFunction):
    """The dot product, scaled."""

    def __init__(self, query_dim: int, key_dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        if query_dim != key_dim:
            raise ValueError(f"of one width, not {query_dim} and {key_dim}")
        self.scale = scale

    def forward(self, query, key):
        return self.scale * query @ key.mT


class Mean(attnbench.Attention):
    """The mean of the values, and what scores there would have been."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int, score: Any, *, steps: int = 1) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.score, self.steps = score(query_dim, key_dim), steps

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):
        raise NotImplementedError


@pytest.mark.parametrize("component", Registry.load().of("attention"), ids=lambda component: component.name)
def test_any_attention_is_one_call_away(component):
    scoring = {"scoring": "scaled_dot"} if attnbench.schema.takes_score(component.cls) else {}
    attention = attnbench.build("attention", component.name, **WIDTHS, **scoring)
    assert isinstance(attention, attnbench.Attention)
    assert type(attention) is component.cls


def test_options_reach_the_attention_and_its_scoring_function():
    attention = attnbench.build(
        "attention", "multihead", **WIDTHS, num_heads=2, scoring={"name": "additive", "hidden_dim": 5}
    )
    assert attention.num_heads == 2
    assert attention.score.v.in_features == 5
    context, weights = attention(torch.randn(3, 4, 8), torch.randn(3, 6, 8), torch.randn(3, 6, 8))
    assert context.shape == (3, 4, 8)
    assert weights.shape == (3, 2, 4, 6)


def test_numpy_numbers_are_numbers():
    widths = {"query_dim": np.int64(8), "key_dim": np.int32(8), "value_dim": np.int16(8)}
    scoring = {"name": "gaussian", "bandwidth": np.float32(0.5)}
    attention = attnbench.build("attention", "multihead", **widths, scoring=scoring, num_heads=np.int64(2))
    assert (attention.num_heads, attention.out_dim) == (2, 8)


def test_a_scoring_function_and_a_task_are_built_alike():
    assert attnbench.build("scoring", "additive", query_dim=3, key_dim=4, hidden_dim=2).v.in_features == 2
    assert attnbench.build("task", "date", lines=100).lines == 100


@pytest.mark.parametrize(
    ("arguments", "options", "line"),
    [
        (("attention", "multihed"), WIDTHS, "attention=multihed: no such attention; did you mean 'multihead'?"),
        (("atention", "soft"), WIDTHS, "kind 'atention': no such kind of component; did you mean 'attention'?"),
        (("attention", "soft"), {"query_dim": 8}, "attention 'soft' needs key_dim=, value_dim="),
        (("attention", "soft"), WIDTHS, "attention=soft needs a scoring function: scoring=NAME, one of "),
        (("attention", "uniform"), {**WIDTHS, "scoring": "dot"}, "attention=uniform uses no scoring function"),
        (("attention", "soft"), {**WIDTHS, "scoring": "dott"}, "scoring=dott: no such scoring; did you mean 'dot'?"),
        (
            ("attention", "multihead"),
            {**WIDTHS, "scoring": "dot", "num_head": 2},
            "attention.num_head: attention 'multihead' has no option 'num_head'; did you mean 'num_heads'?",
        ),
        (("attention", "multihead"), {**WIDTHS, "scoring": "dot", "num_heads": "two"}, "attention.num_heads: "),
        (("attention", "multihead"), {**WIDTHS, "scoring": "dot", "num_heads": 3}, "num_heads=3 does not divide the"),
        (
            ("attention", "soft"),
            {**WIDTHS, "scoring": {"name": "additive", "hidden_dims": 3}},
            "scoring.hidden_dims: scoring 'additive' has no option 'hidden_dims'; did you mean 'hidden_dim'?",
        ),
        (("scoring", "dot"), {"query_dim": 3, "key_dim": 4}, "scoring=dot: "),
        (
            ("attention", "soft"),
            {**WIDTHS, "scoring": {"hidden_dim": 3}},
            "scoring: a name, or {'name': NAME, option: v",
        ),
        (("attention", "soft"), {**WIDTHS, "scoring": {"name": None}}, "scoring: a name, or {'name': NAME, option: va"),
        (("attention", "uniform"), {**WIDTHS, "scoring": Mine}, "attention=uniform uses no scoring function"),
        (("attention", "soft"), {**WIDTHS, "query_dim": 4, "scoring": Mine}, "scoring=Mine: of one width, not 4 and 8"),
        (("scoring", Mine), {"query_dim": 3, "key_dim": 3, "scal": 2}, "scoring 'Mine' has no option 'scal'; did you"),
        (("scoring", "dot"), {"query_dim": 3, "key_dim": 3, "scoring": "dot"}, "scoring=: a scoring takes none"),
        (("task", "date"), {"scoring": "dot"}, "scoring=: a task takes none"),
        (("attention", "soft"), {**WIDTHS, "scoring": ["dot"]}, "scoring: a name, or {'name': NAME, option: value}, "),
        (("attention", "soft"), {**WIDTHS, "scoring": "dot", "score": "dot"}, "attention 'soft' has no option 'score'"),
        (("attention", "soft"), {**WIDTHS, "query_dim": 0}, "query_dim=0: a width is a whole number, at least 1"),
        (("attention", "soft"), {**WIDTHS, "key_dim": -3}, "key_dim=-3: a width is a whole number, at least 1"),
        (("scoring", "dot"), {"query_dim": 3, "key_dim": "x"}, "key_dim='x': a width is a whole number, at least 1"),
        (("attention", "soft"), {**WIDTHS, "value_dim": 8.5}, "value_dim=8.5: a width is a whole number, at least 1"),
        (("attention", None), WIDTHS, "attention: a registered name is expected, such as 'dot', not None"),
        ((["attention"], "soft"), WIDTHS, "kind '['attention']': no such kind of component"),
        (("task", "date"), {"line": 3}, "task.line: task 'date' has no option 'line'; did you mean 'lines'?"),
    ],
)
def test_what_cannot_be_built_is_the_command_lines_error(arguments, options, line):
    with pytest.raises(attnbench.UsageError) as raised:
        attnbench.build(*arguments, **options)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_plugin_that_failed_is_named_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "spoilt.py").write_text("import attnbench\n1 / 0\n")
    monkeypatch.setenv("ATTNBENCH_PLUGINS", str(tmp_path))
    with pytest.raises(attnbench.UsageError, match=r"scoring=spoilt: plugin 'spoilt' is not loaded, .*ZeroDivision"):
        attnbench.build("scoring", "spoilt", query_dim=3, key_dim=3)


@pytest.mark.parametrize("place", ["plugins/later.py", "plugins/scoring/later.py", "plugins/later/__init__.py"])
def test_a_plugin_written_while_the_program_runs_is_found_where_the_program_stands(place, tmp_path, monkeypatch):
    for number in (1, 2):
        (tmp_path / f"{number}").mkdir()
        monkeypatch.chdir(tmp_path / f"{number}")
        with pytest.raises(attnbench.UsageError, match="scoring=later: no such scoring"):
            attnbench.build("scoring", "later", query_dim=3, key_dim=3)
        write(Path(place), scoring("later", f"width: int = {number}"))
        made = attnbench.build("scoring", "later", query_dim=3, key_dim=3)
        assert type(made).__init__.__kwdefaults__ == {"width": number}


def test_a_class_stands_where_a_name_does():
    made = attnbench.build("attention", Mean, **WIDTHS, scoring={"name": "additive", "hidden_dim": 5}, steps=3)
    assert (type(made), made.steps, made.score.v.in_features) == (Mean, 3, 5)
    assert attnbench.build("scoring", Mine, query_dim=3, key_dim=3, scale=2).scale == 2.0
    with pytest.raises(TypeError, match=r"scoring 'Mean' is Mean, which is no attnbench\.ScoringFunction"):
        attnbench.build("scoring", Mean, query_dim=3, key_dim=3)


def test_scoring_may_be_a_class_or_what_makes_one():
    assert type(attnbench.build("attention", "multihead", **WIDTHS, scoring=Mine).score) is Mine
    assert attnbench.build("attention", Mean, **WIDTHS, scoring=partial(Mine, scale=3.0)).score.scale == 3.0
    with pytest.raises(TypeError, match="ScoringFunction is abstract: define forward"):
        attnbench.build("attention", "soft", **WIDTHS, scoring=attnbench.ScoringFunction)


def test_names_are_those_that_build_takes():
    assert {"multihead", "deltanet"} <= set(attnbench.names("attention"))
    assert {"date", "recall"} <= set(attnbench.names("task"))
    with pytest.raises(attnbench.UsageError, match="kind 'tasks': no such kind of component; did you mean 'task'"):
        attnbench.names("tasks")


def test_a_type_checker_is_told_what_is_built():
    returns = {each.__annotations__["kind"]: each.__annotations__["return"] for each in get_overloads(attnbench.build)}
    assert returns == {
        "Kind": "Made",
        "Literal['attention']": "Attention",
        "Literal['scoring']": "ScoringFunction",
        "Literal['task']": "Task",
    }


def test_a_program_that_builds_again_loads_no_plugin_again(monkeypatch):
    attnbench.build("scoring", "dot", query_dim=3, key_dim=3)
    monkeypatch.setattr(Registry, "load", None)
    attnbench.build("scoring", "additive", query_dim=3, key_dim=3)


def test_a_plugin_that_is_changed_counts_at_the_next_build(tmp_path, monkeypatch):
    def width():
        return type(attnbench.build("scoring", "changing", query_dim=3, key_dim=3)).__init__.__kwdefaults__["width"]

    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "plugins" / "changing" / "inner.py"
    write(inner.parent / "__init__.py", "from .inner import register_scoring  # attnbench\n")
    for number in (1, 20, 300):  # of different lengths: Python's cache of bytecode goes by seconds and length
        write(inner, scoring("changing", f"width: int = {number}"))
        assert width() == number
    write(inner, "import attnbench\n1 / 0\n")
    with pytest.raises(attnbench.UsageError, match=r"changing.*ZeroDivisionError"):
        width()
    write(inner, scoring("changing", "width: int = 4000"))
    assert width() == 4000
    monkeypatch.setenv("ATTNBENCH_DISABLE", "changing")
    with pytest.raises(attnbench.UsageError, match="no such scoring"):
        width()


def test_neither_lightning_nor_hydra_is_imported():
    program = (
        "import sys, attnbench;"
        "attnbench.build('attention', 'soft', query_dim=4, key_dim=4, value_dim=4, scoring='dot');"
        "print([name for name in ('pytorch_lightning', 'hydra', 'matplotlib') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
