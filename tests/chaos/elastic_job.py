"""An elastic job whose workers are disturbed: who they are, and what the job says about them."""

import json
import os
import re
import signal
import time
from pathlib import Path

from tests.chaos.run_under_fire import ChaosError
from tests.parallel.trainings import Training

# A start, or a regrouping, on a machine that does much else. What takes longer hangs.
LIMIT_S = 150.0
# Fewer than --min-workers are left. They continue when enough have joined.
_WAITS = "too few workers to train"
_CONTINUES = re.compile(r"(\d+) workers? continues? from step (\d+) after ([\d.]+) s")
_JOINED = re.compile(r"rank \d+ of \d+ on \S+ joined: pid (\d+)")
_CHIEF = re.compile(
    r"^(?:\[[^]:]*:(\d+)\] )?(?:\d\d:\d\d:\d\d +step|.*\d workers? continues? from step)"
)


class Continuation:
    """A line in which the chief says that a new group continues.

    Attributes:
      seen_s: When the line was seen, by the monotonic clock.
      took_s: Seconds that the regrouping took, by the clock of the chief.
      joined: Whether workers have joined, and none was lost or left.
      waited: Whether too few workers were left before, so that they waited for others.
      lost: Whether a worker was lost or left since the previous continuation.
    """

    def __init__(self, line, took_s, waited):
        self.seen_s, self.took_s, self.waited = time.monotonic(), took_s, waited
        named = any(how in line for how in (" was killed", " ended", " left"))
        self.joined = " joined; " in line and not named
        self.lost = named or waited


class ElasticJob:
    """One start of `vit launch --min-workers`.

    Args:
      launches: Finds and ends processes.
      log: File for all output.
      command: All words.
      run: The run folder.

    Attributes:
      continuations: Every group but the first.
      chief_slot: Slot of the worker that shows the progress.
      members: Process ids of the workers that are known to be in the group.
    """

    def __init__(self, launches, log, command, run):
        self._training = Training(launches, log, command)
        self._launches, self._run = launches, run
        self._start_s = time.monotonic()
        self._stream, self._rest = log.open("rb"), b""
        self.continuations, self.chief_slot, self.members = [], 0, set()
        self._waits, self.text = False, ""

    @property
    def ended(self):
        return self._training.process.poll() is not None

    @property
    def launcher(self):
        return self._training.process.pid

    def workers(self):
        """{slot: process id} of the workers that exist."""
        found = {}
        for process in self._launches.left():
            try:
                facts = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            found |= {
                int(fact.partition(b"=")[2].split(b",")[0]): process
                for fact in facts
                if fact.startswith(b"VIT_LAUNCH_SLOT=")
            }
        return found

    def read(self):
        """Takes what the job has printed since the last call."""
        *lines, self._rest = (self._rest + self._stream.read()).split(b"\n")
        for line in (line.decode(errors="replace") for line in lines):
            self.text += f"{line}\n"
            if found := _JOINED.search(line):
                self.members.add(int(found[1]))
            if found := _CHIEF.match(line):
                self.chief_slot = int(found[1] or 0)
            self._waits |= _WAITS in line
            if found := _CONTINUES.search(line):
                self.continuations.append(Continuation(line, float(found[3]), self._waits))
                self._waits = False
                self._take_size(int(found[1]))

    def _take_size(self, size):
        present = set(self.workers().values())
        # If only some have joined, it is not known which ones.
        self.members = present if len(present) == size else self.members & present

    def wait(self, condition, what, limit_s=LIMIT_S):
        """Waits until a condition holds. Returns False if the job has ended before."""
        until_s = time.monotonic() + limit_s
        while True:
            self.read()
            if condition():
                return True
            if self.ended:
                return False
            if time.monotonic() > until_s:
                self.hang(f"waited {limit_s:g} s: {what}")
            time.sleep(0.005)

    def pause(self, seconds):
        until_s = time.monotonic() + seconds
        return self.wait(lambda: time.monotonic() >= until_s, "a pause", seconds + 10)

    def wait_for_row(self, holds, what):
        """Waits until the last row of metrics is as wanted."""
        return self.wait(lambda: (row := last_row(self._run)) is not None and holds(row), what)

    def wait_for_checkpoint(self):
        """Waits until a checkpoint is being written."""
        folder = self._run / "checkpoints"
        return self.wait(
            lambda: folder.exists() and any(n.endswith(".unfinished") for n in os.listdir(folder)),
            "a checkpoint that is being written",
        )

    def wait_for_change(self):
        """Waits until the members close the connections of their group, or a new one goes on."""
        watched, most, before = min(self.members), 0, len(self.continuations)

        def holds():
            nonlocal most
            count = sockets_of(watched)
            most = max(most, count)
            return count < most - 3 or len(self.continuations) > before

        return self.wait(holds, "a new group")

    def signal(self, processes, number):
        """Signals processes, and returns when."""
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.members -= set(processes)
        return time.monotonic()

    def end(self, limit_s):
        """The exit code, once the job has ended by itself and left nothing behind."""
        self.wait(lambda: self.ended, "the end", limit_s)
        self.read()
        until_s = time.monotonic() + 10
        while left := self._launches.left():
            if time.monotonic() > until_s:
                raise ChaosError(f"processes are left: {left}")
            time.sleep(0.05)
        return self._training.process.returncode

    def hang(self, what):
        """Lets the workers print where they are, and raises."""
        for number in (signal.SIGCONT, signal.SIGABRT):
            self.signal(self.workers().values(), number)
        time.sleep(3)
        self._training.process.kill()
        raise ChaosError(f"it hangs, {what}; the log has the stacks of the workers")


def last_row(run):
    """The last whole row of metrics; None if there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            return json.loads(stream.read().split(b"\n")[-2])
    except (OSError, IndexError, ValueError):
        return None


def sockets_of(process):
    """Number of open sockets of a process."""
    count = 0
    try:
        for name in os.listdir(f"/proc/{process}/fd"):
            try:
                count += os.readlink(f"/proc/{process}/fd/{name}").startswith("socket:")
            except OSError:
                continue
    except OSError:
        return 0
    return count
