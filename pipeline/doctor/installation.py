"""Checks of Python, packages and Horovod against the version ranges of this release."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipeline.doctor.finding import Finding, error, ok, warning
from pipeline.runtimes.horovod_build import HorovodBuild, load_controllers

PACKAGE = "vit-pipeline"
# Either package provides `import tensorflow`. The extras cpu and gpu in setup.cfg select one.
TENSORFLOWS = ("tensorflow", "tensorflow-cpu")
_NAMES = {"tensorflow": "TensorFlow", "tensorflow-cpu": "TensorFlow", "keras": "Keras"}


def installed_version(name: str) -> str | None:
    """The version of a distribution, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_python(found: str = platform.python_version()) -> Iterator[Finding]:
    """Checks the version of Python."""
    allowed = SpecifierSet(metadata(PACKAGE)["Requires-Python"])
    if allowed.contains(found, prereleases=True):
        yield ok("Python", f"{found} in {sys.prefix}")
    else:
        yield error(
            "Python",
            f"{found} is not within {allowed}",
            f"Create an environment with a supported Python, and install {PACKAGE} there",
        )


def check_packages(
    version_of: Callable[[str], str | None] = installed_version,
) -> Iterator[Finding]:
    """Checks the versions of TensorFlow, Keras and all other requirements.

    Args:
      version_of: Returns the version of a distribution, or None if it is not installed.
    """
    parsed = [Requirement(text) for text in requires(PACKAGE) or ()]
    always = [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    tensorflows = [r for r in parsed if r.name in TENSORFLOWS]
    yield from _check_tensorflow(tensorflows, version_of)
    others = 0
    for requirement in always:
        found = version_of(requirement.name)
        problem = _problem(requirement, found)
        if problem is not None:
            yield problem
        elif requirement.name == "keras":
            yield ok("Keras", f"{found}, within {requirement.specifier}")
        else:
            others += 1
    yield ok("packages", f"{others} others are within the ranges of {PACKAGE}")


def _check_tensorflow(
    requirements: Sequence[Requirement], version_of: Callable[[str], str | None]
) -> Iterator[Finding]:
    there = [r for r in requirements if version_of(r.name) is not None]
    if not there:
        yield error(
            "TensorFlow",
            f"it is not installed in {sys.prefix}",
            f"pip install '{PACKAGE}[cpu]', or [gpu] for GPUs",
        )
    elif len(there) > 1:
        yield warning(
            "TensorFlow",
            "tensorflow and tensorflow-cpu are both installed, and have overwritten each other's "
            "files",
            "pip uninstall tensorflow tensorflow-cpu, then install one of them",
        )
    for requirement in there:
        found = version_of(requirement.name)
        yield _problem(requirement, found) or ok(
            "TensorFlow", f"{found} ({requirement.name}), within {requirement.specifier}"
        )


def _problem(requirement: Requirement, found: str | None) -> Finding | None:
    subject = _NAMES.get(requirement.name, "packages")
    wanted = f"{requirement.name}{requirement.specifier}"
    if found is None:
        return error(subject, f"{requirement.name} is not installed", f"pip install '{wanted}'")
    if not requirement.specifier.contains(found, prereleases=True):
        return error(
            subject,
            f"{requirement.name} {found} is not within {requirement.specifier}",
            f"pip install '{wanted}'",
        )
    return None


def check_horovod(
    build: HorovodBuild | None,
    needed: bool,
    gpus: int,
    tensorflow: str | None,
    load: Callable[..., list[str]] = load_controllers,
) -> Iterator[Finding]:
    """Checks that Horovod is installed, built for this TensorFlow, and has a controller.

    Args:
      build: The installed build, if any.
      needed: Whether the recipe or the environment uses Horovod. Otherwise nothing is an error.
      gpus: Number of GPUs of this machine.
      tensorflow: Installed version of TensorFlow.
      load: Loads the library in a child process and returns the controllers it was built with.
    """
    bad = error if needed else warning
    again = f"tools/build_horovod.sh{' --gpu' if gpus else ''} builds it for this TensorFlow"
    if build is None:
        text = f"it is not installed in {sys.prefix}"
        if needed:
            yield error("Horovod", text, f"{again}; or set another distribute.runtime")
        else:
            yield ok("Horovod", f"{text}, and not needed here")
        return
    if build.library is None:
        yield bad("Horovod", f"{build.version} was built without TensorFlow", again)
    elif build.tensorflow is not None and tensorflow not in (None, build.tensorflow):
        yield bad(
            "Horovod",
            f"{build.version} was built for TensorFlow {build.tensorflow}, but {tensorflow} is "
            "installed",
            again,
        )
    else:
        yield _check_controllers(build, gpus, needed, load, again)


def _check_controllers(
    build: HorovodBuild, gpus: int, needed: bool, load: Callable[..., list[str]], again: str
) -> Finding:
    bad = error if needed else warning
    try:
        controllers = load(build.library)
    except OSError as problem:
        return bad("Horovod", f"{build.version} cannot be loaded: {problem}", again)
    if not {"gloo", "mpi"} & set(controllers):
        return bad("Horovod", f"{build.version} has neither Gloo nor MPI", again)
    if gpus > 1 and "nccl" not in controllers and needed:
        return warning(
            "Horovod",
            f"{build.version} was built without NCCL: gradients are copied through host memory",
            again,
        )
    words = {"gloo": "Gloo", "nccl": "NCCL", "mpi": "MPI"}
    having = " and ".join(words[name] for name in controllers)
    built = f", built for TensorFlow {build.tensorflow}" if build.tensorflow else ""
    unused = "" if needed else "; not needed here"
    return ok("Horovod", f"{build.version}{built}, with {having}{unused}")
