"""Which calls the files of this project contain."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def source_files(*without):
    """The modules of the library, the command line and k8s, except those below some folders."""
    names = {
        str(path.relative_to(ROOT)): path
        for top in ("pipeline", "k8s", "jobs")
        for path in (ROOT / top).rglob("*.py")
    }
    return sorted(name for name in names if not name.startswith(without))


def count_calls(file, kind_of):
    """How often a file has a call of each kind; `kind_of` maps a call to its kind or None."""
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    calls = (node for node in nodes if isinstance(node, ast.Call))
    return Counter(kind for call in calls if (kind := kind_of(call)) is not None)


def only_call(line):
    """The call that a line of code is."""
    return ast.parse(line, mode="eval").body
