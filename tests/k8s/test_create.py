"""What the cluster is asked for when a job is submitted, and what is said where it refuses."""

import socket
import time

import pytest

from k8s.api import ClusterApi
from k8s.api_errors import ClusterError
from k8s.create import create
from pipeline.errors import SettingsError
from tests.k8s.api_server import kubeconfig
from tests.k8s.conftest import cluster_job, manifests, submit


def kinds(server):
    return [kind for kind, _ in server.names()]


def test_a_job_is_created_with_all_that_belongs_to_it(server):
    said = submit(cluster_job(tensorboard=True, gpus=4))
    assert said.startswith("created Job digits in namespace default: 2 pods, 8 processes\n")
    assert "vit board --kubernetes digits" in said
    assert [(kind, name.rpartition("-")[0] or name) for kind, name in server.names()] == [
        ("ConfigMap", "digits"),
        ("Deployment", "digits"),
        ("Job", "digits"),
        ("NetworkPolicy", "digits"),
        ("NetworkPolicy", "digits"),
        ("Secret", "digits"),
        ("Service", "digits"),
        ("Service", "digits"),
    ]
    uid = server.find("Job", "digits")["metadata"]["uid"]
    for kind, name in server.names():
        owners = server.find(kind, name)["metadata"].get("ownerReferences", [])
        assert [owner["uid"] for owner in owners] == ([] if kind == "Job" else [uid])


def test_the_same_job_again_changes_nothing(server):
    submit()
    before = {key: dict(found["metadata"]) for key, found in server.objects.items()}
    assert "already exists, with the same settings" in submit()
    assert {key: found["metadata"] for key, found in server.objects.items()} == before


def test_all_is_asked_for_before_anything_is_created(server):
    submit()
    patches = [path for verb, path in server.requests if verb == "PATCH" and "apply" not in path]
    dry = [("dryRun=All" in path) for path in patches]
    assert dry == sorted(dry, reverse=True)
    assert sum(dry) == 5


def test_a_dry_run_says_what_the_server_would_take_and_creates_nothing(server):
    said = submit(dry_run=True)
    assert said.startswith("the cluster would accept Job digits in namespace default: ConfigMap ")
    assert server.names() == []


def test_an_mpijob_is_created_where_the_operator_is(server):
    server.mpi_operator = True
    assert "created MPIJob digits" in submit(cluster_job(backend="mpijob"))
    assert kinds(server) == ["ConfigMap", "MPIJob", "NetworkPolicy"]
    # The other kind has the name now.
    with pytest.raises(SettingsError, match="already a MPIJob digits, with other settings"):
        submit()


def test_the_namespace_of_the_context_is_the_default(server, tmp_path, monkeypatch):
    server.namespaces.add("team")
    path = kubeconfig(tmp_path / "other", server.address, namespace="team")
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert ClusterApi().namespace == "team"
    assert ClusterApi("default").namespace == "default"


@pytest.mark.parametrize(
    ("prepare", "change", "message"),
    [
        (lambda s: submit(), {"gpus": 2}, "with other settings or options: give another --name"),
        (
            lambda s: s.put("Job", "digits", spec={}),
            {},
            "already a Job digits, which `vit submit` did not create",
        ),
        (
            lambda s: s.put("Service", "digits", spec={}),
            {},
            "already a Service digits, which does not belong to job digits",
        ),
        (
            lambda s: None,
            {"claim": "home"},
            r"no PersistentVolumeClaim home .* existing one \(shared\)",
        ),
        (lambda s: None, {"data_claim": "data"}, "give --data-claim an existing one"),
        (
            lambda s: s.add_claim("shared", "ReadWriteOnce"),
            {},
            "claim shared is ReadWriteOnce, but with --nodes 2 .* ReadWriteMany",
        ),
        (
            lambda s: s.add_claim("shared", "ReadWriteOnce"),
            {"nodes": 1, "tensorboard": True},
            "with --tensorboard pods on several nodes",
        ),
        (lambda s: None, {"namespace": "nowhere"}, "no namespace nowhere.* create namespace"),
        (lambda s: None, {"backend": "mpijob"}, "the MPI operator is not installed"),
        (
            lambda s: s.forbidden.add(("patch", "jobs")),
            {},
            "you are not allowed to patch jobs.batch in namespace default",
        ),
        (lambda s: s.quota.add("jobs"), {}, "quota is exhausted: .*exceeded quota: team"),
        (
            lambda s: None,
            {"node_selector": (("gpu", "a 100"),)},
            'nodeSelector: Invalid value: "a 100"',
        ),
        (lambda s: setattr(s, "token", "another"), {}, "the cluster rejects your credentials"),
    ],
    ids=lambda value: None if callable(value) else str(value)[:40],
)
def test_what_the_cluster_would_not_take_is_said_and_nothing_is_created(
    server, prepare, change, message
):
    prepare(server)
    before = server.names()
    with pytest.raises(SettingsError, match=message) as error:
        submit(cluster_job(**change))
    assert error.value.exit_code == 2
    assert server.names() == before


