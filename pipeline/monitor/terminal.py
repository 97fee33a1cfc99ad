"""A terminal for all output with rich."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType, RenderHook
from rich.file_proxy import FileProxy
from rich.segment import Segment

from pipeline.printable import EscapedStream, printable_lines


class Terminal(Console):
    """A console that treats text as plain text: no markup, emoji or escape sequences.

    Rich's own colors and cursor movements are not escaped.

    Args:
      options: Options of `Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False} | options, markup=False, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Renders with rich and escapes the text."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)

    def push_render_hook(self, hook: RenderHook) -> None:
        """Starts a live display.

        During a live display, rich redirects printed text through the display, which would
        interpret escape sequences in it. The text is therefore escaped before.
        """
        super().push_render_hook(hook)
        if isinstance(sys.stdout, FileProxy):
            sys.stdout = cast(TextIO, EscapedStream(cast(TextIO, sys.stdout)))
        if isinstance(sys.stderr, FileProxy):
            sys.stderr = cast(TextIO, EscapedStream(cast(TextIO, sys.stderr)))
