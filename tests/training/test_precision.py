"""What `train.precision=auto` is, and what is said of it."""

import pytest

from pipeline.api.run_training import settle_precision
from pipeline.config import Config, TrainConfig
from pipeline.runs.folder import RunFolder
from pipeline.runtimes import bfloat16
from pipeline.runtimes.single import SingleRuntime
from pipeline.training.description import headline, start_facts
from pipeline.training.precision import agree_on_precision, describe_precision, resolve_precision
from tests.training.experiments import tiny

FAST, SLOW = "flags : avx512_bf16\n", "flags : avx2\n"


def write(file, text):
    file.write_text(text)
    return file


def config(precision):
    return Config(train=TrainConfig(precision=precision))


@pytest.mark.parametrize(
    ("named", "slow", "used"),
    [
        ("auto", [None], "mixed_bfloat16"),
        ("auto", ["T4"], "float32"),
        ("auto", [None, None], "mixed_bfloat16"),
        ("auto", [None, "T4"], "float32"),
        ("auto", ["T4", None], "float32"),
        ("float32", [None], "float32"),
        ("mixed_bfloat16", ["T4"], "mixed_bfloat16"),
        ("mixed_float16", ["T4"], "mixed_float16"),
    ],
)
def test_auto_is_bfloat16_where_every_device_is_fast_at_it(named, slow, used):
    resolved = resolve_precision(config(named), slow).config
    assert resolved.train.precision == used
    assert resolved == config(used)  # nothing else changes


def said(named, slow, before=None):
    return list(describe_precision(resolve_precision(config(named), slow), before))


def test_what_auto_is_and_why_is_said():
    assert said("auto", [None]) == [
        "train.precision=auto is mixed_bfloat16 here: the devices are fast at bfloat16"
    ]
    assert said("auto", [None, "a T4 is slow"]) == [
        "train.precision=auto is float32 here: a T4 is slow (rank 1)"
    ]


def test_bfloat16_that_is_named_is_warned_of_on_a_slow_device_alone():
    assert said("mixed_bfloat16", [None]) == []
    (line,) = said("mixed_bfloat16", ["a T4 is slow"])
    assert "is slow on the devices: a T4 is slow. Use" in line
    assert "train.precision=auto or float32" in line
    assert said("float32", ["a T4 is slow"]) == []


def test_a_run_that_continues_in_another_precision_says_so():
    assert said("float32", [None], before="float32") == []
    assert said("float32", [None], before="mixed_bfloat16") == [
        "the run used mixed_bfloat16 until now and continues with float32"
    ]
    assert len(said("auto", [None], before="mixed_bfloat16")) == 1


def test_a_start_records_what_auto_is_and_says_when_it_changed(tmp_path, monkeypatch):
    changed = {"mixed_bfloat16": "", "float32": "the run used mixed_bfloat16 until now"}
    folder = RunFolder(tmp_path / "run")
    for cpuinfo, used in [(FAST, "mixed_bfloat16"), (SLOW, "float32")]:
        monkeypatch.setattr(bfloat16, "_CPU_FACTS", write(tmp_path / "cpuinfo", cpuinfo))
        lines = []
        settled = settle_precision(config("auto"), folder, SingleRuntime("CPU:0"), lines.append)
        said = "\n".join(lines)
        assert f"train.precision=auto is {used} here" in said
        assert ("until now" in said) == bool(changed[used])
        assert changed[used] in said
        folder.open(settled, print)  # which accepts the other precision
        folder.close()
        assert folder.config().train.precision == used


class _Two(SingleRuntime):
    """One of two processes, whose other has another device."""

    def __init__(self, others):
        super().__init__("CPU:0")
        self._others = others

    def all_gather(self, value):
        return [value, self._others]


def test_processes_on_different_devices_agree(tmp_path, monkeypatch):
    for cpuinfo, other, agreed in [
        (FAST, None, "mixed_bfloat16"), (FAST, "T4", "float32"), (SLOW, None, "float32"),
    ]:  # fmt: skip
        monkeypatch.setattr(bfloat16, "_CPU_FACTS", write(tmp_path / "cpuinfo", cpuinfo))
        resolved = agree_on_precision(config("auto"), _Two(other)).config
        assert resolved.train.precision == agreed


@pytest.mark.parametrize(
    ("cpuinfo", "used", "computed"),
    [(FAST, "mixed_bfloat16", "bfloat16"), (SLOW, "float32", "float32")],
)
def test_an_experiment_has_the_precision_that_auto_is(
    tmp_path, monkeypatch, cpuinfo, used, computed
):
    monkeypatch.setattr(bfloat16, "_CPU_FACTS", write(tmp_path / "cpuinfo", cpuinfo))
    experiment = tiny(tmp_path, "train.precision=auto")
    assert experiment.config.train.precision == used
    assert experiment.model.blocks[0].compute_dtype == computed
    assert f", {used}\n" in headline(experiment)
    assert start_facts(experiment, [])["precision"] == used
