"""The child processes of one node: start, output, signals, and cleanup."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from pipeline.printable import printable_lines
from pipeline.runtimes.interpreter import bare_python_command

TAIL_LINES = 30
_MAX_LINE_BYTES = 1 << 16

# prctl(PR_SET_PDEATHSIG) makes the kernel kill the process when the launcher dies. An intermediate
# Python process sets it, because Popen's preexec_fn may deadlock in a process with threads. SIGPIPE
# is reset because Python ignores it, and children would inherit that.
_START = """
import ctypes, os, signal, sys
parent, namespaces, command = int(sys.argv[1]), sys.argv[2].split(), sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
for namespace in map(int, namespaces):
    if libc.setns(namespace, 0) != 0:
        sys.exit(f"the job's private network: setns: {os.strerror(ctypes.get_errno())}")
    os.close(namespace)
libc.prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    os._exit(137)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.exit(f"{command[0]}: {error.strerror}")
"""


class ProcessExit(NamedTuple):
    """How a process ended.

    Attributes:
      rank: Rank of the process.
      status: Exit code, or the negative number of the signal that killed it.
      by_launcher: Whether the launcher ended it because another process had failed.
    """

    rank: int
    status: int
    by_launcher: bool = False

    @property
    def code(self) -> int:
        """The exit code as in a shell, or 76 if it was ended because of another process."""
        if self.by_launcher and self.status not in (0, 2, 3):
            return 76
        return self.status if self.status >= 0 else 128 - self.status

    def describe(self) -> str:
        if self.status >= 0:
            return f"ended with exit code {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            name = f"signal {-self.status}"
        whose = " by the launcher" if self.by_launcher else ""
        return f"was killed by {name}{whose}"


def exit_code(ends: Iterable[ProcessExit]) -> int:
    """Combines the exit codes of several processes into one; causes come before consequences.

    2 (settings) and 3 (data) come first, because a restart cannot help. Then come the code of the
    first process with any other fault, 75 (stopped on request), 76 (lost a peer), and 0.

    Args:
      ends: In the order in which the processes ended.
    """
    codes = [end.code for end in ends]
    faults = [code for code in codes if code not in (0, 2, 3, 75, 76)]
    ranking = [2, 3, *faults[:1], 75, 76]
    return next((code for code in ranking if code in codes), 0)


def job_exit_code(own: int, others: Sequence[int | None]) -> int:
    """The exit code of a launcher, given its node's code and the known codes of other nodes.

    2 and 3 apply to all nodes, because restarting cannot help any of them. Otherwise it is the
    node's own code, so that a scheduler sees the cause only on the node that has it. A node that
    succeeded must not exit with 0 if another did not: it would not be restarted with it.
    """
    for cause in (2, 3):
        if cause in (own, *others):
            return cause
    if own != 0 or all(code == 0 for code in others):
        return own
    return 75 if all(code in (0, 75) for code in others) else 76


class Guard:
    """A process that kills the process groups of all ranks when the launcher dies.

    The kernel kills the ranks themselves (see _START); the guard also kills their children. Create
    it before the launcher starts threads, because it forks.
    """

    def __init__(self) -> None:
        read, self._write = os.pipe()
        os.set_inheritable(self._write, False)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._write)
                _watch(read)
            finally:
                os._exit(0)
        os.close(read)

    def add(self, group: int) -> None:
        self._tell(b"+%d\n" % group)

    def remove(self, group: int) -> None:
        self._tell(b"-%d\n" % group)

    def close(self) -> None:
        """Stops the guard, which kills all groups that were added and not removed."""
        os.close(self._write)
        os.waitpid(self._pid, 0)

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._write, line)


def _watch(read: int) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    groups: set[int] = set()
    with open(read, "rb") as lines:
        for line in lines:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


class Process:
    """One rank, in its own session.

    Rank 0 behaves as if it had been started alone: it writes to a terminal directly, so that a
    progress display works. All other output passes through the launcher in whole lines, so that
    lines do not mix. Lines of other ranks get a prefix.

    Args:
      rank: Rank of the process.
      command: Program and arguments.
      environment: All environment variables of the process.
      prefix: Prefix of each output line; empty for rank 0.
      guard: Kills the process group if the launcher dies.
      namespaces: File descriptors from PrivateNetwork. The process enters these namespaces.
    """

    def __init__(
        self,
        rank: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        prefix: str,
        guard: Guard,
        namespaces: Sequence[int] = (),
    ) -> None:
        self.rank = rank
        self.end: ProcessExit | None = None
        self._ended_by_launcher = False
        self._guard = guard
        self._prefix = prefix.encode()
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._popen = subprocess.Popen(
            [
                *bare_python_command(_START),
                str(os.getpid()),
                " ".join(map(str, namespaces)),
                *command,
            ],
            env=dict(environment),
            pass_fds=namespaces,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if prefix or not os.isatty(1) else None,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        guard.add(self._popen.pid)
        self._pumps = [
            threading.Thread(target=_pump, args=(source, number, self._prefix, tail), daemon=True)
            for source, number, tail in (
                (self._popen.stdout, 1, None),
                (self._popen.stderr, 2, self._tail),
            )
            if source is not None
        ]
        for pump in self._pumps:
            pump.start()

    def poll(self) -> ProcessExit | None:
        """Returns how the process ended, or None while it runs."""
        if self.end is None and (status := self._popen.poll()) is not None:
            # Children that it left behind are killed too, which closes the pipes.
            self._kill_group(signal.SIGKILL)
            self._guard.remove(self._popen.pid)
            for pump in self._pumps:
                pump.join(timeout=1.0)
            self.end = ProcessExit(self.rank, status, self._ended_by_launcher)
        return self.end

    def forward(self, number: int) -> None:
        """Forwards a signal that the launcher received."""
        if self.end is None:
            self._popen.send_signal(number)

    def stop(self, number: int, because_of_another: bool) -> None:
        """Sends a signal to the process and its children.

        Args:
          number: Number of the signal.
          because_of_another: Whether another process's failure is the reason.
        """
        if self.poll() is None:
            self._ended_by_launcher = self._ended_by_launcher or because_of_another
            self._kill_group(number)

    def say(self, text: str) -> None:
        """Writes a line about the process to the destination of its standard error."""
        _write(2, self._prefix + printable_lines(f"vit launch: {text}\n").encode())

    def tail(self) -> list[str]:
        """The last lines of the process's standard error."""
        return [line.decode(errors="replace").rstrip() for line in list(self._tail)]

    def _kill_group(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._popen.pid, number)


