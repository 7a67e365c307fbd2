"""A comparison for programs and papers, and what is chosen before it."""

import csv
import io
import json
import re

import pytest
import yaml
from scipy import stats

from attnbench.reports.compare import tabulate
from attnbench.reports.runs import read_all
from attnbench.reports.statistics import interval, wilson


def in_csv(said):
    return list(csv.DictReader(io.StringIO(said.out)))


def set_config(folder, **changes):
    """Change a run's config; a name with `__` is of a group."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in changes.items():
        group, _, option = key.partition("__")
        (config[group] if option else config).__setitem__(option or group, value)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def set_result(folder, **changes):
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | changes))


@pytest.fixture
def make_trial(make_run):
    """A run at a learning rate, with what it validated and tested."""

    def make(attention, lr, seed, val, test, part="reported"):
        folder = make_run(
            attention, seed, test, metrics={"val/exact_match": val}, folder=f"{part}/{attention}/{lr}/{seed}"
        )
        set_config(folder, optimizer__lr=lr, part=part)
        return folder

    return make


def test_csv_has_columns_for_what_varies_a_value_for_each_seed_and_whole_numbers_as_such(make_run, cli):
    for seed in range(2):
        make_run("soft", seed, 0.5 + seed / 4, parameters=1000)
        make_run("multihead", seed, 0.25, options={"num_heads": 4}, folder=f"four/{seed}")
        make_run("multihead", seed, 0.5, options={"num_heads": 8}, folder=f"eight/{seed}")
    soft, *multihead = in_csv(cli("compare", "--csv"))

    assert (soft["task"], soft["attention"], soft["scoring"], soft["optimizer.lr"]) == (
        "date",
        "soft",
        "additive",
        "0.01",
    )
    assert (soft["attention.num_heads"], soft["seed_0"], soft["seed_1"], soft["parameters"]) == (
        "",
        "0.5",
        "0.75",
        "1000",
    )
    assert [(row["attention"], row["attention.num_heads"]) for row in multihead] == [
        ("multihead", "8"),
        ("multihead", "4"),
    ]


def test_json_says_of_a_group_what_its_interval_is_and_how_often_it_is_better(make_run, cli):
    for seed, (soft, other) in enumerate(((0.9, 0.8), (0.7, 0.75), (0.85, 0.6))):
        make_run("soft", seed, soft)
        make_run("other", seed, other)
    best, other = json.loads(cli("compare", "--json").out)["tables"][0]["rows"]

    assert best["values"] == {"0": 0.9, "1": 0.7, "2": 0.85}
    assert (best["low95"], best["high95"]) == pytest.approx(interval([0.9, 0.7, 0.85]))
    assert best["interval"] == "95% t interval"
    assert other["p_better"] == pytest.approx(1 / 3)
    assert (other["p_better_low95"], other["p_better_high95"]) == pytest.approx(wilson(1, 3))


def test_beside_what_cannot_be_distinguished_stands_what_could_be(make_run, cli):
    one, other = (0.9, 0.7, 0.85), (0.8, 0.75, 0.6)
    for seed in range(3):
        make_run("soft", seed, one[seed])
        make_run("other", seed, other[seed])
    record = json.loads(cli("compare", "--json").out)["tables"][0]["rows"][1]
    deviation, mean = stats.tstd([b - a for a, b in zip(one, other, strict=True)]), 0.1
    needed = record["seeds_needed"]

    assert record["smallest_difference"] == pytest.approx(2.484 * deviation, rel=1e-3)
    assert stats.t.ppf(0.975, needed - 1) * deviation / needed**0.5 <= mean
    assert stats.t.ppf(0.975, needed - 2) * deviation / (needed - 1) ** 0.5 > mean
    said = cli("compare").out
    assert f"(needs {record['smallest_difference']:.4f} or {needed} seeds)" in said
    assert "cannot be distinguished" in said


def test_what_could_be_distinguished_is_as_strict_as_the_corrected_test(make_run, tmp_path):
    for seed in range(3):
        for place, name in enumerate(("soft", "near", "far")):
            make_run(name, seed, 0.9 - place / 100 + seed**place / 100)
    (table,), _ = tabulate(read_all([tmp_path / "runs"])[0])
    for row in table.rows[1:]:  # three pairs: each difference is tested at 0.05 / 3 or less strictly
        assert row.verdict == "cannot be distinguished"
        assert abs(row.difference.mean) < row.smallest_difference


def test_differences_that_are_all_alike_need_more_seeds_and_have_no_smallest(make_run, cli):
    for seed in range(3):
        make_run("soft", seed, 0.9)
        make_run("other", seed, 0.8)
    record = json.loads(cli("compare", "--json").out)["tables"][0]["rows"][1]

    assert (record["smallest_difference"], record["seeds_needed"]) == (None, 6)  # 2 / 2^6 < 0.05
    assert "(needs 6 seeds)" in cli("compare").out


def test_the_runs_that_reach_the_goal_are_a_rate_with_the_median_of_their_steps(make_run, points, cli):
    for seed, curve in enumerate(((0.5, 1.0), (1.0,), (0.2, 0.6, 0.9, 1.0), (0.1, 0.2))):
        make_run("soft", seed, curve=points(*curve))
    (record,) = json.loads(cli("compare", "--json").out)["tables"][0]["rows"]

    assert (record["goal"], record["successes"], record["target_steps"]) == (1.0, 3, 200)
    assert (record["success_low95"], record["success_high95"]) == pytest.approx(wilson(3, 4))
    assert "3 of 4 (0.30 to 0.95)" in cli("compare").out


def test_a_goal_that_is_low_is_reached_from_above(make_run, points, cli):
    for seed, curve in enumerate(((0.5, 0.1), (0.5, 0.4))):
        points_down = points(*curve, metric="val/error")
        make_run(
            "soft", seed, primary="test/error", mode="min", goal=0.1, metrics={"test/error": 0.1}, curve=points_down
        )
    (record,) = json.loads(cli("compare", "--json").out)["tables"][0]["rows"]

    assert (record["goal"], record["successes"], record["target_steps"]) == (0.1, 1, 200)


def test_where_no_run_reaches_the_goal_success_is_0_and_the_time_is_to_what_all_reached(make_run, points, cli):
    for seed, curve in enumerate(((0.5, 0.96), (0.97,))):
        make_run("soft", seed, curve=points(*curve))
    (record,) = json.loads(cli("compare", "--json").out)["tables"][0]["rows"]

    assert (record["goal"], record["successes"], record["target"], record["target_steps"]) == (1.0, 0, 0.95, 150)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (0.5, "separation 3.5: groups differ 3.5 times as much as seeds do"),
        (0.89, "separation 0.1: seeds differ more than groups do; this table tells little about the groups"),
    ],
)
def test_a_table_says_how_well_its_task_tells_groups_apart(make_run, cli, other, says):
    for seed in range(2):
        make_run("soft", seed, 0.9 + 0.11314 * seed)  # deviation 0.08
        make_run("other", seed, other + 0.11314 * seed)
    assert says in cli("compare").out


def test_a_group_alone_is_compared_with_nothing(make_run, cli):
    for seed in range(2):
        make_run("soft", seed, 0.5 + seed / 10)
    said = cli("compare").out

    assert not re.search("Holm|verdict|reference|difference|separation", said)
    assert re.search(r"soft-additive +2 +0.5500 ", said)


def test_runs_as_rows_have_every_metric_and_their_group(make_run, make_trial, points, cli):
    make_run("soft", 0, 0.75, curve=points(0.5, 1.0))
    make_trial("soft", 0.03, 100, 0.9, 0.8, part="tuning")
    reported, tuning = in_csv(cli("compare", "--runs", "--csv"))

    assert (reported["group"], reported["seed"], reported["test/exact_match"]) == ("soft-additive", "0", "0.75")
    assert (reported["target_steps"], reported["parameters"], reported["part"]) == ("200", "1000", "reported")
    assert (tuning["group"], tuning["optimizer.lr"], tuning["part"]) == ("", "0.03", "tuning")
    assert json.loads(cli("compare", "--runs", "--json").out)[0]["test/exact_match"] == 0.75
    assert (
        cli("compare", "--runs").err
        == "attnbench: --runs: with --csv or --json, such as compare --runs --csv > runs.csv\n"
    )


def test_latex_is_bold_only_where_the_best_is_distinguishable_from_all(make_run, cli):
    for seed in range(8):
        make_run("soft_one", seed, 0.9 + seed / 1000)
        make_run("uniform", seed, 0.1 + seed**2 / 1000)
    bold = r"soft\_one-additive & 8 & $\mathbf{0.9035} \pm 0.0024$ \\"
    assert bold in cli("compare", "--latex").out.splitlines()
    assert bold in cli("compare", "--latex", "--baseline", "uniform").out.splitlines()
    for seed in range(8):
        make_run("near", seed, 0.9035 - seed**2 / 10_000)
    assert "mathbf" not in cli("compare", "--latex").out


def test_runs_of_tuning_are_counted_and_in_no_group(make_trial, cli):
    for lr in (0.001, 0.01, 0.1):
        make_trial("soft", lr, 100, 0.9, 0.9, part="tuning")
    make_trial("gla", 0.01, 100, 0.9, 0.9, part="tuning")
    set_result(make_trial("gla", 0.1, 100, 0.9, 0.9, part="tuning"), status="failed", error="the loss is nan")
    for seed in range(2):
        make_trial("soft", 0.01, seed, 0.5, 0.5 + seed / 10)
        make_trial("gla", 0.1, seed, 0.5, 0.4)
    (table,) = json.loads(cli("compare", "--json").out)["tables"]

    assert [(row["attention"], row["n"], row["tried"], list(row["values"])) for row in table["rows"]] == [
        ("soft", 2, 3, ["0", "1"]),
        ("gla", 2, 2, ["0", "1"]),
    ]
    assert "tried fewer configurations than the 3 of others: gla-additive optimizer.lr=0.1 (2)" in table["notes"]


def test_nothing_but_tuning_is_nothing_to_compare(make_trial, cli):
    make_trial("soft", 0.01, 100, 0.9, 0.9, part="tuning")
    said = cli("compare")
    assert (said.code, said.err) == (2, "attnbench: no run here but those of tuning, which are never compared\n")


def test_each_group_keeps_the_value_with_the_best_validation_whatever_its_test(make_trial, cli):
    for seed in range(2):
        for lr, val, test in ((0.001, 0.6, 0.9), (0.01, 0.8, 0.7), (0.1, 0.1, 0.95)):
            make_trial("soft", lr, seed, val, test)
        make_trial("gla", 0.1, seed, 0.5, 0.5)
    (table,) = json.loads(cli("compare", "--choose", "optimizer.lr", "--json").out)["tables"]

    assert [(row["group"], row["mean"], row["tried"]) for row in table["rows"]] == [
        ("soft-additive optimizer.lr=0.01", 0.7, 3),
        ("gla-additive optimizer.lr=0.1", 0.5, 1),
    ]
    assert "tried fewer configurations than the 3 of others: gla-additive optimizer.lr=0.1 (1)" in table["notes"]
    assert (
        "optimizer.lr: of each group the value with the best validation"
        in cli("compare", "--choose", "optimizer.lr").out
    )


def test_a_value_that_lacks_seeds_is_not_chosen_for_those_that_it_has(make_trial, cli):
    for seed in range(3):
        make_trial("soft", 0.01, seed, 0.5, 0.5)
    make_trial("soft", 0.1, 0, 0.9, 0.9)
    (table,) = json.loads(cli("compare", "--choose", "optimizer.lr", "--json").out)["tables"]

    assert [row["optimizer.lr"] for row in table["rows"]] == [0.01]
    assert "configurations that lack seeds were not chosen: soft-additive optimizer.lr=0.01 (1 of 2)" in table["notes"]


def test_a_misspelt_option_to_choose_is_answered_with_the_nearest(make_run, cli):
    make_run("soft", 0)
    assert (
        "--choose optimizer.lrr: no run has it; did you mean 'optimizer.lr'?"
        in cli("compare", "--choose", "optimizer.lrr").err
    )
