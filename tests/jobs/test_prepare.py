"""`vit prepare` as people run it: real processes, real files, and what becomes of both."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from pipeline.data.sources.example import IMAGE_KEY, bytes_feature
from tests.data.prepared import write_tfrecord
from tests.jobs import commands

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent
CLASSES = ("dark ones", "größer")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# The recipe's own augmentation stays on; images are resized to 8 x 8.
SMALL = [
    "data.image_size=8",
    "data.resize=squash",
    "data.global_batch_size=12",
    "data.normalize=half",
    "model.depth=1",
    "optim.warmup_epochs=0",
    "train.max_steps=12",
    "train.log_every_steps=4",
    "train.evaluate_every_steps=6",
    "monitor.pictures=false",
    "monitor.report=false",
]


def start(*arguments, env=None):
    """Begins a command, in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=env,
    )


def end(process):
    """Waits for a command; what it printed, and its exit code."""
    output, errors = process.communicate(timeout=200)
    assert "Traceback" not in errors, errors
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def vit(*arguments):
    return end(start(*arguments))


def together(*commands):
    """Runs several commands at a time: most of their time is TensorFlow's start."""
    return [end(process) for process in [start(*command) for command in commands]]


def in_turn(*lines):
    """Runs several commands in this process, where the kind of process does not matter."""
    done = [commands.vit(*line) for line in lines]
    assert not any("Traceback" in one.stderr for one in done), done
    return done


