"""The terminal, for everything that is drawn with rich."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType, RenderHook
from rich.file_proxy import FileProxy
from rich.segment import Segment

from pipeline.printable import EscapedStream, printable_lines


class Terminal(Console):
    """A console to which text from elsewhere is text: no markup, emoji or escape sequences.

    Colours and cursor movements are rich's own, which are written as they are.

    Args:
      options: As of `Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False} | options, markup=False, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Rich's, with the text escaped."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)

    def push_render_hook(self, hook: RenderHook) -> None:
        """Rich's: a live display begins.

        What is printed meanwhile goes through the display, which takes escape sequences in it for
        colours and links of its own. So it is escaped on its way there.
        """
        super().push_render_hook(hook)
        if isinstance(sys.stdout, FileProxy):
            sys.stdout = cast(TextIO, EscapedStream(cast(TextIO, sys.stdout)))
        if isinstance(sys.stderr, FileProxy):
            sys.stderr = cast(TextIO, EscapedStream(cast(TextIO, sys.stderr)))
