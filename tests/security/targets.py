"""What reads bytes from other people: one function for each parser, and inputs to begin with.

A target takes the content of a file or request. It returns where the content is accepted, and where
it is refused with one of the errors that are shown as a message. Any other exception is a finding,
and so are a crash, a hang, and memory far beyond the content's size.
"""

import io
import json
import os
import pickle
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
from PIL import Image

from pipeline.config import DataConfig, load_config
from pipeline.data.decode.integrity import check_jpeg, check_png
from pipeline.data.decode.pillow_image import FORMATS, read_image
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.sources.cifar import LAYOUTS, read_cifar
from pipeline.data.sources.listing import open_list
from pipeline.data.sources.records import FACTS, FORMAT, ArrayRecordShard, read_facts, read_labels
from pipeline.data.sources.tfrecord import open_tfrecord
from pipeline.errors import PipelineError
from pipeline.launch import reports
from pipeline.launch.bounded_http import RequestReader, RequestRejected
from pipeline.launch.coordinator import Coordinator
from pipeline.launch.registry import Registry
from pipeline.launch.rendezvous import LauncherSession, RejectedRequests
from pipeline.launch.rules import Rules
from pipeline.launch.signatures import Signer
from pipeline.model.weights.files import read_published
from pipeline.runtimes import messages
from pipeline.runtimes.worker_reports import (
    GroupView,
    Member,
    NodeReport,
    WorkerReport,
    WorkerStatus,
)

_MAX_PIXELS = 1 << 20


class Target(NamedTuple):
    """A parser to be fuzzed.

    Attributes:
      run: Takes the bytes.
      seeds: Valid or nearly valid inputs, made on demand.

    """

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def empty_folder() -> Path:
    """A folder of this process, in memory where the system has one, emptied for each input."""
    root = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108
    path = Path(tempfile.gettempdir() if root is None else root) / f"vit-fuzz-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def recipe(content: bytes) -> None:
    """A recipe, read with all checks of its settings."""
    file = empty_folder() / "recipe.yaml"
    file.write_bytes(content)
    with suppress(PipelineError):
        load_config(file)


def _recipes() -> list[bytes]:
    configs = Path(__file__).parents[2] / "jobs" / "configs"
    anchors = b"a: &a [1, 2]\nb: *a\nc: {<<: {d: 1e3}}\n"
    return [file.read_bytes() for file in sorted(configs.glob("*.yaml"))] + [
        anchors,
        b"data: {path: !!str 12, image_size: 0x10}\noptim: {base_lr: 1_0.5e-3}\n",
    ]


def image_list(content: bytes) -> None:
    """A list of images; the first byte chooses between CSV, JSON Lines and JSON."""
    suffix = (".csv", ".jsonl", ".json")[content[0] % 3 if content else 0]
    file = empty_folder() / f"list{suffix}"
    file.write_bytes(content[1:])
    with suppress(PipelineError):
        open_list(DataConfig(source="list", path=str(file)))


def _lists() -> list[bytes]:
    rows = [{"path": f"{name}.jpg", "label": name, "split": "train"} for name in ("cat", "dog")]
    lines = "\n".join(json.dumps(row) for row in rows)
    return [
        b'\0path,label,split\na.jpg,"cat, gray",train\nb.jpg,dog,val\n',
        b"\1" + lines.encode(),
        b"\2" + json.dumps(rows).encode(),
    ]


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def tfrecord(content: bytes) -> None:
    """A TFRecord file; an odd first byte asks for right checksums around the rest."""
    folder = empty_folder()
    framed = content[:1] and content[0] % 2
    (folder / "train-00000-of-00001").write_bytes(_record(content[1:]) if framed else content[1:])
    _open_tfrecord(folder)


def tfrecord_index(content: bytes) -> None:
    """The index that is kept beside TFRecord files."""
    folder = empty_folder()
    example = _example()
    (folder / "train-00000-of-00001").write_bytes(_record(example) + _record(example))
    _open_tfrecord(folder)
    for index in folder.glob(".vit-index-train-*"):
        index.write_bytes(content)
    _open_tfrecord(folder)


