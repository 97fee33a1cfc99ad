"""A file that grows by whole pieces, on storage that may be full for a while."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.storage.write import open_to_append, write_all


class AppendedFile:
    """Appends pieces in order; those that cannot be written wait in memory.

    Nothing of a piece that failed stays in the file, so that what is read is always whole.

    Args:
      path: Made with the first piece, in a folder that exists.
      report: Is told once of each spell in which writing fails.
      below: The file must be below this folder, once links are resolved.
    """

    def __init__(
        self, path: Path, report: Callable[[str], None], below: Path | None = None
    ) -> None:
        self._path = path
        self._below = below
        self._report = report
        self._waiting = b""
        self._failing = False
        # Where whole pieces end, while what came after them could not be taken back.
        self._whole_bytes: int | None = None
        # Rows are also written before a checkpoint, by the thread that writes it.
        self._lock = threading.Lock()

    def append(self, piece: bytes) -> None:
        """Adds a piece; it is in the file when this returns, or waits."""
        with self._lock:
            self._waiting += piece
        try:
            self.flush()
        except OSError as error:
            if not self._failing:
                self._report(f"cannot write {self._path}: {error.strerror}. It is tried again")
            self._failing = True

    def flush(self, sync: bool = False) -> None:
        """Writes what waits, and with `sync` down to the disk.

        Raises:
          OSError: It cannot be written; it goes on waiting.
        """
        with self._lock:
            if not self._waiting and not sync:
                return
            # Unbuffered: what is written is in the file, or an error says how much is not.
            with open_to_append(self._path, below=self._below) as stream:
                if self._whole_bytes is not None:
                    stream.truncate(self._whole_bytes)
                self._whole_bytes = end = os.fstat(stream.fileno()).st_size
                try:
                    write_all(stream, self._waiting)
                    if sync:
                        os.fsync(stream.fileno())
                except OSError:
                    stream.truncate(end)
                    self._whole_bytes = None
                    raise
            self._waiting, self._failing, self._whole_bytes = b"", False, None
