"""A suite: every arm tuned alike on seeds that are not reported, results that ship, and what is wrong with a suite."""

import json
import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import yaml

from attnbench import contract
from attnbench.errors import UsageError
from attnbench.registry import Registry
from attnbench.report import read_references, unequal
from attnbench.reports.card import Card
from attnbench.reports.cells import from_json
from attnbench.suite import Plan, Suite, best, find_suite, read_suite, read_tuning, settings, wider

STANDARD = find_suite("standard")
#: Runs in a second or two.
TINY = ("trainer.max_steps=4", "trainer.val_every=2", "trainer.eval_batches=1")


def test_the_rate_with_the_best_validation_is_chosen_and_of_equals_the_middle_one():
    assert best({0.003: 0.6, 0.01: 0.8, 0.03: 0.7}, 0.5, 1.0) == 0.01
    assert best({0.003: 0.999, 0.01: 0.996, 0.03: 1.0}, 0.5, 1.0) == 0.01  # within a hundredth of the way
    assert best({0.003: 0.02, 0.01: 0.4, 0.03: 0.3}, 0.5, 0.0) == 0.003  # an error: lower is better
    assert best({0.003: 0.8, 0.01: None, 0.03: None}, 0.5, 1.0) == 0.003  # the others failed
    assert best({0.003: None, 0.01: None}, 0.5, 1.0) is None


def test_a_grid_grows_one_step_where_a_best_rate_lies_at_its_edge():
    grid = [0.003, 0.01, 0.03]
    assert wider(grid, {0.01}) == []
    assert wider(grid, {0.01, 0.003}) == [0.0009]
    assert wider(grid, {0.03, None}) == [0.09]
    assert wider([0.01], {0.01}) == []


class Machine:
    """Runs jobs by a formula: what rate an arm needs, and how good it is then."""

    def __init__(self, folder: Path, good: dict[str, float], failing=()) -> None:
        self.folder, self.good, self.failing, self.jobs = folder, good, failing, []

    def launch(self, jobs):
        return [self.run(len(self.jobs), job) for job in jobs]

    def run(self, number, job):
        self.jobs.append(job)
        words = dict(word.split("=", 1) for word in job)
        if any(word in self.failing for word in job):
            return None
        arm, lr, seed = words["attention"], float(words["optimizer.lr"]), int(words["seed"])
        value = 1 - abs(lr - self.good[arm])
        folder = self.folder / str(number)
        folder.mkdir(parents=True)
        part = words.get("part", "reported")
        config = {
            "seed": seed, "part": part, "optimizer": {"lr": lr}, "trainer": {}, "scoring": None,
            "attention": {"name": arm}, "task": {"name": "recall"},
        }  # fmt: skip
        metrics = {"val/accuracy": value} | ({} if part == "tuning" else {"test/accuracy": value - seed / 1000})
        result = {
            "status": "completed", "primary": "test/accuracy", "mode": "max", "floor": 0.0, "goal": 0.99,
            "metrics": metrics, "curve": [{"step": 5, "seconds": 1.0, "val/accuracy": value}],
            "parameters": 9, "versions": {"torch": "2"},
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "result.json").write_text(json.dumps(result))
        return str(folder)


def plan(tasks=("recall",), **options):
    return Plan(Suite("mine", {task: [f"task={task}"] for task in tasks}, **options), Registry.load())


ARMS = [["attention=gla"], ["attention=deltanet"]]


def words_of(jobs, key):
    return [word.partition("=")[2] for job in jobs for word in job if word.partition("=")[0] == key]


def test_every_arm_tries_the_same_rates_and_reported_seeds_choose_nothing(tmp_path):
    machine, made = Machine(tmp_path, {"gla": 0.01, "deltanet": 0.03}), plan(seeds=(0, 1))
    made.follow(ARMS, machine.launch)

    tuning = [job for job in machine.jobs if "part=tuning" in job]
    reported = [job for job in machine.jobs if "part=tuning" not in job]
    assert set(words_of(tuning, "seed")) == {"100"}
    assert set(words_of(reported, "seed")) == {"0", "1"}
    rates = {arm: words_of([j for j in tuning if f"attention={arm}" in j], "optimizer.lr") for arm in machine.good}
    assert rates["gla"] == rates["deltanet"] == ["0.003", "0.01", "0.03", "0.09"]  # wider for one, for all
    assert made.widened == {"recall": [0.09]}
    gla, deltanet = made.cells
    assert (gla.lr, deltanet.lr) == (0.01, 0.03)
    assert [lr for lr, _ in gla.tried] == [0.003, 0.01, 0.03, 0.09]
    assert gla.values == {0: 1.0, 1: 0.999}
    assert gla.steps_to_goal == 5
    assert gla.reached == 2


