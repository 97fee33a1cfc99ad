"""The state of a job, read from its objects: its phase, and why it is waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from k8s.api import ClusterApi, Manifest
from k8s.api_errors import Forbidden, KindMissing
from k8s.create import OURS
from k8s.manifests import MIN_NODES, RUN, SLOTS
from pipeline.errors import SettingsError

QUEUE = "kueue.x-k8s.io/queue-name"
_INDEX = "batch.kubernetes.io/job-completion-index"
_ROLE = "training.kubeflow.org/job-role"
# Reasons for which a container waits although nothing is wrong.
_NORMAL = ("ContainerCreating", "PodInitializing")
_FAILED = {
    "BackoffLimitExceeded": "it failed more often than --max-restarts allows",
    "DeadlineExceeded": "its --deadline has passed",
}
_CODES = {2: "settings are wrong", 3: "the data is missing or wrong"}


@dataclass(frozen=True)
class JobView:
    """A job and its pods, as they were when they were read.

    Attributes:
      main: The Job or MPIJob.
      pods: The pods, the oldest first.
    """

    main: Manifest
    pods: tuple[Manifest, ...]

    @property
    def name(self) -> str:
        """The name of the job."""
        return str(self.main["metadata"]["name"])

    @property
    def is_mpi(self) -> bool:
        """Whether the MPI operator runs it. If so, the launcher has all logs."""
        return bool(self.main["kind"] == "MPIJob")

    @property
    def nodes(self) -> int:
        """The number of pods that compute."""
        if self.is_mpi:
            return int(self.main["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"])
        return int(self.main["spec"].get("completions", 1))

    @property
    def min_nodes(self) -> int:
        """The number of pods below which the job does not train."""
        annotations = self.main["metadata"].get("annotations", {})
        return int(annotations.get(MIN_NODES, self.nodes))

    @property
    def slots(self) -> int:
        """The number of processes per pod."""
        return int(self.main["metadata"].get("annotations", {}).get(SLOTS, "1"))

    @property
    def run(self) -> str:
        """The run folder on the claim; empty if the verb has none."""
        return str(self.main["metadata"].get("annotations", {}).get(RUN, ""))

    @property
    def queued_by_kueue(self) -> bool:
        """Whether Kueue decides when the job runs."""
        return QUEUE in self.main["metadata"].get("labels", {})

    @property
    def suspended(self) -> bool:
        """Whether the job is suspended."""
        spec = self.main["spec"]
        return bool((spec["runPolicy"] if self.is_mpi else spec).get("suspend", False))

    @property
    def end(self) -> tuple[str, str] | None:
        """("done" or "failed", reason) for a job that has ended, otherwise None."""
        for condition in self.main.get("status", {}).get("conditions") or []:
            if condition["status"] != "True":
                continue
            if condition["type"] in ("Complete", "Succeeded"):
                return "done", ""
            if condition["type"] == "Failed":
                return "failed", self._why_failed(condition)
        return None

    @property
    def restarts(self) -> int:
        """The number of pod replacements. Evicted pods leave no trace and are not counted."""
        if not self.pods:
            return 0
        return max(Counter(index_of(pod) for pod in self.pods).values()) - 1

    def newest(self, index: str) -> Manifest | None:
        """Returns the pod that was created last for a node."""
        return next((pod for pod in reversed(self.pods) if index_of(pod) == index), None)

    def _why_failed(self, condition: Manifest) -> str:
        reason = condition.get("reason", "")
        codes = {exit_of(pod)[0] for pod in self.pods}
        for code, meaning in _CODES.items():
            if code in codes:
                return f"{meaning} (exit code {code}): vit logs {self.name}"
        return _FAILED.get(reason) or condition.get("message") or reason


def index_of(pod: Manifest) -> str:
    """Returns the node of a pod: "0", "1", ...; for an MPIJob, "launcher" or "worker-0"."""
    labels = pod["metadata"].get("labels", {})
    role = labels.get(_ROLE)
    if role == "worker":
        return f"worker-{labels.get('training.kubeflow.org/replica-index', '?')}"
    return str(role or labels.get(_INDEX, "0"))


def exit_of(pod: Manifest) -> tuple[int | None, str]:
    """Returns the exit code and the reason of a pod that has ended."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or []:
        ended = container.get("state", {}).get("terminated")
        if ended:
            return int(ended["exitCode"]), str(status.get("reason") or ended.get("reason", ""))
    return None, str(status.get("reason", ""))


