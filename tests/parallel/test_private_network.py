"""What multi_worker opens on one host is in a network that nobody else enters."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from pipeline.launch.processes import _START
from tests.parallel.launches import HERE, ROOT, end

pytestmark = pytest.mark.processes

ALONE = "--hosts localhost --processes-per-node 2 --runtime multi_worker"
IS_ROOT = os.geteuid() == 0
# Root in a container may not make namespaces of the network, and makes one of users first.
AS_USERS_DO = ("setpriv", "--bounding-set=-sys_admin") if IS_ROOT else ()
# Nor may it map other users.
AS_USERS_ARE = ("setpriv", "--bounding-set=-sys_admin,-setuid,-setgid") if IS_ROOT else ()
# Inside a user namespace its owner sets how many namespaces there may be.
NO_NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"',
    "sh",
)
WHERE = """
import json, os, socket, sys
open(sys.argv[1], "w").close()
names = [name for _, name in socket.if_nameindex()]
others = sorted(os.listdir(sys.argv[2])) if sys.argv[2:] else []
print(json.dumps([names, os.getuid(), os.getgid(), others]))
"""

has_setpriv = pytest.mark.skipif(
    IS_ROOT and shutil.which("setpriv") is None, reason="apt-get install util-linux"
)


def read_remotely(port, file):
    done = subprocess.run(
        [sys.executable, HERE / "read_remotely.py", str(port), str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout


@has_setpriv
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("options", "under", "is_open"),
    [("--trust-network", (), True), ("", (), False), ("", AS_USERS_DO, False)],
    ids=["trusted", "private", "private-without-rights"],
)
def test_who_connects_to_tensorflows_server(vit, tmp_path, options, under, is_open):
    file = tmp_path / "file"
    file.write_text("what others must not read")
    launcher = vit.start(f"{ALONE} --port {vit.port} {options} --", script="serve.py", under=under)
    said = [launcher.stdout.readline() for _ in range(2)]
    assert sorted(said) == ["[rank 1 localhost] serves\n", "serves\n"]
    for port in (vit.port + 1, vit.port + 2):
        with closing(socket.socket()) as stranger:
            assert (stranger.connect_ex(("127.0.0.1", port)) == 0) == is_open
    # That the attack works where the port is open shows that it would work here.
    assert ("what others must not read" in read_remotely(vit.port + 1, file)) == is_open
    launcher.kill()
    _, _, err = end(launcher)
    ports = f"TensorFlow listens on ports {vit.port + 1} to {vit.port + 2} of all interfaces"
    assert (ports in err) == is_open, err


@has_setpriv
@pytest.mark.parametrize("under", [(), AS_USERS_DO, AS_USERS_ARE], ids=["root", "user", "plain"])
def test_a_rank_in_the_private_network_is_the_same_user(vit, tmp_path, under):
    written, others = tmp_path / "written", tmp_path / "others"
    others.mkdir()
    (others / "file").touch()
    arguments = [written]
    if IS_ROOT and under != AS_USERS_ARE:  # root goes on reading the files of others
        others.chmod(0o700)
        os.chown(others, 1234, 1234)
        arguments.append(others)
    code, out, err = vit.run(
        "--hosts localhost --processes-per-node 1 --runtime multi_worker",
        command=[sys.executable, "-c", WHERE, *map(str, arguments)],
        under=under,
        NCCL_SOCKET_IFNAME="eth0",
    )
    assert code == 0, err
    names, user, group, listed = json.loads(out)
    assert names == ["lo"]
    assert (user, group) == (os.geteuid(), os.getegid())
    assert listed == (["file"] if arguments[1:] else [])
    assert (written.stat().st_uid, written.stat().st_gid) == (user, group)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="apt-get install util-linux")
def test_a_host_that_gives_no_private_network_is_refused(vit):
    code, out, err = vit.run(f"{ALONE} -- print=started", under=NO_NAMESPACES)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "(unshare: No space left on device; user.max_net_namespaces=0;" in err
    assert "Use --runtime horovod" in err
    assert "Give --trust-network" in err
    code, out, err = vit.run(f"{ALONE} --trust-network -- print=started", under=NO_NAMESPACES)
    assert (code, sorted(out.splitlines())) == (0, ["[rank 1 localhost] started", "started"]), err


def test_a_command_outside_the_network_is_not_started(tmp_path):
    with open(os.devnull) as no_namespace:
        number = no_namespace.fileno()
        step = [sys.executable, "-I", "-S", "-c", _START, str(os.getpid()), str(number)]
        done = subprocess.run(
            [*step, "touch", tmp_path / "started"],
            pass_fds=[number], capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "the job's private network: setns: Invalid argument\n"
    assert not list(tmp_path.iterdir())
