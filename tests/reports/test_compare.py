"""Run folders in, tables out."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

from attnbench.errors import UsageError
from attnbench.reports.compare import tabulate
from attnbench.reports.runs import read_all
from attnbench.run_folder import find, fingerprint, flat, lock


def table_of(tmp_path, **asked):
    runs, _ = read_all([tmp_path / "runs"])
    tables, _ = tabulate(runs, **asked)
    (table,) = tables
    return table


def rows_of(tmp_path, **asked):
    return {row.label: row for row in table_of(tmp_path, **asked).rows}


def test_runs_that_differ_only_in_their_seed_are_one_group(tmp_path, make_run):
    for seed, accuracy in enumerate((0.8, 0.9, 0.7)):
        make_run("soft", seed, accuracy)
        make_run("uniform", seed, accuracy / 10, scoring=None)
    rows = rows_of(tmp_path)

    assert list(rows) == ["soft-additive", "uniform"]
    assert rows["soft-additive"].mean == pytest.approx(0.8)
    assert rows["soft-additive"].sd == pytest.approx(0.1)
    assert rows["soft-additive"].values == {0: 0.8, 1: 0.9, 2: 0.7}


def test_a_label_names_the_options_that_differ_and_no_others(tmp_path, make_run):
    make_run("multihead", 0, options={"num_heads": 4, "bias": True}, folder="a")
    make_run("multihead", 0, options={"num_heads": 8, "bias": True}, folder="b")
    make_run("soft", 0)

    assert set(rows_of(tmp_path)) == {
        "multihead-additive attention.num_heads=4",
        "multihead-additive attention.num_heads=8",
        "soft-additive",
    }


def test_what_a_run_shows_does_not_make_it_another_group(tmp_path, make_run):
    make_run("soft", 0, trainer={"images": 0})
    make_run("soft", 1, trainer={"images": 3})

    assert len(rows_of(tmp_path)) == 1


def test_the_others_are_compared_with_the_best_by_a_corrected_paired_test(tmp_path, make_run):
    samples = {"soft": (0.80, 0.90, 0.85), "bad": (0.10, 0.22, 0.15), "near": (0.79, 0.91, 0.84)}
    for name, values in samples.items():
        for seed, value in enumerate(values):
            make_run(name, seed, value)
    table = table_of(tmp_path)
    best, near, bad = table.rows

    assert table.reference == best.label == "soft-additive"
    assert (best.verdict, near.verdict, bad.verdict) == ("reference", "cannot be distinguished", "worse")
    smallest = stats.ttest_rel(samples["bad"], samples["soft"]).pvalue
    assert bad.p == pytest.approx(3 * smallest)
    assert bad.difference.mean == pytest.approx((-0.70 - 0.68 - 0.70) / 3)


def test_only_a_named_baseline_spares_the_correction_for_every_pair(tmp_path, make_run, cli):
    for place, name in enumerate(("soft", "bad", "worse", "worst")):
        for seed in range(3):
            make_run(name, seed, 0.9 - place / 5 + seed**2 / 100 * (place + 1))
    chosen, named = (rows_of(tmp_path, **asked) for asked in ({}, {"baseline": "soft"}))
    smallest = min(row.difference.p for row in chosen.values() if row.difference)

    assert min(row.p for row in chosen.values() if row.p is not None) == pytest.approx(6 * smallest)
    assert min(row.p for row in named.values() if row.p is not None) == pytest.approx(3 * smallest)
    assert "Holm-corrected for 6 comparisons, each group with each, since" in cli("compare", "runs").out
    assert "Holm-corrected for 3 comparisons." in cli("compare", "runs", "--baseline", "soft").out


def test_a_baseline_is_found_by_its_attention_alone(tmp_path, make_run):
    for seed in range(3):
        make_run("soft", seed, 0.9 + seed / 100)
        make_run("uniform", seed, 0.1 - seed / 100, scoring=None)
    table = table_of(tmp_path, baseline="uniform")

    assert table.reference == "uniform"
    assert table.rows[0].verdict == "better"


def test_an_unknown_or_ambiguous_baseline_is_an_error_that_names_the_groups(tmp_path, make_run):
    make_run("soft", 0)
    make_run("soft", 0, scoring="dot")
    with pytest.raises(UsageError, match=r"--baseline uniform: no such group; .*soft-additive, soft-dot"):
        table_of(tmp_path, baseline="uniform")
    with pytest.raises(UsageError, match=r"--baseline soft: which of 'soft-additive', 'soft-dot'"):
        table_of(tmp_path, baseline="soft")


def test_by_joins_runs_and_says_what_it_mixed(tmp_path, make_run):
    make_run("soft", 0, 0.2)
    make_run("soft", 0, 0.4, scoring="dot")
    make_run("soft", 1, 0.5)
    table = table_of(tmp_path, by=["attention"])
    (row,) = table.rows

    assert row.label == "soft"
    assert row.values == pytest.approx({0: 0.3, 1: 0.5})
    assert "soft: its runs differ in more than their seed: scoring" in table.notes


def test_a_loss_is_better_low_and_a_rate_is_better_high(tmp_path, make_run):
    make_run("soft", 0, 0.9, examples_per_second=10.0)
    make_run("other", 0, 0.1, examples_per_second=20.0)

    assert next(iter(rows_of(tmp_path, metric="test/loss"))) == "soft-additive"
    assert next(iter(rows_of(tmp_path, metric="examples_per_second"))) == "other-additive"


@pytest.mark.parametrize("metric", ["steps", "epochs", "skipped_updates"])
def test_fewer_updates_are_better(tmp_path, make_run, metric):
    make_run("long", 0, **{metric: 20})
    make_run("short", 0, **{metric: 10})

    assert list(rows_of(tmp_path, metric=metric)) == ["short-additive", "long-additive"]


def test_alignment_can_be_compared(tmp_path, make_run):
    make_run("soft", 0, metrics={"attention/alignment": 0.75})

    assert rows_of(tmp_path, metric="attention/alignment")["soft-additive"].mean == 0.75


def test_the_time_to_the_highest_target_that_all_seeds_reached(tmp_path, make_run, points):
    make_run("soft", 0, curve=points(0.2, 0.91, 0.97))  # 0.95 after 15 s
    make_run("soft", 1, curve=points(0.96, 0.7))  # 0.95 after 5 s
    row = rows_of(tmp_path)["soft-additive"]

    assert (row.target, row.target_seconds, row.reached) == (0.95, 10.0, 2)


def test_one_target_is_for_all_groups_of_a_table(tmp_path, make_run, points):
    make_run("soft", 0, 0.9, curve=points(0.81, 0.99))
    make_run("slow", 0, 0.1, curve=points(0.2, 0.83))
    rows = rows_of(tmp_path)

    assert [(row.target, row.target_seconds) for row in rows.values()] == [(0.8, 5.0), (0.8, 10.0)]


def test_the_time_to_a_target_that_was_asked_for(tmp_path, make_run, points):
    make_run("soft", 0, curve=points(0.2, 0.91, 0.97))
    make_run("soft", 1, curve=points(0.1, 0.2))
    row = rows_of(tmp_path, target=0.9)["soft-additive"]

    assert (row.target, row.target_seconds, row.reached) == (0.9, 10.0, 1)


def test_budgets_that_differ_by_over_a_tenth_are_flagged(tmp_path, make_run):
    make_run("soft", 0, 0.9, parameters=1000, epochs=1.0)
    make_run("other", 0, 0.1, parameters=1500, epochs=1.05)
    table = table_of(tmp_path)

    assert table.rows[1].excess == {"parameters": pytest.approx(0.5)}
    assert [note.partition(" differ")[0] for note in table.notes] == ["parameters"]


def test_each_task_has_a_table_of_its_own(tmp_path, make_run):
    make_run("soft", 0)
    make_run("soft", 0, task="imdb", primary="test/accuracy", metrics={"test/accuracy": 0.8})
    tables, _ = tabulate(read_all([tmp_path / "runs"])[0])

    assert [(table.task, table.metric) for table in tables] == [("date", "test/exact_match"), ("imdb", "test/accuracy")]


def test_of_repeated_runs_the_one_that_finished_last_counts(tmp_path, make_run):
    make_run("soft", 0, 0.9, folder="a", finished="2026-01-01T12:00:01.000+00:00")
    make_run("soft", 0, 0.1, folder="b", finished="2026-01-01T12:00:00.000+00:00")
    assert rows_of(tmp_path)["soft-additive"].values == {0: 0.9}


@pytest.mark.parametrize("metric", ["test/bits_wrong", "test/bits_wrong_120", "test/bits", "test/loss"])
def test_fewer_wrong_bits_are_better(tmp_path, make_run, metric):
    for name, wrong in (("soft", 1.0), ("uniform", 2.0)):
        bits = {"test/bits_wrong": wrong, "test/bits_wrong_120": wrong, "test/bits": wrong, "test/loss": wrong}
        make_run(name, 0, task="memory", metrics=bits, primary="test/bits_wrong", mode="min")
    table = table_of(tmp_path, metric=metric)
    assert table.mode == "min"
    assert table.reference == "soft-additive"


def test_a_repeated_run_counts_once(tmp_path, make_run):
    make_run("soft", 0, 0.1, folder="2026-01-01_seed0")
    make_run("soft", 0, 0.9, folder="2026-01-02_seed0")
    tables, left_out = tabulate(read_all([tmp_path / "runs"])[0])

    assert tables[0].rows[0].values == {0: 0.9}
    assert [entry.folder.name for entry in left_out] == ["2026-01-01_seed0"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: (f / "result.json").unlink(), "unfinished: it has no result.json"),
        (lambda f: (f / "result.json").write_text('{"status": "comp'), "damaged: result.json cannot be read"),
        (lambda f: (f / "result.json").write_bytes(b"\xff\xfe\x00"), "damaged: result.json cannot be read"),
        (lambda f: (f / "result.json").write_text("[]"), "damaged: result.json is not that of a run"),
        (lambda f: (f / "result.json").write_text('{"status": "failed", "error": "E: x"}'), "unfinished: failed: E: x"),
        (lambda f: (f / "result.json").write_text('{"status": "completed"}'), "damaged: result.json is not"),
        (lambda f: (f / "config.yaml").unlink(), "unfinished: it has no config.yaml"),
        (lambda f: (f / "config.yaml").write_text("a: [b"), "damaged: config.yaml cannot be read"),
        (lambda f: (f / "config.yaml").write_text("seed: x"), "damaged: config.yaml is not the config of a run"),
        (lambda f: (f / "config.yaml").write_text("!!python/object/apply:os.system [ls]"), "damaged: config.yaml"),
    ],
)
def test_a_damaged_or_unfinished_folder_is_listed_and_left_out(tmp_path, make_run, cli, spoil, reason):
    make_run("soft", 0)
    spoil(make_run("soft", 1))
    said = cli("compare", "runs")

    assert said.code == 0
    assert re.search(r"left out: \S+_seed1: ", said.err)
    assert reason in said.err


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_ended_early_is_listed_with_what_to_type(make_run, cli, status):
    make_run("soft", 0)
    killed = make_run("soft", 1, status=status, folder="a folder/killed")
    said = cli("compare", "runs")
    hint = "resume with: python -m attnbench 'resume=runs/a folder/killed'"
    assert said.err == f"left out: runs/a folder/killed: unfinished: interrupted; {hint}\n"
    with lock(killed):
        said = cli("compare", "runs")
    if status == "running":
        assert said.err == "left out: runs/a folder/killed: unfinished: running\n"


def test_of_many_that_are_left_out_the_first_are_named_and_json_names_all(make_run, cli):
    make_run("soft", 0)
    for number in range(7):
        make_run("soft", 1, status="interrupted", folder=f"cut{number}")
    said = cli("compare", ".")
    assert [line.split(": ")[1] for line in said.err.splitlines()] == [
        *(f"runs/cut{n}" for n in range(5)),
        "2 more; compare --json names them all",
    ]
    assert len(json.loads(cli("compare", ".", "--json").out)["left_out"]) == 7


def test_processor_seconds_stand_beside_those_on_the_clock(make_run, cli):
    for seed in range(2):
        make_run("soft", seed, train_seconds=20.0, train_cpu_seconds=17.0 + seed)
    (row,) = json.loads(cli("compare", "runs", "--json").out)["tables"][0]["rows"]
    assert (row["train_seconds"], row["train_cpu_seconds"]) == (20.0, 17.5)
    heading, *rows = [line.split("|") for line in cli("compare", "runs", "--markdown").out.splitlines() if "|" in line]
    place = [cell.strip() for cell in heading].index("CPU seconds")
    assert [row[place].strip() for row in rows] == ["---", "17.5"]


@pytest.fixture
def terminal(monkeypatch, cli):
    def compare(width):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        return re.sub(r"\x1b\[[0-9;]*m", "", cli("compare", "runs").out)

    return compare


def test_a_table_is_readable_on_a_terminal_of_80_columns(make_run, terminal):
    for name, accuracy in (("location_aware", 0.9), ("multihead", 0.8), ("a_mechanism_with_quite_a_long_name", 0.7)):
        for seed in range(3):
            make_run(name, seed, accuracy + seed / 100)
    for width in (250, 120, 80):
        said = terminal(width)
        assert max(map(len, said.splitlines())) <= width
        for label, mean in (("location_aware-additive", "0.9100"), ("multihead-additive", "0.8100")):
            assert re.search(rf"{label} +3 +{mean} ", said), f"{label} is not whole in a line of {width}"
        assert "a_mechanism_with_quite_a_long_" in said
    assert "examples/s" in terminal(250)
    assert re.search(r"too narrow for: .*examples/s.*; see --html", said.replace("\n", " "))


def test_on_a_narrower_one_each_group_is_a_line(make_run, terminal):
    for name, accuracy in (("soft", 0.9), ("uniform", 0.8)):
        for seed in range(6):
            make_run(name, seed, accuracy)
    assert "\nsoft-additive: 0.9000, n 6, reference\nuniform-additive: 0.8000, n 6, worse\n" in terminal(40)


def test_a_line_for_a_group_alone_has_nothing_to_explain(make_run, terminal):
    make_run("soft", 0, 0.9)
    said = terminal(20)
    assert "soft-additive:" in said
    assert "." not in said.splitlines()


def test_links_are_followed_and_a_run_counts_once(tmp_path, make_run):
    made = make_run("soft", 0)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/elsewhere").symlink_to(tmp_path / "runs")
    (tmp_path / "runs/date/up").symlink_to(tmp_path / "runs")
    assert [folder.resolve() for folder in find([tmp_path / "linked", tmp_path / "runs"])] == [made]


@pytest.mark.parametrize("target", ["nan", "inf"])
def test_a_target_is_a_number(make_run, cli, target):
    make_run("soft", 0)
    assert cli("compare", "runs", "--target", target).err.startswith(f"attnbench: --target {target}: a value of")


def test_a_metric_that_is_not_a_number_leaves_the_run_out(tmp_path, make_run, cli):
    make_run("soft", 0, float("nan"))
    make_run("soft", 1, 0.5)
    said = cli("compare", "runs", "--json")

    assert "it has no finite test/exact_match" in said.err
    assert json.loads(said.out)["tables"][0]["rows"][0]["values"] == {"1": 0.5}


@pytest.mark.parametrize("form", ["--csv", "--json", "--markdown", None])
def test_one_seed_and_equal_seeds_give_no_nan_in_any_format(make_run, cli, form):
    make_run("single", 0, 1.0)
    for seed in range(3):
        make_run("perfect", seed, 1.0)
        make_run("same", seed, 1.0)
    said = cli("compare", "runs", *([form] if form else []))

    assert said.code == 0
    assert not re.search(r"\b(nan|inf)\b", said.out, re.IGNORECASE)
    assert "cannot be distinguished" in said.out
    assert "not tested: one seed in common" in said.out


def test_csv_and_json_hold_the_same_numbers(make_run, cli):
    for seed in range(2):
        make_run("soft", seed, 0.5 + seed / 10)
    (row,) = csv.DictReader(io.StringIO(cli("compare", "runs", "--csv").out))
    (record,) = json.loads(cli("compare", "runs", "--json").out)["tables"][0]["rows"]

    assert float(row["mean"]) == record["mean"] == pytest.approx(0.55)
    assert float(row["low95"]) == record["low95"] == pytest.approx(0.55 - 12.706 * 0.05, abs=1e-4)  # t of two seeds
    assert (float(row["seed_0"]), float(row["seed_1"])) == (0.5, 0.6)


def test_a_name_from_a_folder_can_neither_drive_the_terminal_nor_break_the_table(make_run, cli):
    make_run("a|b\x1b[2J[red]", 0, folder="x")
    terminal, markdown = cli("compare", "runs").out, cli("compare", "runs", "--markdown").out

    assert "\x1b" not in terminal + markdown
    assert "[red]" in terminal
    assert "a\\|b" in markdown


def test_a_config_that_is_no_runs_hides_no_run_below_it(tmp_path, make_run):
    made = make_run("soft", 0)
    (tmp_path / "runs" / "config.yaml").write_text("title: a project\nseed: 3\n")

    assert [run.folder for run in read_all([tmp_path / "runs"])[0]] == [made]


def test_no_folder_and_no_run_are_each_one_line(tmp_path, cli):
    (tmp_path / "empty").mkdir()

    assert cli("compare", "gone") == (2, "", "attnbench: gone: no such folder\n")
    assert cli("compare", "empty").err == "attnbench: no completed run here; a run leaves its folder under runs/\n"


def test_a_misspelt_metric_or_key_is_answered_with_the_nearest(make_run, cli):
    make_run("soft", 0)

    assert "did you mean 'test/exact_match'?" in cli("compare", "runs", "--metric", "test/exact_mach").err
    assert "did you mean 'attention'?" in cli("compare", "runs", "--by", "atention").err


def test_a_fingerprint_ignores_order_and_what_is_only_shown():
    one = flat({"seed": 0, "trainer": {"images": 3, "max_epochs": 1}})
    other = flat({"trainer": {"max_epochs": 1, "images": 0}, "seed": 0})

    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint({**one, "seed": 1})
    assert fingerprint(one, ignore=["seed"]) == fingerprint({**one, "seed": 1}, ignore=["seed"])


def test_a_comparison_loads_neither_lightning_nor_tensorboard(tmp_path, make_run):
    make_run("soft", 0)
    program = (
        "import sys; sys.argv = ['attnbench', 'compare', 'runs']; from attnbench.__main__ import main; main();"
        "heavy = {'pytorch_lightning', 'torchmetrics', 'matplotlib', 'tensorboard'};"
        "print('HEAVY', sorted(heavy & sys.modules.keys()))"
    )
    root = Path(__file__).parent.parent.parent
    given = {**os.environ, "PYTHONPATH": str(root)}
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=given
    )

    assert "HEAVY []" in said.stdout
