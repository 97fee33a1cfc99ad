"""What an answer of the API server that is no success means, and what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.errors import PipelineError, SettingsError

_INSTALL = "https://github.com/kubeflow/mpi-operator#installation"
_CANNOT = re.compile(
    r'cannot (\S+) resource "(\S+)" in API group "(\S*)"(?: in the namespace "(\S+)")?'
)


class ClusterError(PipelineError):
    """The cluster cannot be reached, or cannot do it now."""


class NoCluster(SettingsError):
    """Nothing says which cluster to talk to.

    Args:
      why: What was looked at, and what is wrong with it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"cannot tell which cluster to talk to ({why}). Set KUBECONFIG to the file that "
            "kubectl uses"
        )
        self.why = why


class Unreachable(ClusterError):
    """The cluster does not answer."""


class KindMissing(SettingsError):
    """The server does not know the kind: its operator is not installed."""


class Forbidden(SettingsError):
    """The user may not do it."""


class NotThere(PipelineError, LookupError):
    """No object of this name."""


def explain(error: Any, verb: str, path: str) -> PipelineError:
    """One message for an answer.

    Args:
      error: An ApiException of the client.
      verb: What was asked, in Kubernetes' words: get, patch, delete.
      path: Of the request.
    """
    status, message = _status(error)
    if error.status == 404:
        return _not_found(status, message, path)
    if error.status == 401:
        return SettingsError(
            f"the cluster does not know you: {message}. Log in again, or look at the user that "
            "`kubectl config view --minify` shows"
        )
    if error.status == 403:
        return _forbidden(message, verb, path)
    if error.status in (400, 422):
        return SettingsError(f"the cluster refuses it: {message}")
    if error.status == 409:
        return ClusterError(f"somebody else changed it meanwhile: {message}. Try again")
    if error.status == 429:
        return ClusterError(f"the cluster asks to wait: {message}. Try again later")
    if not error.status:
        return ClusterError(f"cannot talk to the cluster: {message}")
    return ClusterError(f"the cluster answers {error.status}: {message}")


def unreachable(host: str, error: Exception) -> Unreachable:
    """For a connection that failed."""
    what = str(error).rpartition(": ")[2]
    return Unreachable(
        f"cannot reach the cluster at {host}: {what}. Look whether it is up, and whether "
        "KUBECONFIG names the right one: `kubectl cluster-info` asks the same server"
    )


def _status(error: Any) -> tuple[dict[str, Any], str]:
    """The Status object of an answer, empty where there is none, and a message in any case."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    text = str(body or error.reason or "")
    # A refused websocket carries the answer inside its own message.
    shake = re.search(r"Handshake status (\d+) .*?-\+-\+- (?:b['\"])?(\{\".*\})", text, re.DOTALL)
    if shake:
        error.status, text = int(shake[1]), shake[2].encode().decode("unicode_escape")
    try:
        status = json.loads(text)
    except ValueError:
        return {}, " ".join(text.split())[:300] or "no reason"
    if not isinstance(status, dict):
        return {}, text[:300]
    return status, str(status.get("message", text)).strip()


def _not_found(status: dict[str, Any], message: str, path: str) -> PipelineError:
    details = status.get("details") or {}
    name = details.get("name")
    # Not a Status, or one without a name: the path is unknown, not the object.
    if not name and "kubeflow.org" in path:
        return KindMissing(
            "this cluster has no MPIJobs (kubeflow.org/v2beta1): the MPI operator is not "
            f"installed. Leave --backend mpijob out, or let it be installed: {_INSTALL}"
        )
    if not name:
        return ClusterError(f"the server does not know {path}: is it Kubernetes? {message}")
    if details.get("kind") == "namespaces":
        return SettingsError(
            f"there is no namespace {name}. Give another with --namespace, or create it: "
            f"kubectl create namespace {name}"
        )
    return NotThere(message)


def _forbidden(message: str, verb: str, path: str) -> SettingsError:
    if "exceeded quota" in message:
        return SettingsError(
            f"the namespace's quota is used up: {message}. Ask for less, delete what is done "
            "(`vit jobs`, `vit delete NAME`), or have the quota raised"
        )
    found = _CANNOT.search(message)
    if found is None:
        return Forbidden(f"the cluster forbids to {verb} {path}: {message}")
    may, resource, group, namespace = found.groups()
    kind = f"{resource}.{group}" if group else resource
    where = f" in namespace {namespace}" if namespace else ""
    return Forbidden(
        f"you may not {may} {kind}{where}. Ask whoever runs the cluster for a role with it, or "
        f"give another --namespace; `kubectl auth can-i {may} {kind}` asks the same"
    )