_output = threading.Lock()


def _pump(source: BinaryIO, number: int, prefix: bytes, tail: deque[bytes] | None) -> None:
    """Copies the output of a process to our own output in whole lines."""
    if as_it_comes := not prefix and os.isatty(number):
        source = _Copied(source, number)  # type: ignore[assignment]
    for line in iter(lambda: source.readline(_MAX_LINE_BYTES), b""):
        if tail is not None:
            tail.append(line)
        if not as_it_comes:
            _write(number, prefix + line if line.endswith(b"\n") else prefix + line + b"\n")


class _Copied:
    """Reads lines from a stream and forwards each byte as soon as it arrives."""

    def __init__(self, source: BinaryIO, number: int) -> None:
        self._descriptor, self._number, self._rest = source.fileno(), number, b""

    def readline(self, longest: int) -> bytes:
        while b"\n" not in self._rest and len(self._rest) < longest:
            piece = os.read(self._descriptor, longest)
            if not piece:
                line, self._rest = self._rest, b""
                return line
            _write(self._number, piece)
            self._rest += piece
        line, newline, self._rest = self._rest.partition(b"\n")
        return line + newline


def _write(number: int, text: bytes) -> None:
    # If our output is closed, keep reading, or the process would block on a full pipe.
    with _output, contextlib.suppress(OSError):
        while text:
            text = text[os.write(number, text) :]
