"""The benchmark: what it measures, what it writes, and what it says of a word that it does not understand."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

from attnbench.bench import BenchConfig, Ours, TextbookAdditive, contenders, exponents, forward_backward, read
from attnbench.measure import exponent, extra_memory, quartiles, time_in_turn
from attnbench.registry import Registry

TINY = ("batch=2", "dim=8", "heads=2", "rounds=2", "length=4,8")
CPU = torch.device("cpu")


def test_it_prints_a_table_and_writes_json_and_a_picture(cli, tmp_path):
    said = cli(
        "bench", *TINY, "attention=soft,uniform", "scoring=dot,additive", "reference=torch_mha,textbook_additive"
    )
    assert said.code == 0, said.err
    names = ["torch_mha", "textbook_additive", "soft-dot", "soft-additive", "uniform"]
    assert all(name in said.out for name in names)
    assert (tmp_path / "bench" / "bench.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [(row["length"], row["name"]) for row in result["rows"]] == [(n, name) for n in (4, 8) for name in names]
    for row in result["rows"]:
        for mode in ("forward", "forward+backward"):
            assert 0 < row[mode]["q1"] <= row[mode]["seconds"] <= row[mode]["q3"]
            assert row[mode]["memory_bytes"] is None or row[mode]["memory_bytes"] >= 0
    assert [row["forward"]["ratio"] for row in result["rows"] if row["name"] == "torch_mha"] == [1.0, 1.0]
    assert result["exponents"] == {}  # two lengths say nothing of how sure the growth is
    assert result["config"]["dim"] == 8


def test_torch_has_as_many_threads_afterwards(cli):
    torch.set_num_threads(2)
    assert cli("bench", *TINY, "attention=uniform", "reference=null", "threads=1").code == 0
    assert torch.get_num_threads() == 2


def test_rows_are_printed_the_cheapest_first_and_growth_with_its_uncertainty(cli, tmp_path):
    said = cli("bench", *TINY, "length=2,4,8", "attention=soft,multihead,ntm", "scoring=dot", "reference=torch_mha")
    assert said.code == 0, said.err
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    printed = [line.split() for line in said.out.partition("\n\n")[0].splitlines()[2:]]
    times = [float(words[-6] if words[-4] == "to" else words[-5]) for words in printed]
    for first in (0, 4, 8):
        assert times[first : first + 4] == sorted(times[first : first + 4])
    fitted = result["exponents"]["ntm-dot"]["forward time"]
    assert f"{fitted['power']:.2f} ± {fitted['error']:.2f}" in said.out


def test_progress_goes_to_the_end(cli):
    said = cli("bench", *TINY, "attention=soft", "scoring=dot", "reference=torch_mha")
    told = [re.match(r"(\d+)/(\d+) length (\d+): ", line) for line in said.err.splitlines()]
    numbers = [int(line[1]) for line in told]
    assert numbers == sorted(numbers)
    assert {line[2] for line in told} == {"16"}  # two lengths: two memories, and twice two rounds with their warm-up
    assert numbers[-1] == 13  # the last forward+backward begins


def test_options_reach_the_components_and_the_output_folder_is_a_choice(cli, tmp_path):
    words = ("attention=multihead", "scoring=additive", "attention.num_heads=2", "scoring.hidden_dim=3", "weights=true")
    said = cli("bench", *TINY, *words, "output=there/costs", "length=4")
    assert said.code == 0, said.err
    result = json.loads((tmp_path / "there" / "costs" / "bench.json").read_text())
    assert result["config"]["options"] == {"attention": {"num_heads": 2}, "scoring": {"hidden_dim": 3}}
    assert result["exponents"] == {}  # one length tells nothing about growth


def test_an_output_that_cannot_be_written_is_seen_before_anything_is_measured(cli, tmp_path, make_run):
    (tmp_path / "taken").write_text("")
    (tmp_path / "folder" / "bench.json").mkdir(parents=True)
    for output in ("taken", "taken/inside", "folder"):
        said = cli("bench", *TINY, f"output={output}")
        assert said.code == 2
        assert said.err.startswith(f"attnbench: {output}")
        assert len(said.err.splitlines()) == 1
    make_run()
    for page in ("folder", "nowhere/page.html"):
        said = cli("compare", "runs", "--html", page)
        assert said.code == 2
        assert said.err.startswith(f"attnbench: {page}: ")
        assert not said.out


def test_scoring_functions_are_measured_by_themselves(cli, tmp_path):
    said = cli("bench", *TINY, "attention=null", "scoring=dot,additive")
    assert said.code == 0, said.err
    rows = json.loads((tmp_path / "bench" / "bench.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["textbook_additive", "dot", "additive"] * 2


@pytest.mark.parametrize("word", ["weights=true", "causal=true", "attention.num_heads=2", "reference=torch_mha"])
def test_what_only_an_attention_has_is_refused_where_scores_are_measured_alone(cli, word):
    said = cli("bench", *TINY, "attention=null", word)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "attention=null measures scores alone" in said.err


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("lenght=8", "did you mean 'length'"),
        ("length=long", "Integer"),
        ("length=0", "length=0"),
        ("rounds=0", "rounds=0: at least 1"),
        ("multihead", "key=value"),
        ("attention=multihed", "did you mean 'multihead'"),
        ("scoring=additiv", "did you mean 'additive'"),
        ("reference=torch_mah", "did you mean 'torch_mha'"),
        ("attention.num_hed=2", "no option 'num_hed'"),
        ("heads=3", "heads=3 does not divide dim=8"),
        ("device=abacus", "device=abacus"),
        ("dtype=float31", "dtype"),
    ],
)
def test_a_word_that_cannot_be_is_one_line_that_names_it(cli, word, says):
    said = cli("bench", *TINY, word)
    assert said.code == 2
    assert says in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


def test_scoring_for_an_attention_that_uses_none_is_refused(cli):
    said = cli("bench", *TINY, "attention=uniform", "scoring=dot")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "uses no scoring function" in said.err


def test_several_values_stand_with_commas_between_them():
    config, _ = read(["attention=soft,self", "length=[16,32]", "dtype=bfloat16"])
    assert (config.attention, config.length, config.dtype.value) == (["soft", "self"], [16, 32], "bfloat16")


def test_every_registered_attention_can_be_measured():
    registry = Registry.load()
    names = [component.name for component in registry.of("attention")]
    config = BenchConfig(attention=names, scoring=["dot"], reference=[], dim=8)
    made = dict(contenders(registry, config, {"attention": {}, "scoring": {}}, []))
    assert len(made) == len(names)
    x = torch.randn(2, 5, 8, requires_grad=True)
    for module in made.values():
        forward_backward(module, x)()
    assert any(module.attention.recurrent for module in made.values() if isinstance(module, Ours))


def test_the_textbook_form_and_ours_are_the_same_function():
    torch.manual_seed(0)
    config = BenchConfig(attention=["soft"], scoring=["additive"], reference=["textbook_additive"], dim=8)
    theirs, ours = dict(contenders(Registry.load(), config, {"attention": {}, "scoring": {}}, [])).values()
    assert isinstance(theirs, TextbookAdditive)
    ours.attention.score.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x))
    config = BenchConfig(attention=None, scoring=["additive"], reference=["textbook_additive"], dim=8)
    alone, score = dict(contenders(Registry.load(), config, {"attention": {}, "scoring": {}}, [])).values()
    score.score.load_state_dict(alone.state_dict())
    torch.testing.assert_close(score(x), alone(x))


def test_causal_is_causal_in_ours_and_in_the_references():
    torch.manual_seed(0)
    words = ("attention=soft,location_aware", "scoring=additive", "reference=torch_mha,torch_sdpa,textbook_additive")
    config, options = read([*words, "dim=8", "causal=true"])
    x = torch.randn(2, 5, 8)
    later = torch.cat([x[:, :3], torch.randn(2, 2, 8)], dim=1)
    for name, module in contenders(Registry.load(), config, options, words):
        torch.testing.assert_close(module(later)[:, :3], module(x)[:, :3], msg=name)
        assert not torch.allclose(module(later)[:, 3:], module(x)[:, 3:]), name


def test_the_exponent_is_the_power_of_the_length():
    assert exponent([(n, 3.0 * n**2) for n in (128, 512, 2048)]) == pytest.approx((2.0, 0.0), abs=1e-7)
    noisy = [(128, 1.0), (512, 20.0), (1024, 55.0), (2048, 270.0)]
    reference = stats.linregress(*np.log(noisy).T)
    assert exponent(noisy) == pytest.approx((reference.slope, reference.stderr))
    rows = [
        {"name": "a", "length": n, "forward": {"seconds": 5.0 * n, "memory_bytes": None},
         "forward+backward": {"seconds": 2.0 * n**3, "memory_bytes": n**2}} for n in (10, 100, 200)
    ]  # fmt: skip
    fitted = {"forward time": 1.0, "forward+backward time": 3.0, "forward+backward memory": 2.0}
    assert {what: fit["power"] for what, fit in exponents(rows)["a"].items()} == pytest.approx(fitted)
    assert exponents(rows[:2]) == {}


def test_quartiles_of_numbers_worked_out_by_hand():
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_everything_is_timed_once_a_round_and_in_turn(monkeypatch):
    monkeypatch.setattr("attnbench.measure.LASTS", 0.0)  # no repeats within a timing
    order: list[str] = []
    times = time_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 3, CPU)
    assert {name: len(measured) for name, measured in times.items()} == {"a": 3, "b": 3}
    rounds = order[-len(order) // 4 * 3 :]
    assert {"a", "b"} == set(rounds)
    assert rounds.index("b") < len(rounds) - 1 - rounds[::-1].index("a")  # not all of one and then all of the other


def test_on_a_gpu_the_time_is_the_devices_own_and_the_memory_the_allocators(monkeypatch):
    """With the card's part played, so that it is tested where there is none."""
    told: list[str] = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            told.append("recorded")

        def elapsed_time(self, end):
            assert told[-3:] == ["called", "recorded", "waited"]
            return 40.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: told.append("waited"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: told.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 350 if told[-2:] == ["called", "waited"] else 0)
    gpu = torch.device("cuda")
    assert time_in_turn({"a": lambda: told.append("called")}, 2, gpu) == {"a": [0.04, 0.04]}
    assert extra_memory(lambda: told.append("called"), gpu) == 250
    assert told.index("reset") < len(told) - 2


