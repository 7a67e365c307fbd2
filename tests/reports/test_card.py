"""The report card of made-up cells, each number against one worked out by hand."""

import csv
import io
import json
import math
import re
from statistics import fmean, stdev

import pytest
from cards import GOOD, MIDDLE, POOR, card, cell
from rich.cells import cell_len
from scipy import stats

from attnbench.reports.card import MULTIHEAD, Card, at_chance, telling, verdict, width
from attnbench.reports.card_export import FORMS, latex_table
from attnbench.reports.card_figures import draw_rates
from attnbench.reports.card_page import write_page
from attnbench.reports.card_tables import told_apart


@pytest.fixture
def three():
    """`mine` is the best of recall and at chance of parity, which `multihead` learns and `poor` does not."""
    mine = [cell("recall", "mine", GOOD, state=50), cell("parity", "mine", POOR, state=25)]
    shipped = [cell("recall", MULTIHEAD, MIDDLE), cell("parity", MULTIHEAD, GOOD)]
    shipped += [cell("recall", "poor", POOR), cell("parity", "poor", POOR[::-1])]
    return card(mine, shipped, costs={"mine": {512: 0.9, 2048: 0.5}})


def test_mechanisms_stand_by_the_interquartile_mean_of_their_scores(three):
    best, mine, poor = three.standings

    # a score is 2 (accuracy - 0.5); of ten runs the two lowest and the two highest are left out
    assert (best.arm, mine.arm, poor.arm) == (MULTIHEAD, "mine", "poor")
    assert best.score == pytest.approx(fmean([0.6, 0.62, 0.64, 0.94, 0.96, 0.98]))
    assert mine.score == pytest.approx(fmean([0.02, 0.02, 0.04, 0.94, 0.96, 0.98]))
    assert poor.score == pytest.approx(fmean([0, 0, 0.02, 0.02, 0.02, 0.02]))
    assert mine.interval[0] < mine.score < mine.interval[1]
    assert (mine.reached, mine.runs) == (2, 10)
    assert mine.state == pytest.approx((50 / 100 + 25 / 100) / 2)
    assert mine.cost == (2048, 0.5)
    assert [row.mine for row in three.standings] == [False, True, False]


def test_an_arm_is_compared_with_each_other_by_the_paired_test_with_holms_correction(three):
    mine, multihead = [0.51, 0.48, 0.51, 0.5, 0.48], [0.8, 0.77, 0.81, 0.81, 0.77]  # means of both tasks, by seed
    poor = [0.02, 0, 0.04, 0, 0.02]
    ps = [stats.ttest_rel(mine, other).pvalue for other in (multihead, poor)]

    found = three.pairs["mine", MULTIHEAD], three.pairs["mine", "poor"]

    assert [pair.mean for pair in found] == pytest.approx([-0.296, 0.48])
    # the smaller one twice, the larger one once, but not below the other
    assert [pair.p for pair in found] == pytest.approx([max(p, 2 * min(ps)) for p in ps], rel=1e-6)
    differences = [a - b for a, b in zip(mine, multihead, strict=True)]
    assert found[0].smallest == pytest.approx(stats.t.ppf(1 - 0.05 / 2 / 2, 4) * stdev(differences) / math.sqrt(5))
    assert three.pairs[MULTIHEAD, "mine"].mean == pytest.approx(0.296)
    assert (MULTIHEAD, "poor") not in three.pairs  # references are not what is asked about


def test_the_verdict_is_made_from_the_numbers(three):
    told = verdict(three, "mine")

    assert told[0].startswith("mine has place 2 of 3 with a score of 0.49 (95% interval 0.")
    assert told[1:] == [
        "It is the best on recall.",
        "It is worse than the best on parity, by 0.96.",
        "It is at chance on parity.",
        "It reaches the goal in 2 of 10 runs.",
        f"Forward and backward at 2,048 keys take 0.5 times as long as {MULTIHEAD}'s.",
        f"To go on decoding it keeps 0.38 times as many numbers as {MULTIHEAD} does.",
    ]


