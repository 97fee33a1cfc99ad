"""A .keras file from elsewhere, checked before Keras loads it.

Its config.json names the classes that are built, with any arguments: some run code, load other
files or download them. Its HDF5 file may take its numbers from other files of the user. So both are
read as data, and nothing may be in them that our exports do not have.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py  # type: ignore[import-untyped]

from pipeline.errors import SettingsError
from pipeline.export.description import FILE
from pipeline.export.exported import foreign_error
from pipeline.export.operations import KERAS
from pipeline.storage.npz import ArraysRefused, member_names
from pipeline.storage.read import open_file, reason
from pipeline.strict_json import from_json

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = {_CONFIG, _WEIGHTS, "metadata.json", FILE}


@contextmanager
def checked_copy(path: Path, suffix: str) -> Iterator[tuple[Path, bytes | None]]:
    """A copy of a Keras file's checked members, and the content of export.json, where it has one.

    Raises:
      SettingsError: The file is damaged, or has what our exports do not have.
    """
    try:
        members = _read_members(path)
        if FILE in members:
            _check_classes(from_json(members[_CONFIG]), str(path))
            _check_weights(members[_WEIGHTS], str(path))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {reason(error)}") from None
    except KeyError as error:
        raise SettingsError(f"{path} has no {error}. Export the run again") from None
    except (ValueError, RuntimeError) as error:
        raise SettingsError(f"{path} is damaged: {error!s:.300}. Export the run again") from None
    facts = members.pop(FILE, None)
    with TemporaryDirectory(prefix="vit-export-") as folder:
        copy = Path(folder) / f"export{suffix}"
        with zipfile.ZipFile(copy, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        yield copy, facts


def _read_members(path: Path) -> dict[str, bytes]:
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if FILE not in member_names(file):
            return {}
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                names = [member.filename for member in members]
                if len(set(names)) < len(names) or not set(names) <= _MEMBERS:
                    raise foreign_error(str(path), f"the members {', '.join(sorted(names))!s:.200}")
                # Keras stores its members as they are, so that none is larger than the file.
                packed = any(member.file_size != member.compress_size for member in members)
                if packed or sum(member.file_size for member in members) > size:
                    raise foreign_error(str(path), "packed members")
                return {name: archive.read(name) for name in names}
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise ArraysRefused(str(error)) from None


def _check_classes(config: Any, where: str) -> None:
    """Refuses all classes but those of our exports, wherever in the configuration."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if value.keys() & {"class_name", "module", "registered_name"}:
                _check_class(value, where)


def _check_class(value: dict[str, Any], where: str) -> None:
    module, name = value.get("module"), value.get("class_name")
    registered = value.get("registered_name")
    known = isinstance(module, (str, type(None))) and isinstance(name, str)
    if not known or (module, name) not in KERAS or registered not in (None, name):
        raise foreign_error(where, f"the class {module!s:.100}.{name!s:.100}")


def _check_weights(content: bytes, where: str) -> None:
    """Refuses an HDF5 file that takes numbers from other files, or more than it has."""
    seen, total = set[int](), 0
    with h5py.File(io.BytesIO(content), "r") as file:
        waiting = [file["/"]]
        while waiting:
            group = waiting.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                raise foreign_error(where, "weights that contain one another")
            seen.add(address)
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise foreign_error(where, f"weights behind a link, {name!r:.100}")
                item = group[name]
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                    continue
                if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
                    raise foreign_error(where, f"weights that are no numbers, {name!r:.100}")
                if item.external or item.is_virtual or item.chunks is not None:
                    raise foreign_error(where, f"weights that are stored elsewhere, {name!r:.100}")
                total += item.nbytes
    if total > len(content):
        raise foreign_error(where, "more weights than its file can hold")
