"""The option `--set` of verbs that read the settings of an existing run."""

from __future__ import annotations

import argparse

from pipeline.runs.saved_settings import GIVEN


def add_setting_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--set KEY=VALUE`, for the settings that are not taken from the run."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="given",
        metavar="KEY=VALUE",
        help="a setting that is not taken from the run, which may belong to another user: "
        f"{', '.join(GIVEN)}; can be repeated",
    )
