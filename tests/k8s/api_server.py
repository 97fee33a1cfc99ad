"""A stand-in for a Kubernetes API server: real HTTP, for the real client and real processes.

It differs from a real server in this:
- An apply merges into what is there; fields that are left out stay.
- There are no controllers. Two things happen by themselves: pods of a job that is suspended or
  deleted end after `pods_end_after_s`, and what a deleted object owns goes with it. Other pods and
  all statuses are what a test puts there.
- `exec` runs the command here, with `claim` in the place of /shared.
- A list is whole: there are no pages, and nothing can be watched.
"""

import copy
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from tests.k8s import exec_socket
from tests.k8s.admission import invalid, pod_security_warning
from tests.k8s.cluster_state import RESOURCES, ClusterState

# What kubectl asks for first.
_VERBS = ["get", "list", "create", "patch", "delete"]
DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": name, "singularName": "", "kind": kind, "namespaced": True, "verbs": _VERBS}
            for name, (kind, group, _) in RESOURCES.items()
            if not group
        ],
    },
}
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)/namespaces/(?P<namespace>[^/]+)"
    r"(?:/(?P<resource>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?)?"
)


@contextmanager
def serving(claim):
    """(server, address) of a server that runs."""
    server = ClusterState(claim)

    class Handler(_Handler):
        api = server

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def kubeconfig(path, address, namespace=None, token="a-token"):  # noqa: S107
    """Writes the file that kubectl and the client read."""
    context = {"cluster": "it", "user": "me"} | ({"namespace": namespace} if namespace else {})
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "it", "cluster": {"server": address}}],
                "users": [{"name": "me", "user": {"token": token}}],
                "contexts": [{"name": "it", "context": context}],
                "current-context": "it",
            }
        )
    )
    return path


