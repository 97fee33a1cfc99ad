"""An elastic job on several hosts: what its launchers say, and the hosts' links."""

import os
import re
import signal
import time
from contextlib import suppress

from tests.chaos.elastic_job import LIMIT_S
from tests.chaos.run_under_fire import ChaosError
from tests.parallel.hosts import vit

_SIZE = re.compile(r"(\d+) workers? continues? from step")
_STEP = re.compile(r"^\d\d:\d\d:\d\d +step ", re.MULTILINE)
_MEETS = re.compile(r"the launchers meet at node (\d+)")
# A process namespace ends as a whole, as a host does. The file system stays shared.
_HOST = ("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
_NAMED = 'hostname "$0"; exec "$@"'


class HostsJob:
    """A launcher on each host, started again whenever it has ended.

    Args:
      switch: The hosts.
      launch: The options of `vit launch`.
      train: All words of the command that it starts.
      log: Beginning of the names of the logs.

    Attributes:
      chief: Index of the host whose worker has last shown progress.
      coordinator: Index of the host at which the launchers have met last.
      losses: When a group continued after it had lost a member, by the monotonic clock.
      steps_seen: Number of lines that show progress.
    """

    def __init__(self, switch, launch, train, log):
        self.chief = self.coordinator = self.steps_seen = self._size = 0
        self.losses = []
        self._switch, self._launch, self._train = switch, launch, train
        hosts = range(len(switch.names))
        self._logs = [log.with_name(f"{log.name}-host-{host}.log") for host in hosts]
        self._streams = []
        for path in self._logs:
            path.touch()
            self._streams.append(path.open("rb"))
        self._rests = [b"" for _ in hosts]
        self._present = [True for _ in hosts]
        self._processes = [self._start(host) for host in hosts]

    def cut(self, host):
        """Cuts the link of a host. Nobody is told."""
        self._switch.set_link(host, "down")

    def kill(self, host):
        """Ends all processes of a host at once. It does not come back until `join`."""
        self._present[host] = False
        self._processes[host].kill()
        self._processes[host].wait()

    def join(self, host):
        """Restores the link of a host, and starts its launcher if it has ended."""
        self._switch.set_link(host, "up")
        self._present[host] = True

    def heal(self):
        """Waits until workers of all hosts train together. Returns False if the run has ended."""
        return self.wait(lambda: self._size == len(self._processes), "all hosts", 2 * LIMIT_S)

    def pause(self, seconds):
        until_s = time.monotonic() + seconds
        return self.wait(lambda: time.monotonic() >= until_s, "a pause", seconds + 10)

    def wait(self, condition, what, limit_s=LIMIT_S):
        """Waits until a condition holds. Returns False if the run has ended before."""
        until_s = time.monotonic() + limit_s
        while True:
            self._read()
            if condition():
                return True
            if self._complete():
                return False
            if time.monotonic() > until_s:
                self._hang(f"waited {limit_s:g} s: {what}")
            time.sleep(0.01)

    def end(self):
        """Waits until the run is complete, and all launchers have ended."""
        self.wait(self._complete, "the end", 4 * LIMIT_S)
        until_s = time.monotonic() + LIMIT_S
        while any(process.poll() is None for process in self._processes):
            if time.monotonic() > until_s:
                self._hang("the run is complete, and a launcher has not ended")
            time.sleep(0.05)

    def _complete(self):
        """Whether a launcher has ended with 0. Others that have ended are started again."""
        codes = [process.poll() for process in self._processes]
        if 0 in codes:
            return True
        for host, code in enumerate(codes):
            if code is None or not self._present[host]:
                continue
            if code not in (76, -signal.SIGKILL):
                raise ChaosError(f"the launcher of host {host} ended with {code}")
            self._processes[host] = self._start(host)
        return False

    def _start(self, host):
        command = vit("launch", "--index", host, *self._launch, "--", *self._train)
        with self._logs[host].open("ab") as log:
            return self._switch.start(
                host, *_HOST, _NAMED, self._switch.names[host], *command, output=log
            )

    def _read(self):
        for host, stream in enumerate(self._streams):
            *lines, self._rests[host] = (self._rests[host] + stream.read()).split(b"\n")
            for line in (line.decode(errors="replace") for line in lines):
                self._take(host, line)

    def _take(self, host, line):
        if found := _MEETS.search(line):
            self.coordinator = int(found[1])
        if _STEP.search(line):
            self.chief, self.steps_seen = host, self.steps_seen + 1
        if found := _SIZE.search(line):
            self.chief, self._size = host, int(found[1])
            if any(how in line for how in (" was ", " ended", " left")):
                self.losses.append(time.monotonic())

    def _hang(self, what):
        """Lets all processes print where they are, and raises."""
        for process in self._switch.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGABRT)
        time.sleep(3)
        raise ChaosError(f"it hangs, {what}; the logs have the stacks")
