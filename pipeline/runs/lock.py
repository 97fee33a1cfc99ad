"""One job at a time in a run folder, also on a network file system.

    .lock/
      TOKEN.json     who holds it: host, process, and a line that changes every few seconds

Only rename within a folder is relied on. A folder with one file is renamed to `.lock`, which fails
where a `.lock` with a file in it is. A holder that has gone is replaced by renaming its file, whose
name none but it ever had: of several that try, one succeeds. File locks (flock, fcntl) are no help
here: on network file systems they hold on one host only, or not at all, depending on the mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import Any

from pipeline.errors import PipelineError, SettingsError
from pipeline.printable import printable
from pipeline.storage.folders import make_folder, remove_file, remove_folder, rename
from pipeline.storage.read import read_file
from pipeline.storage.write import open_to_overwrite, replace_file, write_all
from pipeline.strict_json import from_json, to_json

_NAME = ".lock"
BEAT_S = 5.0
# Six beats: a server that stumbles is not a holder that has gone.
STALE_S = 30.0
_LOOKS = 60
_EMPTY_LOOKS = 100  # at a lock that nobody holds and nobody can take, 0.1 s apart
_LARGEST = 1 << 16  # bytes of a file in .lock; those of this program have 300
_LONGEST = 255  # characters of a host's name
_NO_PROCESS = 1 << 22  # the first number that no process of Linux can have (PID_MAX_LIMIT)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class LockLostError(PipelineError):
    """Another process took the run folder over, or it is gone: this one must write no more."""


class RunLock:
    """Holds a run folder for this process, from `acquire` to `release`.

    Args:
      folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _NAME
        self._token = uuid.uuid4().hex
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def _file(self) -> Path:
        return self._path / f"{self._token}.json"

    def acquire(self, report: Callable[[str], None], stale_s: float = STALE_S) -> None:
        """Takes the lock, or takes it over from a holder that has gone.

        A holder on this host is looked up. One that cannot be looked up (on another host, in
        another container of this host, or hidden in /proc) counts as gone when its beat has not
        changed for `stale_s`, which is waited for.

        Raises:
          SettingsError: Another process holds it; the message names its host and process. Or what
            is there is no lock.
          OSError: The folder cannot be written to.
        """
        empty_looks = 0
        while not self._place():
            holder = self._holder()
            if holder is None:
                empty_looks += 1
                if empty_looks > _EMPTY_LOOKS:
                    raise SettingsError(
                        f"{self._path} is no lock of a run. Remove it, or name another folder with "
                        "run.dir=FOLDER"
                    )
                time.sleep(0.1)  # it was released in between
                continue
            token, facts = holder
            # Where the token is another one the file has been taken over just now, and still says
            # who had it before.
            alive = _is_alive(facts) if facts.get("token") == token else None
            gone = self._is_silent(token, facts, report, stale_s) if alive is None else not alive
            if not gone and self._holder() is None:
                continue  # it was released meanwhile
            if not gone:
                raise SettingsError(
                    f"another process is training in {self._folder}: {_describe(facts)}. Wait for "
                    "it, stop it, or name another folder with run.dir=FOLDER"
                )
            if self._take_over(token):
                report(f"took over the run folder of {_describe(facts)}, which has gone")
                break
        for leftover in self._folder.glob(f"{_NAME}.*"):
            remove_folder(leftover)  # of one that was killed as it came
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._thread.start()

    def find_holder(self, watch_s: float = 1.5 * BEAT_S) -> str | None:
        """Who trains in the folder now, in words; None where nobody does. Nothing is written.

        A process that cannot be looked up from here is watched for `watch_s`, to see its beat.
        """
        holder = self._holder()
        if holder is None:
            return None
        token, facts = holder
        trains = _is_alive(facts)
        if trains is None:
            trains = not self._is_silent(token, facts, lambda text: None, watch_s)
        return _describe(facts) if trains else None

    @property
    def is_held(self) -> bool:
        """Whether the lock is still this process's, as far as the storage answers."""
        try:
            self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # a server that stumbles says nothing of the lock
        return True

    def check(self) -> None:
        """Returns while this process holds the lock.

        Raises:
          LockLostError: It was taken over, as happens to a process that stood still.
        """
        if self.is_held:
            return
        if not self._folder.exists():
            raise LockLostError(
                f"the run folder {self._folder} is gone. When it is back, give the same command"
            )
        holder = self._holder()
        who = _describe(holder[1]) if holder else "someone"
        raise LockLostError(
            f"{who} took over the run folder {self._folder}: this process ends and writes no more"
        )

    def release(self) -> None:
        """Gives the lock back, if it is still held."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            # Fails on a folder that was made read-only, whose lock will be stale; and where it is
            # not empty, because it is another one's by now.
            with contextlib.suppress(OSError):
                remove_file(self._file, below=self._folder)
                self._path.rmdir()

    def _place(self) -> bool:
        """Puts a lock of our own in place; whether nobody's was there."""
        new = self._folder / f"{_NAME}.{self._token}"
        facts = self._own_facts()
        make_folder(new)
        try:
            replace_file(new / self._file.name, facts, below=self._folder, durable=False)
            rename(new, _NAME)
        except OSError as error:
            remove_folder(new)
            # A lock is there; or our folder was swept away by one that has just taken the lock.
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                return False
            raise
        return True

    def _take_over(self, token: str) -> bool:
        try:
            rename(self._path / f"{token}.json", self._file.name, below=self._folder)
        except FileNotFoundError:
            return False  # another one was faster, or the holder released it
        self._overwrite(0)
        return True

    def _overwrite(self, beat: int) -> None:
        """Writes our facts into our file, without creating it: a lock taken over stays so."""
        with open_to_overwrite(self._file, below=self._folder) as stream:
            write_all(stream, self._own_facts(beat).encode())
            stream.truncate()

    def _holder(self) -> tuple[str, dict[str, Any]] | None:
        """Token and facts of who holds the lock; None where nobody does."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._path):
                file = self._path / name
                if file.suffix != ".json":
                    continue
                try:
                    facts = from_json(read_file(file, below=self._folder, limit_bytes=_LARGEST))
                except ValueError:
                    facts = {}  # being written at this moment
                return file.stem, facts if isinstance(facts, dict) else {}
        return None

    def _is_silent(
        self, token: str, facts: dict[str, Any], report: Callable[[str], None], stale_s: float
    ) -> bool:
        report(
            f"{_describe(facts)} was training in {self._folder}: waiting up to {stale_s:.0f} s to "
            "see whether it still does"
        )
        # Counted in looks, not by the clock: a server that answers nobody for a while makes the
        # holder silent as well.
        for _ in range(_LOOKS):
            time.sleep(stale_s / _LOOKS)
            if self._holder() != (token, facts):
                return False
        return True

    def _own_facts(self, beat: int = 0) -> str:
        """One line of JSON; of the same length for each beat, so that it is overwritten whole."""
        facts = {"token": self._token, "host": gethostname(), "process": os.getpid()}
        return to_json(facts | _identity(os.getpid()) | {"beat": f"{beat:012d}"})

    def _beat(self) -> None:
        number = 0
        while not self._stopped.wait(BEAT_S):
            number += 1
            try:
                self._overwrite(number)
            except OSError:
                continue  # `check` says what became of it


def _identity(process: int) -> dict[str, str]:
    """What tells a process from all others: boot, name space of numbers, time of its start."""
    state, *facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return {
        "boot": _BOOT.read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
        # A process that was killed and not yet waited for has ended.
        "started": "" if state in "ZX" else facts[18],
    }


def _is_here(facts: dict[str, Any]) -> bool:
    """Whether the process can be looked up: same boot of the same host, same numbering."""
    own = _identity(os.getpid())
    return all(facts.get(name) == own[name] for name in ("boot", "namespace"))


def _is_alive(facts: dict[str, Any]) -> bool | None:
    """Whether the process of these facts lives; None where this process cannot tell.

    With the mount option hidepid=2, /proc shows a user only its own processes. A signal tells
    whether another user's process exists, but not whether it is still the same one.
    """
    if not _is_here(facts):
        return None
    try:
        process = int(facts["process"])
        if not 0 < process < _NO_PROCESS:
            return False
        return _identity(process)["started"] == facts["started"]
    except (KeyError, ValueError, TypeError):
        return False
    except OSError:
        return None if _exists(process) else False


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _describe(facts: dict[str, Any]) -> str:
    process, host = facts.get("process", "?"), facts.get("host", "an unknown host")
    return printable(f"process {str(process)[:_LONGEST]} on {str(host)[:_LONGEST]}")