def _open_tfrecord(folder: Path) -> None:
    with suppress(PipelineError):
        source = open_tfrecord(DataConfig(source="tfrecord", path=str(folder), first_label=0))
        source.splits["train"].content(0)


def _feature(name: str, value: bytes) -> bytes:
    entry = b"\x0a" + bytes([len(name)]) + name.encode() + b"\x12" + bytes([len(value)]) + value
    return b"\x0a" + bytes([len(entry)]) + entry


def _example() -> bytes:
    features = _feature("image/class/label", b"\x1a\x03\x0a\x01\x01")
    features += _feature("image/encoded", b"\x0a\x04\x0a\x02ab")
    return b"\x0a" + bytes([len(features)]) + features


def _tfrecords() -> list[bytes]:
    return [b"\1" + _example(), b"\0" + _record(_example()) * 2]


def _indexes() -> list[bytes]:
    folder = empty_folder()
    (folder / "train-00000-of-00001").write_bytes(_record(_example()) * 2)
    _open_tfrecord(folder)
    return [file.read_bytes() for file in folder.glob(".vit-index-train-*")]


def prepared(content: bytes) -> None:
    """dataset.json of a prepared set, and the labels file and shard that it names."""
    folder = empty_folder()
    (folder / FACTS).write_bytes(content)
    (folder / "train-labels.npy").write_bytes(_npy(np.zeros(2, np.int32)))
    with suppress(PipelineError):
        facts = read_facts(folder)
        for split in facts.splits.values():
            read_labels(folder, split)


def _prepared_sets() -> list[bytes]:
    labels = {"labels": "train-labels.npy", "labels_sha256": "0" * 64}
    shard = {"file": "a.array_record", "examples": 2, "size": 9, "sha256": "0", "inputs": "0"}
    split = {"examples": 2, "per_class": {"cat": 1, "dog": 1}, "shards": [shard], **labels}
    facts = {"format": FORMAT, "tool": "0.1", "classes": ["cat", "dog"], "unreadable": 0}
    colors = {"mean": [0.5] * 3, "std": [0.2] * 3, "smallest": [1, 1], "largest": [2, 2]}
    counts = {"converted": 0, "duplicates": 0, "splits": {"train": split}}
    return [json.dumps(facts | colors | counts).encode()]


def shard(content: bytes) -> None:
    """A shard in the format of ArrayRecord."""
    file = empty_folder() / "train.array_record"
    file.write_bytes(content)
    with suppress(PipelineError):
        opened = ArrayRecordShard(str(file))
        try:
            opened.read(0)
        finally:
            opened.close()


def _shards() -> list[bytes]:
    from array_record.python.array_record_module import ArrayRecordWriter

    file = empty_folder() / "train.array_record"
    writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
    for text in (b"one", b"two"):
        writer.write(text)
    writer.close()
    return [file.read_bytes()]


def cifar(content: bytes) -> None:
    """A pickle of CIFAR-10, as each file of the folder."""
    layout = LAYOUTS["cifar10"]
    folder = empty_folder()
    for name in (*layout.train, layout.test, layout.meta):
        (folder / name).write_bytes(content)
    with suppress(PipelineError):
        read_cifar("cifar10", folder)


def _pickles() -> list[bytes]:
    images = np.zeros((2, 3072), np.uint8)
    values = {b"data": images, b"labels": [0, 1], b"label_names": [b"cat", b"dog"]}
    return [pickle.dumps(values, protocol=protocol) for protocol in (2, 4)]


def weights(content: bytes) -> None:
    """Published weights: .safetensors or .npz, told apart by content."""
    file = empty_folder() / "model.safetensors"
    file.write_bytes(content)
    with suppress(PipelineError):
        read_published(file)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _weights() -> list[bytes]:
    from safetensors.numpy import save

    tensors = {"cls_token": np.zeros((1, 1, 4), np.float32), "head.bias": np.zeros(2, np.float32)}
    zipped = io.BytesIO()
    np.savez_compressed(zipped, **tensors)
    stored = io.BytesIO()
    np.savez(stored, **tensors)
    return [save(tensors), zipped.getvalue(), stored.getvalue()]


