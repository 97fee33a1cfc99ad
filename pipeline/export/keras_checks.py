"""Checks an untrusted .keras file before Keras loads it.

Its config.json names classes to build and their arguments. Some classes run code, load other files
or download them. Its HDF5 file may refer to data in other files of the user. Both are therefore
read as data, and may contain only what our exports contain.
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
from pipeline.export.exported import untrusted_error
from pipeline.export.metadata import FILE
from pipeline.export.operations import KERAS
from pipeline.storage.npz import ArraysRefused, member_names
from pipeline.storage.read import open_file, reason
from pipeline.strict_json import from_json

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = {_CONFIG, _WEIGHTS, "metadata.json", FILE}


@contextmanager
def checked_copy(path: Path, suffix: str) -> Iterator[tuple[Path, bytes | None]]:
    """Creates a copy of a Keras file with its checked members.

    Yields:
      The copy, and the content of export.json if the file has it.

    Raises:
      SettingsError: The file is damaged, or has contents that our exports do not have.
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
    metadata = members.pop(FILE, None)
    with TemporaryDirectory(prefix="vit-export-") as folder:
        copy = Path(folder) / f"export{suffix}"
        with zipfile.ZipFile(copy, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        yield copy, metadata


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
                    raise untrusted_error(
                        str(path), f"the members {', '.join(sorted(names))!s:.200}"
                    )
                # Keras does not compress members, so none is larger than the file.
                packed = any(member.file_size != member.compress_size for member in members)
                if packed or sum(member.file_size for member in members) > size:
                    raise untrusted_error(str(path), "compressed members")
                return {name: archive.read(name) for name in names}
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise ArraysRefused(str(error)) from None


def _check_classes(config: Any, where: str) -> None:
    """Rejects all classes that our exports do not have, anywhere in the configuration."""
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
        raise untrusted_error(where, f"the class {module!s:.100}.{name!s:.100}")


def _check_weights(content: bytes, where: str) -> None:
    """Rejects an HDF5 file that refers to other files, or claims more data than it has."""
    seen, total = set[int](), 0
    with h5py.File(io.BytesIO(content), "r") as file:
        waiting = [file["/"]]
        while waiting:
            group = waiting.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                raise untrusted_error(where, "weights with cyclic groups")
            seen.add(address)
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise untrusted_error(where, f"weights behind a link, {name!r:.100}")
                item = group[name]
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                    continue
                if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
                    raise untrusted_error(where, f"weights that are not numbers, {name!r:.100}")
                if item.external or item.is_virtual or item.chunks is not None:
                    raise untrusted_error(
                        where, f"weights that are stored elsewhere, {name!r:.100}"
                    )
                total += item.nbytes
    if total > len(content):
        raise untrusted_error(where, "more weights than its file can hold")
