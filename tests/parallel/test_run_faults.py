"""Hangs, numbers that are none, images that turn bad, and a second job, with real processes."""

import re
from socket import gethostname

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.data.order import positions_to_examples
from tests.parallel.launches import needs_horovod
from tests.parallel.trainings import Training, newest, read_rows, train_command, write_recipe

pytestmark = pytest.mark.processes

HOST = gethostname()


def start(vit, folder, *settings, log="log", **options):
    words = write_recipe(folder), f"run.dir={folder / 'run'}", *settings
    return Training(vit, folder / log, train_command(*words, **options))


@needs_horovod
def test_a_rank_that_hangs_ends_the_job_and_says_where(vit, tmp_path):
    settings = ("train.hang_timeout_s=5", "train.compile_timeout_s=100")
    training = start(vit, tmp_path, *settings, slots=2, tamper="slow=0,hang=4@1")
    code, text = training.end()
    assert code == 1
    line = (
        f"vit train: rank 1 on {HOST}: no progress: training from step 3 did not finish within 5 s"
    )
    assert line in text
    # Of the thread that sleeps; the watchdog's own is another.
    stacks = text.partition(line)[2]
    assert "in stand_still" in stacks
    assert f"rank 1 on {HOST}: exiting because of the hang; see the stacks above" in stacks
    # No rank is left in its wait: the fixture looks for processes.
    assert re.search(r"rank 0 (ended with exit code (1|76)|was killed)", text)
    assert newest(tmp_path / "run").step == 0


@needs_horovod
def test_a_poisoned_example_is_named_with_its_rank_and_all_end_together(vit, tmp_path):
    settings = ("train.max_bad_steps=2", "train.max_rollbacks=0")
    training = start(vit, tmp_path, *settings, slots=2, tamper="poison=6@1")
    code, text = training.end()
    assert code == 1
    # The last of rank 1's half of the batch, on steps 7 and 8 by the run's own count from 1.
    assert f"steps 7 to 8 were not finite, on rank 1 ({HOST}): the loss is not finite for" in text
    # By the order of examples alone: the last of the batch of step 6, counted from 0.
    seed, examples, batch = 3, 90, 12
    position = tf.constant([6 * batch + batch - 1], tf.int64)
    _, index = positions_to_examples(position, examples, seed)
    assert f"not finite for image {int(index[0])} of synthetic, train. The run was" in text
    assert "which is train.max_rollbacks" in text
    said = [line for line in text.splitlines() if re.match(r"vit train: rank \d on ", line)]
    assert len(said) == 1, text  # all raise it, and the chief alone says it
    assert "rank 0 ended with exit code 1, rank 1 ended with exit code 1" in sorted_ends(text)
    assert "Traceback" not in text


def sorted_ends(text):
    """What the launcher says of its ranks, in the order of ranks."""
    return ", ".join(sorted(re.findall(r"rank \d ended with exit code \d+", text.splitlines()[-1])))


def test_a_second_job_on_the_same_folder_is_refused_and_told_of_the_first(vit, tmp_path):
    first = start(vit, tmp_path, tamper="slow=0.3")
    first.wait_for(lambda: read_rows(tmp_path / "run"))
    code, text = start(vit, tmp_path, log="second").end()
    assert code == 2
    assert f"another process is training in {tmp_path}/run: process {first.process.pid} on" in text
    assert f"on {HOST}. Wait for it, stop it, or choose another folder" in text
    assert "Traceback" not in text
    assert "Trying" not in first.text
    first.succeed()


@pytest.mark.parametrize("on_bad_image", ["raise", "skip"])
def test_an_image_that_turns_bad_in_the_middle_of_a_run(vit, tmp_path, on_bad_image):
    random = np.random.default_rng(0)
    images = tmp_path / "images"
    for i in range(36):
        folder = images / ("train" if i < 24 else "validation") / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    training = start(
        vit, tmp_path, "data.source=image_folder", f"data.path={images}",
        f"data.on_bad_image={on_bad_image}", tamper="slow=0.1",
    )  # fmt: skip
    # Two steps an epoch: it has been read, and is again.
    training.wait_for(lambda: read_rows(tmp_path / "run"))
    (images / "train/a/4.png").write_bytes(b"no image")
    code, text = training.end()
    assert "Traceback" not in text
    if on_bad_image == "raise":
        assert code == 3
        assert "train/a/4.png" in text
        return
    assert code == 0, text
    skipped = tmp_path / "run/skipped.txt"
    assert f"1 unreadable image(s) skipped, the last {images}/train/a/4.png" in text
    assert skipped.read_text() == f"{images}/train/a/4.png\n"
