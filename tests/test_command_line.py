"""The command lines of README, and what goes wrong with them: one clear line, exit code not 0."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SMALL

import attnbench
from attnbench.registry import Registry, override_suffix


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["attention=multihead", "attention.num_head=8"],
            "attention.num_head: attention 'multihead' has no option 'num_head'; did you mean 'num_heads'?",
        ),
        (["attention=multihead", "attention.num_heads=eight"], "attention.num_heads: Value 'eight' of type 'str'"),
        (["attention=multihead", "attention.num_heads=7"], "num_heads=7 does not divide the width 64; try num_heads=8"),
        (["attention=multihed"], "attention=multihed: no such attention; did you mean 'multihead'?"),
        (["scoring=additve"], "scoring=additve: no such scoring; did you mean 'additive'?"),
        (["task=dat"], "task=dat: no such task; did you mean 'date'?"),
        (["attention=uniform", "scoring=dot"], "attention=uniform uses no scoring function; leave scoring= out"),
        (["trainer.max_epoch=3"], "trainer.max_epoch: trainer has no option 'max_epoch'; did you mean 'max_epochs'?"),
        (["trainer.max_steps=many"], "trainer.max_steps: Value 'many' of type 'str'"),
        (["trainer=cup"], "trainer=cup: no such trainer; did you mean 'cpu'?"),
        (["optimizer.name=adan"], "optimizer.name: Invalid value 'adan', expected one of [adam, adamw, sgd]"),
        (["--config-name=x"], "no config 'x' is there; without --config-name and --config-path attnbench's own is"),
        (["sead=3"], "sead: the run has no option 'sead'; did you mean 'seed'?"),
        (["seed=x"], "seed: Value 'x' of type 'str'"),
        (["task.lines=[1"], "task.lines=[1"),
        (["lst"], "lst: no such command; did you mean 'list'?"),
        (["evaluate", "nowhere"], "nowhere: not a run folder, it has no config.yaml"),
        (["resume=nowhere"], "nowhere: not a run folder, it has no config.yaml"),
        (["task.file=nowhere.txt"], "nowhere.txt: cannot be read: No such file or directory"),
        (["task.lines=3"], "split is empty"),
        (["trainer.batch_size=0"], "trainer.batch_size=0: it is at least 1"),
        (["trainer.gradient_clip=0"], "trainer.gradient_clip=0.0: it is above 0; null turns clipping off"),
        (["optimizer.momentum=1"], "optimizer has no option 'momentum'; there are: decay, lazy, lr, name, schedule,"),
        (["seed=-1"], "seed=-1: it is at least 0"),
        (["seed=???"], "seed=???: in a config that means a value that is missing; write one"),
        (["task=memory", "task.data_seed=-1"], "task.data_seed=-1: it is at least 0"),
        (["evaluate", "nowhere", "="], "nowhere: not a run folder"),
        (
            ["predict", "nowhere", "--picture", "", "x"],
            "--picture .: the name of a file is expected, such as words.png",
        ),
        (["predict", "nowhere", "--picture", "/nowhere/x.png", "x"], "/nowhere/x.png: No such file or directory"),
        (["optimizer.lr=nan"], "optimizer.lr=nan: a finite number is expected"),
        (["task.test_share=nan"], "task.test_share=nan: a finite number is expected"),
        (["optimizer.warmup=2"], "optimizer.warmup=2.0: it is at most 1: it is a share of the run"),
        (["trainer.max_steps=100000000000000000000"], "trainer.max_steps=100000000000000000000: a whole number is at"),
        (["task.lines=99999999999999999999"], "task.lines=99999999999999999999: a whole number is at most 2**53"),
        (["task.lines=600", "task.hidden_dim=100000000000"], "not enough memory: lower trainer.batch_size, "),
        (["task.file=~/nowhere.txt"], f"task.file={Path.home()}/nowhere.txt: cannot be read: No such file or"),
        (["task=null"], "task=null: a name is expected"),
        (["task=3"], "task=3: a name is expected"),
        (["task@x=0.5"], "task@x=0.5: a name is expected"),
        (["-m", "scoring=dot,1e3"], "scoring=dot,1e3: a name is expected"),
        (["experiment=[imdb_best]"], "experiment=[imdb_best]: a name is expected"),
        (["scoring=null"], "attention=soft needs a scoring function: scoring=NAME, one of additive, "),
        (["~scoring"], "~scoring: nothing can be taken out of a run; scoring=null means none"),
        (["~task.lines"], "~task.lines: nothing can be taken out of a run; task=null means none"),
        (["="], "'=': a run's words are GROUP=NAME and GROUP.OPTION=VALUE"),
        (["task=date", "-"], "'-': a run's words are GROUP=NAME and GROUP.OPTION=VALUE"),
        (["task=date", ""], "'': a run's words are GROUP=NAME and GROUP.OPTION=VALUE"),
        (["task=date", "@file"], "'@file': a run's words are GROUP=NAME and GROUP.OPTION=VALUE"),
        (["@file"], "@file: no such command; there are: bench, check"),
        (["lr=3"], "lr: the run has no option 'lr'; did you mean optimizer.lr?"),
        (["num_heads=3"], "num_heads: the run has no option 'num_heads'; did you mean attention.num_heads?"),
        (["hepl"], "hepl: no such command; did you mean 'help'?"),
        (["--hepl"], "--hepl: no such option; did you mean '--help'?"),
        (["compare", "--jsn"], "compare: unrecognized arguments: --jsn; did you mean '--json'?"),
        (["seed=0", "--zzzz"], "--zzzz: no such option; see --help and --hydra-help"),
        (["seed=0", "--config-dir"], "argument --config-dir/-cd: expected one argument; see --hydra-help"),
        (["+foo=1"], "foo: the run has no option 'foo'; there are: attention, optimizer, part, scoring,"),
        (["task.file=a #b"], "task.file=a #b: not understood; quote the value, as in"),
        (["-m", "scoring=glob(zzz*)"], "-m: 0 jobs: a pattern, glob(...), names nothing that there is; see python -m"),
        (["-m", "seed=0,x"], "seed: Value 'x' of type 'str'"),
        (["-m", "trainer.max_epoch=3,4"], "trainer.max_epoch: trainer has no option 'max_epoch'; did you mean"),
        (["-m", "scoring=dot,dott"], "scoring=dott: no such scoring; did you mean 'dot'?"),
        (["trainer=gpu"], "trainer.accelerator=gpu: torch finds no GPU here; leave trainer=gpu out, or say "),
        (["bench", "attention.num_heads=[1"], "attention.num_heads=[1: not understood; quote the value"),
        (["bench", "attention=channel", "weights=true", "length=4"], "attention=channel has no weights to give"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_user_gets_wrong_is_one_line_that_names_it(cli, arguments, line):
    said = cli(*arguments)
    assert said.code == 2
    assert line in said.err
    assert said.err.startswith("attnbench: ")
    assert said.err.count("\n") == 1
    assert not said.out


@pytest.mark.parametrize(
    ("line", "answers", "others"),
    [
        ("attnbench ", ["compare", "task="], ["help"]),
        ("attnbench co", ["compare"], ["bench"]),
        ("attnbench compare ", [], ["compare", "task="]),
        ("attnbench seed=0 co", [], ["compare"]),
        ("attnbench -m task=re", ["task=recall"], ["task=date"]),
    ],
)
def test_a_shell_is_told_how_the_line_goes_on(cli, monkeypatch, line, answers, others):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    said = cli("--shell-completion", "query=bash")
    assert said.code == 0
    words = said.out.split()
    assert set(answers) <= set(words)
    assert not set(others) & set(words)


def test_what_a_shell_completes_is_the_command_and_not_python():
    words = ["-m", "attnbench", "-sc", "install=bash"]
    said = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "the command attnbench, not python" in said.stderr


def test_a_run_folder_that_cannot_be_written_is_named(cli, tmp_path):
    (tmp_path / "taken").write_text("")
    said = cli(*SMALL, "hydra.run.dir=taken/run")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "taken" in said.err


def test_list_shows_every_component_in_a_line(cli):
    said = cli("list")
    assert said.code == 0
    registry = Registry.load()
    for kind, name in registry.components:
        summary = registry.get(kind, name).summary.split(" (")[0]
        assert re.search(rf"^  {name} +{re.escape(summary)}", said.out, re.MULTILINE)


def test_help_lists_every_group_and_option(cli):
    said = cli("--help")
    assert said.code == 0
    for word in ("scoring=additive", "attention.num_heads=4", "task.lines=50000", "trainer=cpu|ddp|debug|gpu",
                 "trainer.threads=1", "optimizer.lr=0.001", "seed=0", "evaluate"):  # fmt: skip
        assert word in said.out


def test_the_command_line_wins_over_the_tasks_recipe(cli):
    composed = cli("task.lines=700", "--cfg", "job", "optimizer.lr=0.5").out  # an option may stand anywhere
    assert "lr: 0.5" in composed
    assert "max_epochs: 1" in composed  # the recipe's


@pytest.mark.parametrize("recipe", ["task=date", "task=imdb", "task=memory", "experiment=imdb_keras"])
@pytest.mark.parametrize("preset", sorted((ROOT / "conf").glob("[ot]*/*.yaml")), ids=lambda path: path.stem)
def test_a_preset_on_the_command_line_wins_over_every_recipe(cli, recipe, preset):
    composed = yaml.safe_load(cli("--cfg", "job", recipe, f"{preset.parent.name}={preset.stem}").out)
    wanted = yaml.safe_load(preset.read_text())
    assert wanted
    assert composed[preset.parent.name] | wanted == composed[preset.parent.name]


@pytest.mark.parametrize("path", sorted((ROOT / "conf/experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_gives_its_mechanism_options_and_goes_with_any_other(cli, path):
    def composed(*words):
        return yaml.safe_load(cli("--cfg", "job", f"experiment={path.stem}", *words).out)

    own = composed()
    for kind, other in (("attention", "uniform"), ("scoring", "dot")):
        options = path.parent / kind / f"{path.stem}_{own[kind]['name']}.yaml"
        given = yaml.safe_load(options.read_text()) if options.exists() else {}
        assert own[kind] | given == own[kind]
        assert composed(f"{kind}={other}") == own | {kind: {"name": other}}


def test_experiments_of_ones_own_stand_here_beside_plugins_and_in_packages(cli, tmp_path, monkeypatch):
    installed = tmp_path / "it's installed" / "with_experiment"
    for folder, name in ((tmp_path, "mine"), (tmp_path / "package", "theirs"), (installed, "installed")):
        (folder / "conf/experiment").mkdir(parents=True)
        (folder / f"conf/experiment/{name}.yaml").write_text("# @package _global_\noptimizer: {lr: 0.125}")
    monkeypatch.setenv("ATTNBENCH_PLUGINS", str(tmp_path / "package/plugins"))
    (installed / "__init__.py").touch()
    monkeypatch.syspath_prepend(installed.parent)
    monkeypatch.setattr("attnbench.loading.entry_points", lambda group: [EntryPoint("a", "with_experiment.b", group)])
    for name in ("mine", "theirs", "installed"):
        assert yaml.safe_load(cli("--cfg", "job", f"experiment={name}").out)["optimizer"]["lr"] == 0.125
    (tmp_path / "conf/experiment/mine.yaml").write_text("# @package _global_\noptimizer: {_target_: os.system}")
    said = cli("experiment=mine")
    assert said.code == 2
    assert "a config names registered components only" in said.err


def test_every_file_of_options_belongs_to_an_experiment_and_what_it_runs(cli):
    for path in (ROOT / "conf/experiment").glob("*/*.yaml"):
        (experiment,) = [e.stem for e in path.parent.parent.glob("*.yaml") if path.stem.startswith(f"{e.stem}_")]
        own = yaml.safe_load(cli("--cfg", "job", f"experiment={experiment}").out)
        assert path.stem == f"{experiment}_{own[path.parent.name]['name']}"


def test_an_experiment_that_chooses_a_preset_is_told_to_write_values(cli, tmp_path):
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /optimizer: adamw\n"
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text(text)
    said = cli("--config-dir", "configs", "experiment=mine")
    assert said.code == 2
    assert "experiment/mine': the presets of optimizer are for the command line; write values under" in said.err


def test_an_experiment_with_options_of_another_mechanism_is_told_where_they_go(cli, tmp_path):
    (tmp_path / "configs" / "experiment" / "attention").mkdir(parents=True)
    mine = tmp_path / "configs" / "experiment" / "mine.yaml"
    mine.write_text("# @package _global_\ndefaults:\n  - override /attention: self\nattention:\n  scale: 0.5\n")
    said = cli("--config-dir", "configs", "experiment=mine", "attention=uniform")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "experiment/mine: attention.scale: attention 'uniform' has no option 'scale'; there are: none" in said.err
    assert "what is for one attention alone goes into experiment/attention/EXPERIMENT_ATTENTION.yaml" in said.err
    mine.write_text("# @package _global_\ndefaults:\n  - override /attention: self\n")
    (tmp_path / "configs" / "experiment" / "attention" / "mine_self.yaml").write_text("scale: 0.5\n")
    own, other = (
        cli("--cfg", "job", "--config-dir", "configs", "experiment=mine", *w) for w in ((), ("attention=uniform",))
    )
    assert (own.code, other.code) == (0, 0)
    assert yaml.safe_load(own.out)["attention"]["scale"] == 0.5


def test_a_sweep_makes_a_run_folder_for_each_combination(cli, tmp_path):
    assert cli("-m", *SMALL, "attention=soft,uniform", "seed=0,1").code == 0
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/date/*/*/result.json")]
    ran = sorted((result["attention"], result["scoring"], result["seed"]) for result in results)
    assert ran == [("soft", "additive", 0), ("soft", "additive", 1), ("uniform", None, 0), ("uniform", None, 1)]


def test_the_version_is_ours(cli):
    assert cli("--version").out == f"attnbench {attnbench.__version__}\n"
    assert cli("task=date", "--version").out == f"attnbench {attnbench.__version__}\n"
    assert f'version = "{attnbench.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_hydras_parser_of_the_command_line_is_where_it_was():
    """`hydra._internal.utils.get_args_parser` says what --config-dir and --experimental-rerun are given.

    Without it a folder of someone else's configs could have Hydra call something: see `refuse_calls`.
    """
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args(["--config-dir", "a", "--config-path", "b", "--experimental-rerun", "c", "-m"])
    assert (args.config_dir, args.config_path, args.experimental_rerun, args.multirun) == ("a", "b", "c", True)


def test_hydras_callbacks_are_where_they_were():
    """`hydra._internal.callbacks.Callbacks` goes to a launcher with the jobs of `tune` and `suite`.

    Without it `attnbench.sweep.follow` cannot use Hydra's launchers.
    """
    from hydra._internal.callbacks import Callbacks

    assert callable(Callbacks().on_multirun_start)


def test_private_names_of_hydra_are_used_in_two_files():
    using = {path.name for path in (ROOT / "attnbench").rglob("*.py") if "hydra._internal" in path.read_text()}
    assert using == {"words.py", "sweep.py"}


def test_files_of_the_current_folder_are_not_taken_for_those_that_they_are_named_after(tmp_path):
    for name in ("random", "tempfile", "pathlib", "yaml", "hydra", "torch", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong file was imported')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "attnbench", "list", "dot"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("scoring=dot")


def test_ctrl_c_during_the_imports_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "attnbench", "list"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert said.stderr == "attnbench: interrupted\n"


@pytest.mark.parametrize("group", ["experiment", "trainer", "optimizer"])
def test_null_means_that_no_preset_is_taken(cli, group):
    assert cli("--cfg", "job", f"{group}=null").out == cli("--cfg", "job").out


def test_a_mechanism_without_scoring_function_takes_null_for_it(cli, tmp_path):
    assert cli(*SMALL, "attention=uniform", "scoring=null", "hydra.run.dir=ran").code == 0
    assert yaml.safe_load((tmp_path / "ran" / "config.yaml").read_text())["scoring"] is None


def test_what_is_refused_leaves_no_folder(cli, tmp_path):
    for words in (["attention=uniform", "scoring=dot"], ["+foo=1"], ["-m", "attention.num_heads=2"]):
        assert cli(*words).code == 2
    assert not list(tmp_path.rglob("runs/*/*"))


@pytest.mark.parametrize(("stream", "written"), [("stdout", 0), ("stderr", 0), ("stdout", 1)])
def test_what_cannot_be_printed_does_not_fail_a_run(tmp_path, stream, written):
    """The reader of the pipe leaves, at once or behind the first byte."""
    command = [sys.executable, "-m", "attnbench", *SMALL, "hydra.run.dir=ran"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, **{stream: subprocess.PIPE, other: subprocess.DEVNULL}
    ) as process:
        pipe = getattr(process, stream)
        pipe.read(written)
        pipe.close()
    assert process.returncode == 0
    assert json.loads((tmp_path / "ran" / "result.json").read_text())["status"] == "completed"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_for_the_output_is_said_and_fails_commands_alone(tmp_path):
    for words, code in ((["list"], 1), ([*SMALL, "trainer.progress_bar=false", "hydra.run.dir=ran"], 0)):
        with open("/dev/full", "w") as full:  # noqa: PTH123
            command = [sys.executable, "-m", "attnbench", *words]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            said = subprocess.run(
                command, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert said.returncode == code
        assert said.stderr.splitlines()[-1] == "attnbench: not all could be printed: No space left on device"
    assert json.loads((tmp_path / "ran" / "result.json").read_text())["status"] == "completed"


def test_a_run_folders_name_says_what_is_swept_first_and_cuts_nothing_in_the_middle(monkeypatch):
    monkeypatch.setenv("ATTNBENCH_SWEPT", "optimizer.lr,trainer.max_steps")
    long = [f"trainer.{word}=12345678901234567890" for word in ("eval_batch_size", "batch_size", "eval_train")]
    words = ["task=date", "seed=3", "task.file=/a/long/path/of my/dates.txt", *long, "optimizer.lr=0.1"]
    suffix = override_suffix(words)
    assert suffix.startswith("_lr-0.1_file-dates.txt_eval_batch_size-12345678901234567890")
    assert len(suffix) <= 80
    assert {part for part in suffix.split("_") if "-" in part} <= {
        "lr-0.1", "file-dates.txt", "size-12345678901234567890", "train-12345678901234567890",
    }  # fmt: skip