class _Refused(Exception):
    """Ends a request with a Status."""

    def __init__(self, code, reason, message, **details):
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two wait 40 ms for each other
    api: ClusterState

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def do_PATCH(self):
        self._answer(self._patch)

    def do_DELETE(self):
        self._answer(self._delete)

    def _answer(self, act):
        self.warning = None
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length).decode()
        url = urlsplit(self.path)
        self.api.requests.append((self.command, self.path))
        self.query = parse_qsl(url.query)
        self.option = dict(self.query)
        try:
            if url.path in DISCOVERY:
                code, answer = 200, DISCOVERY[url.path]
            else:
                self._find(url.path)
                with self.api.lock:
                    code, answer = act()
        except _Refused as refused:
            code, answer = refused.code, refused.status
        if callable(answer):
            answer()
        elif answer is not None:
            self._send(code, json.dumps(answer).encode())

    def _send(self, code, data, content_type="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        if self.warning is not None:
            quoted = self.warning.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{quoted}"')
        self.end_headers()
        self.wfile.write(data)

    def _find(self, path):
        """Reads the path; refuses those the server does not know, and what the user may not do."""
        if self.api.token and self.headers.get("Authorization") != f"Bearer {self.api.token}":
            raise _Refused(401, "Unauthorized", "Unauthorized")
        found = _PATH.fullmatch(path)
        parts = found.groupdict() if found else {}
        self.namespace, self.resource = parts.get("namespace"), parts.get("resource")
        self.name, self.sub = unquote(parts.get("name") or "") or None, parts.get("sub")
        if found and self.resource is None:
            self.group = ""
            self._check_may("get", "namespaces")
            return
        kind, self.group, version = RESOURCES.get(self.resource, (None, None, None))
        unknown = (parts.get("group") or "", parts.get("version")) != (self.group, version)
        if kind is None or unknown or (kind == "MPIJob" and not self.api.mpi_operator):
            # Not a Status: no handler of the API has this path.
            text = b"404 page not found\n"
            refused = _Refused(404, "", "")
            refused.status = lambda: self._send(404, text, "text/plain; charset=utf-8")
            raise refused
        verb = {"GET": "get" if self.name else "list"}.get(self.command, self.command.lower())
        self._check_may(
            "create" if self.sub == "exec" else verb,
            self.resource + (f"/{self.sub}" if self.sub else ""),
        )

    def _check_may(self, verb, resource):
        if (verb, resource) in self.api.forbidden:
            full = f"{resource}.{self.group}" if self.group else resource
            named = f' "{self.name}"' if self.name else ""
            raise _Refused(
                403,
                "Forbidden",
                f'{full}{named} is forbidden: User "me" cannot {verb} resource "{resource}" in API '
                f'group "{self.group}" in the namespace "{self.namespace}"',
                name=self.name or "",
                group=self.group,
                kind=resource,
            )

    @property
    def _full(self):
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def _missing(self):
        message = f'{self._full} "{self.name}" not found'
        group = {"group": self.group} if self.group else {}
        return _Refused(404, "NotFound", message, name=self.name, kind=self.resource, **group)

    def _check_namespace(self):
        if self.namespace not in self.api.namespaces:
            message = f'namespaces "{self.namespace}" not found'
            raise _Refused(404, "NotFound", message, name=self.namespace, kind="namespaces")

    def _get(self):
        if self.resource is None:
            self._check_namespace()
            return 200, {"kind": "Namespace", "metadata": {"name": self.namespace}}
        if self.name is None:
            return 200, self._list()
        found = self.api.objects.get((self.resource, self.namespace, self.name))
        if found is None:
            raise self._missing()
        if self.sub == "log":
            return 200, lambda: self._log(found)
        if self.sub == "exec":
            return 200, self._exec
        return 200, found

    def _list(self):
        kind, group, version = RESOURCES[self.resource]
        items = [
            # Items of a list do not say their kind.
            {key: value for key, value in found.items() if key not in ("kind", "apiVersion")}
            for (resource, namespace, _), found in sorted(self.api.objects.items())
            if (resource, namespace) == (self.resource, self.namespace)
            and _fits_labels(found, self.option.get("labelSelector", ""))
            and _fits_fields(found, self.option.get("fieldSelector", ""))
        ]
        return {
            "kind": f"{kind}List",
            "apiVersion": f"{group}/{version}" if group else version,
            "metadata": {"resourceVersion": "1"},
            "items": items,
        }

    def _patch(self):
        self._check_namespace()
        key = (self.resource, self.namespace, self.name)
        before = self.api.objects.get(key)
        change = yaml.safe_load(self.body)
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            self._check_apply(change, before)
        elif before is None:
            raise self._missing()
        after = _merged(before or {}, change)
        after["metadata"]["namespace"] = self.namespace
        self._check(after, before)
        if self.option.get("dryRun") != "All":
            after = self.api.store(self.resource, after)
            own = after["spec"] if self.resource == "jobs" else after.get("spec", {})
            if (own.get("runPolicy", own)).get("suspend"):
                self.api.end_pods(self.name)
        return (201 if before is None else 200), after

    def _check_apply(self, change, before):
        if not self.option.get("fieldManager"):
            raise _Refused(400, "BadRequest", "fieldManager is required for apply patch")
        kind, group, version = RESOURCES[self.resource]
        wanted = (f"{group}/{version}" if group else version, kind, self.name)
        if (change["apiVersion"], change["kind"], change["metadata"]["name"]) != wanted:
            raise _Refused(400, "BadRequest", "the object does not match the request")
        if before is None and self.resource in self.api.quota:
            used = f"count/{self._full}"
            raise _Refused(
                403,
                "Forbidden",
                f'{self._full} "{self.name}" is forbidden: exceeded quota: team, requested: '
                f"{used}=1, used: {used}=2, limited: {used}=2",
                name=self.name,
                kind=self.resource,
            )
        if self.namespace == "restricted":
            self.warning = pod_security_warning(change)

    def _check(self, after, before):
        server_side = ("creationTimestamp", "uid", "resourceVersion", "deletionTimestamp")
        metadata = {k: v for k, v in after["metadata"].items() if k not in server_side}
        message = invalid({**after, "metadata": metadata})
        of_a_job = self.resource == "jobs" and before is not None
        if message is None and of_a_job and _template(after) != _template(before):
            message = f'Job.batch "{self.name}" is invalid: spec.template: field is immutable'
        if message is not None:
            raise _Refused(422, "Invalid", message, name=self.name, kind=after["kind"])

    def _post(self):
        raise _Refused(502, "", "no kubelet is here")

    def _delete(self):
        key = (self.resource, self.namespace, self.name)
        found = self.api.objects.get(key)
        if found is None:
            raise self._missing()
        self.api.collect(found["metadata"]["uid"])
        if self.resource in ("jobs", "mpijobs"):
            assert self.option["propagationPolicy"] == "Foreground"
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.api.end_pods(self.name)
            return 200, found
        del self.api.objects[key]
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _log(self, pod):
        """Lines so far, in chunks; with follow those to come, until the pod has ended."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        while True:
            ended = pod["status"]["phase"] != "Running"
            new = self.api.logs.get(self.name, [])[sent:]
            for line in new:
                data = f"{line}\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
            sent += len(new)
            if ended or "follow" not in self.option:
                break
            time.sleep(0.02)
        self.wfile.write(b"0\r\n\r\n")

    def _exec(self):
        here = str(self.api.claim)
        command = [v.replace("/shared", here) for key, v in self.query if key == "command"]
        exec_socket.serve(self, command, {"PATH": "/usr/bin:/bin"})


def _template(job):
    return job["spec"]["template"]


def _fits_labels(found, selector):
    """`a=b` and `a in (b,c)`, joined by commas."""
    labels = found["metadata"].get("labels", {})
    for part in filter(None, re.split(r",(?![^(]*\))", selector)):
        one = re.fullmatch(r"(\S+?)(?:=| in \()([^)]*)\)?", part)
        if labels.get(one[1]) not in one[2].split(","):
            return False
    return True


def _fits_fields(found, selector):
    for part in filter(None, selector.split(",")):
        path, _, wanted = part.partition("=")
        value = found
        for name in path.split("."):
            value = value.get(name, {})
        if value != wanted:
            return False
    return True


def _merged(before, change):
    after = copy.deepcopy(before)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(after.get(key), dict)
        after[key] = _merged(after[key], value) if both else copy.deepcopy(value)
    return after
