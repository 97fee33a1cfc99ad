"""Pods without a cluster: what the kubelet and the Job controller do with a manifest, on one host.

A pod gets namespaces of its own (network, mounts, host name, processes), a root that holds this
machine's programs and cannot be written, its volumes, exactly the variables that the manifest and
Kubernetes set, and its user without capabilities. Names are known through one hosts file, which
stands for the cluster's DNS. The image is this machine: PATH is what its Dockerfile would set.
"""

import base64
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What a container has without asking, with enableServiceLinks: false.
KUBERNETES = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
}
USER = 1000


def why_not():
    """What is missing to make pods, or an empty string."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [name for name in ("ip", "unshare", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install iproute2 util-linux"
    probe = "mount -t tmpfs tmpfs /mnt && hostname probe"
    unshare = ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "sh", "-c", probe]
    done = subprocess.run(unshare, capture_output=True, text=True)
    return done.stderr.strip()


def run(*command):
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


class Cluster:
    """A switch, names, and one claim; `close` ends all pods.

    Args:
      folder: For claim, logs and what is mounted.
      namespace: Whose name the pods' full names have.
    """

    def __init__(self, folder, namespace="default"):
        self.folder, self.namespace = folder, namespace
        self.claim = folder / "claim"
        self.claim.mkdir()
        os.chown(self.claim, USER, USER)  # fsGroup
        self.hosts = folder / "hosts"
        self.config_maps, self.secrets = {}, {}
        self._names, self._pods, self._count = {}, [], 0
        self._switch = f"vit{os.getpid()}s"
        run("ip", "netns", "add", self._switch)
        run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        self.write_names()

    def apply(self, manifests):
        """Keeps ConfigMaps and Secrets; returns the others by kind."""
        kept = {"ConfigMap": self.config_maps, "Secret": self.secrets}
        for manifest in manifests:
            if manifest["kind"] in kept:
                kept[manifest["kind"]][manifest["metadata"]["name"]] = manifest["data"]
        return {m["kind"]: m for m in manifests if m["kind"] not in kept}

    def start(self, name, template, variables=(), files=()):
        """Starts a pod with an address that none had before.

        Args:
          name: Its host name.
          template: Of the manifest.
          variables: That Kubernetes or an operator adds.
          files: More files by their place in the pod, as an operator mounts them: (text, mode).
        """
        self._count += 1
        address = f"198.51.100.{self._count}"
        space = f"vit{os.getpid()}p{self._count}"
        run("ip", "netns", "add", space)
        port = f"{space}v"
        run("ip", "link", "add", port, "netns", self._switch, "type", "veth",
            "peer", "name", "eth0", "netns", space)  # fmt: skip
        run("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")
        run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        run("ip", "-n", space, "link", "set", "lo", "up")
        subdomain = template["spec"].get("subdomain", "")
        self._names[name] = (address, subdomain)
        self.write_names()
        pod = Pod(self, name, space, template, dict(variables), dict(files))
        self._pods.append(pod)
        return pod

    def know(self, name, subdomain):
        """Gives a pod the names an operator's Service gives it."""
        self._names[name] = (self._names[name][0], subdomain)
        self.write_names()

    def write_names(self):
        """In place, since the file is mounted in pods."""
        lines = ["127.0.0.1 localhost"]
        for name, (address, subdomain) in self._names.items():
            full = f"{name}.{subdomain}"
            names = f"{full} {full}.{self.namespace}.svc" if subdomain else ""
            lines.append(f"{address} {name} {names}")
        with self.hosts.open("w") as stream:
            stream.write("\n".join(lines) + "\n")

    def close(self):
        for pod in self._pods:
            pod.destroy()
        subprocess.run(["ip", "netns", "del", self._switch], capture_output=True)


