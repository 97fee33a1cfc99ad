"""`vit pretrained list [NAME ...] [--json]`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from jobs.cli import run_process
from pipeline.errors import SettingsError
from pipeline.model.weights.catalog import CATALOG, Entry
from pipeline.strict_json import to_json

_EPILOG = """\
Nothing is downloaded. Download the file, or the files of the folder, yourself, and start from it
with model.pretrained=FILE and the settings that are shown. Other files with the same layout can be
used as well.

  vit pretrained list                      all weights
  vit pretrained list augreg-b16-384       one entry
  vit pretrained list --json               one JSON array, with the address of each file
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("what", choices=("list",), help="list the weights")
    parser.add_argument("names", nargs="*", metavar="NAME", help="show only these entries")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    entries = _choose(arguments.names)
    if arguments.json:
        print(to_json([_describe(entry) for entry in entries], indent=1))
    else:
        print("\n".join(_table(entries)))
    return 0


def _choose(names: Sequence[str]) -> list[Entry]:
    known = {entry.name: entry for entry in CATALOG}
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"no checkpoint {unknown[0]!r}: give one of {', '.join(known)}")
    return [known[name] for name in names] or list(CATALOG)


def _describe(entry: Entry) -> dict[str, Any]:
    return asdict(entry) | {"urls": entry.urls, "settings": entry.settings}


def _table(entries: Sequence[Entry]) -> Iterator[str]:
    """Yields three lines per checkpoint: description, address, and the settings that it needs."""
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        classes = f"{entry.num_classes:,} classes" if entry.num_classes else "no head"
        yield (
            f"{entry.name:<{width}}  {entry.variant:<5}  {entry.image_size} px  {classes:<14}  "
            f"{entry.parameters / 1e6:5.1f} M parameters  {entry.licence}  {entry.source}"
        )
        yield f"  {entry.page}"
        yield "  " + " ".join(f"{key}={value}" for key, value in entry.settings.items())


if __name__ == "__main__":
    run_process(["pretrained", *sys.argv[1:]])
