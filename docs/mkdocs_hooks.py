"""MkDocs hooks: pages link to files outside of docs/, and the tutorial is a notebook."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
# docs/ has no folders of its own, so `../` always leads to another part of the repository.
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds the tutorial as a page."""
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    files.append(File.generated(config, "tutorial.md", content=to_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Links files outside of docs/ in the repository, or names them if `repo_url` is not set."""
    base = (config.repo_url or "").rstrip("/")

    def replace(link: re.Match[str]) -> str:
        text, path = link[1], link[2]
        if base:
            return f"[{text}]({base}/blob/main/{path})"
        return text if path in text else f"{text} ({path})"

    return _OUTSIDE.sub(replace, markdown).replace("(tutorial.ipynb)", "(tutorial.md)")


def to_markdown(notebook: dict[str, Any]) -> str:
    """The text, code and text output of a notebook's cells as one Markdown page."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        code = source.removeprefix("%%bash\n")
        language = "python" if code == source else "bash"
        parts.append(f"```{language}\n{code}\n```")
        texts = ["".join(output.get("text", ())) for output in cell["outputs"]]
        if said := "".join(texts).strip("\n"):
            parts.append(f"```text\n{said}\n```")
    return "\n\n".join(parts)
