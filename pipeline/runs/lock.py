"""A lock that lets only one job use a run folder, also on a network file system.

    .lock/
      TOKEN.json     the holder: host, process, and a heartbeat counter

The lock relies only on a rename within a folder. To take it, a process renames a folder with one
file to `.lock`, which fails if a `.lock` with a file exists. To take it over from a holder that is
gone, a process renames the holder's file. The name of that file is unique, so only one of several
processes succeeds.

File locks (flock, fcntl) are not sufficient: on network file systems they work on one host only, or
not at all, depending on the mount options.

SoftFileLease of filelock 4 is not sufficient either: its lease also runs out while the file server
does not answer, and a live holder on another node counts as gone if host name and PID namespace
number are the same.
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
BEAT_S = 5.0  # heartbeat interval
# Six heartbeats: a short outage of the file server does not mean that the holder is gone.
STALE_S = 30.0
# In an elastic job, the others already know that the chief is gone when one of them takes over.
# They only make sure that it does not go on in a part of the network that they cannot reach.
ELASTIC_BEAT_S, ELASTIC_STALE_S = 0.5, 1.5
_POLLS = 60  # within that time
_EMPTY_POLLS = 100  # of a lock without a holder that cannot be taken, 0.1 s apart
_LARGEST = 1 << 16  # bytes of a file in .lock; the files of this program have 300
_LONGEST = 255  # characters of a host name
_PID_MAX = 1 << 22  # PID_MAX_LIMIT: process ids on Linux are smaller
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class LockLostError(PipelineError):
    """Another process took over the run folder, or it is gone. This process must not write."""


class RunLock:
    """Reserves a run folder for this process from `acquire` to `release`.

    Args:
      folder: The run folder.

    Attributes:
      beat_s: Heartbeat interval in seconds. Set it before `acquire`.
    """

    def __init__(self, folder: Path) -> None:
        self.beat_s = BEAT_S
        self._folder = folder
        self._path = folder / _NAME
        self._token = uuid.uuid4().hex
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def _file(self) -> Path:
        return self._path / f"{self._token}.json"

    def acquire(self, report: Callable[[str], None], stale_s: float = STALE_S) -> None:
        """Takes the lock, or takes it over from a holder that is gone.

        If the holder is on this host, its process is looked up. If that is not possible (another
        host, another container, or hidden in /proc), this method waits for `stale_s` seconds. The
        holder counts as gone if its heartbeat has not changed by then.

        Args:
          report: Called with a message before a wait and after a takeover.
          stale_s: Time without a heartbeat after which a holder counts as gone, in seconds.

        Raises:
          SettingsError: Another process holds the lock (the message names its host and process), or
            `.lock` is not a lock of this program.
          OSError: The folder is not writable.
        """
        empty_polls = 0
        while not self._create():
            holder = self._holder()
            if holder is None:
                empty_polls += 1
                if empty_polls > _EMPTY_POLLS:
                    raise SettingsError(
                        f"{self._path} is not a lock of a run. Remove it, or choose another folder "
                        "with run.dir=FOLDER"
                    )
                time.sleep(0.1)  # it was released in between
                continue
            token, facts = holder
            # If the tokens differ, the file was just taken over and still describes the previous
            # holder.
            alive = _is_alive(facts) if facts.get("token") == token else None
            gone = self._is_silent(token, facts, report, stale_s) if alive is None else not alive
            if not gone and self._holder() is None:
                continue  # it was released in the meantime
            if not gone:
                raise SettingsError(
                    f"another process is training in {self._folder}: {_describe(facts)}. Wait for "
                    "it, stop it, or choose another folder with run.dir=FOLDER"
                )
            if self._take_over(token):
                report(f"took over the run folder from {_describe(facts)}, which is gone")
                break
        for leftover in self._folder.glob(f"{_NAME}.*"):
            remove_folder(leftover)  # of a process that was killed while it took the lock
        self._stopped.clear()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._thread.start()

    def find_holder(self, watch_s: float = 1.5 * BEAT_S) -> str | None:
        """Describes the process that trains in the folder; None if there is none.

        Writes nothing. If the process cannot be looked up from here, this method waits for a
        heartbeat for up to `watch_s` seconds.
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
    def holder_host(self) -> str | None:
        """Host name of the process whose lock is there, alive or not; None if unknown."""
        holder = self._holder()
        return None if holder is None else str(holder[1].get("host", ""))[:_LONGEST] or None

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock; also True if the storage does not answer."""
        try:
            self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # an error of the file server does not mean that the lock is lost
        return True

    def check(self) -> None:
        """Raises an error if this process no longer holds the lock.

        Raises:
          LockLostError: Another process took it over, for example while this one was suspended, or
            the run folder is gone.
        """
        if self.is_held:
            return
        if not self._folder.exists():
            raise LockLostError(
                f"the run folder {self._folder} is gone. Once it is back, run the same command "
                "again"
            )
        holder = self._holder()
        who = _describe(holder[1]) if holder else "another process"
        raise LockLostError(
            f"{who} took over the run folder {self._folder}: this process stops writing and exits"
        )

    def release(self) -> None:
        """Releases the lock if this process still holds it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            # Fails if the folder has become read-only (the lock then becomes stale) or if it is not
            # empty (another process has taken over).
            with contextlib.suppress(OSError):
                remove_file(self._file, below=self._folder)
                self._path.rmdir()

    def _create(self) -> bool:
        """Creates the lock; returns False if there is one already."""
        new = self._folder / f"{_NAME}.{self._token}"
        facts = self._own_facts()
        make_folder(new)
        try:
            replace_file(new / self._file.name, facts, below=self._folder, durable=False)
            rename(new, _NAME)
        except OSError as error:
            remove_folder(new)
            # There is a lock, or a process that just took the lock has removed `new`.
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                return False
            raise
        return True

    def _take_over(self, token: str) -> bool:
        try:
            rename(self._path / f"{token}.json", self._file.name, below=self._folder)
        except FileNotFoundError:
            return False  # another process was faster, or the holder released it
        self._overwrite(0)
        return True

    def _overwrite(self, beat: int) -> None:
        """Overwrites this process's file. It is not created, because the lock may be lost."""
        with open_to_overwrite(self._file, below=self._folder) as stream:
            write_all(stream, self._own_facts(beat).encode())
            stream.truncate()

    def _holder(self) -> tuple[str, dict[str, Any]] | None:
        """Token and facts of the holder; None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._path):
                file = self._path / name
                if file.suffix != ".json":
                    continue
                try:
                    facts = from_json(read_file(file, below=self._folder, limit_bytes=_LARGEST))
                except ValueError:
                    facts = {}  # it is being written
                return file.stem, facts if isinstance(facts, dict) else {}
        return None

    def _is_silent(
        self, token: str, facts: dict[str, Any], report: Callable[[str], None], stale_s: float
    ) -> bool:
        report(
            f"{_describe(facts)} was training in {self._folder}: waiting up to {stale_s:.0f} s to "
            "see whether it still is"
        )
        # Count polls instead of time: during an outage of the file server the holder cannot write
        # its heartbeat either.
        for _ in range(_POLLS):
            time.sleep(stale_s / _POLLS)
            if self._holder() != (token, facts):
                return False
        return True

    def _own_facts(self, beat: int = 0) -> str:
        """One line of JSON. Its length is the same for each beat, so that overwriting is safe."""
        facts = {"token": self._token, "host": gethostname(), "process": os.getpid()}
        return to_json(facts | _identity(os.getpid()) | {"beat": f"{beat:012d}"})

    def _beat(self) -> None:
        number = 0
        while not self._stopped.wait(self.beat_s):
            number += 1
            try:
                self._overwrite(number)
            except OSError:
                continue  # `check` reports a lost lock


def _identity(process: int) -> dict[str, str]:
    """Identifies a process beyond its number: boot id, PID namespace and start time."""
    state, *facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return {
        "boot": _BOOT.read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
        # A zombie (killed, but not yet reaped by its parent) counts as ended.
        "started": "" if state in "ZX" else facts[18],
    }


def _is_here(facts: dict[str, Any]) -> bool:
    """Whether the process can be looked up: same boot of the same host, same PID namespace."""
    own = _identity(os.getpid())
    return all(facts.get(name) == own[name] for name in ("boot", "namespace"))


def _is_alive(facts: dict[str, Any]) -> bool | None:
    """Whether the process with these facts is running; None if that cannot be determined.

    With the mount option hidepid=2, /proc shows a user only their own processes. A signal shows
    whether a process of another user exists, but not whether it is still the same process.
    """
    if not _is_here(facts):
        return None
    try:
        process = int(facts["process"])
        if not 0 < process < _PID_MAX:
            return False
        return _identity(process)["started"] == facts["started"]
    except (KeyError, ValueError, TypeError):
        return False
    except OSError:
        return None if _exists(process) else False


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only checks for existence
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to another user
    return True


def _describe(facts: dict[str, Any]) -> str:
    process, host = facts.get("process", "?"), facts.get("host", "an unknown host")
    return printable(f"process {str(process)[:_LONGEST]} on {str(host)[:_LONGEST]}")
