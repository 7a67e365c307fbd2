"""A run folder explains itself, and a run that was cut off comes to the same result."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL
from folders import events, result_of, same, weights_of
from tensorboard.plugins.hparams import plugin_data_pb2

from attnbench import UsageError
from attnbench.registry import Registry
from attnbench.run import evaluate, resume
from attnbench.run_folder import load, typed
from attnbench.training.experiment import Experiment


def test_a_run_leaves_a_folder_that_explains_itself(folder):
    result = result_of(folder)
    assert result["status"] == "completed"
    assert (result["task"], result["attention"], result["scoring"], result["seed"]) == (
        "date", "multihead", "additive", 0,
    )  # fmt: skip
    assert result["primary"] == "test/exact_match"
    assert {"val/exact_match", "val/loss", "test/exact_match", "test/loss"} <= result["metrics"].keys()
    assert result["steps"] == 6
    assert result["examples_seen"] == 6 * 64
    assert result["parameters"] == sum(
        tensor.numel() for name, tensor in weights_of(folder).items() if name.startswith("model.")
    )
    assert result["train_seconds"] > 0
    assert result["peak_memory_bytes"] > 10**8
    assert result["versions"]["torch"] == torch.__version__
    assert result["overrides"][-1] == "attention=multihead"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "run.log", "checkpoints", "result.json"} <= names
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_the_default_run_folder_says_what_was_run(cli, tmp_path):
    assert cli(*SMALL, "attention=last", "seed=7").code == 0
    (made,) = tmp_path.glob("runs/date/last/*_seed7_*")
    assert result_of(made)["scoring"] is None


def test_tensorboard_has_curves_pictures_and_texts(folder):
    read = events(folder)
    scalars = set(read.Tags()["scalars"])
    assert {"train/loss", "train/learning_rate", "train/examples_per_second"} <= scalars
    assert {"val/loss", "val/exact_match", "test/loss", "test/exact_match"} <= scalars
    assert [event.step for event in read.Scalars("val/loss")] == [3, 6]
    assert [event.step for event in read.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    for example in range(2):
        pictures = read.Images(f"attention/{example}")
        assert [event.step for event in pictures] == [3, 6]
        assert all(event.width > 300 and event.height > 100 for event in pictures)
    assert "→" in read.Tensors("examples/text_summary")[0].tensor_proto.string_val[0].decode()
    assert len(list(folder.glob("events.*"))) == 1


def test_the_hparams_page_has_the_final_metrics(folder):
    read = events(folder)
    content = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["attention"].string_value == "multihead"
    assert start.hparams["attention.num_heads"].number_value == 4
    metrics = {tag: v for tag, v in result_of(folder)["metrics"].items() if not tag.startswith("val/")}
    assert "test/exact_match" in metrics
    for tag, value in {**metrics, "RESULT/exact_match": metrics["test/exact_match"]}.items():
        assert read.Scalars(tag)[-1].value == pytest.approx(value)


def test_evaluate_reads_the_best_checkpoint_again(cli, folder):
    said = cli("evaluate", "ran")
    assert said.code == 0
    measured = dict(line.split() for line in said.out.splitlines())
    for tag, value in measured.items():
        assert float(value) == pytest.approx(result_of(folder)["metrics"][tag], rel=1e-4)


def test_evaluate_on_other_data(cli, folder, tmp_path):
    (tmp_path / "dates.txt").write_text("".join(f"{'9/' + str(d) + '/97':<29}_1997-09-{d:02}\n" for d in range(1, 31)))
    said = cli("evaluate", "ran", "task.file=dates.txt", "task.test_share=1", "task.val_share=0")
    assert said.code == 0
    assert "test/exact_match" in said.out


@pytest.mark.parametrize("chdir", ["false", "true"])
def test_a_relative_path_is_kept_absolute_and_data_that_moved_is_given_anew(cli, tmp_path, monkeypatch, chdir):
    days = [f"{f'{month}/{day}/97':<29}_1997-{month:02}-{day:02}\n" for month in range(1, 13) for day in range(1, 29)]
    (tmp_path / "dates.txt").write_text("".join(days))
    few = ["trainer.max_steps=2", "trainer.images=0", "hydra.run.dir=ran", f"hydra.job.chdir={chdir}"]
    assert cli("task.file=dates.txt", *few).code == 0
    assert yaml.safe_load((tmp_path / "ran" / "config.yaml").read_text())["task"]["file"] == f"{tmp_path}/dates.txt"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    measured = evaluate(tmp_path / "ran", Registry.load(), [])
    (tmp_path / "dates.txt").rename(tmp_path / "elsewhere" / "moved.txt")
    with pytest.raises(UsageError, match=r"dates\.txt: cannot be read: No such file"):
        evaluate(tmp_path / "ran", Registry.load(), [])
    assert evaluate(tmp_path / "ran", Registry.load(), ["task.file=moved.txt"]) == measured
    resume(tmp_path / "ran", Registry.load(), ["task.file=moved.txt", "trainer.max_steps=3"])
    assert result_of(tmp_path / "ran")["steps"] == 3


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task.embed_dim=16", "does not hold this model's weights"),
        ("task.line=3", "task.line: task 'date' has no option 'line'; did you mean 'lines'?"),
        ("task=imdb", "task=imdb: this run's task stays what it is"),
        ("attention", "'attention': expected key=value"),
        ("=", "'=': expected key=value"),
        ("~task.lines=3", "'~task.lines=3': expected key=value"),
        ("trainer=gpu", "trainer=gpu: presets begin a run; of one that is there, change values: trainer.OPTION=VALUE"),
        ("task.file=[a", "task.file=[a: not understood; quote the value"),
        ("task.file=a #b.txt", "task.file=a #b.txt: not understood; quote the value"),
        ("task.file=a,b", "task.file=a,b: expected one value"),
        ("task.file=*x", "/*x: cannot be read: No such file"),
        ("task.file=@x", "/@x: cannot be read: No such file"),
        ("task.file='a #b.txt'", "/a #b.txt: cannot be read: No such file"),
        ("task.file=~/nowhere.txt", f"task.file={Path.home()}/nowhere.txt: cannot be read: No such file"),
    ],
)
def test_evaluate_says_what_cannot_be_overridden(cli, folder, override, line):
    said = cli("evaluate", "ran", override)
    assert said.code == 2
    assert line in said.err


def test_the_same_seed_gives_the_same_result_and_another_seed_another(cli, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli(*SMALL, f"seed={seed}", "trainer.images=0", f"hydra.run.dir={name}").code == 0
    assert same(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    assert result_of(tmp_path / "a")["metrics"] == result_of(tmp_path / "b")["metrics"]
    assert not same(weights_of(tmp_path / "a"), weights_of(tmp_path / "c"))


def test_torch_has_as_many_threads_afterwards(cli):
    torch.set_num_threads(2)
    assert cli(*SMALL, "trainer.images=0", "trainer.threads=1", "hydra.run.dir=ran").code == 0
    assert cli("evaluate", "ran").code == 0
    assert torch.get_num_threads() == 2


def test_subnormal_numbers_are_zero_in_training_and_numbers_again_after_it(cli, tmp_path, monkeypatch):
    seen, loss = [], Experiment.loss

    def looked(self, batch):
        seen.append(float(torch.tensor(1e-40) * 0.5))
        return loss(self, batch)

    monkeypatch.setattr(Experiment, "loss", looked)
    assert cli(*SMALL, "trainer.max_steps=2", f"hydra.run.dir={tmp_path}/ran").code == 0
    assert seen == [0.0, 0.0]
    assert float(torch.tensor(1e-40) * 0.5) > 0


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=4294967296", "seed=4294967296: it is at most 4294967295"),
        ("trainer.threads=10000", "trainer.threads=10000: it is at most "),
        (
            "trainer.batch_size=3000000000",
            "trainer.batch_size=3000000000: it is at most 1048576",
        ),
        ("trainer.images=1000", "trainer.images=1000: it is at most 100"),
        ("trainer.strategy=foo", "trainer.strategy: You selected an invalid strategy name: `strategy='foo'`"),
    ],
)
def test_what_is_not_sensible_is_refused_in_a_line(cli, tmp_path, override, line):
    said = cli(*SMALL, override, "hydra.run.dir=ran")
    assert said.code == 2
    assert said.err.startswith(f"attnbench: {line}")
    assert len(said.err.splitlines()) == 1
    assert result_of(tmp_path / "ran")["status"] == "failed"


def test_a_folder_holds_one_run(cli, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = cli(*SMALL, "hydra.run.dir=ran")
    assert said.code == 2
    assert "ran: holds a run already; resume=" in said.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_float16_is_for_gpus_which_is_said(cli, tmp_path):
    said = cli(*SMALL, "trainer.images=0", "trainer.precision=float16", "hydra.run.dir=ran")
    assert said.code == 0
    assert said.err.startswith("attnbench: trainer.precision=float16 is for GPUs: bfloat16 on this processor\nstep ")


def test_drawing_takes_no_training_time_and_changes_no_result(cli, tmp_path):
    """The memory's start is random: what is drawn there must not be missing later."""
    machine = ("task=memory", "task.start=random", "task.rows=8", "task.high=3", "trainer.eval_batches=1")
    for images in (0, 1):
        length = ("trainer.max_steps=4", "trainer.val_every=2", f"trainer.images={images}")
        assert cli(*machine, *length, f"hydra.run.dir={images}").code == 0
    without, drawn = result_of(tmp_path / "0"), result_of(tmp_path / "1")
    assert drawn["metrics"] == without["metrics"]
    assert drawn["train_seconds"] < drawn["seconds"] / 2


