"""A small file that is there as a whole, before and after a crash or a loss of power."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Puts a file with this text, as UTF-8, in the place of what was there.

    Raises:
      OSError: It cannot be written; what was there still is.
    """
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)
        stream.flush()
        # Without it, a loss of power may leave the new name with nothing in it.
        os.fsync(stream.fileno())
    os.replace(temporary, path)
