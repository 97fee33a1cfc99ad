"""Requests to the API server, through the official client."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from k8s.api_errors import Forbidden, NoCluster, explain, unreachable

Manifest = dict[str, Any]

# The path of each kind. Asking the server for it (discovery) takes permissions and time.
_KINDS = {
    "ConfigMap": ("api/v1", "configmaps"),
    "Event": ("api/v1", "events"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Pod": ("api/v1", "pods"),
    "Secret": ("api/v1", "secrets"),
    "Service": ("api/v1", "services"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "Job": ("apis/batch/v1", "jobs"),
    "MPIJob": ("apis/kubeflow.org/v2beta1", "mpijobs"),
}
_MANAGER = "vit"
_CONNECT_S, _ANSWER_S, _EXEC_S = 5.0, 30.0, 10.0
_IN_A_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_WARNING = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Applied:
    """The result of applying a manifest.

    Attributes:
      object: The object, as the server returned it.
      created: Whether the object is new.
      warnings: The texts of the server's `Warning:` headers.
    """

    object: Manifest
    created: bool
    warnings: tuple[str, ...]


class ClusterApi:
    """One namespace of the cluster that kubectl uses; in a pod, the pod's own cluster.

    All methods raise the errors of `api_errors.explain`.

    Args:
      namespace: The namespace; by default that of the kubectl context, or of the pod.

    Raises:
      NoCluster: No cluster is configured.
    """

    def __init__(self, namespace: str | None = None) -> None:
        from kubernetes.client import ApiClient, Configuration
        from kubernetes.dynamic import DynamicClient

        configuration = Configuration()
        # The default is three attempts without a message, each with its own timeout: a long wait.
        configuration.retries = False
        own = _configure(configuration)
        self.namespace = namespace or own
        self._configuration = configuration
        self._client = DynamicClient(
            ApiClient(configuration), discoverer=lambda client, cache_file: None
        )

    def check_namespace(self) -> None:
        """Raises an error if the namespace does not exist. Lists of its objects are just empty."""
        # Many users may use a namespace without permission to read it.
        with suppress(Forbidden):
            self._ask("get", f"/api/v1/namespaces/{self.namespace}")

    def get(self, kind: str, name: str) -> Manifest | None:
        """Returns an object, or None if it does not exist."""
        try:
            return self._json("get", self._path(kind, name))
        except LookupError:
            return None

    def list(self, kind: str, labels: str = "", fields: str = "") -> list[Manifest]:
        """Returns the objects that match the selectors."""
        path = self._path(kind)
        answer = self._json("get", path, label_selector=labels, field_selector=fields)
        # The items of a list do not contain their kind.
        return [{"kind": kind, **item} for item in answer["items"]]

    def apply(self, manifest: Manifest, dry_run: bool = False) -> Applied:
        """Applies a manifest on the server (server-side apply)."""
        path = self._path(manifest["kind"], manifest["metadata"]["name"])
        response = self._ask(
            "patch",
            path,
            body=manifest,
            content_type="application/apply-patch+yaml",  # JSON is a subset of YAML.
            field_manager=_MANAGER,
            force_conflicts="true",
            dry_run="All" if dry_run else None,
        )
        said = response.headers.getlist("Warning")
        warnings = [re.sub(r"\\(.)", r"\1", text) for text in _WARNING.findall(" ".join(said))]
        return Applied(json.loads(response.data), response.status == 201, tuple(warnings))

    def patch(self, kind: str, name: str, change: Manifest) -> None:
        """Changes an object with a merge patch."""
        path = self._path(kind, name)
        self._json(
            "patch",
            path,
            body=change,
            content_type="application/merge-patch+json",
            field_manager=_MANAGER,
        )

    def delete(self, kind: str, name: str) -> bool:
        """Deletes an object; returns whether it existed.

        The object is marked, and is removed after its pods have ended.
        """
        try:
            self._json("delete", self._path(kind, name), propagation_policy="Foreground")
        except LookupError:
            return False
        return True

    def log(self, pod: str, container: str, follow: bool = False) -> Iterator[str]:
        """Yields the lines of a log with their line ends.

        With follow, new lines are waited for until the container ends.
        """
        response = self._ask(
            "get",
            f"{self._path('Pod', pod)}/log",
            query_params=[("container", container), *([("follow", "true")] if follow else [])],
            _request_timeout=(_CONNECT_S, None if follow else _ANSWER_S),
        )
        return _lines(response)

    def execute(self, pod: str, container: str, command: Sequence[str]) -> str:
        """Runs a command in a container, and returns its standard output."""
        from kubernetes.client import ApiClient, CoreV1Api
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream import stream

        # A separate client, because `stream` modifies the client that it is given.
        core = CoreV1Api(ApiClient(self._configuration))
        try:
            socket = stream(
                core.connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                container=container,
                command=list(command),
                stdin=False,
                stdout=True,
                stderr=False,
                tty=False,
                _preload_content=False,
            )
            socket.run_forever(timeout=_EXEC_S)
            output = str(socket.read_stdout(timeout=0))
            socket.close()
            socket.sock.shutdown()  # `close` leaves it open if the server closed first
        except ApiException as error:
            raise explain(error, "create", f"{self._path('Pod', pod)}/exec") from None
        return output

    def _path(self, kind: str, name: str = "") -> str:
        version, plural = _KINDS[kind]
        return f"/{version}/namespaces/{self.namespace}/{plural}" + (
            f"/{quote(name, safe='')}" if name else ""
        )

    def _json(self, verb: str, path: str, **options: Any) -> Manifest:
        return dict(json.loads(self._ask(verb, path, **options).data))

    def _ask(self, verb: str, path: str, **options: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        # The client's default is one list that all calls share.
        options.setdefault("query_params", [])
        options["header_params"] = {}
        options.setdefault("_request_timeout", (_CONNECT_S, _ANSWER_S))
        options = {name: value for name, value in options.items() if value not in (None, "")}
        try:
            response = self._client.request(verb, path, serialize=False, **options)
            if not path.endswith("/log"):
                response.data  # noqa: B018  # Read here, where errors are handled.
            return response
        except ApiException as error:
            raise explain(error, verb, path) from None
        except HTTPError as error:
            raise unreachable(self._configuration.host, error) from None


def _configure(configuration: Any) -> str:
    """Configures the client like kubectl, and returns the default namespace."""
    from kubernetes.config import (
        ConfigException,
        list_kube_config_contexts,
        load_incluster_config,
        load_kube_config,
    )

    named = os.environ.get("KUBECONFIG", "")
    files = named or str(Path("~/.kube/config").expanduser())
    try:
        if not named and not Path(files).exists():
            load_incluster_config(configuration)
            return _IN_A_POD.read_text().strip() if _IN_A_POD.exists() else "default"
        load_kube_config(files, client_configuration=configuration)
        _, context = list_kube_config_contexts(files)
    except (
        ConfigException, OSError, ValueError, TypeError, RecursionError, yaml.YAMLError
    ) as error:  # fmt: skip
        why = " ".join(str(error).split())
        where = f"KUBECONFIG={named}" if named else f"KUBECONFIG is not set, and {files}"
        raise NoCluster(f"{where}: {why}") from None
    return str(context["context"].get("namespace") or "default")


def _lines(response: Any) -> Iterator[str]:
    rest = b""
    for chunk in response.stream(2**16):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") + "\n" for line in whole)
    if rest:
        yield rest.decode(errors="replace")
