"""How many cores a process may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cores import available_cores

V1_CPU = Path("/sys/fs/cgroup/cpu")
MOUNT_V2 = "31 23 0:28 {top} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw"
MOUNT_V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
MOUNT_V1_MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a tree with /proc and /sys, and 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 128)

    def make(groups, *mounts, **limits):
        proc = tmp_path / "proc/self"
        proc.mkdir(parents=True)
        (proc / "cgroup").write_text(groups)
        (proc / "mountinfo").write_text("\n".join(mounts) + "\n")
        for path, text in limits.items():
            file = tmp_path / "sys/fs/cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


def v1(folder, quota, period=100_000):
    folder = Path("cpu,cpuacct") / folder
    return {
        str(folder / "cpu.cfs_quota_us"): f"{quota}\n",
        str(folder / "cpu.cfs_period_us"): f"{period}\n",
    }


def test_without_a_limit_it_is_the_affinity(machine):
    root = machine("0::/job\n", MOUNT_V2.format(top="/"), **{"job/cpu.max": "max 100000\n"})
    assert available_cores(root) == 64


def test_where_proc_says_nothing_it_is_the_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert available_cores(tmp_path) == 2


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("9000000 100000", 64)],
)
def test_a_container_that_sees_its_own_group_as_the_root(machine, limit, cores):
    root = machine("0::/\n", MOUNT_V2.format(top="/"), **{"cpu.max": limit})
    assert available_cores(root) == cores


def test_the_limit_of_a_parent_group_holds(machine):
    limits = {"pod/cpu.max": "300000 100000", "pod/container/cpu.max": "max 100000"}
    root = machine("0::/pod/container\n", MOUNT_V2.format(top="/"), **limits)
    assert available_cores(root) == 3


def test_the_smallest_of_nested_limits_holds(machine):
    limits = {"a/cpu.max": "800000 100000", "a/b/cpu.max": "50000 10000", "a/b/c/cpu.max": "max 1"}
    root = machine("0::/a/b/c\n", MOUNT_V2.format(top="/"), **limits)
    assert available_cores(root) == 5


def test_another_group_does_not_count(machine):
    limits = {"a/cpu.max": "800000 100000", "other/cpu.max": "100000 100000"}
    root = machine("0::/a\n", MOUNT_V2.format(top="/"), **limits)
    assert available_cores(root) == 8


@pytest.mark.parametrize(("quota", "cores"), [(-1, 64), (400_000, 4)])
def test_version_1(machine, quota, cores):
    groups = "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n"
    mounts = MOUNT_V1_MEMORY, MOUNT_V1.format(top="/")
    assert available_cores(machine(groups, *mounts, **v1("job", quota))) == cores


def test_version_1_in_a_container_that_sees_its_path_from_outside(machine):
    groups = "4:cpu,cpuacct:/docker/c0ffee\n"
    mount = MOUNT_V1.format(top="/docker/c0ffee")
    assert available_cores(machine(groups, mount, **v1("", 600_000))) == 6


def test_a_path_that_is_not_below_the_mount(machine):
    root = machine("0::/../elsewhere\n", MOUNT_V2.format(top="/"), **{"cpu.max": "200000 100000"})
    assert available_cores(root) == 2


def test_a_mount_point_that_is_not_utf_8_is_no_obstacle(machine):
    root = machine("0::/\n", **{"cpu.max": "200000 100000"})
    other = b"30 23 8:1 / /mnt/caf\xe9\x85 rw - ext4 /dev/sda1 rw\n"
    group = MOUNT_V2.format(top="/").encode()
    (root / "proc/self/mountinfo").write_bytes(other + group + b"\n")
    assert available_cores(root) == 2


def test_a_limit_in_a_group_whose_name_is_not_utf_8(machine):
    root = machine("", MOUNT_V2.format(top="/"))
    (root / "proc/self/cgroup").write_bytes(b"0::/caf\xe9\n")
    group = os.fsencode(root / "sys/fs/cgroup") + b"/caf\xe9"
    os.makedirs(group)
    Path(os.fsdecode(group), "cpu.max").write_text("300000 100000")
    assert available_cores(root) == 3


@pytest.mark.parametrize(
    "line",
    ["", "nonsense", "31 23 0:28 / /mnt rw", "31 23 - cgroup2 cgroup2 rw", "31 / - cgroup2",
     "31 23 0:28 / /mnt rw - cgroup2", " - ", "31 23 0:28 / /mnt rw -"],
)  # fmt: skip
def test_a_malformed_line_is_ignored(machine, line):
    mount = MOUNT_V2.format(top="/")
    root = machine(f"{line}\n0::/\n", line, mount, **{"cpu.max": "200000 100000"})
    assert available_cores(root) == 2


@pytest.mark.processes
def test_a_real_group_with_a_limit(tmp_path):
    group = V1_CPU / f"vit-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError:
        pytest.skip("no cgroup of version 1 can be made here")
    try:
        code = (
            f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
            "from pipeline.cores import available_cores\nprint(available_cores())"
        )
        command = [sys.executable, "-c", code]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    finally:
        group.rmdir()
