"""`vit submit` as people run it: what it prints, and the likely mistakes."""

import argparse

import pytest

from jobs.cli import main
from jobs.submit import add_arguments
from jobs.submit_options import parse_job
from tests.k8s.api_server import kubeconfig as write_kubeconfig
from tests.k8s.conftest import vit_process

OPTIONS = ["--name", "digits", "--image", "registry.example/vit:1", "--claim", "shared"]


@pytest.mark.processes
def test_a_recipe_is_submitted_watched_and_deleted(server, vit):
    settings = ["train.epochs=2", "--nodes", 2, "--tensorboard"]
    done = vit_process("submit", "digits", *settings, *OPTIONS)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "created Job digits in namespace default: 2 pods, 2 processes",
        "  vit jobs digits",
        "  vit logs digits -f",
        "  vit board --kubernetes digits",
    ]
    assert done.err == ""
    (recipe,) = (name for kind, name in server.names() if kind == "ConfigMap")
    assert "epochs: 2" in server.find("ConfigMap", recipe)["data"]["recipe.yaml"]
    again = vit("submit", "digits", *settings, *OPTIONS)
    assert (again.code, "already exists, with the same" in again.out) == (0, True)
    assert vit_process("jobs").out.splitlines()[1].split()[:2] == ["digits", "starting"]
    assert vit_process("delete", "digits").code == 0
    assert {kind for kind, _ in server.names()} <= {"Job"}


def test_another_verb_runs_in_one_pod(server, vit):
    done = vit("submit", "--verb", "evaluate", "runs/digits", *OPTIONS)
    assert (done.code, "1 pod, 1 process" in done.out) == (0, True), done.err
    (container,) = server.find("Job", "digits")["spec"]["template"]["spec"]["containers"]
    assert container["command"] + container["args"] == ["vit", "evaluate", "runs/digits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus-per-node", 5], "Use 95 or 100"),
        (["nowhere"], "no recipe 'nowhere'"),
        (["optim.bse_lr=1"], "did you mean optim.base_lr"),
        (["data.path=/home/me/photos"], "data.path=/home/me/photos does not exist in the pods"),
        (["run.dir=../runs"], "run.dir=../runs does not exist in the pods"),
        (["distribute.runtime=mirrored"], "--runtime horovod differ: give one of them"),
        (["--name", "n" * 70], "have at most 61 characters"),
        (["--name", "Digits"], "--name must consist of lowercase letters, digits and dashes"),
        (["--image", "Vit:1"], "--image must be a name such as"),
        (["--processes-per-node", 0], "--processes-per-node must be 1 or more. Received: 0"),
        (
            ["--gpus-per-node", 2, "--processes-per-node", 3],
            "--processes-per-node 3 needs a GPU for each process: give --gpus-per-node 3",
        ),
        *(
            (
                ["--gpus-per-node", 8, "--processes-per-node", 2, "--runtime", runtime],
                (
                    "--gpus-per-node 8 reserves 6 GPUs that no process would use: "
                    "--processes-per-node 2 uses one GPU for each process"
                ),
            )
            for runtime in ("horovod", "multi_worker")
        ),
        (
            ["--gpus-per-node", 2, "--processes-per-node", 2, "--runtime", "mirrored"],
            "--runtime mirrored runs one process: leave out --processes-per-node",
        ),
        (["--nodes", 0], "--nodes must be 1 or more. Received: 0"),
        (["--nodes", 2, "--runtime", "mirrored"], "mirrored runs one process in one pod"),
        (["--nodes", 2, "--min-nodes", 3], "--min-nodes must be 1 to 2, which is --nodes"),
        (
            ["--nodes", 2, "--min-nodes", 1, "--runtime", "multi_worker"],
            "--min-nodes makes a training with --runtime horovod elastic, and nothing else",
        ),
        (["--nodes", 2, "--min-nodes", 1, "--backend", "mpijob"], "an elastic job needs microb"),
        (["--nodes", 2, "--min-nodes", 1], "an elastic job needs microbatches"),
        (["--runtime", "mirrored"], "give --gpus-per-node 2 or more"),
        (["--backend", "mpijob", "--runtime", "multi_worker"], "cannot start --runtime multi_w"),
        (["--memory", "16gigs"], "--memory must be a quantity such as"),
        (["--shm", "32Gi"], "--shm 32Gi is part of --memory 16Gi"),
        (["--deadline", "soon"], "--deadline must be a time such as 90m"),
        (["--claim", "home"], "no PersistentVolumeClaim home in namespace default"),
        (["--namespace", "nowhere"], "no namespace nowhere"),
        (["--backend", "mpijob"], "the MPI operator is not installed"),
        (["--node-selector", "gpu=a 100"], "the cluster rejects the request: Job.batch"),
    ],
    ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_message_and_exit_code_2(server, vit, arguments, message):
    recipe = [] if arguments == ["nowhere"] else ["digits"]
    done = vit("submit", *recipe, *OPTIONS, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("vit submit: ")
    assert message in done.err
    assert server.names() == []


def test_what_argparse_refuses_is_exit_code_2_too(server, capsys):
    for arguments in (["digits"], ["digits", *OPTIONS, "--gpus", "x"], ["--verb", "dance"]):
        with pytest.raises(SystemExit) as usage:
            main(["submit", *arguments])
        assert usage.value.code == 2
        assert "usage: vit submit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["cifar10"], "cifar10"),
        (["recipes/My_Recipe.v2.yaml", "seed=1"], "my-recipe-v2"),
        (["recipes/50-epochs.yaml"], "vit-50-epochs"),
        ([f"{'long-' * 20}.yaml", "--nodes", "100"], ("long-" * 12)[:60]),
        ([f"{'long-' * 20}.yaml", "--tensorboard"], ("long-" * 12)[:57]),
        (["--verb", "evaluate", "runs/cifar10"], "evaluate-cifar10"),
        (["--verb", "prepare", "/data/photos", "data/photos"], "prepare"),
    ],
)
def test_a_job_without_a_name_has_that_of_its_recipe(given, name):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args([*given, "--image", "vit:1", "--claim", "shared"])
    assert parse_job(arguments, arguments.verb).name == name.rstrip("-")


