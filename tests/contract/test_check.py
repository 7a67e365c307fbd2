"""`python -m attnbench check`: what it prints, what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench import ScoringFunction
from attnbench.contract import check, written_in
from attnbench.contract.findings import Finding, show_laws
from attnbench.errors import UsageError
from attnbench.registry import Registry


def test_check_prints_a_table_and_exits_with_0_when_all_holds(cli: Callable[..., Any]) -> None:
    torch.set_num_threads(2)
    said = cli("check", "dot", "last")
    assert torch.get_num_threads() == 2
    assert said.code == 0
    assert "excused attention=last permutation: it takes the last key" in said.out
    assert "2 components" in said.out
    assert "0 broken" in said.out


def test_laws_that_are_skipped_for_one_reason_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [Finding(law, "skipped", why) for law, why in (("a", "no data"), ("b", "no data"), ("c", "no time"))]
    show_laws({"task=mine": skipped, "task=other": [Finding(law, "passed") for law in "abc"]}, {})
    said = capsys.readouterr().out
    assert "skipped task=mine a, b: no data\nskipped task=mine c: no time\n" in said


def test_of_one_component_what_is_broken_stands_first_and_what_was_not_tried_in_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    findings = [Finding("a", "passed"), Finding("b", "broken", "it is NaN", "mine.py:3")]
    findings += [Finding(law, "skipped", "not tried, since 'b' is broken") for law in "cd"]
    show_laws({"scoring=mine": findings}, dict.fromkeys("abcd", "It is so."))
    out = capsys.readouterr().out
    assert out.index("it is NaN (mine.py:3)") < out.index("holds")
    assert "skipped c, d: not tried, since 'b' is broken" in out


def test_check_takes_a_file_and_exits_with_1_showing_the_smallest_case(
    cli: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(SystemExit) as ended:
        cli("check", "mine.py")
    out = capfd.readouterr().out
    assert ended.value.code == 1
    assert "BROKEN" in out
    assert "B=1 Q=1 K=1 mask=none" in out


MINE = '''
"""Half a mean."""
from attnbench import Attention, causal_mask, hide_masked, hookimpl, masked_softmax


class Half(Attention):
    """Its weights sum to a half."""

    def __init__(self, query_dim: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.out_dim = value_dim

    def forward(self, query, key, value, mask=None, *, causal=False, need_weights=True):
        key, value = hide_masked(query, key, value, mask, causal=causal)
        mask = causal_mask(mask, query, causal)
        weights = masked_softmax(query.new_zeros(query.shape[0], query.shape[1], key.shape[1]), mask) / 2
        return weights @ value, weights.unsqueeze(1) if need_weights else None


@hookimpl
def register_attention(register):
    """Contribute `half`."""
    register("half", Half)
'''


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing_of_this_name"], "nothing_of_this_name: no such component"),
        (["no.py"], "no.py: no such file"),
        (["scoring=multihed"], "no such component"),
        (["dot", "--device", "abacus"], "--device abacus"),
        (["date", "task.lins=400", "--law", "splits"], "task.lins"),
    ],
)
def test_check_refuses_what_it_cannot_check_in_one_line(
    cli: Callable[..., Any], arguments: list[str], says: str
) -> None:
    said = cli("check", *arguments)
    assert said.code == 2
    assert says in said.err


def test_check_says_why_a_file_does_not_load(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nothing_of_this_name  # attnbench\n")
    said = cli("check", "mine.py")
    assert said.code == 2
    assert "nothing_of_this_name" in said.err


def test_check_says_why_a_file_brought_nothing(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "other"):
        (tmp_path / f"{name}.py").write_text(MINE)
    said = cli("check", "mine.py", "other.py")
    assert (said.code, said.err) == (
        2,
        "attnbench: attention=half: both mine.py and other.py register it; rename one of them\n",
    )
    monkeypatch.setenv("ATTNBENCH_DISABLE", "mine")
    said = cli("check", "mine.py")
    assert (said.code, said.err) == (2, "attnbench: mine.py: ATTNBENCH_DISABLE keeps plugin 'mine' out\n")


def test_check_takes_a_file_that_registers_a_class_from_elsewhere(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from attnbench import hookimpl\nfrom attnbench.plugins.attention.uniform import Uniform\n\n\n"
        "@hookimpl\ndef register_attention(register):\n    register('mean', Uniform)\n"
    )
    assert [component.name for component in written_in(Registry.load(file), file)] == ["mean"]
    with pytest.raises(UsageError, match="it brings no component"):
        written_in(registry, file)


def test_check_tries_one_law_where_one_is_named(cli: Callable[..., Any]) -> None:
    said = cli("check", "dot", "last", "--law", "widths")
    assert said.code == 0
    assert "2 components: 2 passed, 0 broken" in said.out
    assert "2 components: 2 passed, 0 broken" in cli("check", "dot", "last", "dot", "--law", "widths").out
    said = cli("check", "dot", "--law", "width")
    assert said.code == 2
    assert said.err.startswith("attnbench: --law width: no such law; did you mean 'widths'?")


def test_check_takes_options(cli: Callable[..., Any]) -> None:
    said = cli("check", "date", "task.lines=400", "task.val_share=0.5", "--law", "splits")
    assert said.code == 0
    assert "200 val, 40 test" in said.out


class Minus(ScoringFunction):
    """Minus the dot product, NaN where it is small."""

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        if query_dim != key_dim:
            raise ValueError(f"of one width, not {query_dim} and {key_dim}")

    def forward(self, query: Any, key: Any) -> Any:
        return (query @ key.mT).log()


@pytest.mark.parametrize("module", [__name__, "__main__"])
def test_a_class_that_is_not_registered_is_checked(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Minus, "__module__", module)  # where a notebook's classes have no file
    (runs,) = check(Minus, laws=["runs"])
    assert runs.status == "broken"
    assert "NaN" in runs.detail
    with pytest.raises(TypeError, match=r"int, which is no attnbench\.Attention"):
        check(int)