class Pod:
    """One pod with one container.

    Attributes:
      log: What its processes wrote.
    """

    def __init__(self, cluster, name, space, template, variables, files):
        self.name, self._space = name, space
        self._cluster, self._template = cluster, template
        self._folder = cluster.folder / space
        self._folder.mkdir()
        self.log_file = self._folder / "log"
        container = template["spec"]["containers"][0]
        script = "\n".join(
            ["set -e", *self._root(container, files), self._execute(container, variables)]
        )
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", space, "unshare", "--mount", "--uts", "--pid", "--fork",
                 "--kill-child", "--propagation", "private", "sh", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def log(self):
        return self.log_file.read_text(errors="replace")

    @property
    def code(self):
        """The container's exit code, as a kubelet gives it; None while it runs."""
        code = self.process.poll()
        return None if code is None else code if code >= 0 else 128 - code

    def terminate(self):
        """SIGTERM to process 1, as a kubelet does first; nothing if it has just ended by itself."""
        for first in self._children(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(first, signal.SIGTERM)

    def delete(self):
        """As a kubelet does it: preStop, then SIGTERM."""
        (first,) = self._children(self.process.pid)
        hook = self._template["spec"]["containers"][0].get("lifecycle", {}).get("preStop")
        if hook is not None:
            inside = ["nsenter", "--target", first, "--mount", "--net", "--pid", "--root", "--wd"]
            user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
            grace_s = self._template["spec"]["terminationGracePeriodSeconds"]
            command = [*inside, *user, *hook["exec"]["command"]]
            subprocess.run(list(map(str, command)), timeout=grace_s, check=True)
        self.terminate()

    def answers(self, port):
        """Whether something listens at a port, as a tcpSocket probe asks."""
        connect = ["ip", "netns", "exec", self._space, "bash", "-c", f"</dev/tcp/127.0.0.1/{port}"]
        return subprocess.run(connect, capture_output=True).returncode == 0

    def kill_processes(self, words):
        """SIGKILL to those of the pod's processes whose command has these words, from outside."""
        found = subprocess.run(["ip", "netns", "pids", self._space], capture_output=True, text=True)
        killed = 0
        for process in map(int, found.stdout.split()):
            try:
                command = Path(f"/proc/{process}/cmdline").read_text().split("\0")
            except OSError:
                continue
            if all(word in command for word in words):
                os.kill(process, signal.SIGKILL)
                killed += 1
        return killed

    def destroy(self):
        """Ends all of it, and takes its network away."""
        if self.process.poll() is None:
            # `unshare --kill-child` holds no longer for a process 1 that has changed its user.
            for first in self._children(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(first, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        subprocess.run(["ip", "netns", "del", self._space], capture_output=True)

    @staticmethod
    def _children(process):
        return map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())

    def _root(self, container, files):
        """Shell lines that make the pod's root and mount its volumes."""
        root, security = self._folder / "root", container["securityContext"]
        root.mkdir()
        yield f"R={shlex.quote(str(root))}"
        yield "mount -t tmpfs -o mode=755 tmpfs $R"
        yield (
            "for d in usr bin sbin lib lib64 dev sys; do [ -e /$d ] || continue\n"
            "if [ -L /$d ]; then cp -a /$d $R/$d\n"
            "else mkdir $R/$d; mount --rbind /$d $R/$d; fi; done"
        )
        yield "mkdir $R/proc $R/home $R/run; cp -a /etc $R/etc; mount -t proc proc $R/proc"
        yield f"sed -i '/:x:{USER}:/d' $R/etc/passwd $R/etc/group"
        yield f"echo vit:x:{USER}:{USER}::/home/vit:/bin/sh >>$R/etc/passwd"
        yield f"echo vit:x:{USER}: >>$R/etc/group"
        yield f"mkdir $R/home/vit; chown {USER}:{USER} $R/home/vit"
        yield "rm -f $R/etc/hosts; touch $R/etc/hosts"
        yield f"mount --bind {self._cluster.hosts} $R/etc/hosts"
        for i, (place, (text, mode)) in enumerate(files.items()):
            source = self._folder / f"file-{i}"
            source.write_text(text)
            yield f"mkdir -p $R{Path(place).parent}; cp {source} $R{place}; chown {USER} $R{place}"
            yield f"chmod {mode:o} $R{place}"
        for mount in container["volumeMounts"]:
            yield from self._volume(mount)
        # The image: this Python and this project, wherever they are.
        for path in dict.fromkeys([str(ROOT), sys.prefix, sys.base_prefix]):
            yield f"[ -e $R{path}/. ] && [ $(ls $R{path} | wc -l) -gt 0 ] || "
            yield f"{{ mkdir -p $R{path}; mount --bind {path} $R{path}; }}"
        yield f"hostname {self.name}"
        if security["readOnlyRootFilesystem"]:
            yield "mount -o remount,bind,ro $R"

    def _volume(self, mount):
        place = f"$R{mount['mountPath']}"
        volumes = {volume["name"]: volume for volume in self._template["spec"]["volumes"]}
        volume = volumes[mount["name"]]
        yield f"mkdir -p {place}"
        if "emptyDir" in volume:
            size = volume["emptyDir"].get("sizeLimit", "1Gi").removesuffix("i")
            yield f"mount -t tmpfs -o mode=1777,size={size} tmpfs {place}"
            return
        if "persistentVolumeClaim" in volume:
            source = self._cluster.claim
        else:
            source = self._folder / mount["name"]
            source.mkdir()
            for name, text in self._cluster.config_maps[volume["configMap"]["name"]].items():
                (source / name).write_text(text)
        yield f"mount --bind {source} {place}"
        if mount.get("readOnly"):
            yield f"mount -o remount,bind,ro {place}"

    def _value(self, entry):
        """A variable's value, which may be in a Secret."""
        if "value" in entry:
            return entry["value"]
        reference = entry["valueFrom"]["secretKeyRef"]
        return base64.b64decode(self._cluster.secrets[reference["name"]][reference["key"]]).decode()

    def _execute(self, container, variables):
        """The line that becomes the container's process 1."""
        pod, security = self._template["spec"]["securityContext"], container["securityContext"]
        user = [
            "setpriv",
            "--reuid",
            pod["runAsUser"],
            "--regid",
            pod["runAsGroup"],
            "--clear-groups",
        ]
        if not security["allowPrivilegeEscalation"]:
            user += ["--no-new-privs"]
        if security["capabilities"]["drop"] == ["ALL"]:
            user += ["--bounding-set=-all", "--inh-caps=-all"]
        image = {"PATH": f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)}
        own = {entry["name"]: self._value(entry) for entry in container["env"]}
        everything = image | {"HOSTNAME": self.name} | KUBERNETES | own | variables
        environment = ["env", "-i", "-C", container["workingDir"]]
        environment += [f"{name}={value}" for name, value in everything.items()]
        words = [*user, *environment, *container["command"], *container.get("args", [])]
        return f"exec chroot $R {shlex.join(map(str, words))}"


class IndexedJob:
    """What the Job controller does with an Indexed Job: pods by index, and podFailurePolicy.

    Attributes:
      pods: The newest of each index.
      failures: Ends that counted.
      ended: Every end of a pod: (index, exit code, what the policy said).
      state: "running", "complete", or "failed".
    """

    def __init__(self, cluster, manifest):
        self._cluster, self._manifest = cluster, manifest
        self._spec = manifest["spec"]
        self.pods, self.ended, self.failures = {}, [], 0
        self._done, self.state = set(), "running"

    def resume(self):
        """Starts a pod of each index that is not done."""
        for index in range(self._spec["completions"]):
            if index not in self._done:
                self._start(index)

    def suspend(self):
        """As `spec.suspend: true`: every pod gets SIGTERM, and none comes after it."""
        for pod in self.pods.values():
            if pod.code is None:
                pod.terminate()

    def look(self):
        """Deals with the pods that have ended since, and starts their successors."""
        for index, pod in list(self.pods.items()):
            if self.state != "running" or index in self._done or pod.code is None:
                continue
            said = self.judge(pod.code)
            self.ended.append((index, pod.code, said))
            self.failures += said == "Count"
            if said == "Complete":
                self._done.add(index)
            if said == "FailJob" or self.failures > self._spec["backoffLimit"]:
                self.state = "failed"
                self.suspend()
            elif said != "Complete":
                self._start(index)
        if len(self._done) == self._spec["completions"]:
            self.state = "complete"

    def run_until(self, reached, timeout_s):
        """Acts until `reached()`; an error with all logs after `timeout_s`."""
        limit = time.monotonic() + timeout_s
        while not reached():
            self.look()
            if time.monotonic() > limit:
                logs = "\n".join(f"--- {i}\n{pod.log[-4000:]}" for i, pod in self.pods.items())
                raise TimeoutError(f"not reached: {self.state}, {self.ended}\n{logs}")
            time.sleep(0.2)

    def judge(self, code):
        """The action of the first rule that fits an exit code."""
        if code == 0:
            return "Complete"
        for rule in self._spec["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes")
            if codes and (code in codes["values"]) == (codes["operator"] == "In"):
                return rule["action"]
        return "Count"

    def _start(self, index):
        if index in self.pods:
            self.pods[index].destroy()
        name = f"{self._manifest['metadata']['name']}-{index}"
        variables = {"JOB_COMPLETION_INDEX": str(index)}
        self.pods[index] = self._cluster.start(name, self._spec["template"], variables)