def image(content: bytes) -> None:
    """An image, through all readers that work without TensorFlow."""
    with suppress(UnreadableError):
        check_jpeg(content, _MAX_PIXELS)
    with suppress(UnreadableError):
        check_png(content)
    with suppress(UnreadableError):
        read_image(content, _MAX_PIXELS)


def _images() -> list[bytes]:
    seeds = []
    pixels = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    for name in FORMATS:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, name)
        seeds.append(stream.getvalue())
    return seeds


_FACTS = {"--hosts": "h0,h1"}
_RULES = Rules(("h0", "h1"), 2, 1, 4, wait_s=0, heartbeat_timeout_s=1e-6)


def rendezvous(content: bytes) -> None:
    """What comes to a launcher's port; the first byte chooses what the rest is taken for."""
    kind, rest = content[0] % 6 if content else 0, content[1:]
    if kind == 0:
        _read_requests(rest)
        return
    with suppress(ValueError):
        if kind == 1:
            Registry(("h0", "h1"), "a" * 32, _FACTS).update(messages.read(reports.Report, rest))
        elif kind == 2:
            messages.read(reports.View, rest)
        elif kind == 3:
            group = Coordinator(_RULES, "a" * 32)
            group.exchange(messages.read(NodeReport, rest))
        elif kind == 4:
            messages.read(GroupView, rest)
        else:
            messages.read(reports.Role, rest)


def _read_requests(content: bytes) -> None:
    """Bytes of a stranger's connection."""
    session = LauncherSession(lambda request: 1 / 0, Signer("token"), "h0", RejectedRequests(), "")
    here, there = socket.socketpair()
    with here, there:
        there.sendall(content)
        there.shutdown(socket.SHUT_WR)
        incoming = RequestReader(here)
        with suppress(RequestRejected):
            while (request := incoming.read()) is not None:
                session.answer(request)
    if session.is_authenticated:
        raise AssertionError("a stranger was taken for a member")


def _requests() -> list[bytes]:
    report = messages.write(reports.Report(1, "1" * 32, "host", _FACTS, failure=(1, "it failed")))
    view = messages.write(
        reports.View("a" * 32, "running", [], [None, 1], [None, (1, "it failed")], "lost", 76)
    )
    post = (
        f"POST /report HTTP/1.1\r\nHost: h0:29500\r\nContent-Length: {len(report)}\r\n"
        f"Content-Type: application/json\r\nX-Vit-Signature: {'0' * 64}\r\n\r\n"
    )
    hello = b"GET /hello HTTP/1.1\r\nHost: h0\r\n\r\n"
    worker = WorkerStatus("2" * 32, 0, WorkerReport(1, 0, "waiting"))
    node = messages.write(NodeReport(1, "1" * 32, "a" * 32, 1, -1, (worker,)))
    group = messages.write(GroupView(3, 1, (Member("2" * 32, 1, 0, "h1"),), excluded=("3" * 32,)))
    role = messages.write(reports.Role("a" * 32, 1))
    requests = b"\0" + hello + post.encode() + report
    return [requests] + [
        bytes([kind]) + message
        for kind, message in enumerate((report, view, node, group, role), start=1)
    ]


TARGETS = {
    "recipe": Target(recipe, _recipes),
    "list": Target(image_list, _lists),
    "tfrecord": Target(tfrecord, _tfrecords),
    "tfrecord-index": Target(tfrecord_index, _indexes),
    "prepared": Target(prepared, _prepared_sets),
    "shard": Target(shard, _shards),
    "cifar": Target(cifar, _pickles),
    "weights": Target(weights, _weights),
    "image": Target(image, _images),
    "rendezvous": Target(rendezvous, _requests),
}