def read_jobs(cluster: ClusterApi) -> list[JobView]:
    """Returns all jobs of this package in the namespace, sorted by name."""
    ours = "=".join(OURS)
    jobs = cluster.list("Job", labels=ours)
    with suppress(KindMissing, Forbidden):  # Without the operator, nobody has a role for its kind.
        jobs += cluster.list("MPIJob", labels=ours)
    pods = cluster.list("Pod", labels=ours) if jobs else []
    return [_view(job, pods) for job in sorted(jobs, key=lambda job: job["metadata"]["name"])]


def read_job(cluster: ClusterApi, name: str) -> JobView:
    """Returns one job.

    Raises:
      SettingsError: There is no job of this name; the message lists the existing ones.
    """
    jobs = read_jobs(cluster)
    for job in jobs:
        if job.name == name:
            return job
    cluster.check_namespace()
    there = ", ".join(job.name for job in jobs) or "none"
    raise SettingsError(
        f"there is no job {name} in namespace {cluster.namespace}: give an existing one "
        f"({there}), or another --namespace"
    )


def _view(main: Manifest, pods: Sequence[Manifest]) -> JobView:
    domain = "training.kubeflow.org" if main["kind"] == "MPIJob" else "batch.kubernetes.io"
    label, name = f"{domain}/job-name", main["metadata"]["name"]
    own = [pod for pod in pods if pod["metadata"].get("labels", {}).get(label) == name]
    return JobView(main, tuple(sorted(own, key=lambda pod: pod["metadata"]["creationTimestamp"])))


def describe(cluster: ClusterApi, job: JobView) -> str:
    """Describes the state in a few words, with the reason if the job is not running."""
    active = [pod for pod in job.pods if pod["status"].get("phase") in ("Pending", "Running")]
    if "deletionTimestamp" in job.main["metadata"]:
        return "being deleted"
    if job.end is not None:
        return ": ".join(part for part in job.end if part)
    if job.suspended and active:
        return "stopping"
    if job.suspended:
        return "queued" if job.queued_by_kueue else "stopped"
    running = [index_of(pod) for pod in active if pod["status"].get("phase") == "Running"]
    ready = sum(index != "launcher" for index in running)
    launched = not job.is_mpi or "launcher" in running
    if launched and job.min_nodes <= ready < job.nodes:
        return f"running, {ready} of {job.nodes} nodes"
    if why := why_waiting(cluster, job):
        return f"waiting: {why}"
    return "running" if launched and ready >= job.nodes else "starting"


def why_waiting(cluster: ClusterApi, job: JobView) -> str:
    """Returns why pods of a job do not start or are not created; empty if nothing prevents it."""
    pending = [pod for pod in job.pods if pod["status"].get("phase") == "Pending"]
    for pod in pending:
        if why := why_pending(cluster, pod):
            return why
    alive = pending or any(pod["status"].get("phase") == "Running" for pod in job.pods)
    if alive:
        return ""
    # The MPI operator creates its launcher as a Job.
    names = [job.name, *([f"{job.name}-launcher"] if job.is_mpi else [])]
    # Warnings that are older than the last pod no longer apply.
    since = max((pod["metadata"]["creationTimestamp"] for pod in job.pods), default="")
    return next((why for name in names if (why := _last_warning(cluster, name, since))), "")


def why_pending(cluster: ClusterApi, pod: Manifest) -> str:
    """Returns why a pod does not start; empty if it is just starting."""
    status = pod["status"]
    for condition in status.get("conditions") or []:
        unscheduled = condition["type"] == "PodScheduled" and condition["status"] == "False"
        if unscheduled:
            return str(condition.get("message") or condition.get("reason", ""))
    for waiting in _waiting(status):
        reason = waiting.get("reason", "")
        if reason not in _NORMAL:
            return f"{reason}: {waiting['message']}" if waiting.get("message") else reason
    return _last_warning(cluster, pod["metadata"]["name"])


def _waiting(status: Manifest) -> Iterator[Manifest]:
    for container in status.get("containerStatuses") or []:
        if waiting := container.get("state", {}).get("waiting"):
            yield waiting


def _last_warning(cluster: ClusterApi, name: str, since: str = "") -> str:
    try:
        events = cluster.list("Event", fields=f"involvedObject.name={name},type=Warning")
    except Forbidden:
        return ""
    # The status of a pod says whether it waits for a node; the event would outlast that.
    events = [e for e in events if _time(e) >= since and e.get("reason") != "FailedScheduling"]
    if not events:
        return ""
    last = max(events, key=_time)
    return f"{last.get('reason', '')}: {' '.join(last.get('message', '').split())}"


def _time(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