NOISY, TWIN = (0.9, 0.7, 0.8, 0.6, 0.75), (0.7, 0.9, 0.6, 0.8, 0.8)


def test_the_verdict_says_what_these_seeds_cannot_tell():
    told = verdict(card([cell("recall", "mine", NOISY)], [cell("recall", "twin", TWIN)], tasks=["recall"]), "mine")
    smallest = stats.t.ppf(0.975, 4) * stdev([0.4, -0.4, 0.4, -0.4, -0.1]) / math.sqrt(5)

    assert "It cannot be distinguished from the best on recall (twin)." in told
    assert told[-2] == (
        "Overall these seeds cannot tell it from twin: what they could have shown, pair by pair, is a "
        f"difference of {smallest:.2g}."
    )
    assert told[-1] == "Nothing is told apart by recall."


def test_a_difference_wider_than_the_scale_is_no_number():
    arms = [cell("recall", "mine", (0.9, 0.5))], [cell("recall", "twin", (0.5, 0.9))]

    assert verdict(card(*arms, tasks=["recall"]), "mine")[-2].endswith("pair by pair, is a difference of over 1.")


def test_a_mechanism_without_a_state_keeps_nothing():
    told = verdict(card([cell("recall", "mine", GOOD, state=0)], [cell("recall", MULTIHEAD, POOR)]), "mine")

    assert "To go on decoding it keeps nothing." in told


def test_where_nothing_can_be_tested_the_verdict_says_so_without_a_number():
    made = card([cell("recall", "mine", (0.9,))], [cell("recall", "other", (0.8,))], tasks=["recall"])

    assert verdict(made, "mine")[-1] == "Overall these seeds cannot tell it from other."


def test_a_page_of_one_arm_alone_has_its_table_and_no_comparison(tmp_path, recwarn):
    write_page(card([cell("recall", "mine", GOOD)], tasks=["recall"]), tmp_path / "report.html")

    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "mine stands alone with a score of 0.98" in text
    assert "against each" not in text and "Probability of improvement" not in text
    assert not recwarn.list


def test_an_arm_on_the_command_line_replaces_the_reference_of_its_label():
    made = card([cell("recall", "gla", GOOD)], [cell("recall", "gla", POOR), cell("parity", "gla", POOR)])

    assert {task: c.metrics["test/accuracy"] for task, c in made.arms["gla"].items()} == {"recall": list(GOOD)}


def test_a_task_that_few_mechanisms_have_is_not_part_of_the_score():
    new = [cell("recall", "mine", GOOD), cell("new", "mine", POOR)]
    made = card(new, [cell("recall", "a", POOR), cell("recall", "b", MIDDLE)], tasks=["recall", "new"])

    assert made.counted == ["recall"]
    assert made.standings[0].score == pytest.approx(0.98)
    assert "mine has place 1 of 3" in verdict(made, "mine")[0]


def test_an_arm_that_lacks_a_task_has_no_score_and_says_so():
    shipped = [cell(task, arm, MIDDLE) for task in ("recall", "parity") for arm in ("a", "b")]
    made = card([cell("recall", "mine", GOOD)], shipped)

    assert made.standings[-1].arm == "mine"
    assert verdict(made, "mine")[0] == "mine has no score: it lacks parity."


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((GOOD, GOOD), "It tells nothing here: all mechanisms learn it."),
        ((POOR, POOR), "It tells nothing here: no mechanism learns more than chance."),
        ((NOISY, TWIN), "It tells nothing here. Mechanisms differ 0.1 times as much as seeds do."),
        (((0.7, 0.8), (0.82, 0.92)), "Mechanisms differ 1.2 times as much as seeds do: it tells little."),
        (((0.7, 0.72), (0.8, 0.82)), "Mechanisms differ 5.0 times as much as seeds do."),
        (((0.7,), (0.9,)), "What it tells is not known: one seed says nothing of the spread between seeds."),
        ((GOOD,), "One mechanism alone: nothing to tell apart."),
    ],
)
def test_a_task_says_itself_whether_it_tells_mechanisms_apart(values, says):
    made = card([cell("recall", f"arm{n}", v) for n, v in enumerate(values)], tasks=["recall"])

    assert telling(made, "recall")[1] == says