def train(source, path, run, *settings):
    where = f"data.source={source}", f"data.path={path}", f"run.dir={run}"
    return "train", "digits", *where, *SMALL, *settings


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip_bit_in_record(file, number):
    """Alters one bit of one image in a file of records."""
    reader = ArrayRecordReader(str(file))
    image = bytes_feature(reader.read([number])[0], IMAGE_KEY)
    reader.close()
    content = bytearray(file.read_bytes())
    content[content.index(image) + len(image) // 2] ^= 1
    file.write_bytes(content)


def noise(rng):
    return rng.integers(0, 256, (20, 24, 3), np.uint8)


def save_kind(number, pixels, folder):
    """An image of one of the kinds that people have, by its number."""
    image = Image.fromarray(pixels)
    names = ("plain é.jpg", "gray.JPEG", "cmyk 4.jpg", "16 bits.png", "moving.gif", "a b.png")
    path = folder / f"{number:02d} {names[number % 6]}"
    if number % 6 == 3:
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    elif number % 6 == 4:
        image.save(path, save_all=True, append_images=[Image.new("RGB", image.size)])
    else:
        image.convert({1: "L", 2: "CMYK"}.get(number % 6, "RGB")).save(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image folder of many kinds; half of them become PNG."""
    root = tmp_path_factory.mktemp("with spaces é") / "images"
    rng = np.random.default_rng(0)
    for split, count in (("train", 18), ("test", 6)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                save_kind(i, noise(rng), folder)
    return root


@pytest.fixture(scope="module")
def prepared(images):
    """The same, prepared, and what the command printed."""
    out = images.parent / "prepared"
    done = vit("prepare", images, out, "--shard-size", 10)
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of the prepared set, to be damaged, and a shard of its training images."""
    shutil.copytree(prepared[0], tmp_path / "copy")
    return tmp_path / "copy", next((tmp_path / "copy").glob("train-00001-of-*.arrayrecord"))


@pytest.fixture(scope="module")
def trained(images, prepared):
    """A run from the files and one from the records."""
    runs = images.parent / "from files", images.parent / "from records"
    sources = ("image_folder", images), ("records", prepared[0])
    for done in in_turn(*(train(*s, run) for s, run in zip(sources, runs, strict=True))):
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return runs


def test_it_says_what_was_written_without_control_characters(images, prepared):
    out, done = prepared
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["classes"] == list(CLASSES)
    counts = {name: split["examples"] for name, split in facts["splits"].items()}
    assert (counts["train"] + counts["validation"], counts["test"]) == (36, 12)
    assert f"{counts['train']} train, 12 test" in done.stdout
    assert "24 images in other formats were converted to PNG" in done.stdout
    assert f"'data.path={out}'" in done.stdout  # quoted: the path has spaces
    assert done.stderr == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)


def test_records_train_as_the_files_do(trained):
    files, records = map(losses, trained)
    assert [step for step, split, _ in records if split == "train"] == [4, 8, 12]
    assert records == files


def test_a_run_from_records_is_evaluated_and_predicts(images, trained):
    _, run = trained
    pictures = sorted((images / "test" / CLASSES[1]).iterdir())
    evaluated, predicted = in_turn(
        ("evaluate", run, "--json"), ("predict", run, *pictures, "--json")
    )
    assert (evaluated.returncode, predicted.returncode) == (0, 0)
    got = {row["split"]: row for row in map(json.loads, evaluated.stdout.splitlines())}
    assert got["test"]["examples"] == 12
    answers = list(map(json.loads, predicted.stdout.splitlines()))
    assert [answer["image"] for answer in answers] == list(map(str, pictures))
    assert {top["class"] for answer in answers for top in answer["top"]} == set(CLASSES)


# Ended in the middle. The worker that opens one of the images waits until the test removes a file:
# its shard is unfinished for as long as the test wants, and all others are finished.

SHARDS = ("--shard-size", 3, "--processes", 2)
WAITING = """
import os, sys, time

def wait(event, arguments):
    if event == "open" and arguments[0] == {image!r}:
        while os.path.exists({until_gone!r}):
            time.sleep(0.01)

if "--multiprocessing-fork" in sys.orig_argv:
    sys.addaudithook(wait)
"""


class Blocked:
    """`vit prepare`, which waits in the middle for one image, and the processes that it started."""

    def __init__(self, root):
        self.source, self.out = root / "images", root / "out"
        self.command = ("prepare", self.source, self.out, *SHARDS)
        rng = np.random.default_rng(0)
        for name in ("train/a", "train/b", "validation/a", "validation/b"):
            folder = self.source / name
            folder.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(noise(rng)).save(folder / f"{i}.png")
        hook = root / "hook"
        hook.mkdir()
        self.obstacle = hook / "obstacle"
        self.obstacle.touch()
        image = self.source / "train" / "a" / "4.png"
        (hook / "sitecustomize.py").write_text(
            WAITING.format(image=str(image), until_gone=str(self.obstacle))
        )
        paths = [str(hook), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        self.process = start(*self.command, env=environment)
        wait_until(lambda: len(self.finished()) == 7 and list(self.out.glob(".*.new")))
        self.started = children(self.process.pid)

    def finished(self):
        """When each finished shard was written."""
        return {p.name: p.stat().st_mtime_ns for p in self.out.glob("*.arrayrecord")}

    def unblock(self):
        """Lets the worker that waits go on."""
        self.obstacle.unlink()

    def go_on(self):
        """The same command once more: it keeps what was done, and leaves nothing else."""
        before = self.finished()
        assert len(before) == 7
        self.unblock()
        done = vit(*self.command)
        assert (done.returncode, done.stderr) == (0, "")
        assert {name: self.finished()[name] for name in before} == before
        undisturbed = self.out.parent / "undisturbed"
        assert vit("prepare", self.source, undisturbed, *SHARDS).returncode == 0
        assert bytes_of(self.out) == bytes_of(undisturbed)


@pytest.fixture
def blocked(tmp_path):
    one = Blocked(tmp_path)
    yield one
    with suppress(ProcessLookupError):
        os.killpg(one.process.pid, signal.SIGKILL)
    one.process.communicate()


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state_of(number):
    """A process's state and its parent; None where there is no such process."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def children(parent):
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [n for n in numbers if (state := state_of(n)) is not None and state[1] == parent]


def are_gone(numbers):
    return all((state := state_of(number)) is None or state[0] == "Z" for number in numbers)


def is_worker(number):
    try:
        return b"--multiprocessing-fork" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False


@LINUX
def test_killed_its_processes_end_too_and_the_same_command_goes_on(blocked):
    assert len([n for n in blocked.started if is_worker(n)]) == 2
    blocked.process.kill()
    wait_until(lambda: are_gone(blocked.started), timeout_s=5)
    assert end(blocked.process).returncode == -signal.SIGKILL
    assert list(blocked.out.glob(".*.new"))
    blocked.go_on()


@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_it_at_once_in_one_line(blocked, number):
    os.killpg(blocked.process.pid, number)
    began = time.monotonic()
    done = end(blocked.process)
    assert time.monotonic() - began < 5
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "vit prepare: interrupted\n"
    wait_until(lambda: are_gone(blocked.started), timeout_s=5)
    assert not list(blocked.out.rglob("*.new"))
    blocked.go_on()


@LINUX
def test_ctrl_c_while_its_processes_start_is_one_line_too(images, tmp_path):
    process = start("prepare", images, tmp_path / "out")
    wait_until(lambda: any(is_worker(n) for n in children(process.pid)))
    os.killpg(process.pid, signal.SIGINT)
    done = end(process)
    assert (done.returncode, done.stderr) == (130, "vit prepare: interrupted\n")


@LINUX
def test_a_killed_worker_is_one_error_and_the_same_command_goes_on(blocked):
    worker = next(n for n in blocked.started if is_worker(n))
    os.kill(worker, signal.SIGKILL)
    done = end(blocked.process)
    assert done.returncode == 3
    assert "one of the processes was killed (out of memory?)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    wait_until(lambda: are_gone(blocked.started), timeout_s=5)
    blocked.go_on()


@LINUX
def test_a_second_one_is_refused_while_the_first_goes_on(blocked):
    second = vit(*blocked.command)
    assert second.returncode == 3
    assert f"another vit prepare is writing to {blocked.out}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    blocked.unblock()
    first = end(blocked.process)
    assert (first.returncode, first.stderr) == (0, "")
    assert vit("prepare", blocked.out, "--verify").returncode == 0


@LINUX
def test_shards_of_another_size_do_not_stay(blocked):
    blocked.process.kill()
    blocked.unblock()
    assert vit("prepare", blocked.source, blocked.out, "--shard-size", 7).returncode == 0
    facts = json.loads((blocked.out / "dataset.json").read_text())
    shards = {shard["file"] for split in facts["splits"].values() for shard in split["shards"]}
    assert set(blocked.finished()) == shards


# Folders that cannot be written to.


@contextmanager
def mounted(folder, *options):
    """A small file system in memory."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", *options, "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def read_only(folder):
    """Forbids writing to a folder and what is in it; root may write wherever it can."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        try:
            yield folder
        finally:
            folder.chmod(0o700)
        return
    with mounted(folder.with_name(f"{folder.name} read-only")) as disk:
        shutil.copytree(folder, disk / folder.name)
        remount(disk, "ro")
        yield disk / folder.name


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_full_disk_is_one_message_and_with_room_it_goes_on(images, tmp_path):
    with mounted(tmp_path / "disk", "-o", "size=400k") as disk:
        command = ("prepare", images, disk / "out", "--shard-size", 5)
        full = vit(*command)
        assert full.returncode == 3
        assert "No space left on device. Free some space" in full.stderr
        assert len(full.stderr.splitlines()) == 1
        assert not list(disk.rglob("*.new"))
        before = {path: path.stat().st_mtime_ns for path in disk.rglob("*.arrayrecord")}
        assert before
        remount(disk, "size=20m")
        done = vit(*command)
        assert (done.returncode, done.stderr) == (0, "")
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_read_only_folder_is_one_message(images, tmp_path):
    (tmp_path / "there").mkdir()
    with read_only(tmp_path / "there") as there:
        for out in (there, there / "new"):
            done = vit("prepare", images, out)
            assert done.returncode == 3
            reason = "(Read-only file system|Permission denied)"
            line = rf"vit prepare: cannot create the folder {out}\S*: {reason}\n"
            assert re.fullmatch(line, done.stderr)


# Wrong input.


def case_no_source(images, out):
    return ["nowhere", out], 2, "nowhere does not exist"


def case_no_out(images, out):
    return [images], 2, "vit prepare SOURCE OUT"


def case_nothing(images, out):
    return [], 2, "the following arguments are required: SOURCE OUT"


def case_prepared_already(images, out):
    return [images.parent / "prepared", out], 2, "is already prepared"


def case_of_another_set(images, out):
    return ["digits", images.parent / "prepared"], 3, "already contains a prepared data set"


def case_out_is_source(images, out):
    return [images, images / "train" / ".."], 2, "OUT must not be the same folder"


def case_out_is_a_file(images, out):
    return [images, __file__], 3, f"cannot create the folder {__file__}: File exists"


def case_shards_of_nothing(images, out):
    return [images, out, "--shard-size", 0], 2, "--shard-size must be at least 1. Received: 0"


def case_images_of_nothing(images, out):
    return [images, out, "--max-side", 0], 2, "--max-side must be at least 1. Received: 0"


def case_quality_without_reduction(images, out):
    return [images, out, "--quality", 50], 2, "--quality must be 1 to 100, and needs --max-side"


def case_raw_and_reduced(images, out):
    return [images, out, "--raw", "--max-side", 64], 2, "give either --raw or --max-side"


def case_no_quality(images, out):
    arguments = [images, out, "--max-side", 64, "--quality", 101]
    return arguments, 2, "--quality must be 1 to 100, and needs --max-side. Received: 101"


def case_no_processes(images, out):
    return [images, out, "--processes", 0], 2, "--processes must be at least 1. Received: 0"


def case_no_recipe(images, out):
    return [images, out, "--recipe", "nowhere"], 2, "no recipe 'nowhere'"


def case_no_such_setting(images, out):
    return [images, out, "data.on_bad_images=skip"], 2, "did you mean data.on_bad_image"


def case_a_folder_without_class_folders(images, out):
    return [images / "train" / CLASSES[0], out], 2, "Set data.source to image_folder"


def case_verify_nothing(images, out):
    return [out, "--verify"], 3, f"{out} does not exist. Name a folder that `vit prepare` wrote"


def case_verify_what_was_not_prepared(images, out):
    return [images, "--verify"], 3, f"cannot read {images}/dataset.json: No such file"


def case_preview_into_no_folder(images, out):
    drawn = out / "preview.png"
    return [images.parent / "prepared", "--preview", drawn], 2, f"there is no folder {out}"


@pytest.mark.parametrize("case", [v for k, v in sorted(globals().items()) if k.startswith("case_")])
def test_a_mistake_gets_one_clear_message_and_writes_nothing(images, prepared, tmp_path, case):
    arguments, code, message = case(images, tmp_path / "out")
    done = vit("prepare", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in images.iterdir()) == ["test", "train"]


@pytest.fixture(scope="module")
def spoiled(images, tmp_path_factory):
    """The images with four that cannot be read among them; those four."""
    root = tmp_path_factory.mktemp("spoiled") / "images"
    shutil.copytree(images, root)
    folder = root / "train" / CLASSES[0]
    bomb, empty, half, text = (folder / f"{name}.png" for name in ("bomb", "empty", "half", "tö"))
    Image.new("1", (30_000, 30_000)).save(bomb)  # 900 million pixels in 110 kB
    empty.touch()
    whole = next(folder.glob("*.jpg")).read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    text.write_text("no image")
    return root, [bomb, empty, half, text]


def test_bad_images_are_listed_all_and_left_out_when_asked(spoiled, tmp_path):
    root, bad = spoiled
    command = ("prepare", root, tmp_path / "out", "--shard-size", 10)
    refused = vit(*command)
    assert refused.returncode == 3
    assert "4 images cannot be read" in refused.stderr
    assert "set data.on_bad_image=skip" in refused.stderr
    for path in bad:
        assert f"  {path}: " in refused.stderr
    assert not (tmp_path / "out/dataset.json").exists()
    done = vit(*command, "data.on_bad_image=skip")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"4 unreadable images were left out: {tmp_path}/out/unreadable.txt" in done.stdout
    lines = (tmp_path / "out/unreadable.txt").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == list(map(str, bad))
    assert vit("prepare", tmp_path / "out", "--verify").returncode == 0


def test_a_larger_limit_of_pixels_counts_for_what_was_refused_before(tmp_path, images):
    shutil.copytree(images, tmp_path / "images")
    large = tmp_path / "images" / "train" / CLASSES[0] / "large.png"
    Image.new("1", (300, 300)).save(large)
    command = ("prepare", tmp_path / "images", tmp_path / "out")
    refused = vit(*command, "data.max_pixels=1000")
    assert refused.returncode == 3
    assert f"{large}: it declares 300 x 300 pixels, more than data.max_pixels" in refused.stderr
    assert vit(*command, "data.max_pixels=90000").returncode == 0
    assert not (tmp_path / "out/unreadable.txt").exists()


def test_a_bomb_ends_training_from_a_folder_or_is_left_out(spoiled, tmp_path):
    root, bad = spoiled
    only_bomb = tmp_path / "images"
    shutil.copytree(root, only_bomb, ignore=shutil.ignore_patterns(*(p.name for p in bad[1:])))
    raised, skipped = together(
        train("image_folder", only_bomb, tmp_path / "raised"),
        train("image_folder", root, tmp_path / "skipped", "data.on_bad_image=skip"),
    )
    assert raised.returncode == 3
    assert f"{only_bomb}/train/{CLASSES[0]}/bomb.png: it declares 30000 x 30000" in raised.stderr
    assert len(raised.stderr.splitlines()) == 1
    assert skipped.returncode == 0, skipped.stderr  # TensorFlow itself complains of half a JPEG
    listed = (tmp_path / "skipped/skipped.txt").read_text().splitlines()
    assert sorted(listed) == list(map(str, bad))


def test_a_link_out_of_the_folder_is_refused_unless_allowed(images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    outside = tmp_path / "outside.png"
    Image.fromarray(noise(np.random.default_rng(1))).save(outside)
    link = tmp_path / "images" / "train" / CLASSES[0] / "link.png"
    link.symlink_to(outside)
    command = ("prepare", tmp_path / "images", tmp_path / "out")
    refused = vit(*command)
    assert refused.returncode == 3
    assert f"{link} is a link to {outside}" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert vit(*command, "data.links_out=true").returncode == 0


def test_a_class_whose_name_is_no_text_is_prepared(tmp_path):
    folders = [os.fsencode(tmp_path) + b"/images/train/" + name for name in (b"caf\xe9", b"tea")]
    for folder in folders:
        os.makedirs(folder)
        for i in range(4):
            Image.fromarray(noise(np.random.default_rng(i))).save(os.fsdecode(folder) + f"/{i}.png")
    with open(folders[1] + b"/two\nlines.png", "wb"):
        pass
    done = vit("prepare", tmp_path / "images", tmp_path / "out", "data.on_bad_image=skip")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/dataset.json").read_text())["classes"][0] == "caf\\udce9"
    (line,) = (tmp_path / "out/unreadable.txt").read_text().splitlines()
    assert "/tea/two\\nlines.png\t" in line


# A set that is there: looked at, damaged, and trained from.


def test_verify_says_that_all_is_whole_or_names_shard_and_record(copied):
    out, shard = copied
    whole = vit("prepare", out, "--verify")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert f"{out}: all 48 images are intact" in whole.stdout
    flip_bit_in_record(shard, 2)
    damaged = vit("prepare", out, "--verify")
    assert damaged.returncode == 3
    assert f"{shard} was altered: its checksum is wrong" in damaged.stderr
    assert f"{shard}[2]: the file was altered: " in damaged.stderr
    assert damaged.stdout == ""


def test_a_finished_set_that_was_truncated_is_not_called_done(images, copied):
    out, shard = copied
    command = ("prepare", images, out, "--shard-size", 10)
    assert vit(*command).returncode == 0
    os.truncate(shard, 1000)
    done = vit(*command)
    assert done.returncode == 3
    assert f"{shard} must have" in done.stderr
    (out / "dataset.json").unlink()  # as the message says
    assert vit(*command).returncode == 0
    assert bytes_of(out) == bytes_of(images.parent / "prepared")


def test_a_preview_is_drawn_where_patches_fit(prepared, tmp_path):
    out, file = prepared[0], tmp_path / "preview.png"
    command = ("prepare", out, "--recipe", "digits", "--preview", file)
    drawn, unfit = in_turn(
        (*command, "data.image_size=16", "data.resize=squash"),
        ("prepare", out, "--preview", tmp_path / "unfit.png", "data.image_size=30"),
    )
    assert (drawn.returncode, drawn.stderr) == (0, "")
    with Image.open(file) as page:
        assert page.format == "PNG"
        assert 400 < page.width < 4000
        assert 300 < page.height < 4000
        assert np.asarray(page.convert("L")).std() > 10
    assert unfit.returncode == 2
    assert "data.image_size must be a multiple of the model's patch size 16" in unfit.stderr
    assert len(unfit.stderr.splitlines()) == 1
    assert not (tmp_path / "unfit.png").exists()


def test_training_from_a_damaged_set_names_shard_and_record(prepared, copied, tmp_path):
    out, altered = copied
    flip_bit_in_record(altered, 2)
    shutil.copytree(out, tmp_path / "truncated")
    truncated = next((tmp_path / "truncated").glob("test-00000-of-*.arrayrecord"))
    os.truncate(truncated, truncated.stat().st_size - 1)
    at_start, raised, skipped = together(
        train("records", tmp_path / "truncated", tmp_path / "0"),
        train("records", out, tmp_path / "1"),
        train("records", out, tmp_path / "2", "data.on_bad_image=skip"),
    )
    assert at_start.returncode == 3
    assert f"{truncated} must have" in at_start.stderr
    assert len(at_start.stderr.splitlines()) == 1
    assert "building the model" not in at_start.stdout  # refused while the data is read
    assert raised.returncode == 3
    assert f"{altered}[2]: the file was altered: " in raised.stderr
    assert len(raised.stderr.splitlines()) == 1
    assert (skipped.returncode, skipped.stderr) == (0, "")
    assert "1 unreadable image(s) skipped" in skipped.stdout
    assert (tmp_path / "2/skipped.txt").read_text().splitlines() == [f"{altered}[2]"]


@pytest.fixture
def tfrecords(tmp_path):
    """TFRecord files, named as ImageNet's are."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("validation", 1)):
        for number in range(count):
            contents = []
            for _ in range(12):
                stream = io.BytesIO()
                Image.fromarray(noise(rng)).save(stream, "JPEG")
                contents.append(stream.getvalue())
            file = tmp_path / "tf" / f"{split}-{number:05d}-of-{count:05d}"
            write_tfrecord(file, contents, [i % 2 for i in range(12)])
    return tmp_path / "tf"


def test_tfrecord_files_train_and_keep_their_index_where_they_may(tfrecords, tmp_path):
    shutil.copytree(tfrecords, tmp_path / "locked")
    with read_only(tmp_path / "locked") as locked:
        # Processes of their own, so that no file is open when the mount ends.
        runs = together(
            train("tfrecord", tfrecords, tmp_path / "0"), train("tfrecord", locked, tmp_path / "1")
        )
        assert len(list(locked.iterdir())) == 4
    for done in runs:
        assert (done.returncode, done.stderr) == (0, "")
        assert "36 train, 12 validation images of 2 classes" in done.stdout
    kept = list(tfrecords.glob(".vit-index-*.npz"))
    assert len(kept) == 2
    assert len(list(tfrecords.iterdir())) == 6
    for index in kept:  # for all users, as other new files are
        assert index.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert losses(tmp_path / "0") == losses(tmp_path / "1")


def losses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["split"], row["loss"]) for row in map(json.loads, lines)]


def umask():
    before = os.umask(0)
    os.umask(before)
    return before


def test_help_says_everything():
    text = " ".join(vit("prepare", "--help").stdout.split())  # wherever its lines break
    for part in (
        "usage: vit prepare SOURCE OUT [section.key=value ...]",
        *(
            "--max-side PIXELS",
            "--quality",
            "--recipe",
            "--shard-size",
            "--processes",
            "--verify",
            "--preview FILE.png",
        ),
        *("train/<class>/*", ".csv", ".jsonl", "TFRecord", "cifar10", "digits"),
        *("dataset.json", "unreadable.txt", "duplicates.txt", "CMYK", "16-bit", "GIF"),
        *("AVIF", "JPEG 2000", "repaired.txt"),
        *("data.max_pixels", "data.on_bad_image=skip", "data.source=records data.path=OUT"),
        "run it again: it continues",
    ):
        assert part in text
