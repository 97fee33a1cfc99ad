"""What a job's objects say about it: how far it is, and why it waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from k8s.api import ClusterApi, Manifest
from k8s.api_errors import Forbidden, KindMissing
from k8s.create import OURS
from k8s.manifests import RUN, SLOTS
from pipeline.errors import SettingsError

QUEUE = "kueue.x-k8s.io/queue-name"
_INDEX = "batch.kubernetes.io/job-completion-index"
_ROLE = "training.kubeflow.org/job-role"
# What a container waits for where nothing is wrong.
_USUAL = ("ContainerCreating", "PodInitializing")
_FAILED = {
    "BackoffLimitExceeded": "it failed more often than --max-restarts allows",
    "DeadlineExceeded": "its --deadline is over",
}
_CODES = {2: "settings are wrong", 3: "the data is missing or wrong"}


@dataclass(frozen=True)
class JobView:
    """A job and its pods, as they were when they were read.

    Attributes:
      main: The Job or MPIJob.
      pods: Oldest first.
    """

    main: Manifest
    pods: tuple[Manifest, ...]

    @property
    def name(self) -> str:
        """Of the job."""
        return str(self.main["metadata"]["name"])

    @property
    def is_mpi(self) -> bool:
        """Whether the MPI operator runs it: all logs are then the launcher's."""
        return bool(self.main["kind"] == "MPIJob")

    @property
    def nodes(self) -> int:
        """Pods that compute."""
        if self.is_mpi:
            return int(self.main["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"])
        return int(self.main["spec"].get("completions", 1))

    @property
    def slots(self) -> int:
        """Processes a pod."""
        return int(self.main["metadata"].get("annotations", {}).get(SLOTS, "1"))

    @property
    def run(self) -> str:
        """The run folder on the claim, empty where the verb has none."""
        return str(self.main["metadata"].get("annotations", {}).get(RUN, ""))

    @property
    def queued_by_kueue(self) -> bool:
        """Whether Kueue decides when it runs."""
        return QUEUE in self.main["metadata"].get("labels", {})

    @property
    def suspended(self) -> bool:
        """Whether it is asked not to run."""
        spec = self.main["spec"]
        return bool((spec["runPolicy"] if self.is_mpi else spec).get("suspend", False))

    @property
    def end(self) -> tuple[str, str] | None:
        """("done" or "failed", why) of a job that has ended."""
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
        """Times that pods were replaced; those evicted leave no trace and are not counted."""
        if not self.pods:
            return 0
        return max(Counter(index_of(pod) for pod in self.pods).values()) - 1

    def newest(self, index: str) -> Manifest | None:
        """The last pod that was made for a node."""
        return next((pod for pod in reversed(self.pods) if index_of(pod) == index), None)

    def _why_failed(self, condition: Manifest) -> str:
        reason = condition.get("reason", "")
        codes = {exit_of(pod)[0] for pod in self.pods}
        for code, meaning in _CODES.items():
            if code in codes:
                return f"{meaning} (exit code {code}): vit logs {self.name}"
        return _FAILED.get(reason) or condition.get("message") or reason


def index_of(pod: Manifest) -> str:
    """Which node's pod it is: "0", "1", ..., of an MPIJob "launcher" or "worker-0"."""
    labels = pod["metadata"].get("labels", {})
    role = labels.get(_ROLE)
    if role == "worker":
        return f"worker-{labels.get('training.kubeflow.org/replica-index', '?')}"
    return str(role or labels.get(_INDEX, "0"))


def exit_of(pod: Manifest) -> tuple[int | None, str]:
    """Exit code and reason of a pod that has ended."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or []:
        ended = container.get("state", {}).get("terminated")
        if ended:
            return int(ended["exitCode"]), str(status.get("reason") or ended.get("reason", ""))
    return None, str(status.get("reason", ""))


def read_jobs(cluster: ClusterApi) -> list[JobView]:
    """All jobs of ours in the namespace, by name."""
    ours = "=".join(OURS)
    jobs = cluster.list("Job", labels=ours)
    with suppress(KindMissing, Forbidden):  # without the operator nobody has a role for its kind
        jobs += cluster.list("MPIJob", labels=ours)
    pods = cluster.list("Pod", labels=ours) if jobs else []
    return [_view(job, pods) for job in sorted(jobs, key=lambda job: job["metadata"]["name"])]


def read_job(cluster: ClusterApi, name: str) -> JobView:
    """One of them.

    Raises:
      SettingsError: There is none of this name; lists those there are.
    """
    jobs = read_jobs(cluster)
    for job in jobs:
        if job.name == name:
            return job
    cluster.check_namespace()
    there = ", ".join(job.name for job in jobs) or "none"
    raise SettingsError(
        f"there is no job {name} in namespace {cluster.namespace}: give one that is there "
        f"({there}), or another --namespace"
    )


def _view(main: Manifest, pods: Sequence[Manifest]) -> JobView:
    domain = "training.kubeflow.org" if main["kind"] == "MPIJob" else "batch.kubernetes.io"
    label, name = f"{domain}/job-name", main["metadata"]["name"]
    own = [pod for pod in pods if pod["metadata"].get("labels", {}).get(label) == name]
    return JobView(main, tuple(sorted(own, key=lambda pod: pod["metadata"]["creationTimestamp"])))


def describe(cluster: ClusterApi, job: JobView) -> str:
    """The job's state in a few words, with the reason where it does not run."""
    active = [pod for pod in job.pods if pod["status"].get("phase") in ("Pending", "Running")]
    if "deletionTimestamp" in job.main["metadata"]:
        return "being deleted"
    if job.end is not None:
        return ": ".join(part for part in job.end if part)
    if job.suspended and active:
        return "stopping"
    if job.suspended:
        return "queued" if job.queued_by_kueue else "stopped"
    if why := why_waiting(cluster, job):
        return f"waiting: {why}"
    wanted = job.nodes + job.is_mpi
    ready = sum(pod["status"].get("phase") == "Running" for pod in active)
    return "running" if ready >= wanted else "starting"


def why_waiting(cluster: ClusterApi, job: JobView) -> str:
    """What keeps pods of a job from starting, or from being made; empty where nothing does."""
    pending = [pod for pod in job.pods if pod["status"].get("phase") == "Pending"]
    for pod in pending:
        if why := why_pending(cluster, pod):
            return why
    alive = pending or any(pod["status"].get("phase") == "Running" for pod in job.pods)
    if alive:
        return ""
    # The MPI operator makes its launcher as a Job.
    names = [job.name, *([f"{job.name}-launcher"] if job.is_mpi else [])]
    # What kept the last pod from being made is over when it was made.
    since = max((pod["metadata"]["creationTimestamp"] for pod in job.pods), default="")
    return next((why for name in names if (why := _last_warning(cluster, name, since))), "")


def why_pending(cluster: ClusterApi, pod: Manifest) -> str:
    """What keeps a pod from starting; empty where it only takes its time."""
    status = pod["status"]
    for condition in status.get("conditions") or []:
        unscheduled = condition["type"] == "PodScheduled" and condition["status"] == "False"
        if unscheduled:
            return str(condition.get("message") or condition.get("reason", ""))
    for waiting in _waiting(status):
        reason = waiting.get("reason", "")
        if reason not in _USUAL:
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
    # A pod that waits for a node says so itself, and no longer once it has one.
    events = [e for e in events if _time(e) >= since and e.get("reason") != "FailedScheduling"]
    if not events:
        return ""
    last = max(events, key=_time)
    return f"{last.get('reason', '')}: {' '.join(last.get('message', '').split())}"


def _time(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
