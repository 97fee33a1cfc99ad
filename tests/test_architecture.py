"""Imports point one way and contain no cycle, and importing does nothing heavy."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package imports packages of lower levels only, never one of its own level.
LEVELS = (
    {"errors", "splitmix", "cores", "printable", "strict_json", "recipes", "plugins"},
    {"storage"},
    {"config"},
    {"data", "model", "optim", "runtimes", "runs", "monitor"},
    {"training", "launch"},
    {"report", "export", "doctor", "plan"},
    {"api"},
    {"pipeline"},
    {"k8s"},
    {"jobs"},
    {"benchmarks"},
)
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
# Modules that all packages share. They may import each other, as long as there is no cycle.
SHARED = LEVELS[0]


def modules():
    """{module name: file} of everything but the tests."""
    files = [file for top in ("pipeline", "jobs", "k8s", "benchmarks") for file in
             sorted((ROOT / top).rglob("*.py"))]  # fmt: skip
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


MODULES = modules()


def imports(path):
    """Every module that an import anywhere in the file names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= inner or {node.module}
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def package(module):
    """pipeline.data.input -> data, pipeline.errors -> errors, jobs.train -> jobs."""
    top, *rest = module.split(".")
    return rest[0] if top == "pipeline" and rest else top


def test_every_package_has_a_level():
    assert {package(name) for name in MODULES} == set(LEVEL)


def test_a_package_imports_only_packages_of_lower_levels():
    wrong = [
        f"{name} imports {imported}"
        for name, found in IMPORTS.items()
        for imported in sorted(found & set(MODULES))
        if package(imported) != package(name)
        and LEVEL[package(imported)] >= LEVEL[package(name)]
        and not {package(imported), package(name)} <= SHARED
    ]
    assert not wrong


def test_modules_do_not_import_each_other_in_a_cycle():
    # A package's __init__ may gather names of its modules.
    graph = {
        name: {found for found in IMPORTS[name] & set(MODULES) if not name.startswith(f"{found}.")}
        for name in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" -> ".join(cycle.args[1]))


def test_two_modules_and_a_comparison_import_horovod():
    users = {name for name, found in IMPORTS.items() if any(
        module.split(".")[0] == "horovod" for module in found)}  # fmt: skip
    # The benchmark trains with Horovod's own elastic mode, as a comparison.
    compared = {"benchmarks.elastic_horovod"}
    assert users - compared == {"pipeline.runtimes.horovod", "pipeline.runtimes.horovod_driver"}


def test_only_some_packages_read_the_environment():
    readers = {package(name) for name, path in MODULES.items() if "os.environ" in path.read_text()}
    assert readers <= {"runtimes", "launch", "doctor", "k8s", "jobs", "benchmarks"}


def test_the_model_does_not_import_tensorflow():
    users = {name for name, found in IMPORTS.items() if package(name) == "model" and any(
        module.split(".")[0] == "tensorflow" for module in found)}  # fmt: skip
    assert users == {"pipeline.model.backend"}


def test_the_library_logs_and_does_not_print():
    # Standard output belongs to the verbs, whose output may be piped into a JSON reader. The
    # doctor's findings are such an output.
    printing = [
        f"{name}:{node.lineno}"
        for name, path in MODULES.items()
        if name.startswith("pipeline") and package(name) != "doctor"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert not printing


@pytest.mark.processes
def test_settings_and_help_come_without_tensorflow():
    code = (
        "import sys, jobs.train, jobs.evaluate, jobs.predict, jobs.doctor, jobs.export;"
        "import jobs.report, jobs.board, jobs.pretrained, jobs.submit, pipeline.report.write;"
        "import pipeline.model.weights.files, benchmarks.input, benchmarks.scaling;"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_handler_of_every_error_raises_or_says_why_it_may_go_on():
    silent = [
        f"{name}:{handler.lineno}"
        for name, path in MODULES.items()
        for handler in ast.walk(ast.parse(path.read_text()))
        if isinstance(handler, ast.ExceptHandler)
        and is_broad(handler)
        and not isinstance(handler.body[-1], ast.Raise)
        and "#" not in path.read_text().splitlines()[handler.lineno - 1]
    ]
    assert not silent


def is_broad(handler):
    """Whether it catches every error."""
    if handler.type is None:
        return True
    kinds = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(kinds & {"Exception", "BaseException"})
