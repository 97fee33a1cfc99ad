"""What a cluster would refuse or stumble over, and no schema sees. Written from Kubernetes' docs.

Each function yields sentences; none where all is well.
"""

import re

from kubernetes.utils.quantity import parse_quantity

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
REPLICA_KINDS = ("Launcher", "Worker")
ENUMERATIONS = {
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "completionMode": {"Indexed", "NonIndexed"},
    "podReplacementPolicy": {"Failed", "TerminatingOrFailed"},
    "fsGroupChangePolicy": {"OnRootMismatch", "Always"},
    "medium": {"", "Memory"},
    "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    "action": {"FailJob", "Ignore", "Count", "FailIndex"},
    "launcherCreationPolicy": {"AtStartup", "WaitForWorkersReady"},
    "cleanPodPolicy": {"None", "Running", "All"},
    "mpiImplementation": {"OpenMPI", "Intel", "MPICH"},
    "policyTypes": {"Ingress", "Egress"},
}


def problems(manifests):
    """Of all manifests of one job together."""
    for manifest in manifests:
        yield from _enumerations(manifest, manifest["kind"])
        yield from _metadata(manifest)
        for template in templates(manifest):
            yield from _pod(template, manifests)
    yield from _names(manifests)
    yield from _selectors(manifests)
    yield from _visitors(manifests)
    for manifest in manifests:
        if manifest["kind"] == "Job":
            yield from _job(manifest)
        if manifest["kind"] == "MPIJob":
            yield from _mpijob(manifest)


def templates(manifest):
    """The pod templates of a workload."""
    spec = manifest.get("spec", {})
    if "template" in spec:
        yield spec["template"]
    for replica in spec.get("mpiReplicaSpecs", {}).values():
        yield replica["template"]


def restricted(template):
    """Against the restricted Pod Security Standard, v1.36."""
    pod = template["spec"]
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        yield "runAsNonRoot must be true, and runAsUser not 0"
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile must be RuntimeDefault"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"{name} is not allowed"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}:
            yield f"the volume {volume['name']} is of a kind that is not allowed"
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield "allowPrivilegeEscalation must be false"
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"]:
            yield "capabilities must drop ALL"
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield "no capability but NET_BIND_SERVICE may be added"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield "hostPort is not allowed"


