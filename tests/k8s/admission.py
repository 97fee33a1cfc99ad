"""What a real API server says to a manifest: schema, rules across fields, Pod Security.

Only what tests need. Real servers know many more rules, and answer an unknown field of an apply
with another message.
"""

import re

import kubernetes_validate

_SCHEMAS = "1.34"
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def invalid(manifest):
    """Why the server would answer 422, or None."""
    title = {"Job": "Job.batch", "MPIJob": "MPIJob.kubeflow.org"}.get(
        manifest["kind"], manifest["kind"]
    )
    title += f' "{manifest["metadata"]["name"]}" is invalid: '
    try:
        _check_schema(manifest)
    except kubernetes_validate.ValidationError as error:
        return f"{title}{'.'.join(map(str, error.path))}: {error.message}"
    for path, pod in pods(manifest):
        for value in pod.get("nodeSelector", {}).values():
            if not _LABEL.fullmatch(value):
                return (
                    f'{title}{path}.nodeSelector: Invalid value: "{value}": a valid label must be '
                    "an empty string or consist of alphanumeric characters, '-', '_' or '.'"
                )
    return None


def _check_schema(manifest):
    if manifest["kind"] != "MPIJob":
        kubernetes_validate.validate(manifest, _SCHEMAS, strict=True)
        return
    # There is no schema of the kind; but of the pods in it.
    for replica in manifest["spec"]["mpiReplicaSpecs"].values():
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "template": replica["template"]}
        kubernetes_validate.validate(wrapped, _SCHEMAS, strict=True)


def pods(manifest):
    """(path, spec) of each pod template in it."""
    if manifest["kind"] in ("Job", "Deployment"):
        yield "spec.template.spec", manifest["spec"]["template"]["spec"]
    if manifest["kind"] == "MPIJob":
        for name, replica in manifest["spec"]["mpiReplicaSpecs"].items():
            yield f"spec.mpiReplicaSpecs[{name}].template.spec", replica["template"]["spec"]


def pod_security_warning(manifest):
    """The warning of a namespace with the restricted level, or None.

    Like the real one it knows no templates of an MPIJob.
    """
    if manifest["kind"] == "MPIJob":
        return None
    found = []
    for _, pod in pods(manifest):
        for container in pod["containers"]:
            named, own = f'container "{container["name"]}"', container.get("securityContext", {})
            capabilities = own.get("capabilities", {})
            if own.get("allowPrivilegeEscalation") is not False:
                found.append(
                    f"allowPrivilegeEscalation != false ({named} must set securityContext."
                    "allowPrivilegeEscalation=false)"
                )
            if "ALL" not in capabilities.get("drop", []):
                found.append(
                    f"unrestricted capabilities ({named} must set "
                    'securityContext.capabilities.drop=["ALL"])'
                )
            if added := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
                names = ", ".join(f'"{name}"' for name in sorted(added))
                found.append(
                    f"unrestricted capabilities ({named} must not include {names} in "
                    "securityContext.capabilities.add)"
                )
        if pod.get("securityContext", {}).get("runAsNonRoot") is not True:
            found.append(
                "runAsNonRoot != true (pod or containers must set "
                "securityContext.runAsNonRoot=true)"
            )
    return f'would violate PodSecurity "restricted:latest": {", ".join(found)}' if found else None