def test_one_process_of_multi_worker_uses_all_gpus_of_its_pod():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = "--nodes 2 --gpus-per-node 8 --processes-per-node 1 --runtime multi_worker"
    job = parse_job(parser.parse_args(["digits", *OPTIONS, *options.split()]), "train")
    assert (job.slots, job.num_replicas) == (1, 16)


@pytest.mark.parametrize("kubeconfig", ["missing", "unreachable"])
def test_a_dry_run_without_a_cluster_is_one_sentence_that_names_render(
    vit, monkeypatch, tmp_path, kubeconfig
):
    file = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(file))
    if kubeconfig == "unreachable":
        write_kubeconfig(file, "http://127.0.0.1:1")
    done = vit("submit", "digits", *OPTIONS, "--dry-run")
    assert done.code == (2 if kubeconfig == "missing" else 1)
    assert done.err.startswith("vit submit: --dry-run needs a cluster, and there is none to ask (")
    assert done.err.endswith("): --render prints the manifests without a cluster\n")
    assert len(done.err.splitlines()) == 1
    assert "kind: Job" in vit("submit", "digits", *OPTIONS, "--render").out


def test_a_dry_run_and_a_rendering_create_nothing(server, vit):
    done = vit("submit", "digits", *OPTIONS, "--dry-run")
    assert done.out.startswith("the cluster would accept Job digits in namespace default")
    asked = len(server.requests)
    rendered = vit("submit", "digits", *OPTIONS, "--render")
    assert "kind: Job" in rendered.out
    assert len(server.requests) == asked
    assert server.names() == []


@pytest.mark.processes
def test_a_forbidden_verb_is_an_error_in_a_process_too(server):
    server.forbidden.add(("list", "jobs"))
    done = vit_process("jobs")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        "vit jobs: you are not allowed to list jobs.batch in namespace default"
    )
