"""A run that was cut off, however that came, goes on to the result it would have had; or says why it cannot."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import HEEDING, SMALL
from folders import events, result_of, same, weights_of
from pytorch_lightning.utilities.exceptions import SIGTERMException

from attnbench.registry import Registry
from attnbench.run_folder import lock
from attnbench.training.experiment import Experiment


@pytest.fixture(autouse=True)
def _signals_as_a_terminal_sets_them():
    """Tests that run in the background or under nohup inherit signals that are ignored."""
    as_in_a_terminal = {
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in as_in_a_terminal.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_run_stopped_by_ctrl_c_or_killed_resumes_to_the_result_it_would_have_had(cli, tmp_path):
    # hard draws noise as it trains
    arguments = ["attention=hard", "task.lines=600", "trainer.val_every=20", "trainer.images=0"]
    arguments.append("trainer.max_steps=120")  # so many that a busy machine has not done them all when the signal comes
    assert cli(*arguments, "hydra.run.dir=whole").code == 0
    whole = result_of(tmp_path / "whole")
    for number, name in ((signal.SIGINT, "stopped"), (signal.SIGKILL, "killed")):
        code, said = cut_off([*arguments, f"hydra.run.dir={name}"], tmp_path, number)
        cut = result_of(tmp_path / name)
        if number == signal.SIGINT:
            assert code == 130
            assert "attnbench: interrupted; to go on: python -m attnbench resume=" in said
            assert cut["status"] == "interrupted"
            assert 40 <= cut["steps"] < whole["steps"]
        else:
            assert cut["status"] == "running"
            says = "unfinished: interrupted; resume with: python -m attnbench resume=killed"
            assert says in cli("compare", "killed").err
        assert cli(f"resume={name}").code == 0
        assert same(weights_of(tmp_path / name), weights_of(tmp_path / "whole"))
        resumed = result_of(tmp_path / name)
        assert resumed["metrics"] == whole["metrics"]
        for measure in ("status", "steps", "examples_seen"):
            assert resumed[measure] == whole[measure]
        steps = [[event.step for event in events(tmp_path / f).Scalars("val/loss")] for f in (name, "whole")]
        assert steps[0] == steps[1]


def cut_off(arguments, folder, number):
    """Send a run the signal after its second validation; return its exit code and what it said."""
    said = ""
    with subprocess.Popen([*HEEDING, *arguments], stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if line.startswith("step  40/120") and said.count(line) == 1:  # the checkpoint of step 20 is there
                process.send_signal(number)  # once: a line that Ctrl-C cuts off is written again
    return process.returncode, said


def test_a_killed_run_whose_resume_ends_before_it_begins_is_running_no_more(cli, tmp_path, monkeypatch):
    assert cli(*SMALL, "hydra.run.dir=killed").code == 0
    result = tmp_path / "killed" / "result.json"
    result.write_text(result.read_text().replace('"completed"', '"running"'))

    def stopped(task):
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry.load().get("task", "date").cls, "prepare", stopped)
    said = cli("resume=killed", "trainer.max_steps=9")
    assert said.code == 130
    assert result_of(tmp_path / "killed")["status"] == "interrupted"


def test_a_run_killed_at_random_moments_again_and_again_comes_to_the_same_to_the_last_digit(tmp_path):
    command = [sys.executable, Path(__file__).parent / "benchmarks/kills.py", tmp_path / "killed", "3", "date"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert "kills: the same, killed after [" in tried.stdout


@pytest.mark.parametrize("how", ["Ctrl-C", "a signal to stop"])
def test_a_run_stopped_while_it_is_tested_can_go_on(cli, tmp_path, monkeypatch, how):
    stopping = KeyboardInterrupt if how == "Ctrl-C" else SIGTERMException

    def test_step(experiment, batch, index):
        raise stopping

    monkeypatch.setattr("attnbench.training.experiment.Experiment.test_step", test_step)
    said = cli(*SMALL, "trainer.images=0", "hydra.run.dir=cut")
    assert said.code == 130
    assert "attnbench: interrupted; to go on: python -m attnbench resume=" in said.err
    assert result_of(tmp_path / "cut")["status"] == "interrupted"
    assert result_of(tmp_path / "cut")["steps"] == 6
    said = cli("evaluate", "cut")
    assert (said.code, said.err) == (130, "attnbench: interrupted\n")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli("resume=cut").code == 0
    assert result_of(tmp_path / "cut")["status"] == "completed"


STOPPING = [signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_to_stop_or_a_closed_terminal_leaves_a_folder_that_goes_on(cli, tmp_path, monkeypatch, number):
    seen, loss = [], Experiment.loss

    def signalled(experiment, batch):
        seen.append(batch)
        if len(seen) == 5:
            os.kill(os.getpid(), number)
        return loss(experiment, batch)

    quietly = ("trainer.images=0", "trainer.log_every=1000")
    assert cli(*SMALL, *quietly, "hydra.run.dir=whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "loss", signalled)
        said = cli(*SMALL, *quietly, "hydra.run.dir=cut")
    assert said.code == 130
    assert "attnbench: interrupted; to go on: python -m attnbench resume=" in said.err
    cut = result_of(tmp_path / "cut")
    assert (len(seen), cut["status"], cut["steps"], cut["examples_seen"]) == (5, "interrupted", 4, 4 * 64)
    assert cli("resume=cut").code == 0
    assert same(weights_of(tmp_path / "cut"), weights_of(tmp_path / "whole"))
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", [*STOPPING, signal.SIGINT])
def test_a_run_stopped_while_it_prepares_says_so_and_goes_on(cli, tmp_path, monkeypatch, number):
    def stopped(task):
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Registry.load().get("task", "date").cls, "prepare", stopped)
        said = cli(*SMALL, "hydra.run.dir=cut")
    assert said.code == 130
    assert result_of(tmp_path / "cut")["status"] == "interrupted"
    assert cli("resume=cut").code == 0
    assert result_of(tmp_path / "cut")["status"] == "completed"


def test_two_processes_do_not_train_in_one_folder(cli, folder):
    with lock(folder):
        said = cli("resume=ran", "trainer.max_steps=9")
    assert said.code == 2
    assert said.err == "attnbench: ran: another process is training in it; wait for its end, or stop it\n"
    assert result_of(folder)["status"] == "completed"
    assert cli("resume=ran", "trainer.max_steps=9").code == 0


def test_a_completed_run_is_not_run_again(cli, folder):
    before = (folder / "result.json").read_text()
    said = cli("resume=ran")
    assert said.code == 0
    assert "already completed" in said.err
    assert (folder / "result.json").read_text() == before


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task.hidden_dim=16", "does not hold this model's weights"),
        ("attention.num_heads=2", "a run that goes on keeps its attention.num_heads; start a new run for another"),
        ("optimizer.name=sgd", "a run that goes on keeps its optimizer.name"),
        ("seed=3", "a run that goes on keeps its seed"),
        ("task.lines=700", "ran: its data were others (516 train, 24 val, "),
        ("task.data_seed=1", "ran: its data were others (516 train, 24 val, "),
        ("trainer.batch_size=0", "trainer.batch_size=0: it is at least 1"),
    ],
)
def test_a_resume_that_cannot_be_leaves_the_run_as_it_was(cli, folder, override, line):
    before = {name: (folder / name).read_text() for name in ("result.json", "config.yaml")}
    said = cli("resume=ran", override, "trainer.max_steps=9")
    assert said.code == 2
    assert line in said.err
    assert {name: (folder / name).read_text() for name in before} == before
    assert cli("evaluate", "ran").code == 0


def test_a_resume_with_fewer_steps_than_the_run_has_done_is_refused(cli, folder):
    said = cli("resume=ran", "trainer.max_steps=4")
    assert said.code == 2
    assert "ran: the run has done 6 steps already, and it is to have 4 now: ask for more, such as" in said.err
    assert result_of(folder)["status"] == "completed"


@pytest.mark.parametrize(
    "spoil",
    [
        {"callbacks": {"ledger": {}}}, {"global_step": "6"}, {"state_dict": 1},
        {"callbacks": {"training_record": {"state_dict": 3}}}, {"optimizer_states": [{}]}, {"optimizer_states": 3},
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_count_as_ours_do_is_refused_in_a_line(cli, folder, spoil):
    path = folder / "checkpoints" / "last.ckpt"
    torch.save(torch.load(path, weights_only=True) | spoil, path)
    said = cli("resume=ran", "trainer.max_steps=9")
    assert said.code == 2
    assert said.err.startswith("attnbench: ran/checkpoints/last.ckpt: ")
    assert len(said.err.splitlines()) == 1


def test_a_damaged_checkpoint_leaves_the_run_as_it_was(cli, folder):
    before = (folder / "result.json").read_text()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"PK")
    said = cli("resume=ran", "trainer.max_steps=9")
    assert said.code == 2
    assert "last.ckpt: refused" in said.err
    assert (folder / "result.json").read_text() == before


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_result_is_written_anew(cli, folder, text):
    (folder / "result.json").write_text(text)
    assert cli("resume=ran").code == 0
    assert result_of(folder)["status"] == "completed"


def test_a_run_goes_on_at_another_rate_and_with_the_examples_that_come_next(cli, folder, tmp_path):
    """Of 6 steps, a round is 3: it goes on to step 9 as a run of 9 steps would, but for its rate."""
    constant = ("optimizer.schedule=constant", "optimizer.warmup=0", "trainer.images=0")
    assert cli(*SMALL, *constant, "optimizer.lr=1e-2", "hydra.run.dir=short").code == 0
    assert cli(*SMALL, *constant, "optimizer.lr=1e-2", "hydra.run.dir=long", "trainer.max_steps=9").code == 0
    shutil.copytree(tmp_path / "short", tmp_path / "slower")
    assert cli("resume=short", "trainer.max_steps=9").code == 0
    assert same(weights_of(tmp_path / "short"), weights_of(tmp_path / "long"))
    assert cli("resume=slower", "trainer.max_steps=9", "optimizer.lr=1e-5").code == 0
    rates = [event.value for event in events(tmp_path / "slower").Scalars("train/learning_rate")]
    assert rates == pytest.approx([1e-2] * 6 + [1e-5] * 3)


def test_a_full_disk_leaves_nothing_that_looks_whole(cli, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))  # too small for a checkpoint
    try:
        said = cli(*SMALL, "trainer.images=0", "hydra.run.dir=full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith("attnbench: ")
    assert result_of(tmp_path / "full")["status"] == "failed"
    assert not list((tmp_path / "full").glob("checkpoints/*.ckpt"))
