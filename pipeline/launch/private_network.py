"""A private network namespace for the processes of one job on one host.

MultiWorkerMirroredStrategy starts a TensorFlow server in every process. The server listens on all
interfaces and executes any graph that it receives with the rights of the user, including reads and
writes of files. Inside a network namespace it has only a loopback interface that other users cannot
reach.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from contextlib import closing, suppress
from pathlib import Path

from pipeline.errors import SettingsError

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_INTERFACE = struct.Struct("16sh22x")  # struct ifreq with the interface flags

# Messages of the child process that creates the namespaces.
_MAP, _READY = "map", "ready"

# Kernel settings with which administrators disable namespaces, and the value that does so.
_LIMITS = {
    "kernel/apparmor_restrict_unprivileged_userns": "1",
    "kernel/unprivileged_userns_clone": "0",
    "user/max_user_namespaces": "0",
    "user/max_net_namespaces": "0",
}


class PrivateNetwork:
    """A new network namespace. It lives as long as this object or a process inside it.

    Privileged users (root) get a network namespace only. Other users also need a user namespace
    around it, in which they keep their user and group. Create it before the process starts threads,
    because it forks.

    Attributes:
      namespaces: Open file descriptors for setns(), in this order.

    Raises:
      SettingsError: The host does not allow it.
    """

    def __init__(self) -> None:
        self.namespaces: tuple[int, ...] = ()
        ours, childs = socket.socketpair()
        with closing(ours), closing(childs):
            pid = os.fork()
            if pid == 0:
                _make(ours, childs)
            childs.close()
            try:
                self._take(pid, ours)
            except OSError as error:
                self.close()
                raise SettingsError(_explain(error)) from None
            finally:
                ours.close()
                os.waitpid(pid, 0)

    def _take(self, pid: int, child: socket.socket) -> None:
        kinds = ["net"]
        if (answer := _heard(child)) == _MAP:
            kinds = ["user", "net"]
            for ids, own in (("uid", os.geteuid()), ("gid", os.getegid())):
                _keep_ids(pid, ids, own)
            child.sendall(b".")
            answer = _heard(child)
        if answer != _READY:
            raise OSError(0, answer or "the process that makes it ended", "")
        for kind in kinds:
            space = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
            self.namespaces += (space,)

    def close(self) -> None:
        """Releases the namespace. It ends with the last process inside it."""
        for space in self.namespaces:
            os.close(space)
        self.namespaces = ()


def _make(parent: socket.socket, own: socket.socket) -> None:
    """Runs in the child: creates the namespaces and keeps them until the parent has opened them."""
    with suppress(BaseException):
        parent.close()
        try:
            _enter_new(own)
            own.sendall(_READY.encode())
        except OSError as error:
            own.sendall(f"{error.filename}: {error.strerror}".encode())
        own.recv(1)
    os._exit(0)


def _enter_new(parent: socket.socket) -> None:
    try:
        _unshare(_CLONE_NEWNET)
        _raise_loopback()
    except OSError:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        parent.sendall(_MAP.encode())
        parent.recv(1)
        _raise_loopback()


def _heard(child: socket.socket) -> str:
    return child.recv(1000).decode(errors="replace")


def _keep_ids(pid: int, ids: str, own: int) -> None:
    """Maps users (`ids` is uid) or groups (gid) of a process's new user namespace to themselves.

    With sufficient rights all ids are mapped, so that root can still read the files of other users.
    Otherwise only our own id is mapped.
    """
    ranges = [line.split() for line in Path(f"/proc/self/{ids}_map").read_text().splitlines()]
    everyone = "".join(f"{first} {first} {count}\n" for first, _, count in ranges)
    try:
        _write(f"/proc/{pid}/{ids}_map", everyone)
    except PermissionError:
        if ids == "gid":
            _write(f"/proc/{pid}/setgroups", "deny")  # the kernel requires it before gid_map
        _write(f"/proc/{pid}/{ids}_map", f"{own} {own} 1\n")


def _unshare(kinds: int) -> None:
    # os.unshare() requires Python 3.12.
    if ctypes.CDLL(None, use_errno=True).unshare(kinds) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)


def _raise_loopback() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as any_socket:
        try:
            found = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _INTERFACE.pack(b"lo", 0))
            flags = _INTERFACE.unpack(found)[1] | _IFF_UP
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE.pack(b"lo", flags))
        except OSError as error:
            raise OSError(error.errno, error.strerror, "the interface lo") from None


def _explain(error: OSError) -> str:
    reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    limits = ", ".join(
        f"{limit.replace('/', '.')}={value}"
        for limit, value in _LIMITS.items()
        if _value_of(limit) == value
    )
    return (
        "--runtime multi_worker starts a TensorFlow server in each process, which executes any "
        "graph that a client sends, and this host does not allow a private network for them "
        f"({reason}{'; ' + limits if limits else ''}; containers often forbid it). Use --runtime "
        "horovod, or on one host `vit train ... distribute.runtime=mirrored` without `vit launch`. "
        "Give --trust-network only if nobody else can reach the ports of this host"
    )


def _value_of(limit: str) -> str:
    with suppress(OSError):
        return Path("/proc/sys", limit).read_text().strip()
    return ""