def test_extra_memory_is_what_a_call_holds_at_its_peak():
    measured = extra_memory(lambda: torch.ones(8_000_000).add_(1).sum(), CPU)  # type: ignore[arg-type]
    if measured is None:
        pytest.skip("this system does not tell the peak")
    assert 30e6 < measured < 60e6


def test_what_memory_does_not_suffice_for_is_left_out_with_its_need(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("attnbench.bench.extra_memory", lambda call, device: 10**6)
    monkeypatch.setattr("attnbench.bench.available_memory", lambda device: 2e6)
    said = cli("bench", *TINY, "attention=soft", "scoring=dot", "reference=torch_sdpa")
    assert said.code == 0
    assert "length 8: soft-dot left out: would need about 0.0 GB" in said.err
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert {row["length"] for row in result["rows"]} == {4}
    assert all(math.isfinite(row["forward"]["seconds"]) for row in result["rows"])


def test_what_runs_out_of_memory_is_left_out_and_the_rest_is_measured(cli, tmp_path, monkeypatch):
    def forward(module, x):
        if isinstance(module, Ours):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return x

    monkeypatch.setattr("attnbench.bench.forward", lambda module, x: lambda: forward(module, x))
    said = cli("bench", *TINY, "attention=soft", "scoring=dot", "reference=torch_sdpa")
    assert said.code == 0
    assert "length 4: soft-dot left out: DefaultCPUAllocator: can't allocate memory" in said.err
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [row["name"] for row in result["rows"]] == ["torch_sdpa", "torch_sdpa"]


def test_where_the_reference_was_left_out_there_is_no_ratio(cli, tmp_path, monkeypatch):
    def forward(module, x):
        if not isinstance(module, Ours) and x.shape[1] == 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return x

    monkeypatch.setattr("attnbench.bench.forward", lambda module, x: lambda: forward(module, x))
    said = cli("bench", *TINY, "attention=soft", "scoring=dot", "reference=torch_sdpa")
    assert said.code == 0, said.err
    rows = json.loads((tmp_path / "bench" / "bench.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["torch_sdpa", "soft-dot", "soft-dot"]
    assert rows[0]["forward"]["ratio"] == 1
    assert rows[2]["forward"]["ratio"] is None
    printed = [line.split() for line in said.out.splitlines()]
    assert [words[-2] for words in printed if words[:2] == ["8", "soft-dot"]] == ["-", "-"]


def test_a_benchmark_that_measured_nothing_says_so(cli):
    said = cli("bench", *TINY, "attention=", "reference=")
    assert said.code == 2
    assert "nothing was measured" in said.err
