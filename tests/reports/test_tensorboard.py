"""What TensorBoard reads in a run folder."""

import json

import pytest
from conftest import SMALL
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.backend_context import Context
from torch.utils.tensorboard import SummaryWriter

from attnbench.reports.tensorboard import EventLog, rewind


@pytest.fixture
def events(tmp_path, cli):
    assert cli(*SMALL, "attention=multihead", "seed=3", "hydra.run.dir=run").code == 0
    read = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
    read.Reload()
    return read


def chosen(events):
    told = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    return plugin_data_pb2.HParamsPluginData.FromString(told).session_start_info.hparams


def test_the_row_of_the_hparams_page_has_what_was_chosen_and_the_final_metrics(tmp_path, events):
    result = json.loads((tmp_path / "run/result.json").read_text())

    assert chosen(events)["attention"].string_value == "multihead"
    assert chosen(events)["attention.num_heads"].number_value == 4
    assert chosen(events)["seed"].number_value == 3
    for tag in ("test/exact_match", "test/loss"):
        assert events.Scalars(tag)[-1].value == pytest.approx(result["metrics"][tag])
    assert events.Scalars("RESULT/exact_match")[-1].value == pytest.approx(result["metrics"]["test/exact_match"])


def test_the_hparams_page_has_the_options_of_all_runs_and_begins_with_what_varies_and_the_primary_metric(tmp_path, cli):
    for attention in ("last", "multihead"):
        assert cli(*SMALL, f"attention={attention}", f"hydra.run.dir=runs/{attention}").code == 0
    events = EventMultiplexer()
    events.AddRunsFromDirectory(str(tmp_path / "runs"))
    events.Reload()
    plugin = Context(TBContext(data_provider=MultiplexerDataProvider(events, str(tmp_path))))
    request = RequestContext()
    page = plugin.experiment_from_metadata(request, "", True, plugin.hparams_metadata(request, ""), [])
    options = [info.name for info in page.hparam_infos]

    assert set(options[:2]) == {"attention", "scoring"}
    assert {"attention.num_heads", "scoring.hidden_dim"} <= set(options)
    assert page.metric_infos[0].name.tag == "RESULT/exact_match"


def test_the_custom_scalars_lay_train_over_val(events):
    (held,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(held.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for page in layout.category for chart in page.chart}

    assert {"train/loss$", "val/loss$"} <= set(charts["loss"])
    assert charts["alignment"] == ["attention/alignment$"]


def test_slices_of_a_metric_are_laid_out_in_one_chart(tmp_path):
    log = EventLog(tmp_path)
    log.layout(["bleu", "exact_match", "bleu_1-4", "bleu_5-6"])
    log.save()
    (held,) = EventAccumulator(str(tmp_path)).Reload().Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(held.tensor_proto.string_val[0])
    (page,) = [page for page in layout.category if page.title == "val, by slice"]
    charts = {chart.title: list(chart.multiline.tag) for chart in page.chart}
    assert charts == {"bleu": ["val/bleu$", "val/bleu_1-4$", "val/bleu_5-6$"]}


def test_every_validation_is_a_point_of_the_same_curves(events):
    for tag in ("val/loss", "val/exact_match", "attention/alignment", "attention/entropy",
                "attention/head_disagreement"):  # fmt: skip
        assert [point.step for point in events.Scalars(tag)] == [3, 6]


def test_the_curve_in_the_result_is_that_of_the_events(tmp_path, events):
    curve = json.loads((tmp_path / "run/result.json").read_text())["curve"]

    assert [point["step"] for point in curve] == [3, 6]
    assert [point["val/loss"] for point in curve] == pytest.approx([p.value for p in events.Scalars("val/loss")])


def test_a_run_that_was_prolonged_shows_what_it_has_now(tmp_path, cli, events):
    assert cli("resume=run", "trainer.max_steps=9").code == 0
    prolonged = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
    prolonged.Reload()
    assert chosen(prolonged)["trainer.max_steps"].number_value == 9
    assert [point.step for point in prolonged.Scalars("val/loss")] == [3, 6, 9]
    assert [event.step for event in prolonged.Images("attention/0")] == [3, 6, 9]


def test_points_that_a_resumed_run_draws_again_are_taken_out_so_that_nobody_is_warned(tmp_path, caplog):
    for number, steps in enumerate([(1, 2, 3, 4), (3, 4)]):  # stopped after a checkpoint at 2
        rewind(tmp_path, 2)
        with SummaryWriter(str(tmp_path), filename_suffix=".new") as writer:
            for step in steps:
                writer.add_scalar("val/loss", len(steps) * 10 + step, step)
        (written,) = tmp_path.glob("*.new")
        written.rename(tmp_path / f"events.out.tfevents.{number}")  # files are read in the order of their names
    read = EventAccumulator(str(tmp_path))
    read.Reload()

    assert [(point.step, point.value) for point in read.Scalars("val/loss")] == [(1, 41), (2, 42), (3, 23), (4, 24)]
    assert caplog.text == ""


def test_charts_and_pictures_say_what_they_are(events):
    read = plugin_event_accumulator.EventAccumulator(events.path)
    read.Reload()
    told = {tag: read.SummaryMetadata(tag).summary_description for tag in read.Tags()["tensors"]}
    assert told["val/exact_match"].startswith("exact_match: the share of dates that are right in every character")
    assert told["attention/entropy"].startswith("The entropy of a query's weights in nats")
    assert "Rows are the characters written" in told["attention/0"]
    assert not [tag for tag, words in told.items() if not words and tag.startswith(("val/", "test/", "train/"))]