def test_references_that_tried_more_rates_are_met_with_as_many(tmp_path):
    machine, made = Machine(tmp_path, {"gla": 0.01}), plan()
    made.grids = {"recall": [0.001, 0.003, 0.01, 0.03]}
    made.follow(ARMS[:1], machine.launch)
    assert [lr for lr, _ in made.cells[0].tried] == [0.001, 0.003, 0.01, 0.03]


def test_an_arm_that_cannot_be_trained_is_missing_and_the_others_are_there(tmp_path):
    machine, made = Machine(tmp_path, {"gla": 0.01, "deltanet": 0.01}, failing=["attention=gla"]), plan()
    made.follow(ARMS, machine.launch)
    assert [cell.arm for cell in made.cells] == ["deltanet"]
    assert made.missing == [("recall", "attention=gla", "no rate could be trained with")]


def test_a_cell_is_the_same_after_json(tmp_path):
    machine, made = Machine(tmp_path, {"gla": 0.01}), plan()
    made.follow(ARMS[:1], machine.launch)
    cell = made.cells[0]
    again = from_json(json.loads(json.dumps(cell.as_json())))
    assert again.as_json() == json.loads(json.dumps(cell.as_json()))
    assert again.scores == cell.scores
    assert again.folders == []


def test_a_seed_that_chooses_cannot_report():
    with pytest.raises(UsageError, match="suite mine: seed 1 both chooses the rate and reports it"):
        Suite("mine", {"recall": ["task=recall"]}, tuning_seeds=(1,), seeds=(0, 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tasks: {recall: task=recall}\nrate: [1]", "a suite has tasks, rates, tuning_seeds and seeds"),
        ("rates: [0.1]", "a suite has tasks"),
        ("tasks: {}", "it needs tasks, rates and seeds"),
        ("tasks: {recal: standard}", "a suite has tasks"),
        ("tasks: {recall: standrd}", "suite=standrd: no such suite"),
        ("tasks: {a: attention=gla}", "'attention=gla': expected task=, trainer.OPTION= or optimizer.OPTION="),
        ("tasks: {a: hydra.run.dir=x}", "expected task="),
        ("tasks: {a: task=recall}\ntuning_seeds: []", "3 rates need tuning_seeds to choose by"),
        ("- 1", "a suite has tasks"),
        ("tasks: {a: ''}", "a: expected the words of its runs, such as task=recall"),
        ("tasks: {a: task=recall}\nrates: [fast]", "a suite has tasks, rates"),
        ("tasks: {a: task=recall}\nrates: [0]", "0.0: a learning rate is above 0 and finite"),
        ("tasks: {a: task=recall}\nseeds: [one]", "a suite has tasks, rates"),
        ("tasks: {a: 'task=date task.file=${oc.env:HOME}'}", "expressions are not allowed here"),
        ("tasks: [", "cannot be read"),
    ],
)
def test_what_is_no_suite_is_a_line(tmp_path, text, says):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(says)):
        find_suite(str(tmp_path / "mine.yaml"))


def test_a_suite_is_found_by_name_in_the_current_folder_beside_plugins_and_in_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed = tmp_path / "site" / "installed_with_suite"
    for folder, name in ((tmp_path, "mine"), (tmp_path / "package", "theirs"), (installed, "installed")):
        (folder / "conf" / "suite").mkdir(parents=True)
        (folder / "conf" / "suite" / f"{name}.yaml").write_text("tasks: {recall: task=recall}")
    monkeypatch.setenv("ATTNBENCH_PLUGINS", str(tmp_path / "package" / "plugins"))
    (installed / "__init__.py").touch()
    monkeypatch.syspath_prepend(installed.parent)
    point = EntryPoint("theirs", "installed_with_suite.plugin", "attnbench")
    monkeypatch.setattr("attnbench.loading.entry_points", lambda group: [point])
    for name in ("mine", "theirs", "installed"):
        assert find_suite(name).tasks == {"recall": ["task=recall"]}
    with pytest.raises(UsageError, match="suite=standrd: no such suite; did you mean 'standard'"):
        find_suite("standrd")


