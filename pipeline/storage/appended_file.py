"""A file to which complete pieces are appended, on storage that may be full temporarily."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.storage.write import open_to_append, write_all


class AppendedFile:
    """Appends pieces in order. Pieces that cannot be written are kept in memory and retried.

    If writing a piece fails, its bytes are removed from the file, so that readers see only complete
    pieces.

    Args:
      path: The file. It is created with the first piece, in an existing folder.
      report: Called with a message when writing starts to fail.
      below: If given, the file must be inside this folder, after resolving links.
    """

    def __init__(
        self, path: Path, report: Callable[[str], None], below: Path | None = None
    ) -> None:
        self._path = path
        self._below = below
        self._report = report
        self._waiting = b""
        self._failing = False
        # The end of the complete pieces, if a failed piece could not be removed from the file.
        self._whole_bytes: int | None = None
        # The thread that writes a checkpoint also writes pending pieces.
        self._lock = threading.Lock()

    def append(self, piece: bytes) -> None:
        """Adds a piece. If it cannot be written now, it is retried later."""
        with self._lock:
            self._waiting += piece
        try:
            self.flush()
        except OSError as error:
            if not self._failing:
                self._report(f"cannot write {self._path}: {error.strerror}. It will be retried")
            self._failing = True

    def flush(self, sync: bool = False) -> None:
        """Writes pending pieces. With `sync`, they are on disk when this returns.

        Raises:
          OSError: They cannot be written. They remain pending.
        """
        with self._lock:
            if not self._waiting and not sync:
                return
            # The file is unbuffered, so an error means that the content is not in the file.
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
