"""Explains the error responses of the API server, and what to do about them."""

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
    """The cluster cannot be reached, or cannot process the request now."""


class NoCluster(SettingsError):
    """No cluster is configured.

    Args:
      why: The file that was read, and what is wrong with it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"no cluster is configured ({why}). Set KUBECONFIG to the file that kubectl uses"
        )
        self.why = why


class Unreachable(ClusterError):
    """The cluster does not respond."""


class KindMissing(SettingsError):
    """The server does not know the kind, because its operator is not installed."""


class Forbidden(SettingsError):
    """The user does not have the permission."""


class NotThere(PipelineError, LookupError):
    """There is no object of this name."""


def explain(error: Any, verb: str, path: str) -> PipelineError:
    """Returns an error with one message that explains the response.

    Args:
      error: An ApiException of the client.
      verb: The Kubernetes verb of the request: get, patch, delete.
      path: The path of the request.
    """
    status, message = _status(error)
    if error.status == 404:
        return _not_found(status, message, path)
    if error.status == 401:
        return SettingsError(
            f"the cluster rejects your credentials: {message}. Log in again, or check the user "
            "that `kubectl config view --minify` shows"
        )
    if error.status == 403:
        return _forbidden(message, verb, path)
    if error.status in (400, 422):
        return SettingsError(f"the cluster rejects the request: {message}")
    if error.status == 409:
        return ClusterError(
            f"the object was changed by somebody else at the same time: {message}. Try again"
        )
    if error.status == 429:
        return ClusterError(f"the cluster is overloaded: {message}. Try again later")
    if not error.status:
        return ClusterError(f"cannot connect to the cluster: {message}")
    return ClusterError(f"the cluster responds with {error.status}: {message}")


def unreachable(host: str, error: Exception) -> Unreachable:
    """Returns the error for a failed connection."""
    what = str(error).rpartition(": ")[2]
    return Unreachable(
        f"cannot reach the cluster at {host}: {what}. Check that it is running, and that "
        "KUBECONFIG names the right cluster: `kubectl cluster-info` connects to the same server"
    )


def _status(error: Any) -> tuple[dict[str, Any], str]:
    """Returns the Status object of a response, or {}, and in any case a message."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    text = str(body or error.reason or "")
    # If a websocket is refused, the response is part of its message.
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
    # Without a Status, or with one that has no name, the path is unknown rather than the object.
    if not name and "kubeflow.org" in path:
        return KindMissing(
            "this cluster has no MPIJobs (kubeflow.org/v2beta1): the MPI operator is not "
            f"installed. Leave out --backend mpijob, or have it installed: {_INSTALL}"
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
            f"the namespace's quota is exhausted: {message}. Request less, delete finished jobs "
            "(`vit jobs`, `vit delete NAME`), or have the quota raised"
        )
    found = _CANNOT.search(message)
    if found is None:
        return Forbidden(f"the cluster does not allow you to {verb} {path}: {message}")
    may, resource, group, namespace = found.groups()
    kind = f"{resource}.{group}" if group else resource
    where = f" in namespace {namespace}" if namespace else ""
    return Forbidden(
        f"you are not allowed to {may} {kind}{where}. Ask the administrator for a role with this "
        f"permission, or give another --namespace; `kubectl auth can-i {may} {kind}` checks it"
    )
