"""Fuzzes every parser that reads bytes from other people, by Atheris (libFuzzer for Python).

    python -m tests.security.fuzz --seconds 60 [TARGET ...]

Each target of targets.py runs in a process of its own with limited memory. A finding is an input
that raises another error than one with a message, crashes the process, takes more than 10 s, or
takes more memory than the limit. Its bytes are kept in --found, and the exit code is 1. Put a
finding that was repaired into tests/security/found/TARGET, which `make test` replays.

References:
  Atheris: https://github.com/google/atheris
  libFuzzer's options: https://llvm.org/docs/LibFuzzer.html#options
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = (
    "recipe", "list", "tfrecord", "tfrecord-index", "prepared", "shard", "cifar", "weights",
    "image", "rendezvous",
)  # fmt: skip
# They import TensorFlow, which the others need not wait for.
EXPORTS = ("saved-model", "keras", "onnx")
ALL = (*NAMES, *EXPORTS)
_SLOWEST_S = 10
# NumPy, Pillow and Atheris take 300 MB, and TensorFlow 700 MB more.
_MEMORY_MB, _MEMORY_OF_EXPORTS_MB = 1024, 2048
_LONGEST_BYTES = 1 << 16  # or that of the longest seed
# Packages whose branches guide the search.
_INSTRUMENTED = ["pipeline", "yaml", "csv", "json", "zipfile", "PIL"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=[], metavar="TARGET", help=", ".join(ALL))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="for findings")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(ALL):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Targets: {', '.join(ALL)}")
    if arguments.child:
        _fuzz(arguments.targets[0], arguments.seconds, arguments.found)
        return 0
    findings = 0
    print(f"{'target':16}{'seconds':>8}{'inputs':>10}{'branches':>10}  findings", flush=True)
    for name in arguments.targets or ALL:
        findings += _run(name, arguments.seconds, arguments.found / name)
    return 1 if findings else 0


def _run(name: str, seconds: int, found: Path) -> int:
    """Fuzzes one target, again after each finding while there is time; returns how many there were.

    libFuzzer ends at its first finding.
    """
    found.mkdir(parents=True, exist_ok=True)
    start_s = time.monotonic()
    inputs = branches = 0
    kinds: dict[str, int] = {}
    while (left_s := seconds - (time.monotonic() - start_s)) > 0 and sum(kinds.values()) < 20:
        command = [sys.executable, "-m", "tests.security.fuzz", "--child", name]
        command += ["--seconds", str(max(1, int(left_s))), "--found", str(found)]
        # Python's tracebacks go to standard output, libFuzzer's lines to standard error.
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        counted = re.findall(r"^#(\d+)\s.*?cov: (\d+)", done.stdout, re.MULTILINE)
        inputs += int(counted[-1][0]) if counted else 0
        branches = max([branches, *(int(cov) for _, cov in counted)])
        if done.returncode == 0:
            break
        kind = _kind(done.stdout)
        kinds[kind] = kinds.get(kind, 0) + 1
        if "INFO: Seed:" not in done.stdout:
            raise SystemExit(f"{name} did not start:\n{done.stdout}")
        with (found / "log.txt").open("a") as log:
            log.write(done.stdout[-20_000:])
    taken_s = time.monotonic() - start_s
    told = "; ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "none"
    print(f"{name:16}{taken_s:8.0f}{inputs:10,}{branches:10,}  {told}", flush=True)
    return sum(kinds.values())


def _kind(text: str) -> str:
    """What libFuzzer or Python said of a finding, and where in our code it happened."""
    trace = text.rpartition("Traceback (most recent call last):")[2] if "Traceback" in text else ""
    if error := re.search(r"^[A-Za-z_][\w.]*(:.*)?$", trace, re.MULTILINE):
        places = re.findall(r'File "\S*?/(pipeline/[^"]+)", line (\d+)', trace)
        return f"{error[0][:80]} at {':'.join(places[-1]) if places else 'elsewhere'}"
    found = re.search(r"(?:ERROR: libFuzzer|SUMMARY): (.*)", text)
    return found[1] if found else "ended without a message"


def _fuzz(name: str, seconds: int, found: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        if name in EXPORTS:
            from tests.security.export_targets import TARGETS
        else:
            from tests.security.targets import TARGETS
    target = TARGETS[name]
    seeds = target.seeds()
    longest = max([_LONGEST_BYTES, *map(len, seeds)])
    memory_mb = _MEMORY_OF_EXPORTS_MB if name in EXPORTS else _MEMORY_MB
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        options = [
            f"-max_total_time={seconds}", f"-timeout={_SLOWEST_S}", f"-rss_limit_mb={memory_mb}",
            f"-max_len={longest}", f"-artifact_prefix={found}/",
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *options, corpus], target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