@pytest.mark.parametrize(
    ("tried", "window"),
    [
        ([(0.001, 0.6), (0.003, 0.99), (0.01, 1.0), (0.03, 0.7)], (0.003, 0.01)),
        ([(0.001, 1.0), (0.003, 0.6), (0.01, 1.0)], (0.001, 0.001)),  # not those that a bad one lies before
        ([(0.001, None), (0.003, 0.9)], (0.003, 0.003)),
        ([(0.001, 0.5), (0.003, 0.51)], None),
        ([], None),
    ],
)
def test_the_window_of_rates_is_what_is_within_95_percent_of_the_best_score(tried, window):
    assert width(cell("recall", "a", GOOD, tried=tried)) == window


def test_chance_is_known_only_where_the_task_knows_it():
    assert at_chance(cell("recall", "a", POOR))
    assert not at_chance(cell("recall", "a", MIDDLE))
    assert not at_chance(cell("recall", "a", (0.01, 0.02), floor=None))


def printed(capsys, form, made):
    FORMS[form](made)
    return capsys.readouterr().out


def test_csv_has_a_row_for_each_arm_task_seed_and_slice(capsys):
    made = card([cell("recall", "mine", (0.75, 1.0), longer=(0.5, 0.75))], [cell("recall", "a,b", (0.5, 0.5))])

    rows = list(csv.DictReader(io.StringIO(printed(capsys, "csv", made))))

    assert [(r["arm"], r["slice"], r["seed"], r["value"], r["score"]) for r in rows] == [
        ("mine", "as trained", "0", "0.75", "0.5"),
        ("mine", "as trained", "1", "1.0", "1.0"),
        ("mine", "longer", "0", "0.5", "0.0"),
        ("mine", "longer", "1", "0.75", "0.5"),
        ("a,b", "as trained", "0", "0.5", "0.0"),
        ("a,b", "as trained", "1", "0.5", "0.0"),
    ]
    assert {(r["task"], r["lr"], r["parameters"], r["state_size"]) for r in rows} == {("recall", "0.01", "1234", "100")}
    assert [r["cpu_seconds"] for r in rows][:2] == ["2.0", "4.0"]


def test_json_holds_the_verdict_and_every_value(capsys, three):
    data = json.loads(printed(capsys, "json", three))

    assert data["standings"][1]["score"] == pytest.approx(0.493333, abs=1e-6)
    assert data["verdict"]["mine"] == verdict(three, "mine")
    assert len(data["values"]) == 30
    assert [task["alone_at_the_top"] for task in data["tasks"]] == ["mine", MULTIHEAD]


def test_latex_is_bold_where_the_best_can_be_distinguished_from_all_others():
    made = card(
        [cell("recall", "my_arm", GOOD), cell("parity", "my_arm", NOISY)],
        [cell("recall", "b", POOR), cell("parity", "b", TWIN)],
    )

    table = latex_table(made)

    assert r"my\_arm & 0.80 & \textbf{0.98 $\pm$ 0.03} & 0.50 $\pm$ 0.22 & - & - \\" in table
    assert table.count(r"\textbf") == 1
    assert table.startswith(r"\begin{tabular}{lrrrrr}")


def test_latex_of_tune_has_the_rate_and_the_metric_of_each_slice(capsys):
    arms = [cell("recall", "a_b", GOOD, longer=MIDDLE), cell("recall", "poor", POOR, longer=POOR)]

    out = printed(capsys, "latex", Card("tune", ["recall"], range(5), [100], arms))

    assert r"arm & score & rate & as trained & longer & goal reached & parameters & state \\" in out
    row = r"a\_b & \textbf{0.79 $\pm$ 0.02} & 0.01 & 0.988 $\pm$ 0.013 & 0.804 $\pm$ 0.011 & 2 of 5 & 1,234 & 100 \\"
    assert row in out


