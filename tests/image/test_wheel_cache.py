"""A wheel that somebody else can replace is not installed: its code would run as this user."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
STRANGER = 65534

needs_compiler = pytest.mark.skipif(
    not all(map(shutil.which, ("gcc", "g++", "make", "readelf"))),
    reason="apt-get install build-essential",
)
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root gives files to others")


def look(cache):
    done = subprocess.run(
        [ROOT / "tools/build_horovod.sh", "--python", sys.executable, "--cache", cache, "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def cache(tmp_path):
    """A folder as the script makes it, with a wheel."""
    folder = tmp_path / "cache"
    (folder / "horovod-1").mkdir(parents=True)
    (folder / "horovod-1" / "horovod-1.whl").touch()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@needs_compiler
def test_a_cache_of_ones_own_is_used(cache):
    code, said = look(cache)
    assert code == 0, said
    assert "wheel: to be built" in said


@pytest.mark.parametrize("name", [".", "horovod-1", "horovod-1/horovod-1.whl"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_can_write_to_is_refused(cache, name, mode):
    path = cache / name
    path.chmod(path.stat().st_mode | mode)
    code, said = look(cache)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert f"others can write to {path} (mode " in said
    assert "chmod -R go-w" in said


@needs_root
@pytest.mark.parametrize("name", [".", "horovod-1", "horovod-1/horovod-1.whl", ".."])
def test_what_belongs_to_another_user_is_refused(cache, name):
    path = (cache / name).resolve()
    os.chown(path, STRANGER, STRANGER)
    code, said = look(cache)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert f"{path} belongs to user {STRANGER}" in said


def test_a_folder_in_which_others_can_exchange_the_cache_is_refused(cache):
    cache.parent.chmod(0o777)
    code, said = look(cache)
    assert code == 2
    assert f"others can write to {cache.parent} (mode 0777)" in said


@needs_compiler
def test_a_folder_such_as_tmp_is_no_reason_to_refuse(cache):
    cache.parent.chmod(0o1777)
    code, said = look(cache)
    assert code == 0, said
