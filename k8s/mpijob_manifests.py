"""The manifests of a job for the MPI operator."""

from __future__ import annotations

from k8s.cluster_job import ClusterJob
from k8s.manifests import (
    RECIPE,
    Manifest,
    base,
    config_map,
    labels,
    launcher_grace_s,
    queue_labels,
    select_pods,
    set_pod,
    set_volume,
)
from pipeline.config import Config


def render_mpijob(job: ClusterJob, config: Config | None) -> list[Manifest]:
    """Returns the ConfigMap, NetworkPolicy and MPIJob of a training run.

    Args:
      job: A job whose backend is mpijob.
      config: The result of `settings_for_cluster`.
    """
    if config is None:
        raise ValueError("an MPIJob runs a training run, and needs settings")
    resources, recipe = base("mpijob"), config_map(job, config)
    policy, manifest = resources["NetworkPolicy"], resources["MPIJob"]
    policy["metadata"] = {"name": job.name, "labels": labels(job.name)}
    select_pods(policy, labels(job.name))
    manifest["metadata"] = {"name": job.name, "labels": queue_labels(job)}
    spec = manifest["spec"]
    spec["slotsPerWorker"] = job.slots
    spec["runPolicy"] |= {
        "backoffLimit": job.max_restarts,
        "activeDeadlineSeconds": job.deadline_s,
        "suspend": job.queue is not None,
    }
    launcher, worker = (spec["mpiReplicaSpecs"][kind] for kind in ("Launcher", "Worker"))
    worker["replicas"] = job.nodes
    own = launcher["template"]["spec"]["containers"][0]["resources"]
    for replica in (launcher, worker):
        set_pod(replica["template"], job, config)
    set_volume(worker["template"], "recipe", {"configMap": {"name": recipe["metadata"]["name"]}})
    container = launcher["template"]["spec"]["containers"][0]
    # The launcher starts processes in other pods, and computes nothing itself.
    container["resources"] = own
    grace = str(launcher_grace_s(config))
    container["command"] = ["vit", "mpi-launch", "--run", str(config.run.dir), "--grace-s", grace]
    if job.min_nodes is not None:
        # The launcher itself waits for enough workers, which may be fewer than all.
        spec["launcherCreationPolicy"] = "AtStartup"
        container["command"] += ["--min-nodes", str(job.min_nodes)]
    container["command"] += ["--"]
    container["args"] = ["vit", "train", RECIPE]
    return [recipe, policy, manifest]
