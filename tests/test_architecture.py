"""Imports go one way, and importing does nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = {"data", "model", "optim", "distribute", "checkpoint", "monitor"}
MODULES = sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/**/*.py")])


def room(module: str) -> str:
    """pipeline.data.input -> data, pipeline.config -> config, jobs.train -> jobs."""
    parts = module.split(".")
    return "jobs" if parts[0] == "jobs" else parts[1] if len(parts) > 1 else "pipeline"


def imports(path: Path) -> set[str]:
    """Every module named by an import anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def allowed(here: str) -> set[str]:
    """Which rooms a room may import, itself apart."""
    base = {"errors", "config", "splitmix", "cores", "printable", "strict_json", "storage"}
    if here in ("errors", "pipeline", "splitmix", "cores", "printable", "strict_json"):
        return set()
    if here in ("config", "storage"):
        return {"errors", "storage", "printable"}
    if here in STAGES:
        return base
    if here in ("train", "export", "plan"):
        return base | STAGES
    return base | STAGES | {"train", "export", "plan"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_rooms_before_its_own(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    here = room(module)
    ours = {m for m in imports(path) if m.split(".")[0] in ("pipeline", "jobs")}
    wrong = {m for m in ours if room(m) not in allowed(here) | {here}}
    assert not wrong, f"{here} must not import {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_places_that_may_import_horovod_and_read_the_environment(path):
    name = str(path.relative_to(ROOT))
    if not name.startswith("pipeline/distribute/"):
        assert not any(m.split(".")[0] == "horovod" for m in imports(path))
    if not name.startswith(("pipeline/distribute/", "jobs/")):
        assert "os.environ" not in path.read_text()


def test_the_model_room_does_not_import_tensorflow():
    for path in set(ROOT.glob("pipeline/model/**/*.py")) - {ROOT / "pipeline/model/backend.py"}:
        assert not any(m.split(".")[0] == "tensorflow" for m in imports(path)), path


def test_settings_and_help_come_without_tensorflow():
    code = (
        "import sys, jobs.train, jobs.evaluate, jobs.predict, jobs.doctor, jobs.benchmark.scaling;"
        "import jobs.benchmark.input, jobs.export, jobs.report, jobs.board, pipeline.train.report;"
        "import jobs.pretrained, pipeline.model.pretrained.files;"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", sorted(ROOT.glob("pipeline/**/*.py")), ids=str)
def test_the_library_logs_and_does_not_print(path):
    # Standard output belongs to the verbs, whose output may be piped into a JSON reader.
    names = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)]
    assert not [node.lineno for node in names if node.id == "print"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_handler_of_every_error_raises_or_says_why_it_may_go_on(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = (
            {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else set()
        )
        is_broad = node.type is None or kinds & {"Exception", "BaseException"}
        raises = isinstance(node.body[-1], ast.Raise)
        reason = "#" in text.splitlines()[node.lineno - 1]
        assert not is_broad or raises or reason, f"line {node.lineno}"
