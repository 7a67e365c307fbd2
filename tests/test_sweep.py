"""Many runs with one command, on one process, on many, and one run on two."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from attnbench.errors import Interrupted

ROOT = Path(__file__).parent.parent
TINY = ("task.lines=300", "trainer.max_steps=3", "trainer.images=0")


def results(folder):
    return {path.parent: json.loads(path.read_text()) for path in sorted(folder.rglob("result.json"))}


def outside(tmp_path, *arguments):
    """Call the command in a process of its own, as launchers and Lightning repeat it."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "attnbench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=given, timeout=300, check=False)


def test_a_sweep_runs_every_combination_that_can_be(tmp_path, cli):
    said = cli("-m", *TINY, "attention=soft,uniform", "scoring=dot,additive")

    assert said.code == 0
    assert {(r["attention"], r["scoring"]) for r in results(tmp_path / "runs").values()} == {
        ("soft", "dot"),
        ("soft", "additive"),
    }
    assert said.err.count("skipped: ") == 2
    assert "attention=uniform uses no scoring function" in said.err
    assert "4 jobs: 2 completed, 2 incompatible" in said.err
    assert not (tmp_path / "runs/date/uniform").exists()


def test_options_are_for_the_mechanisms_of_a_sweep_and_not_for_the_default(tmp_path, cli):
    said = cli("-m", *TINY, "attention=sliding_window,local,uniform", "attention.window=4")

    assert said.code == 0
    windows = [yaml.safe_load(path.read_text())["attention"] for path in (tmp_path / "runs").rglob("config.yaml")]
    assert sorted(attention["name"] for attention in windows) == ["local", "sliding_window"]
    assert {attention["window"] for attention in windows} == {4}
    assert "attention.window: attention 'uniform' has no option 'window'; there are: none" in said.err
    assert "3 jobs: 2 completed, 1 incompatible" in said.err


def test_a_sweep_of_which_no_job_can_be_run_is_refused(cli):
    said = cli("-m", *TINY, "attention=soft,uniform", "attention.windw=4,5")

    assert said.code == 2
    assert "none of 4 jobs can be run: attention.windw: attention 'soft' has no option 'windw'" in said.err


def test_a_value_of_the_wrong_type_fails_its_job_alone(cli):
    said = cli("-m", *TINY, "attention=multihead", "attention.num_heads=two,2")

    assert said.code == 2
    assert "attention=multihead attention.num_heads=two: attention.num_heads: Value 'two' of type" in said.err
    assert "2 jobs: 1 completed, 1 failed" in said.err


def test_a_sweep_may_have_no_preset_and_no_scoring_function_among_its_values(tmp_path, cli):
    assert cli("-m", *TINY, "attention=uniform", "scoring=null", "optimizer=null,sgd").code == 0
    assert len(results(tmp_path / "runs")) == 2


def test_a_failed_job_is_told_at_once_and_at_the_end_and_the_others_go_on(tmp_path, cli):
    said = cli("-m", *TINY, "attention=soft", "task.hidden_dim=-1,8")

    assert said.code != 0
    assert [r["status"] for r in results(tmp_path / "runs").values()] == ["failed", "completed"]
    assert said.err.index("failed: ") < said.err.index("2 jobs: 1 completed, 1 failed") < said.err.index("failed job")
    assert said.err.splitlines()[-1].startswith("attnbench: 1 of 2 jobs failed")


def test_a_sweep_started_again_runs_only_what_is_missing(tmp_path, cli):
    cli("-m", *TINY, "seed=0,1")
    (first, _), (second, _) = results(tmp_path / "runs").items()
    (second / "result.json").write_text('{"status": "runn')
    before = (first / "result.json").read_bytes()
    said = cli("-m", *TINY, "seed=0,1,2")

    assert "3 jobs: 2 completed, 1 completed before" in said.err
    assert (first / "result.json").read_bytes() == before
    assert len(list((tmp_path / "runs").rglob("config.yaml"))) == 4
    assert "already completed: " in said.err
    assert not list((tmp_path / "runs").glob(".sweep*"))


def test_another_configuration_is_not_taken_for_one_that_was_run(cli):
    cli("-m", *TINY, "seed=0")

    assert "1 jobs: 1 completed" in cli("-m", *TINY, "seed=0", "optimizer.lr=0.5").err


def test_ctrl_c_ends_the_sweep_and_says_what_became_of_it(tmp_path, cli, monkeypatch):
    def interrupted(config, folder, registry, overrides):
        raise Interrupted(str(folder))

    monkeypatch.setattr("attnbench.run.run", interrupted)
    said = cli("-m", *TINY, "seed=0,1")

    assert said.code == 130
    assert "1 jobs: 1 interrupted" in said.err


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_the_launchers_of_the_extra_run_the_jobs_in_processes_of_their_own(tmp_path, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher", reason="needs the extra [sweep]")
    said = outside(tmp_path, "-m", f"hydra/launcher={launcher}", *TINY, "task.hidden_dim=-1,8")

    assert said.returncode == 2, said.stderr
    assert "2 jobs: 1 completed, 1 failed" in said.stderr
    assert sorted(r["status"] for r in results(tmp_path / "runs").values()) == ["completed", "failed"]


def test_two_processes_leave_one_run_folder_with_the_metrics_of_one_and_resume_it(tmp_path):
    small = ("task.lines=600", "trainer.max_steps=6", "trainer.val_every=3", "trainer.log_every=1")
    two = outside(tmp_path, "trainer=ddp", "trainer.batch_size=16", *small, "hydra.run.dir=runs/two")
    one = outside(tmp_path, "trainer.batch_size=32", *small, "hydra.run.dir=runs/one")

    assert two.returncode == one.returncode == 0, two.stderr
    assert [folder.name for folder in results(tmp_path / "runs")] == ["one", "two"]
    assert len(list((tmp_path / "runs/two").glob("events*"))) == 1
    alone, shared = results(tmp_path / "runs").values()
    assert shared["metrics"] == pytest.approx(alone["metrics"], rel=1e-3, abs=1e-5)
    assert (shared["examples_seen"], shared["steps"]) == (alone["examples_seen"], alone["steps"])
    assert len(re.findall("step 6/6", two.stderr)) == 1

    more = outside(tmp_path, "resume=runs/two", "trainer.max_steps=8")
    assert more.returncode == 0, more.stderr
    assert results(tmp_path / "runs")[tmp_path / "runs/two"]["steps"] == 8


def test_runs_over_two_processes_can_be_swept(tmp_path):
    said = outside(tmp_path, "-m", "trainer=ddp", *TINY, "seed=0,1")

    assert "2 jobs: 2 completed" in said.stderr
    assert [r["seed"] for r in results(tmp_path / "runs").values()] == [0, 1]
