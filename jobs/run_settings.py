"""The options `--set` and `--trust-code` of verbs that read the settings of an existing run."""

from __future__ import annotations

import argparse

from pipeline.runs.saved_settings import GIVEN


def add_setting_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--set KEY=VALUE`, for settings that are not taken from the run, and `--trust-code`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="given",
        metavar="KEY=VALUE",
        help="a setting that is not taken from the run, which may belong to another user: "
        f"{', '.join(GIVEN)}; can be repeated",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import the code that the settings of the run name, such as model.builder; it runs as "
        "your user",
    )
