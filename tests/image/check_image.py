"""Builds the image for CPUs and runs it as a cluster would; `make test-image` starts it.

    python -m tests.image.check_image

The base is Debian's bookworm from debootstrap, so no registry of images is needed: root, Debian's
mirror and a package index are. podman runs the containers as a restricted pod would be run: uid
1000, a read-only root, no capabilities. One line a check; the first that fails ends it with 1.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
STORAGE = ROOT / "build" / "image-storage"
BASE, IMAGE = "localhost/vit-base:bookworm", "localhost/vit-pipeline:checked"
# What Restricted Pod Security and `readOnlyRootFilesystem` make of a container. podman mounts a
# fresh /tmp, as the cluster mounts an emptyDir.
RESTRICTED = (
    "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
)  # fmt: skip
# Each with Debian's package of it.
PROGRAMS = {
    "podman": "podman",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "ssh-keygen": "openssh-client",
}
# For a start on a machine that does much else; what takes longer hangs.
_LIMIT_S = 240.0


class CheckError(Exception):
    """Something that must hold did not."""


def main():
    # So that what was made is removed too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="image-"))
    try:
        install_packages()
        set_environment(folder)
        build_base(folder)
        build_image()
        check_labels()
        with server(folder) as inside:
            check_contents(inside)
            check_ssh(inside)
        check_training(folder)
    except CheckError as error:
        print(f"FAILED: {error}", flush=True)
        return 1
    finally:
        clean_up()
        shutil.rmtree(folder)
    print(f"all held, {time.monotonic() - start_s:.0f} s")
    return 0


def install_packages():
    absent = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if not absent:
        return
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise CheckError(f"install {', '.join(absent)}; this needs root, and apt-get to do it here")
    run("apt-get", "update")
    run("apt-get", "install", "--yes", "--no-install-recommends", *absent)


def set_environment(folder):
    """Settings by which podman works inside a container too, and keeps all it makes in STORAGE."""
    # vfs copies every layer, and works where overlay does not.
    driver = os.environ.setdefault("STORAGE_DRIVER", "overlay")
    STORAGE.mkdir(parents=True, exist_ok=True)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\n'
        f'graphroot = "{STORAGE}/layers"\nrunroot = "{STORAGE}/run"\n'
    )
    # Left alone, podman raises the limits, which takes more than root in a container may.
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=8192:8192", "nproc=4096:4096"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nruntime = "runc"\nevents_logger = "file"\n'
    )
    os.environ |= {
        "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
        "CONTAINERS_CONF": f"{folder}/containers.conf",
        "BUILDAH_ISOLATION": "chroot",
        # A layer a stage, not one a step.
        "BUILDAH_LAYERS": "false",
        "DEBIAN_FRONTEND": "noninteractive",
    }


def build_base(folder):
    start_s = time.monotonic()
    base = folder / "base"
    run("debootstrap", "--variant=minbase", "--include=python3", "bookworm", base)
    run("tar", "-C", base, "-cf", folder / "base.tar", ".")
    run("podman", "import", "--quiet", folder / "base.tar", BASE)
    held(f"a base of Debian bookworm: {time.monotonic() - start_s:.0f} s")


def build_image():
    start_s = time.monotonic()
    settings = {"ENGINE": "podman", "FLAVOUR": "cpu", "IMAGE": IMAGE, "BASE_IMAGE": BASE}
    run("make", "image", *(f"{name}={value}" for name, value in settings.items()), cwd=ROOT)
    size = int(run("podman", "image", "inspect", "--format", "{{.Size}}", IMAGE))
    held(f"make image: {time.monotonic() - start_s:.0f} s, {size / 1e9:.2f} GB")


def check_labels():
    labels = json.loads(run("podman", "image", "inspect", "--format", "{{json .Labels}}", IMAGE))
    names = ("title", "description", "version", "revision", "licenses", "base.name")
    empty = [name for name in names if not labels.get(f"org.opencontainers.image.{name}")]
    must(not empty, f"labels: {', '.join(names)}", f"empty: {empty}")


@contextmanager
def server(folder):
    """A container with sshd as its process 1, as a worker of an MPIJob; gives what runs in it."""
    keys = folder / "ssh"
    keys.mkdir()
    run("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", keys / "id_rsa")
    shutil.copy(keys / "id_rsa.pub", keys / "authorized_keys")
    # As the kubelet mounts a Secret: root's, and the group's to read.
    for file in keys.iterdir():
        os.chown(file, 0, 1000)
        file.chmod(0o640)
    container = start(
        f"--volume={keys}:/home/vit/.ssh:ro", "--entrypoint=/usr/sbin/sshd", command=["-De"]
    )
    yield lambda *command: run("podman", "exec", container, *command)
    run("podman", "rm", "--force", "--time=0", container)


def check_contents(inside):
    must_be(inside("sh", "-c", "echo $(id -u):$(id -g)"), "1000:1000", "the user")
    must_be(inside("grep", "CapEff", "/proc/1/status").split()[1], "0" * 16, "the capabilities")
    touched = inside("sh", "-c", "touch /opt/vit/file 2>&1 || true")
    must("Read-only file system" in touched, "the root cannot be written to", touched)
    tools = "gcc g++ cc c++ cmake make ld nvcc"
    found = inside("sh", "-c", f"for tool in {tools}; do command -v $tool; done; true")
    must(not found, f"no build tools ({tools})", found)
    names = package_names(inside("pip", "freeze"))
    unpinned = names - package_names((ROOT / "constraints.txt").read_text())
    must(not unpinned, f"constraints.txt pins all {len(names)} Python packages", unpinned)
    version = inside("vit", "--version")
    must(re.fullmatch(r"vit [\d.]+", version), f"vit --version: {version}", version)
    inside("python", "-c", "import horovod.tensorflow")
    built = inside("horovodrun", "--check-build")
    must("[X] TensorFlow" in built and "[X] Gloo" in built, "Horovod has TensorFlow, Gloo", built)
    test = json.loads(
        run("podman", "image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", IMAGE)
    )
    inside(*test[1:])
    held("the health check is content")


def check_ssh(inside):
    inside("/usr/sbin/sshd", "-t")
    held("sshd -t accepts the settings")
    over_ssh = inside("ssh", "localhost", "vit --version && touch $HOME/file && id -u")
    must(over_ssh.endswith("\n1000"), "ssh leads to vit, with a home to write to", over_ssh)


def check_training(folder):
    """SIGTERM to process 1 in the middle of training, and the same command again."""
    settings = ("train.max_steps=400", "train.log_every_steps=5", "checkpoint.every_epochs=null")
    train = ("train", "digits", *settings)
    runs = empty_runs(folder, "alone")
    step = check_stop(runs, train, "vit train")
    code, log = end(start(mounted(runs), command=train))
    result = re.search(r"^test accuracy.*", log, re.MULTILINE)
    goes_on = f"resuming from runs/digits/checkpoints/{step}" in log
    must(code == "0" and goes_on and result, "the same command goes on from it, to its end", log)

    launch = ("launch", "--hosts=localhost", "--processes-per-node=2", "--", "vit", *train)
    check_stop(empty_runs(folder, "launched"), launch, "vit launch of two processes")


def check_stop(runs, command, what):
    """Returns the name of the checkpoint that a stopped command leaves."""
    container = start(mounted(runs), command=command)
    rows = runs / "digits" / "metrics.jsonl"
    wait_until(lambda: rows.exists() and rows.read_text().count("\n") >= 3, container)
    start_s = time.monotonic()
    run("podman", "kill", "--signal=TERM", container)
    code, log = end(container)
    seconds = time.monotonic() - start_s
    must(code == "75", f"SIGTERM to {what} as process 1: exit 75 after {seconds:.0f} s", log)
    steps = sorted(path.name for path in (runs / "digits" / "checkpoints").glob("step-*"))
    newest = steps[-1] if steps else "nothing"
    must(
        newest.startswith("step-") and newest != "step-00000000",
        f"{newest} is in the mounted run folder",
        log,
    )
    return newest


def empty_runs(folder, name):
    runs = folder / f"runs-{name}"
    runs.mkdir()
    os.chown(runs, 1000, 1000)
    return runs


def mounted(runs):
    return f"--volume={runs}:/home/vit/runs"


def package_names(requirements):
    """Of `name==version` lines, as indexes compare names."""
    names = re.findall(r"^([\w.-]+)==", requirements, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def start(*options, command):
    """Starts the image in the background; returns the container's id."""
    return run("podman", "run", "--detach", *RESTRICTED, *options, IMAGE, *command)