def test_training_stops_when_nothing_is_left_to_gain(cli, tmp_path):
    same_date = "".join(
        f"{'9/8/97' if i % 2 else 'Sep ' + str(i % 9 + 1) + ', 1997':<29}_1997-09-08\n" for i in range(400)
    )
    (tmp_path / "easy.txt").write_text(same_date)
    shares = ("task.test_share=0.2", "task.val_share=0.2")
    arguments = ("trainer.max_steps=200", "trainer.val_every=20", "trainer.images=0", "hydra.run.dir=easy")
    assert cli("task.file=easy.txt", *shares, *arguments).code == 0
    result = result_of(tmp_path / "easy")
    assert result["metrics"]["val/exact_match"] == 1.0
    assert result["steps"] < 200


def test_a_failing_run_says_so_in_its_folder(cli, tmp_path):
    assert cli("task.file=nowhere.txt", "hydra.run.dir=failed").code == 2
    result = result_of(tmp_path / "failed")
    assert result["status"] == "failed"
    assert "nowhere.txt" in result["error"]
    assert "Traceback" in (tmp_path / "failed" / "run.log").read_text()


def test_a_config_names_registered_components_only():
    registry = Registry.load()
    chosen = {"attention": {"name": "soft"}, "scoring": {"name": "dot"}, "task": {"name": "date"}}
    assert typed(registry, chosen, ["task.lines=5"]).task.lines == 5
    with pytest.raises(UsageError, match="attention=os: no such attention"):
        typed(registry, {**chosen, "attention": {"name": "os"}}, [])
    with pytest.raises(UsageError, match="_target_"):
        typed(registry, {**chosen, "attention": {"name": "soft", "_target_": "os.system"}}, [])


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "task: date"])
def test_a_folder_that_is_no_run_folder_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError) as raised:
        load(tmp_path, Registry.load(), [])
    assert str(tmp_path / "config.yaml") in str(raised.value) or "config.yaml" in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_run_reads_unseen_dates(cli, tmp_path, seed):
    assert cli(f"seed={seed}", "hydra.run.dir=default").code == 0
    result = result_of(tmp_path / "default")
    assert result["metrics"]["test/exact_match"] >= 0.999
    assert result["seconds"] < 45


@pytest.mark.parametrize(
    ("bar", "begins"), [("true", "step 1/1  val/"), ("false", "date soft-additive seed 3: step 1/1")]
)
def test_without_a_bar_a_line_says_whose_it_is(cli, bar, begins):
    said = cli(*SMALL, "seed=3", "trainer.max_steps=1", "trainer.images=0", f"trainer.progress_bar={bar}")
    assert said.err.startswith(begins)
    assert said.err.count("\n") == 1
