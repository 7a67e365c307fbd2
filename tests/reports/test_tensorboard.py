"""What TensorBoard reads in a run folder."""

import json

import pytest
from conftest import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2


@pytest.fixture
def events(tmp_path, cli):
    assert cli(*SMALL, "attention=multihead", "seed=3", "hydra.run.dir=run").code == 0
    read = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
    read.Reload()
    return read


def hparams(events, tag):
    return plugin_data_pb2.HParamsPluginData.FromString(events.PluginTagToContent("hparams")[tag])


def test_the_hparams_page_has_what_was_chosen_and_the_final_metrics(tmp_path, events):
    chosen = hparams(events, "_hparams_/session_start_info").session_start_info.hparams
    shown = {info.name.tag for info in hparams(events, "_hparams_/experiment").experiment.metric_infos}
    result = json.loads((tmp_path / "run/result.json").read_text())

    assert chosen["attention"].string_value == "multihead"
    assert chosen["attention.num_heads"].number_value == 4
    assert chosen["seed"].number_value == 3
    assert {"test/exact_match", "test/loss", "attention/alignment"} <= shown
    assert shown <= set(events.Tags()["scalars"])
    for tag in ("test/exact_match", "test/loss"):
        assert events.Scalars(tag)[-1].value == pytest.approx(result["metrics"][tag])


def test_the_custom_scalars_lay_train_over_val(events):
    (held,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(held.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for page in layout.category for chart in page.chart}

    assert {"train/loss$", "val/loss$"} <= set(charts["loss"])
    assert charts["alignment"] == ["attention/alignment$"]


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
    chosen = hparams(prolonged, "_hparams_/session_start_info").session_start_info.hparams
    assert chosen["trainer.max_steps"].number_value == 9
    assert [point.step for point in prolonged.Scalars("val/loss")] == [3, 6, 9]
    assert [event.step for event in prolonged.Images("attention/0")] == [3, 6, 9]