def test_a_job_that_is_being_deleted_still_has_its_name(server):
    submit()
    server.pods_end_after_s = 60
    ClusterApi().delete("Job", "digits")
    with pytest.raises(SettingsError, match="is being deleted: try again after its pods"):
        submit()


def test_a_secret_of_an_earlier_job_has_another_token_and_must_go_first(server):
    submit()
    del server.objects["jobs", "default", "digits"]
    with pytest.raises(
        SettingsError, match=r"the Secret digits-launch of an earlier job .*`vit delete digits`"
    ):
        submit()


def test_a_claim_for_one_pod_need_not_be_shared(server):
    server.add_claim("shared", "ReadWriteOnce")
    assert "1 pod, 1 process\n" in submit(cluster_job(nodes=1))


def test_who_may_not_read_claims_gets_a_note_and_the_job(server, capsys):
    server.forbidden.add(("list", "persistentvolumeclaims"))
    assert "created Job" in submit()
    assert (
        "the claims are not checked: you are not allowed to list persistent"
        in capsys.readouterr().err
    )


def test_who_may_not_see_mpijobs_or_namespaces_needs_neither(server):
    server.forbidden |= {("get", "mpijobs"), ("get", "namespaces")}
    server.mpi_operator = True
    assert "created Job" in submit()


def test_restricted_pod_security_takes_the_job(server, capsys):
    server.put(
        "PersistentVolumeClaim", "shared", "restricted", spec={"accessModes": ["ReadWriteMany"]}
    )
    submit(cluster_job(namespace="restricted", tensorboard=True))
    assert capsys.readouterr().err == ""


def test_a_warning_of_pod_security_is_an_error_but_where_rdma_asks_for_it(server, capsys):
    server.put(
        "PersistentVolumeClaim", "shared", "restricted", spec={"accessModes": ["ReadWriteMany"]}
    )
    job = cluster_job(namespace="restricted")
    made = manifests(job)
    del made[-1]["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    with pytest.raises(SettingsError, match="reject its pods: would violate PodSecurity"):
        create(ClusterApi("restricted"), job, made, False)
    assert server.names() == []
    submit(cluster_job(namespace="restricted", rdma="rdma/hca"))
    assert 'must not include "IPC_LOCK"' in capsys.readouterr().err
    assert server.find("Job", "digits", "restricted")


def test_what_was_created_is_taken_back_where_the_last_is_refused(server):
    job, (recipe, *others) = cluster_job(), manifests(cluster_job())
    submit()  # so that its Service is there, and stays

    class Late(ClusterApi):
        def apply(self, manifest, dry_run=False):
            if not dry_run and manifest["kind"] == "Job":
                server.quota.add("jobs")  # another user's job came in between
            return super().apply(manifest, dry_run)

    ClusterApi().delete("Job", "digits")
    time.sleep(2 * server.pods_end_after_s)
    assert server.names() == []
    service = next(m for m in others if m["kind"] == "Service")
    ClusterApi().apply(service)
    with pytest.raises(SettingsError, match="exceeded quota"):
        create(Late(), job, [recipe, *others], False)
    assert server.names() == [("Service", "digits")]


def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", address)))
    started = time.monotonic()
    with pytest.raises(ClusterError, match=f"cannot reach the cluster at {address}: .*refused"):
        submit()
    assert time.monotonic() - started < 5


def test_a_cluster_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    from k8s import api

    monkeypatch.setattr(api, "_ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", address)))
        with pytest.raises(ClusterError, match=r"cannot reach the cluster .*timed out"):
            submit()


@pytest.mark.parametrize("content", [None, "", "no: kubeconfig", "{"])
def test_a_kubeconfig_that_is_none_is_named(tmp_path, monkeypatch, content):
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(SettingsError, match=f"no cluster is configured .KUBECONFIG={path}: "):
        submit()


def test_without_any_kubeconfig_this_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SettingsError, match=r"KUBECONFIG is not set.*Set KUBECONFIG to the file"):
        submit()