def test_markdown_has_a_row_for_each_mechanism_and_its_cells_are_escaped(capsys):
    made = card([cell("recall", "a|<b>", GOOD)], tasks=["recall"], notes=["recall: all tried 0.1 too"])

    out = printed(capsys, "markdown", made)

    assert r"| \> a\|\<b\> | 0.98 | " in out
    assert "- recall: all tried 0.1 too" in out


@pytest.mark.parametrize("suite", ["standard", "tune"])
@pytest.mark.parametrize("columns", [80, 120])
def test_the_terminals_lines_are_as_wide_as_it_is(capsys, monkeypatch, suite, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    tasks = ["recall", "parity", "flip_flop", "induction", "copy", "selective", "markov"]
    arms = ["mine", MULTIHEAD, "deltanet negative=true", "gated_deltanet", "linear_attention", "stick_breaking"]
    cells = [cell(task, arm, NOISY, longer=TWIN, tried=[(0.01, 0.9)]) for task in tasks for arm in arms]
    made = Card(suite, tasks, range(5), [100], cells if suite == "tune" else cells[:1] + cells[6:7], cells)

    out = re.sub(r"\x1b\[[0-9;]*m", "", printed(capsys, "terminal", made))

    assert max(cell_len(line) for line in out.splitlines()) <= columns
    assert all(arm in out for arm in arms[1:])
    assert "0.51" in out


@pytest.mark.parametrize("columns", [75, 250])
@pytest.mark.parametrize("task", ["score", "state", "cost", "goal reached", "not told apart", "mechanism"])
def test_a_task_that_is_called_as_a_column_keeps_its_own_numbers(capsys, monkeypatch, task, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    shipped = [cell(name, MULTIHEAD, POOR) for name in ("recall", task)]
    made = card([cell("recall", "mine", GOOD), cell(task, "mine", MIDDLE)], shipped, tasks=("recall", task))
    out = re.sub(r"\x1b\[[0-9;]*m", "", printed(capsys, "terminal", made))
    (row,) = (line for line in out.splitlines() if line.startswith("> mine"))
    assert re.findall(r"[\d.]+", row)[-5:] == ["0.98", "0.61", "2", "10", "1"]


def test_tune_shows_what_each_rate_gave_and_which_arms_cannot_be_distinguished(capsys):
    tried = [(0.003, 0.7), (0.01, 0.76), (0.03, None)]
    arms = [cell("recall", "mine", NOISY, tried=tried), cell("recall", "twin", TWIN), cell("recall", "poor", POOR)]
    made = Card("tune", ["recall"], range(5), [100], arms)

    out = printed(capsys, "terminal", made)

    rows = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    assert re.split(r"\s{2,}", rows["validation at 0.003"].strip()) == ["validation at 0.003", "-", "0.7000", "-"]
    assert re.split(r"\s{2,}", rows["goal reached"].strip())[1:] == ["0 of 5"] * 3
    assert "cannot be distinguished: twin and mine (" in out
    assert "Holm-corrected for 3" in told_apart(made, "recall")


def test_tune_says_how_soon_the_goal_was_reached_and_how_often(capsys):
    curves = [[(100, 0.5), (200, 1.0)], [(100, 1.0)], [(100, 0.6)]]
    made = Card("tune", ["recall"], range(3), [100], [cell("recall", "mine", (1.0, 1.0, 0.6), curves=curves)])

    out = printed(capsys, "terminal", made)

    assert re.search(r"goal reached +2 of 3\n95% interval +0\.21 to 0\.94\nsteps to goal +150\n", out)
    assert re.search(r"CPU seconds +3\.0\nparameters +1,234\nstate +100\n", out)


def test_rates_are_drawn_for_cells_that_tried_some(tmp_path):
    cells = [cell(f"task{n}", "a$b$", GOOD, tried=[(0.003, 0.9), (0.01, None)]) for n in range(4)]

    draw_rates([*cells, cell("recall", "a", GOOD)], tmp_path / "rates.png")

    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