def _enumerations(value, where):
    if isinstance(value, dict):
        for key, inner in value.items():
            allowed = ENUMERATIONS.get(key)
            if allowed is not None:
                given = inner if isinstance(inner, list) else [inner]
                yield from (f"{where}.{key}: {one}" for one in given if one not in allowed)
            yield from _enumerations(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _enumerations(inner, f"{where}[{i}]")


def _metadata(manifest):
    name = manifest["metadata"]["name"]
    if not LABEL.fullmatch(name):
        yield f"{manifest['kind']} {name} is no DNS label"
    for value in manifest["metadata"].get("labels", {}).values():
        if not LABEL_VALUE.fullmatch(value):
            yield f"{value} cannot be a label's value"


def _pod(template, manifests):
    pod = template["spec"]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    config_maps = {m["metadata"]["name"] for m in manifests if m["kind"] == "ConfigMap"}
    for volume in volumes.values():
        named = volume.get("configMap", {}).get("name")
        if named is not None and named not in config_maps:
            yield f"no ConfigMap {named}"
    secrets = {m["metadata"]["name"] for m in manifests if m["kind"] == "Secret"}
    for container in pod["containers"]:
        for entry in container.get("env", []):
            named = entry.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
            if named is not None and named not in secrets:
                yield f"no Secret {named}"
        mounts = container.get("volumeMounts", [])
        if {mount["name"] for mount in mounts} != set(volumes):
            yield "volumes and mounts differ"
        if len({mount["mountPath"] for mount in mounts}) != len(mounts):
            yield "two mounts at one place"
        yield from _resources(container["resources"], volumes)
        # $(NAME) would be replaced by the kubelet.
        words = [*container.get("command", []), *container.get("args", [])]
        yield from (f"{word!r} is no string" for word in words if not isinstance(word, str))
        yield from (f"{word!r} would be expanded" for word in words if "$(" in str(word))


def _resources(resources, volumes):
    requests, limits = resources.get("requests", {}), resources["limits"]
    for name, quantity in {**requests, **limits}.items():
        if parse_quantity(str(quantity)) <= 0:
            yield f"{name} is {quantity}"
    for name in set(requests) & set(limits):
        if parse_quantity(str(requests[name])) > parse_quantity(str(limits[name])):
            yield f"more {name} is requested than the limit"
    for name, quantity in limits.items():
        if "/" in name and not isinstance(quantity, int):
            yield f"{name} must be whole"
    in_memory = sum(
        parse_quantity(volume["emptyDir"]["sizeLimit"])
        for volume in volumes.values()
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    )
    if in_memory >= parse_quantity(limits["memory"]):
        yield "volumes in memory are as large as the memory"


def _names(manifests):
    seen = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    if len(set(seen)) < len(seen):
        yield "two objects with one name"
    if len({m["metadata"].get("namespace") for m in manifests}) > 1:
        yield "objects in several namespaces"


def _selectors(manifests):
    services = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Service"}
    for manifest in manifests:
        if manifest["kind"] == "Job" and (subdomain := _spec(manifest).get("subdomain")):
            wanted = {"batch.kubernetes.io/job-name": manifest["metadata"]["name"]}
            service = services.get(subdomain)
            if service is None or service["selector"] != wanted:
                yield f"no Service {subdomain} that selects the pods"
            elif service["clusterIP"] != "None" or not service["publishNotReadyAddresses"]:
                yield "the Service must be headless and name pods that are not ready"
        if manifest["kind"] == "Deployment":
            labels = manifest["spec"]["template"]["metadata"]["labels"].items()
            wanted = manifest["spec"]["selector"]["matchLabels"].items()
            service = services[manifest["metadata"]["name"]]["selector"].items()
            if not (wanted <= labels and service <= labels):
                yield "a selector does not fit the Deployment's pods"


def _visitors(manifests):
    """Who reaches the pods: those of a job each other, and TensorBoard nobody."""
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    for manifest in manifests:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind == "Job" and "subdomain" not in _spec(manifest):
            continue  # one process, without a port
        for template in templates(manifest):
            own = pod_labels(manifest, template)
            if lets_in(policies, own, {"app.kubernetes.io/name": "vit-pipeline"}):
                yield f"the pods of {kind} {name} let in those of other jobs"
            for peer in templates(manifest):
                among = lets_in(policies, own, pod_labels(manifest, peer))
                if among != (kind != "Deployment"):
                    yield f"the pods of {kind} {name} let each other in: {among}"


def pod_labels(manifest, template):
    """Those of the template, and those that the Job's controller adds."""
    name = manifest["metadata"]["name"]
    added = {"batch.kubernetes.io/job-name": name} if manifest["kind"] == "Job" else {}
    return template["metadata"]["labels"] | added


def lets_in(policies, pod, visitor):
    """Whether a pod with these labels takes connections of another one of its namespace."""
    chosen = [
        policy
        for policy in policies
        if policy["podSelector"]["matchLabels"].items() <= pod.items()
        and "Ingress" in policy["policyTypes"]
    ]
    peers = [peer for policy in chosen for rule in policy["ingress"] for peer in rule["from"]]
    return not chosen or any(
        peer["podSelector"]["matchLabels"].items() <= visitor.items() for peer in peers
    )


def _spec(manifest):
    return manifest["spec"]["template"]["spec"]


def _job(manifest):
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    if spec["completions"] != spec["parallelism"]:
        yield "all pods must run at once"
    if not LABEL.fullmatch(f"{name}-{spec['completions'] - 1}"):
        yield "the last pod's name is no DNS label"
    if spec["podReplacementPolicy"] != "Failed" or _spec(manifest)["restartPolicy"] != "Never":
        yield "podFailurePolicy needs podReplacementPolicy Failed and restartPolicy Never"
    if spec["backoffLimit"] % spec["completions"]:
        yield "every rank's exit counts: backoffLimit must be a multiple of the nodes"
    containers = {container["name"] for container in _spec(manifest)["containers"]}
    for rule in spec["podFailurePolicy"]["rules"]:
        if ("onExitCodes" in rule) == ("onPodConditions" in rule):
            yield "a rule has one of onExitCodes and onPodConditions"
        codes = rule.get("onExitCodes", {"values": [1], "containerName": "vit", "operator": "In"})
        if codes["operator"] == "In" and 0 in codes["values"]:
            yield "0 cannot be a failure"
        if codes["containerName"] not in containers or codes["values"] != sorted(codes["values"]):
            yield "onExitCodes names no container, or its values are not in order"


def _mpijob(manifest):
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    replicas = spec["mpiReplicaSpecs"]
    if set(replicas) != set(REPLICA_KINDS) or replicas["Launcher"]["replicas"] != 1:
        yield "an MPIJob has one Launcher and Workers"
    if not LABEL.fullmatch(f"{name}-worker-{replicas['Worker']['replicas'] - 1}"):
        yield "the last worker's name is no DNS label"
    for replica in replicas.values():
        if replica["restartPolicy"] not in ("Never", "OnFailure"):
            yield f"an MPIJob's restartPolicy cannot be {replica['restartPolicy']}"
    worker = replicas["Worker"]["template"]["spec"]["containers"][0]
    gpus = worker["resources"]["limits"].get("nvidia.com/gpu", 1)
    if spec["slotsPerWorker"] != gpus:
        yield "slotsPerWorker must be the worker's GPUs"
    if spec["launcherCreationPolicy"] == "WaitForWorkersReady" and "readinessProbe" not in worker:
        yield "workers without a readinessProbe are ready before their sshd is"
    if not spec["runPolicy"]["backoffLimit"] >= 0:
        yield "backoffLimit is negative"
