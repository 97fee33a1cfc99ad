"""One object a line: whatever a crash or a disk did to a file, no whole line is lost."""

import json
import random

import pytest

from pipeline.runs.metrics_file import MetricsFile
from pipeline.storage.json_lines import read_json_lines


def line(step, split="train", **values):
    return json.dumps({"step": step, "split": split, **values}).encode()


def steps(rows):
    return [row["step"] for row in rows]


@pytest.mark.parametrize(
    ("end", "num_damaged"),
    [
        (b'{"step": 3, "spl', 0),  # a crash
        (b'{"step": 3, "spl\0\0\0\0', 0),  # a loss of power
        (b"\0" * 4096, 0),
        (b"", 0),
        (b"\xff\xfe\x00no row", 1),
        (b'{"step": 3, "spl\n', 1),  # something was written after it
        (b'{"step": 3}\n', 1),
        (b'{"step": "3", "split": "train"}\n', 1),
        (b'{"step": 3, "split": null}\n', 1),
        (b"[" * 100_000 + b"\n", 1),
    ],
)
def test_only_a_truncated_last_line_is_dropped(tmp_path, end, num_damaged):
    path, said = tmp_path / "metrics.jsonl", []
    path.write_bytes(line(1) + b"\n" + line(2) + b"\n" + end)
    metrics = MetricsFile(path, said.append)
    assert metrics.num_damaged() == num_damaged
    assert steps(metrics.rewind(9)) == [1, 2]
    aside = tmp_path / "metrics.jsonl.damaged"
    assert aside.exists() == bool(num_damaged) == bool(said)
    if num_damaged:
        assert aside.read_bytes() == end.rstrip(b"\n") + b"\n"


def test_a_row_behind_the_zeros_of_a_lost_write_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + b"\n" + b"\0" * 512 + line(2) + b"\n" + line(3) + b"\n")
    metrics = MetricsFile(path, print)
    assert steps(metrics.rewind(9)) == [1, 2, 3]
    assert metrics.num_damaged() == 0


def test_of_a_step_that_is_there_twice_the_last_row_counts(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    rows = [line(1, loss=1.0), line(2, loss=2.0), line(2, "validation"), line(1, loss=1.0),
            line(2, loss=3.0)]  # fmt: skip
    path.write_bytes(b"\n".join(rows) + b"\n")
    metrics = MetricsFile(path, said.append)
    kept = metrics.rewind(9)
    assert [(r["step"], r["split"], r.get("loss")) for r in kept] == [
        (2, "validation", None), (1, "train", 1.0), (2, "train", 3.0)
    ]  # fmt: skip
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == rows[1] + b"\n"
    assert len(said) == 1


def test_any_damage_costs_only_the_lines_it_is_in(tmp_path):
    path, draw = tmp_path / "file", random.Random(1)
    whole = [line(step, loss=0.5) for step in range(20)]
    for _ in range(300):
        hit = set(draw.sample(range(20), draw.randrange(5)))
        lines = [
            bytes(draw.choice(b"\0\xff{}x") if draw.random() < 0.5 else c for c in text) + b"\xff"
            if number in hit
            else text
            for number, text in enumerate(whole)
        ]
        path.write_bytes(b"\n".join(lines) + b"\n")
        found, damaged = read_json_lines(path, lambda value: "step" in value)
        assert steps(found) == [n for n in range(20) if n not in hit]
        assert damaged == [lines[n] for n in sorted(hit)]


def test_what_is_set_aside_is_on_disk_before_it_leaves_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + b"\nno row\n")
    (tmp_path / "metrics.jsonl.damaged").mkdir()
    with pytest.raises(OSError, match="directory"):
        MetricsFile(path, print).rewind(9)
    assert path.read_bytes().endswith(b"no row\n")
