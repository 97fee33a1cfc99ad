"""Files that grow on a disk that fills: a real one, of 64 KiB."""

import json
import threading

import pytest

from pipeline.runs.metrics_file import MetricsFile
from pipeline.storage.appended_file import AppendedFile


def fill(folder):
    with (folder / "ballast").open("wb", buffering=0) as stream:
        try:
            while stream.write(b"x" * 1000):
                pass
        except OSError:
            pass


@pytest.mark.processes
def test_what_cannot_be_written_waits_and_nothing_half_written_is_left(small_disk):
    said = []
    path = small_disk / "file"
    file = AppendedFile(path, said.append)
    file.append(b"first\n")
    fill(small_disk)
    piece = b"y" * 20_000 + b"\n"
    file.append(piece)
    file.append(b"last\n")
    content = path.read_bytes()
    assert content.startswith(b"first\n")
    assert b"y" not in content
    assert len(said) == 1
    assert "No space left on device" in said[0]
    with pytest.raises(OSError, match="No space left"):
        file.flush()
    (small_disk / "ballast").unlink()
    file.append(b"after\n")
    assert path.read_bytes() == b"first\n" + piece + b"last\nafter\n"


def test_pieces_of_many_threads_are_whole(tmp_path):
    file = AppendedFile(tmp_path / "file", print)

    def work(letter):
        for _ in range(200):
            file.append(letter * 50 + b"\n")
            file.flush()

    threads = [threading.Thread(target=work, args=(bytes([65 + n]),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "file").read_bytes().splitlines()
    assert len(lines) == 800
    assert all(len(line) == 50 and len(set(line)) == 1 for line in lines)


def test_rewinding_drops_what_is_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, print)
    for step, split in (
        (5, "train"),
        (10, "train"),
        (10, "validation"),
        (10, "test"),
        (15, "train"),
    ):
        metrics.append({"step": step, "split": split})
    with path.open("a") as stream:
        stream.write('{"step": 20, "spl')  # a crash in the middle of a row

    def kept(evaluates_again):
        metrics.rewind(10, {"validation"} if evaluates_again else ())
        return [(row["step"], row["split"]) for row in metrics.rows()]

    assert kept(False) == [(5, "train"), (10, "train"), (10, "validation")]
    assert kept(True) == [(5, "train"), (10, "train")]


DAMAGED = [b'{"step": 5, "spl{"step": 6, "split": "train"}', b"\xff\x00\x00", b"[1, 2]", b"\0" * 9]


def test_rewinding_keeps_the_rows_after_a_damaged_line_and_sets_the_line_aside(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    lines = [json.dumps({"step": step, "split": "train"}).encode() for step in (1, 2, 3, 4)]
    path.write_bytes(b"\n".join([lines[0], *DAMAGED, *lines[1:], b'{"step": 5, "sp']))
    metrics = MetricsFile(path, said.append)
    assert [row["step"] for row in metrics.rows()] == [1, 2, 3, 4]
    assert metrics.num_damaged() == len(DAMAGED)
    assert [row["step"] for row in metrics.rewind(3)] == [1, 2, 3]
    assert path.read_bytes().splitlines() == lines[:3]
    damaged = tmp_path / "metrics.jsonl.damaged"
    assert damaged.read_bytes() == b"".join(line + b"\n" for line in DAMAGED)
    assert len(said) == 1
    assert str(damaged) in said[0]
    metrics.append({"step": 4, "split": "train"})
    assert metrics.rewind(4)[-1]["step"] == 4
    assert len(said) == 1


def test_a_last_row_without_its_line_break_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "split": "train"}')
    metrics = MetricsFile(path, print)
    assert [row["step"] for row in metrics.rewind(9)] == [1, 2]
    assert path.read_text().count("\n") == 2
