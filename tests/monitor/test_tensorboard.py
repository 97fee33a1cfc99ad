"""Event files, read by TensorBoard's own reader."""

import io
import json

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pipeline.monitor.tensorboard import TensorBoardWriter

PLUGINS = ("scalars", "images", "text", "hparams")


def read(folder):
    reader = EventAccumulator(str(folder), tensor_size_guidance=dict.fromkeys(PLUGINS, 0))
    reader.Reload()
    return reader


def points(folder, tag):
    events = read(folder).Tensors(tag)
    return [(event.step, float(np.ravel(event.tensor_proto.float_val)[0])) for event in events]


def test_curves_of_each_split_are_in_its_folder(tmp_path):
    writer = TensorBoardWriter(tmp_path / "tensorboard", 0, print)
    for step in (1, 2):
        writer.scalars("train", step, {"loss": step / 2, "accuracy": 0.25})
    writer.scalars("validation", 2, {"loss": 4.0})
    assert points(tmp_path / "tensorboard/train", "loss") == [(1, 0.5), (2, 1.0)]
    assert points(tmp_path / "tensorboard/validation", "loss") == [(2, 4.0)]


def test_a_start_that_was_killed_leaves_no_points_behind_the_one_after_it(tmp_path):
    first = TensorBoardWriter(tmp_path / "tensorboard", 0, print)
    for step in range(1, 8):
        first.scalars("train", step, {"loss": 1.0})
    second = TensorBoardWriter(tmp_path / "tensorboard", 4, print)
    for step in range(5, 10):
        second.scalars("train", step, {"loss": 2.0})
    expected = [(s, 1.0) for s in range(1, 5)] + [(s, 2.0) for s in range(5, 10)]
    assert points(tmp_path / "tensorboard/train", "loss") == expected


def test_a_file_cut_short_opens(tmp_path):
    writer = TensorBoardWriter(tmp_path / "tensorboard", 0, print)
    for step in range(1, 4):
        writer.scalars("train", step, {"loss": float(step)})
    (file,) = (tmp_path / "tensorboard/train").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    assert points(tmp_path / "tensorboard/train", "loss") == [(1, 1.0), (2, 2.0)]


def test_pictures_text_and_settings(tmp_path):
    writer = TensorBoardWriter(tmp_path / "tensorboard", 0, print)
    png = io.BytesIO()
    Image.fromarray(np.zeros((3, 5, 3), np.uint8)).save(png, "png")
    writer.picture("a picture", png.getvalue(), 7)
    writer.text("settings", "**bold**", 0)
    writer.hparams({"optim.base_lr": 1e-3, "data.source": "digits", "data.augment.flip": True})
    train = read(tmp_path / "tensorboard/train")
    (event,) = train.Tensors("a picture")
    assert event.step == 7
    assert list(event.tensor_proto.string_val) == [b"5", b"3", png.getvalue()]
    assert train.Tensors("settings")[0].tensor_proto.string_val[0] == b"**bold**"
    plugins = train.summary_metadata
    assert plugins["a picture"].plugin_data.plugin_name == "images"
    content = read(tmp_path / "tensorboard").SummaryMetadata("_hparams_/session_start_info")
    data = HParamsPluginData.FromString(content.plugin_data.content).session_start_info
    values = {name: json.dumps(str(value)) for name, value in data.hparams.items()}
    assert set(values) == {"optim.base_lr", "data.source", "data.augment.flip"}
    assert data.hparams["optim.base_lr"].number_value == 1e-3
    assert data.hparams["data.augment.flip"].bool_value is True


def test_a_start_on_a_host_with_a_slow_clock_is_the_newer_one(tmp_path, monkeypatch):
    for number, now_s in enumerate((1_800_000_000.5, 1_799_990_000.0, 1_799_990_060.0)):
        monkeypatch.setattr("pipeline.monitor.tensorboard.time.time", lambda now_s=now_s: now_s)
        start = 10 * number
        board = TensorBoardWriter(tmp_path, start, print)
        for step in range(start + 1, start + 16):
            board.scalars("train", step, {"loss": float(1000 * number + step)})
        for file in board._files.values():
            file.flush()
    # Of the first two starts what lies before the next one, of the last one all.
    expected = [(step, 1000 * min(2, (step - 1) // 10) + step) for step in range(1, 36)]
    assert points(tmp_path / "train", "loss") == expected


def test_many_starts_on_a_host_with_a_slow_clock_lose_no_points(tmp_path, monkeypatch):
    clocks_s = [1_800_000_000.5, *(1_799_990_000.0 + 60 * number for number in range(11))]
    for number, now_s in enumerate(clocks_s):
        monkeypatch.setattr("pipeline.monitor.tensorboard.time.time", lambda now_s=now_s: now_s)
        board = TensorBoardWriter(tmp_path, number, print)
        board.scalars("train", number + 1, {"loss": float(number)})
    expected = [(number + 1, float(number)) for number in range(len(clocks_s))]
    assert points(tmp_path / "train", "loss") == expected