def test_suites_that_take_tasks_from_one_another_in_a_circle_are_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "suite").mkdir(parents=True)
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / "conf" / "suite" / f"{name}.yaml").write_text(f"tasks: {{recall: {other}}}")
    with pytest.raises(UsageError, match="it takes tasks from itself"):
        find_suite("one")


def test_results_that_are_damaged_are_a_line(tmp_path):
    path = tmp_path / "mine.yaml"
    for text in ("{", "[]", '{"cells": [{"task": "recall"}], "costs": [], "looks": []}', '{"cells": 3}'):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(UsageError, match=r"mine\.json: not the results of a suite"):
            read_references(Suite("mine", {"recall": ["task=recall"]}, path=path), Registry.load())


def test_references_that_were_tuned_otherwise_are_said_to_be(tmp_path):
    machine, made = Machine(tmp_path, {"last": 0.01}), plan(seeds=(0, 1), rates=(0.01,), tuning_seeds=())
    made.follow([["attention=last"]], machine.launch)
    (mine,) = made.cells
    tuned = replace(mine, tried=[(0.003, 0.5), (0.01, 0.6)], seeds=[0, 1, 2], metrics={"test/accuracy": [1.0] * 3})
    assert unequal([mine], [mine]) == []
    assert unequal([mine], [tuned]) == [
        "recall: the references tried other learning rates than these arms",
        "recall: the references ran on other seeds than these arms",
    ]


def test_words_choose_the_suite_and_the_tasks_and_the_rest_are_arms():
    suite, arms = read_suite(["attention=gla", "suite=quick", "task=recall,parity", "trainer.max_steps=5"])
    assert (suite.name, list(suite.tasks), arms) == (
        "quick",
        ["recall", "parity"],
        ["attention=gla", "trainer.max_steps=5"],
    )
    with pytest.raises(UsageError, match="task=recal: not in suite=standard; did you mean 'recall'"):
        read_suite(["attention=gla", "task=recal"])
    with pytest.raises(UsageError, match="suite: which mechanism"):
        read_suite(["suite=quick"])
    suite, arms = read_tuning(["task=recall", "optimizer.lr=1e-3,1e-2", "seed=0,1", "attention=gla"])
    assert (suite.rates, suite.seeds, arms) == ([0.001, 0.01], [0, 1], ["attention=gla"])
    with pytest.raises(UsageError, match="which task"):
        read_tuning(["attention=gla"])
    with pytest.raises(UsageError, match=r"such as optimizer\.lr=1e-3,1e-2"):
        read_tuning(["task=recall", "optimizer.lr=fast"])


def test_quick_has_tasks_of_the_standard_suite_and_stands_beside_their_results():
    quick = find_suite("quick")
    assert len(quick.tasks) == 5
    assert quick.tasks.items() <= STANDARD.tasks.items()
    assert quick.path == STANDARD.path


def test_every_task_of_a_suite_that_ships_can_be_composed():
    registry = Registry.load()
    for suite in map(find_suite, ("standard", "quick", "capacity")):
        assert settings(suite, registry).keys() == suite.tasks.keys()


def test_references_of_a_setting_that_has_changed_are_left_out_and_said(tmp_path):
    suite, registry = read_suite(["attention=gla", "task=recall,parity"])[0], Registry.load()
    record = json.loads(STANDARD.path.with_suffix(".json").read_text())
    for cell in record["cells"]:
        if cell["task"] == "recall":
            cell["setting"] = "of before"
    path = tmp_path / "standard.yaml"
    path.with_suffix(".json").write_text(json.dumps(record))
    changed = Suite("standard", suite.tasks, path=path)
    found, notes = read_references(changed, registry)
    assert {cell.task for cell in found.cells} == {"parity"}
    assert notes == ["recall: the references are left out: the task or its recipe has changed since"]


def test_the_results_that_ship_are_of_todays_settings_and_of_each_arm():
    for suite in map(find_suite, ("standard", "capacity")):
        found, notes = read_references(suite, Registry.load())
        assert notes == []
        for task in suite.tasks:
            cells = [cell for cell in found.cells if cell.task == task]
            assert [" ".join(cell.words) for cell in cells] == list(suite.references)
            assert all(cell.seeds == list(suite.seeds) for cell in cells)
            assert len({tuple(lr for lr, _ in cell.tried) for cell in cells}) == 1  # all arms tried the same rates


