"""What the stand-in for an API server holds, and what a test changes of it."""

import copy
import itertools
import threading
from datetime import UTC, datetime

# Resource: kind, group, version.
RESOURCES = {
    "configmaps": ("ConfigMap", "", "v1"),
    "events": ("Event", "", "v1"),
    "persistentvolumeclaims": ("PersistentVolumeClaim", "", "v1"),
    "pods": ("Pod", "", "v1"),
    "secrets": ("Secret", "", "v1"),
    "services": ("Service", "", "v1"),
    "networkpolicies": ("NetworkPolicy", "networking.k8s.io", "v1"),
    "deployments": ("Deployment", "apps", "v1"),
    "jobs": ("Job", "batch", "v1"),
    "mpijobs": ("MPIJob", "kubeflow.org", "v2beta1"),
}
OF_KIND = {kind: resource for resource, (kind, _, _) in RESOURCES.items()}


class ClusterState:
    """Objects, and how the server is to behave.

    Attributes:
      objects: By (resource, namespace, name).
      requests: (method, path with query) of all that was asked.
      namespaces: Those there are; "restricted" has the level of Pod Security of that name.
      mpi_operator: Whether the kind MPIJob is there.
      forbidden: (verb, resource) pairs that answer 403.
      quota: Resources of which no more may be created.
      token: That a client must send, or None.
      logs: Lines of each pod.
      claim: The folder that is /shared in pods.
    """

    def __init__(self, claim):
        self.objects = {}
        self.requests = []
        self.namespaces = {"default", "restricted"}
        self.mpi_operator = False
        self.forbidden = set()
        self.quota = set()
        self.token = None
        self.logs = {}
        self.claim = claim
        self.pods_end_after_s = 0.2
        self.lock = threading.RLock()
        self._versions = itertools.count(1)

    def put(self, kind, name, namespace="default", labels=None, **rest):
        """Creates or replaces an object, as a controller or another user would."""
        resource = OF_KIND[kind]
        _, group, version = RESOURCES[resource]
        metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
        manifest = {
            "apiVersion": f"{group}/{version}" if group else version,
            "kind": kind,
            "metadata": metadata | rest.pop("metadata", {}),
            **rest,
        }
        return self.store(resource, manifest)

    def store(self, resource, manifest):
        with self.lock:
            metadata = manifest["metadata"]
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            metadata.setdefault("creationTimestamp", now)
            version = next(self._versions)
            metadata.setdefault("uid", f"00000000-0000-4000-8000-{version:012d}")
            metadata["resourceVersion"] = str(version)
            self.objects[resource, metadata["namespace"], metadata["name"]] = manifest
            return manifest

    def find(self, kind, name, namespace="default"):
        """An object, or None."""
        return self.objects.get((OF_KIND[kind], namespace, name))

    def names(self):
        """(kind, name) of all but claims and pods, sorted."""
        return sorted(
            (RESOURCES[resource][0], name)
            for resource, _, name in self.objects
            if resource not in ("persistentvolumeclaims", "pods", "events")
        )

    def add_claim(self, name, *modes):
        """A bound claim."""
        spec = {"accessModes": list(modes or ("ReadWriteMany",)), "volumeName": f"pv-{name}"}
        return self.put("PersistentVolumeClaim", name, spec=spec, status={"phase": "Bound"})

    def add_pod(self, job, index, name=None, phase="Running", **status):
        """A pod as a job's controller makes it: index of an Indexed Job, or role of an MPIJob."""
        main = self.find("Job", job) or self.find("MPIJob", job)
        if main["kind"] == "Job":
            template = main["spec"]["template"]
            own = {"job-name": job, "job-completion-index": str(index)}
            own = {f"batch.kubernetes.io/{key}": value for key, value in own.items()}
        else:
            template = main["spec"]["mpiReplicaSpecs"][index.capitalize()]["template"]
            own = {"job-name": job, "job-role": index, "replica-index": "0"}
            own = {f"training.kubeflow.org/{key}": value for key, value in own.items()}
        state = {
            "Running": {"running": {}},
            "Pending": {"waiting": {"reason": "ContainerCreating"}},
        }
        containers = [{"name": "vit", "restartCount": 0, "state": state.get(phase, {})}]
        scheduled = {"type": "PodScheduled", "status": "True"}
        return self.put(
            "Pod",
            name or f"{job}-{index}-{next(self._versions):05d}",
            labels=template["metadata"]["labels"] | own,
            spec=copy.deepcopy(template["spec"]) | {"nodeName": f"node-{index}"},
            status={"phase": phase, "conditions": [scheduled], "containerStatuses": containers}
            | status,
        )

    def end_pods(self, job):
        """Soon, those of a job are gone."""

        def end():
            with self.lock:
                for key, pod in list(self.objects.items()):
                    labels = pod["metadata"].get("labels", {})
                    if key[0] == "pods" and labels.get("app.kubernetes.io/instance") == job:
                        del self.objects[key]
                for key, found in list(self.objects.items()):
                    if key[2] == job and "deletionTimestamp" in found["metadata"]:
                        del self.objects[key]

        timer = threading.Timer(self.pods_end_after_s, end)
        timer.daemon = True
        timer.start()

    def collect(self, uid):
        """Deletes what an object owns."""
        for key, found in list(self.objects.items()):
            owners = found["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == uid for owner in owners):
                del self.objects[key]
