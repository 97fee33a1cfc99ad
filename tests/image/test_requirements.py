"""The image installs only files whose digests are in the repository, and these are up to date."""

import base64
import configparser
import hashlib
import importlib.metadata as metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FLAVOURS = ("cpu", "gpu")
FILES = [
    *(ROOT / f"tools/image/requirements-{flavour}.txt" for flavour in FLAVOURS),
    ROOT / "tools/horovod_build.txt",
    ROOT / "tools/horovod_cmake.txt",
]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def pins(file):
    """Version and digests of each package that a file of requirements names."""
    found = {}
    logical = re.sub(r"\\\n", " ", re.sub(r"^ *#.*\n", "", file.read_text(), flags=re.MULTILINE))
    for line in filter(None, map(str.strip, logical.splitlines())):
        pinned, *digests = re.split(r"\s+--hash=", line)
        requirement = Requirement(pinned)
        (version,) = requirement.specifier
        assert version.operator == "==", line
        found[canonicalize_name(requirement.name)] = (version.version, digests)
    return found


def listed(text):
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def asked(flavour):
    """What setup.cfg and requirements.in ask for."""
    yield from listed(SETUP["options"]["install_requires"])
    yield from listed(SETUP["options.extras_require"][flavour])
    yield from listed((ROOT / "tools/image/requirements.in").read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_package_has_digests_and_the_version_of_the_constraints(file):
    known = {
        canonicalize_name(name): version
        for name, version in re.findall(
            r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE
        )
    }
    for name, (version, digests) in pins(file).items():
        assert digests, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests), name
        if name not in ("setuptools", "wheel", "cmake"):
            assert version == known[name], f"{name}: make requirements"
    # Packages come from wherever pip is told to find them.
    assert "://" not in file.read_text()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_all_that_is_asked_for_is_there(flavour):
    found = pins(ROOT / f"tools/image/requirements-{flavour}.txt")
    for requirement in asked(flavour):
        name = canonicalize_name(requirement.name)
        assert name in found, f"{name}: make requirements"
        assert requirement.specifier.contains(found[name][0]), f"{requirement}: make requirements"


@pytest.mark.parametrize(("source", "file"), [("build", FILES[2]), ("cmake", FILES[3])])
def test_all_that_horovods_build_asks_for_is_there(source, file):
    found = pins(file)
    for requirement in listed((ROOT / f"tools/horovod_{source}.in").read_text()):
        assert requirement.specifier.contains(found[requirement.name][0]), "make requirements"


def test_what_the_packages_require_in_turn_is_there():
    found = pins(ROOT / "tools/image/requirements-cpu.txt")
    looked_at = 0
    for name, (version, _) in found.items():
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if package.version != version:
            continue
        looked_at += 1
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in found, f"{name} needs {needed}: make requirements"
    assert looked_at > len(found) / 2


@pytest.mark.processes
def test_pip_refuses_a_package_whose_content_was_changed(tmp_path):
    """A mirror serves another six of the same version."""
    wheel = tmp_path / "six-1.17.0-py2.py3-none-any.whl"
    files = {
        "six.py": b"raise SystemExit('executed')\n",
        "six-1.17.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: six\nVersion: 1.17.0\n",
        "six-1.17.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()},\n"
        for name, data in files.items()
    )
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in {**files, "six-1.17.0.dist-info/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    version, digests = pins(FILES[0])["six"]
    assert version == "1.17.0"
    lines = {"pinned": " ".join(["six==1.17.0", *(f"--hash={one}" for one in digests)])}
    lines["ours"] = f"six==1.17.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    codes = {}
    for name, line in lines.items():
        requirements = tmp_path / f"{name}.txt"
        requirements.write_text(line + "\n")
        done = subprocess.run(
            [sys.executable, "-I", "-m", "pip", "--isolated", "install", "--no-index",
             "--find-links", tmp_path, "--require-hashes", "--target", tmp_path / name,
             "--requirement", requirements],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        codes[name] = done.returncode
    assert codes == {"pinned": 1, "ours": 0}  # with the digest of what is served, pip would take it
    assert not (tmp_path / "pinned").exists()


def test_every_installation_of_the_image_is_verified():
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    commands = re.findall(r"\bpip install [^\n&|;]*", text)
    assert len(commands) == 2
    for command in commands:
        assert "--require-hashes" in command or "--no-index" in command
    build = (ROOT / "tools/build_horovod.sh").read_text()
    downloads = re.findall(
        r"^ *pip (?:install --target|download) .*(?:\\\n.*)*", build, re.MULTILINE
    )
    assert len(downloads) == 3
    assert "--hash=sha256:$RELEASE_SHA256" in build
    assert sum("--require-hashes" in command for command in downloads) == 2
