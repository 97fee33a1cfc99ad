"""What shared storage does to a run: it fills up, goes read-only, goes away, or alters a file."""

import os
import re
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from tests.parallel.launches import Launches
from tests.parallel.trainings import (
    SHORT,
    SHORT_STEPS,
    Training,
    assert_same_end,
    newest,
    steps_of,
    train_command,
    write_recipe,
)

pytestmark = pytest.mark.processes

SLOW = "slow=0.1"


def why_no_mounts():
    """Why this user cannot mount a file system, or an empty string."""
    if os.geteuid() != 0:
        return "mounting needs root"
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
    )
    return done.stderr.strip()


needs_mounts = pytest.mark.skipif(bool(reason := why_no_mounts()), reason=reason or "all there")


def start(vit, folder, *settings, run=None, tamper=None):
    words = write_recipe(folder), f"run.dir={run or folder / 'run'}", *settings
    return Training(vit, folder / "log", train_command(*words, tamper=tamper))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A whole run that kept its last six checkpoints; of steps 20 to 40."""
    folder = tmp_path_factory.mktemp("undisturbed")
    launches = Launches()
    try:
        start(launches, folder, "checkpoint.keep=6").succeed()
        yield folder / "run"
    finally:
        launches.clean_up()


@contextmanager
def small_disk(folder, megabytes):
    """A file system of its own, of a few megabytes, mounted in a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk):
    """Takes what room is left, and returns the file that does."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while stream.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


def cut_short(file):
    os.truncate(file, file.stat().st_size - 1)


def alter(file):
    """One bit, in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("damage", [cut_short, alter, remove])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    vit, tmp_path, undisturbed, damage
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    (run / "outcome.json").unlink()
    # In each of the newest checkpoints another file, so that it goes back past them one by one.
    steps = [40, 36, 32, 28, 24]
    names = sorted(p.name for p in (run / "checkpoints/step-00000040").iterdir())
    assert len(names) == len(steps)
    folders = [run / f"checkpoints/step-{step:08d}" for step in steps]
    for folder, name in zip(folders, names, strict=True):
        damage(folder / name)
    text = start(vit, tmp_path, "checkpoint.keep=6").succeed()
    for folder, name in zip(folders, names, strict=True):
        line = next(line for line in text.splitlines() if f"{folder} is damaged" in line)
        # Where the manifest is altered, it is a file that does not fit it which is named.
        assert name in line or (damage is alter and name == "manifest.json")
        assert "trying the previous one" in line
        assert folder.with_name(f"{folder.name}.set-aside-1").is_dir()
    assert f"resuming from {run}/checkpoints/step-00000020" in text
    assert "Traceback" not in text
    assert_same_end(run, undisturbed)


@needs_mounts
def test_a_full_disk_is_told_and_what_waits_is_written_once_there_is_room(
    vit, tmp_path, undisturbed
):
    with small_disk(tmp_path / "disk", 4) as disk:
        run = disk / "run"
        training = start(vit, tmp_path, run=run, tamper=SLOW)
        training.wait_for(lambda: len(steps_of(run)) > 1)
        ballast = fill(disk)
        before = newest(run).step
        training.wait_for("No space left on device. Retrying in")
        # Meanwhile it trains on.
        training.wait_for("Retrying in 2 s; training continues")
        assert newest(run).step >= before
        ballast.unlink()
        text = training.succeed()
        assert re.search(r"the checkpoint of step \d+ is now written", text)
        assert_same_end(run, undisturbed)


@needs_mounts
def test_a_disk_that_stays_full_ends_the_run_and_spares_the_last_checkpoint(vit, tmp_path):
    with small_disk(tmp_path / "disk", 4) as disk:
        run = disk / "run"
        training = start(vit, tmp_path, "checkpoint.grace_s=2", run=run, tamper=SLOW)
        training.wait_for(lambda: len(steps_of(run)) > 1)
        ballast = fill(disk)
        code, text = training.end()
        assert code == 1
        assert (
            "No space left on device. The last checkpoint of the run is not saved; earlier" in text
        )
        assert "Free some space or allow writing, then run the same command again" in text
        assert "Traceback" not in text
        step = newest(run).step
        assert 0 < step < SHORT_STEPS
        ballast.unlink()
        text = start(vit, tmp_path, run=run).succeed()
        assert f"resuming from {run}/checkpoints/step-{step:08d}" in text


@needs_mounts
def test_too_little_room_for_two_checkpoints_ends_it_before_the_first_step(vit, tmp_path):
    # A checkpoint is some 8 MB.
    recipe = SHORT.replace("width: 16", "width: 256").replace("mlp_dim: 32", "mlp_dim: 1024")
    (tmp_path / "big.yaml").write_text(recipe)
    with small_disk(tmp_path / "disk", 16) as disk:
        words = train_command(tmp_path / "big.yaml", f"run.dir={disk / 'run'}")
        code, text = Training(vit, tmp_path / "log", words).end()
        assert code == 2
        assert re.search(
            r"has 1\d\.\d MB of free space, but the next checkpoints need 2\d\.\d MB", text
        )
        assert "Traceback" not in text
        assert not (disk / "run/checkpoints").exists()


@needs_mounts
def test_a_folder_that_turns_read_only_ends_the_run_and_spares_what_is_there(
    vit, tmp_path, undisturbed
):
    with small_disk(tmp_path / "disk", 16) as disk:
        run = disk / "run"
        training = start(vit, tmp_path, "checkpoint.grace_s=2", run=run, tamper=SLOW)
        training.wait_for(lambda: len(steps_of(run)) > 1)
        # As a mount of its own, since what is open for writing would forbid to turn it over.
        subprocess.run(["mount", "--bind", disk, disk], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
        try:
            code, text = training.end()
            step = newest(run).step
            refused, why = start(vit, tmp_path, run=run).end()
        finally:
            subprocess.run(["umount", disk], check=True)
        assert code == 1
        assert "Read-only file system" in text
        assert "Traceback" not in text + why
        assert refused == 2
        assert f"cannot use the run folder {run}: Read-only file system" in why
        assert 0 < step < SHORT_STEPS
        text = start(vit, tmp_path, run=run).succeed()
        assert f"resuming from {run}/checkpoints/step-{step:08d}" in text
        assert_same_end(run, undisturbed)


def test_a_folder_that_disappears_ends_the_run_and_is_not_made_again(vit, tmp_path, undisturbed):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    # A save after each step, of which one comes before it is seen that the folder has gone.
    settings = ("checkpoint.grace_s=2", "checkpoint.every_steps=1")
    training = start(vit, tmp_path, *settings, run=run, tamper=SLOW)
    training.wait_for(lambda: len(steps_of(run)) > 1)
    run.rename(elsewhere)
    code, text = training.end()
    assert code == 1
    assert f"the run folder {run} is gone. Once it is back, run the same command" in text
    assert "Traceback" not in text
    assert not run.exists()
    assert not (elsewhere / "outcome.json").exists()
    step = newest(elsewhere).step
    elsewhere.rename(run)
    text = start(vit, tmp_path, run=run).succeed()
    assert f"resuming from {run}/checkpoints/step-{step:08d}" in text
    assert_same_end(run, undisturbed)
