"""The `run` section."""

from __future__ import annotations

from pipeline.config.section import Section, setting
from pipeline.config.value_parser import LocalPath


class RunConfig(Section):
    """Where the run is stored."""

    dir: LocalPath | None = setting(None, "Run folder. null: runs/<recipe>.", may_change=True)