def test_a_cheap_cell_that_ships_is_what_the_command_gives(cli, tmp_path):
    found, _ = read_references(read_suite(["attention=gla", "task=recall"])[0], Registry.load())
    cell = next(cell for cell in found.cells if cell.arm == "last")
    said = cli(*STANDARD.tasks["recall"], *cell.words, f"optimizer.lr={cell.lr:g}", "seed=0", "hydra.run.dir=again")
    assert said.code == 0
    metrics = json.loads((tmp_path / "again" / "result.json").read_text())["metrics"]
    for tag, values in cell.metrics.items():
        assert metrics[tag] == pytest.approx(values[0], abs=0.01)  # processors round differently


def test_tune_on_the_command_line_is_resumed_by_what_is_there(cli, tmp_path):
    words = ("tune", "task=state_tracking", "attention=last,uniform", *TINY, "seed=0,1", "optimizer.lr=1e-3,1e-2")
    said = cli(*words)
    assert said.code == 0, said.err
    parts = [yaml.safe_load(path.read_text())["part"] for path in (tmp_path / "runs").rglob("config.yaml")]
    assert parts.count("reported") == 4
    for path in (tmp_path / "runs").rglob("result.json"):
        result = json.loads(path.read_text())
        read_test = "test/accuracy" in result["metrics"]
        assert read_test == (result["seed"] != 100)  # a tuning run does not read the test
    again = cli(*words)
    assert again.code == 0
    assert "completed before" in again.err
    assert again.out == said.out


def test_the_laws_of_an_arm_are_those_of_its_options(monkeypatch):
    tried = contract.check
    monkeypatch.setattr(contract, "check", lambda *what, **how: tried(*what, **{**how, "laws": ["rows"]}))
    words = ["attention=soft", "scoring=dot"]
    found = contract.check_arms([words, [*words, "attention.normaliser=softmax1"], words], Registry.load())
    assert {arm: finding.detail for arm, (finding,) in found.items()} == {
        "attention=soft": "",
        "scoring=dot": "",
        "attention=soft normaliser=softmax1": "signed: zeros where masked",
    }


def test_tune_takes_a_task_that_reads_its_data(cli):
    said = cli("tune", "task=language_model", "attention=uniform", *TINY, "seed=0,1", "optimizer.lr=1e-3")
    assert said.code == 0, said.err
    assert "uniform" in said.out


def test_the_setting_of_a_task_goes_by_the_data_that_it_reads(tmp_path):
    file, marks = tmp_path / "text.txt", []
    suite = Suite("mine", {"text": ["task=language_model", f"task.file={file}", "task.block=8"]})
    for text in ("abcd", "abdc", "abcd"):
        file.write_text(text * 200)
        marks.append(settings(suite, Registry.load())["text"])
    assert marks[0] == marks[2] != marks[1]


def test_a_suite_on_the_command_line_ends_in_a_report(cli, tmp_path):
    words = ("suite", "attention=last", "suite=quick", "task=parity", *TINY)
    torch.set_num_threads(2)
    said = cli(*words)
    assert torch.get_num_threads() == 2
    assert said.code == 0, said.err
    assert "last" in said.out
    assert "parity: the references are left out: they ran with other options than these arms" in " ".join(
        said.out.split()
    )
    assert "stands alone" in said.out
    assert (tmp_path / "runs" / "report.html").is_file()


def test_a_planted_weakness_is_told_from_its_sound_twin_by_stored_results():
    """Weights that never see every fourth key (tests/weakened/blinkered.py), and a delta rule with half the state."""
    cells = [from_json(entry) for entry in json.loads((Path(__file__).parent / "weakened/results.json").read_text())]
    suite = find_suite("standard")
    tasks = {task: words for task, words in suite.tasks.items() if any(cell.task == task for cell in cells)}
    found, _ = read_references(replace(suite, tasks=tasks), Registry.load())
    sound = {"blinkered-scaled_dot": "multihead-scaled_dot", "deltanet num_heads=8": "deltanet"}
    for weak, twin in sound.items():
        mine = [cell for cell in cells if cell.arm == weak]
        card = Card("standard", list(tasks), suite.seeds, suite.tuning_seeds, mine, found.cells)
        pair = card.pairs[weak, twin]
        assert pair.distinct, f"{weak}: p={pair.p}"
        assert pair.mean < 0
    half = {cell.task: cell.state_size for cell in cells if cell.arm == "deltanet num_heads=8"}
    assert half == {cell.task: cell.state_size / 2 for cell in found.cells if cell.arm == "deltanet"}
