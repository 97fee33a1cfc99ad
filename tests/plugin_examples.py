"""The worked examples of docs/extending.md, as modules of their own."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs/extending.md"
BLOCK = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Every plug-in of the page at once.
SETTINGS = (
    "data.source=my_source:Stripes",
    "data.augment.extra=my_augmentation:brightness",
    "model.builder=my_model:small_network",
    "optim.loss=my_loss:focal",
)


def write_examples(folder):
    """Writes each example of the page into the file that its first line names."""
    found = BLOCK.findall(PAGE.read_text())
    for name, text in found:
        (folder / name).write_text(text)
    return [name for name, _ in found]
