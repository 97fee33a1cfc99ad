"""What the MPI operator does with an MPIJob, after its documentation and its genuine run."""

import subprocess
import threading
import time
from pathlib import Path

from tests.k8s.pods import ROOT

# What the image has in /etc/ssh, beside what Debian's packages put there.
IMAGE_FILES = {
    "/etc/ssh/sshd_config.d/vit.conf": "tools/image/sshd.conf",
    "/etc/ssh/ssh_config.d/vit.conf": "tools/image/ssh.conf",
}


class MPIJob:
    """One job: workers with sshd, then a launcher that knows them by a hostfile.

    Attributes:
      launcher: Its pod, once it was started.
      workers: Theirs.
    """

    def __init__(self, cluster, manifest):
        self._cluster, self._manifest = cluster, manifest
        self._name, self._spec = manifest["metadata"]["name"], manifest["spec"]
        self._replicas = self._spec["mpiReplicaSpecs"]
        self._files = {
            place: ((ROOT / source).read_text(), 0o644) for place, source in IMAGE_FILES.items()
        }
        self._files |= self._keys()
        self.launcher, self.workers = None, []

    def resume(self):
        """Starts the workers, and the launcher, which may have to wait until all are ready."""
        worker = self._replicas["Worker"]
        self.workers = [self._start_worker(i) for i in range(worker["replicas"])]
        container = worker["template"]["spec"]["containers"][0]
        assert container["readinessProbe"]["tcpSocket"]["port"] == container["ports"][0]["name"]
        limit = time.monotonic() + 60
        waits = self._spec["launcherCreationPolicy"] == "WaitForWorkersReady"
        while waits and not all(
            w.answers(container["ports"][0]["containerPort"]) for w in self.workers
        ):
            assert time.monotonic() < limit, [w.log for w in self.workers]
            time.sleep(0.2)
        self.start_launcher()

    def start_launcher(self):
        """Starts the launcher, or the one that replaces a lost one."""
        slots = self._spec["slotsPerWorker"]
        hosts = [f"{w.name}.{self._name}.{self._cluster.namespace}.svc" for w in self.workers]
        text = "".join(f"{host} slots={slots}\n" for host in hosts)
        variables = {"OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile"}
        self.launcher = self._start(
            f"{self._name}-launcher",
            self._replicas["Launcher"]["template"],
            {"/etc/mpi/hostfile": (text, 0o644)},
            variables,
        )

    def lose_worker(self, index):
        """As if its node had lost power."""
        self.workers[index].destroy()

    def replace_worker(self, index):
        """As the operator does when a worker's pod was deleted: another one with its name."""
        self.workers[index] = self._start_worker(index)

    def suspend(self):
        """As `runPolicy.suspend: true`: launcher and workers are deleted at the same time."""
        pods = [self.launcher, *self.workers]
        deletions = [threading.Thread(target=pod.delete) for pod in pods if pod.code is None]
        for deletion in deletions:
            deletion.start()
        for deletion in deletions:
            deletion.join()

    def wait(self, timeout_s):
        """The launcher's exit code; an error with all logs after `timeout_s`."""
        limit = time.monotonic() + timeout_s
        while self.launcher.code is None:
            if time.monotonic() > limit:
                raise TimeoutError("\n---\n".join(p.log for p in (self.launcher, *self.workers)))
            time.sleep(0.2)
        return self.launcher.code

    def _start_worker(self, index):
        template = self._replicas["Worker"]["template"]
        return self._start(f"{self._name}-worker-{index}", template, {})

    def _start(self, name, template, files, variables=()):
        pod = self._cluster.start(name, template, variables, self._files | files)
        self._cluster.know(name, self._name)
        return pod

    def _keys(self):
        """The secret with one key for all, where the manifest wants it."""
        key = self._cluster.folder / "id_rsa"
        command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", key]
        subprocess.run(command, check=True)
        public = Path(f"{key}.pub").read_text()
        place = self._spec["sshAuthMountPath"]
        return {
            f"{place}/id_rsa": (key.read_text(), 0o600),
            f"{place}/id_rsa.pub": (public, 0o600),
            f"{place}/authorized_keys": (public, 0o600),
        }
