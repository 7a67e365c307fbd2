"""A run folder from someone else: nothing in it is executed, whatever it holds."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL

ROOT = Path(__file__).parent.parent


class Payload:
    """What unpickles by creating a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run folder that is what it says."""
    folder = tmp_path_factory.mktemp("honest")
    command = [sys.executable, "-m", "attnbench", *SMALL, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return folder


@pytest.fixture
def folder(honest, tmp_path):
    """Its copy, to be spoilt."""
    return shutil.copytree(honest, tmp_path / "theirs")


@pytest.mark.parametrize("how", ["with torch.save", "with pickle", "beside honest weights"])
@pytest.mark.parametrize("command", [["evaluate", "theirs"], ["resume=theirs", "trainer.max_steps=9"]])
def test_a_checkpoint_that_would_execute_something_is_refused(command, how, folder, cli, tmp_path):
    proof = tmp_path / "executed"
    for name in ("best.ckpt", "last.ckpt"):
        path = folder / "checkpoints" / name
        if how == "with pickle":
            path.write_bytes(pickle.dumps(Payload(proof)))
        elif how == "with torch.save":
            torch.save({"state_dict": Payload(proof)}, path)
        else:
            honest = torch.load(path, weights_only=True)
            torch.save({**honest, "hyper_parameters": Payload(proof)}, path)
    said = cli(*command)
    assert not proof.exists()
    assert said.code == 2
    assert "checkpoints/" in said.err
    assert len(said.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": "${oc.env:SECRET}"}, "seed: `${oc.env:SECRET}`: expressions are not"),
        (
            {"task": {"name": "date", "file": "${oc.env:SECRET}"}},
            "task.file: `${oc.env:SECRET}`: expressions are not",
        ),
        ({"task": {"name": "${oc.env:SECRET}"}}, "task.name: `${oc.env:SECRET}`: expressions are not"),
        (
            {"trainer": {"strategy": "${mechanism:a,b}"}},
            "trainer.strategy: `${mechanism:a,b}`: expressions are not",
        ),
        ({"attention": {"name": "soft", "_target_": "os.mkdir", "path": "executed"}}, "attention._target_: "),
        ({"attention": {"name": "os.mkdir"}}, "attention=os.mkdir: no such attention"),
        (
            {"_target_": "os.mkdir", "path": "executed"},
            "_target_: a config names registered components only",
        ),
        ({"hydra": {"callbacks": {"mine": {"_target_": "os.mkdir"}}}}, "hydra.callbacks.mine._target_: "),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_a_config_that_would_call_or_read_something_is_refused(
    command, change, line, folder, cli, tmp_path, monkeypatch
):
    monkeypatch.setenv("SECRET", "123456")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **change}))
    said = cli("evaluate", "theirs") if command == "evaluate" else cli("resume=theirs", "trainer.max_steps=9")
    assert said.code == 2
    assert line in said.err
    assert "123456" not in said.err
    assert not (tmp_path / "executed").exists()


def test_a_config_that_names_a_python_object_is_refused(folder, cli, tmp_path):
    with (folder / "config.yaml").open("a") as file:
        file.write("extra: !!python/object/apply:os.mkdir [executed]\n")
    said = cli("evaluate", "theirs")
    assert said.code == 2
    assert "theirs/config.yaml: cannot be read" in said.err
    assert not (tmp_path / "executed").exists()


def test_a_plugin_in_a_run_folder_is_not_loaded(folder, cli, tmp_path):
    for place in (folder, folder / "plugins"):
        place.mkdir(exist_ok=True)
        (place / "mine.py").write_text("import attnbench, os\nos.mkdir('executed')\n")
    assert cli("evaluate", "theirs").code == 0
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "hydra:\n  callbacks:\n    mine: {_target_: os.mkdir, path: executed}\n",
            "hydra.callbacks.mine._target_: a config",
        ),
        ('hydra:\n  callbacks:\n    mine: {"\\x5ftarget_": os.mkdir}\n', "hydra.callbacks.mine._target_: "),
        (
            "hydra:\n  callbacks: \"${oc.decode:'{mine: {_target_: os.mkdir}}'}\"\n",
            "expressions are not allowed here;",
        ),
        ("hydra:\n  searchpath: [file:///elsewhere]\n", "hydra.searchpath: a config names registered components only"),
        ("seed: ${oc.env:SECRET}\n", "theirs.yaml: seed: `${oc.env:SECRET}`: expressions are not"),
        ("seed: !!python/object/apply:os.mkdir [executed]\n", "theirs.yaml: cannot be read"),
        ("seed: 1\nseed: 2\n", "theirs.yaml: cannot be read"),
    ],
)
def test_a_folder_of_configs_that_would_call_something_is_refused(text, line, cli, tmp_path):
    path = tmp_path / "configs" / "experiment" / "theirs.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\n" + text)
    said = cli("--config-dir", "configs", "experiment=theirs", *SMALL)
    assert said.code == 2
    assert line in said.err
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_honest_configs_can_be_used(cli, tmp_path):
    path = tmp_path / "configs" / "experiment" / "ours.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\nseed: 3\ntask:\n  data_seed: ${seed}\n")
    assert cli("--config-dir", "configs", "experiment=ours", *SMALL, "hydra.run.dir=ran").code == 0
    assert yaml.safe_load((tmp_path / "ran" / "config.yaml").read_text())["task"]["data_seed"] == 3


def test_a_config_behind_a_link_is_no_way_in(cli, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs.yaml").write_text("hydra:\n  callbacks:\n    mine: {_target_: os.mkdir}\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "experiment").symlink_to(tmp_path / "elsewhere")
    said = cli("--config-dir", "configs", "experiment=theirs", *SMALL)
    assert said.code == 2
    assert "theirs.yaml: hydra.callbacks.mine._target_: a config names registered components only" in said.err


def test_a_broken_config_is_in_the_way_of_no_other_and_is_named_when_it_is_chosen(cli, tmp_path):
    folder = tmp_path / "configs" / "experiment"
    folder.mkdir(parents=True)
    (folder / "ours.yaml").write_text("# @package _global_\nseed: 3\n")
    (folder / "marked.yaml").write_text("\ufeff# @package _global_\nseed: 3\n")
    (folder / "broken.yaml").write_text("# @package _global_\nseed: [3\n")
    (folder / "leads.yaml").write_text("# @package _global_\ndefaults: [broken]\n")
    (folder / "bytes.yaml").write_bytes(b"seed: \xff\n")
    few = (*SMALL, "trainer.max_steps=1", "trainer.images=0", "hydra.run.dir=ran")
    for name, line in {
        "marked": "marked.yaml: it begins with a byte order mark, which hides its first line; save it without",
        "broken": "broken.yaml: cannot be read: while parsing a flow sequence",
        "leads": "broken.yaml",
        "bytes": "bytes.yaml: cannot be read: 'utf-8' codec can't decode byte 0xff",
    }.items():
        said = cli("--config-dir", "configs", f"experiment={name}", *few)
        assert said.code == 2
        assert line in said.err
        assert len(said.err.splitlines()) == 1
    assert cli("--config-dir", "configs", "experiment=ours", *few).code == 0


def test_hydras_way_to_unpickle_a_job_is_refused(cli, tmp_path):
    proof = tmp_path / "executed"
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(Payload(proof)))
    assert cli("--experimental-rerun", "config.pickle").code == 2
    assert not proof.exists()