def wait_until(happened, container):
    end_s = time.monotonic() + _LIMIT_S
    while not happened():
        if not (found := state(container)).startswith("running") or time.monotonic() > end_s:
            raise CheckError(f"the container is {found}:\n{printed(container)}")
        time.sleep(0.2)


def end(container):
    """Waits for its end; returns its exit code and what it printed."""
    end_s = time.monotonic() + _LIMIT_S
    # `podman wait` takes 20 s longer.
    while (found := state(container)).startswith("running"):
        if time.monotonic() > end_s:
            raise CheckError(f"the container runs on:\n{printed(container)}")
        time.sleep(0.2)
    return found.split()[1], printed(container)


def state(container):
    return run("podman", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container)


def printed(container):
    return run("podman", "logs", container, stderr=subprocess.STDOUT)


def run(*command, cwd=None, stderr=subprocess.PIPE):
    """Returns what a command prints to standard output; raises where it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        tail = "\n".join(f"{done.stdout}{done.stderr or ''}".splitlines()[-30:])
        raise CheckError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{tail}")
    return done.stdout.strip()


def must(holds, what, received):
    if not holds:
        raise CheckError(f"{what}. Received:\n{received}")
    held(what)


def must_be(received, expected, what):
    must(received == expected, f"{what}: {expected}", received)


def held(what):
    print(f"held: {what}", flush=True)


def clean_up():
    """Removes containers, images and their folder."""
    if "CONTAINERS_STORAGE_CONF" in os.environ and STORAGE.exists():
        subprocess.run(["podman", "rm", "--all", "--force", "--time=0"], capture_output=True)
        subprocess.run(["podman", "rmi", "--all", "--force"], capture_output=True)
        # The overlay driver leaves its folder mounted onto itself.
        subprocess.run(["umount", STORAGE / "layers" / "overlay"], capture_output=True)
        shutil.rmtree(STORAGE, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
