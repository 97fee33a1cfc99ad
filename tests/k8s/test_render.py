"""Manifests of every combination of options, against Kubernetes' own schemas and our rules."""

import base64
import copy
import itertools
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from unittest.mock import patch

import kubernetes_validate
import pytest
import yaml

from k8s.render import render
from k8s.yaml_text import to_yaml
from pipeline.config import load_config, parse_config
from pipeline.errors import SettingsError
from pipeline.recipes import find_recipe
from tests.k8s.asked import TOKEN, asked, rendered
from tests.k8s.rules import problems, restricted, templates

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
# The parser in C accepts the same, in a tenth of the time.
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
VERSIONS = [f"1.{minor}" for minor in range(32, 38)]  # the six newest in the package

RUNTIMES = [
    "--nodes 1",
    "--nodes 4",
    "--nodes 1 --gpus-per-node 1",
    "--nodes 3 --gpus-per-node 8",
    "--nodes 2 --runtime multi_worker",
    "--nodes 2 --gpus-per-node 4 --runtime multi_worker",
    "--gpus-per-node 8 --runtime mirrored",
    "--nodes 2 --backend mpijob",
    "--nodes 4 --gpus-per-node 8 --backend mpijob",
    "--nodes 4 --min-nodes 2 --backend mpijob",
]
PLACES = (
    "--node-selector gpu=h100 --node-selector zone=a --toleration nvidia.com/gpu:NoSchedule "
    "--toleration team=vision --priority-class high"
)
SWITCHES = [
    ["", "--queue team-a"],
    ["", "--rdma"],
    ["", "--tensorboard"],
    ["", f"{PLACES} --data-claim photos -n vision"],
    ["", "--cpu 500m --memory 100G --shm 64Mi --max-restarts 0 --deadline 90m"],
]
COMBINATIONS = [" ".join(filter(None, words)) for words in itertools.product(*SWITCHES)]
GOLDENS = {
    "job": "--nodes 2",
    "elastic": "--nodes 8 --min-nodes 4 --processes-per-node 2",
    "job-gpus": f"--nodes 4 --gpus-per-node 8 --queue team-a --tensorboard {PLACES}",
    "multi-worker": "--nodes 2 --gpus-per-node 4 --runtime multi_worker -n vision",
    "mirrored": "--gpus-per-node 8 --runtime mirrored --data-claim photos",
    "mpijob": "--nodes 2 --gpus-per-node 8 --backend mpijob --rdma",
    "mpijob-elastic": "--nodes 8 --min-nodes 4 --processes-per-node 2 --backend mpijob",
}


# The package reads its schemas, of a megabyte, again for each manifest.
SCHEMA_CONTENTS = cache(kubernetes_validate.utils.schema_contents)


@cache
def validate(text, version):
    """As strictly as the package can; an MPIJob's templates as PodTemplates.

    A kind or version it does not know is an error.
    """
    manifest = json.loads(text)
    with patch.object(kubernetes_validate.utils, "schema_contents", SCHEMA_CONTENTS):
        if manifest["kind"] != "MPIJob":
            kubernetes_validate.validate(manifest, version, strict=True)
            return
        for template in templates(manifest):
            wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
            kubernetes_validate.validate(wrapped | {"template": template}, version, strict=True)


@cache
def combinations(runtime):
    """The manifests of a runtime with each combination of options, as JSON, by the options."""
    assert len(COMBINATIONS) == 32
    return {
        switches: [json.dumps(manifest) for manifest in rendered(f"{runtime} {switches}")]
        for switches in COMBINATIONS
    }


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_combination_of_options_is_valid_for_the_six_newest_versions(runtime):
    assert len(VERSIONS) == 6
    refused = []
    for switches, texts in combinations(runtime).items():
        for version, text in itertools.product(VERSIONS, texts):
            try:
                validate(text, version)
            except kubernetes_validate.ValidationError as error:
                refused.append((version, switches, error.message))
    assert refused == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_combination_of_options_keeps_the_rules_no_schema_knows(runtime):
    for switches, texts in combinations(runtime).items():
        # What is printed is what is checked.
        printed = to_yaml([json.loads(text) for text in texts])
        manifests = list(yaml.load_all(printed, SAFE_LOADER))
        assert list(problems(manifests)) == [], switches


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_only_rdma_breaks_restricted_pod_security(runtime):
    for switches, texts in combinations(runtime).items():
        for manifest in map(json.loads, texts):
            training = manifest["kind"] in ("Job", "MPIJob")
            for template in templates(manifest):
                added = ["no capability but NET_BIND_SERVICE may be added"]
                expected = added if training and "--rdma" in switches else []
                assert list(restricted(template)) == expected, switches


def test_the_rules_and_schemas_can_fail():
    job = rendered("--nodes 2")[-1]
    for path, value in (
        (("spec", "podFailurePolicy", "rules", 0, "action"), "Fail"),
        (("spec", "template", "spec", "volumes", 0, "name"), "other"),
        (("spec", "template", "spec", "containers", 0, "resources", "requests", "cpu"), "-1"),
        (("spec", "backoffLimit"), 7),
        (("spec", "template", "spec", "subdomain"), "elsewhere"),
    ):
        broken = copy.deepcopy(job)
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        others = rendered("--nodes 2")[:-1]
        assert list(problems([*others, broken])), path
    without = [
        manifest for manifest in rendered("--nodes 2") if manifest["kind"] != "NetworkPolicy"
    ]
    assert list(problems(without)) == ["the pods of Job digits let in those of other jobs"]
    broken = copy.deepcopy(job)
    broken["spec"]["backofLimit"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(json.dumps(broken), VERSIONS[-1])
    broken["kind"] = "Joob"
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        validate(json.dumps(broken), VERSIONS[-1])


@pytest.mark.parametrize("name", GOLDENS)
def test_what_is_rendered_is_what_was_reviewed(name):
    # To change it on purpose: UPDATE_GOLDEN=1, then look at the difference in git.
    file, text = GOLDEN / f"{name}.yaml", to_yaml(rendered(GOLDENS[name]))
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl kustomize is not here")
@pytest.mark.parametrize("base", ["job", "mpijob", "tensorboard"])
def test_a_base_is_of_use_alone(base):
    done = subprocess.run(
        ["kubectl", "kustomize", ROOT / "k8s" / base], capture_output=True, text=True, check=True
    )
    manifests = list(yaml.safe_load_all(done.stdout))
    # Which whoever applies the base makes first.
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vit-launch"}}
    assert list(problems([*manifests, secret])) == []
    for manifest in manifests:
        validate(json.dumps(manifest), VERSIONS[-1])
        for template in templates(manifest):
            assert list(restricted(template)) == []
        if manifest["kind"] == "ConfigMap":
            config = parse_config(yaml.safe_load(manifest["data"]["recipe.yaml"]), base)
            assert config.run.dir == "runs/vit"


@pytest.mark.parametrize("options", ["--nodes 3 --tensorboard", "--nodes 3 --backend mpijob"])
def test_each_field_of_the_base_that_names_a_job_is_changed(options):
    text = to_yaml(rendered(options)).replace("registry.example.com/vit:1.0", "")
    assert "latest" not in text
    # What still says `vit` is the program, its container, its folders and its labels.
    ours = r"(- |name: |containerName: |managed-by: )vit\n|vit-pipeline|/(etc|home)/vit|vi.t. train"
    left = re.sub(ours, "", text)
    assert not re.findall(r".*\bvit\b.*", left)


def test_the_pods_get_the_settings_that_were_given():
    manifests = rendered("--nodes 4 --gpus-per-node 8", "optim.base_lr=0.001", "data.path=data/x")
    text = manifests[0]["data"]["recipe.yaml"]
    config = parse_config(yaml.safe_load(text), "recipe.yaml")
    expected = load_config(
        find_recipe("digits"),
        ["optim.base_lr=0.001", "data.path=data/x", "run.dir=runs/digits"],
    )
    assert config.distribute.runtime == "horovod"
    distribute = config.distribute.model_copy(update={"runtime": "auto", "device": "auto"})
    assert config.model_copy(update={"distribute": distribute}) == expected
    assert manifests[0]["immutable"] is True


def test_other_settings_are_another_config_map_and_other_content():
    one, same, other = (
        rendered("--nodes 2", setting) for setting in ("seed=1", "seed=1", "seed=2")
    )
    assert to_yaml(one) == to_yaml(same)
    assert one[0]["metadata"]["name"] != other[0]["metadata"]["name"]
    content = [m[-1]["metadata"]["annotations"]["vit-pipeline/content"] for m in (one, other)]
    assert content[0] != content[1]


def test_another_token_is_another_secret_and_the_same_job():
    job = asked("--nodes 2")
    one, other = (render(job, token, arguments=["x"]) for token in ("1" * 32, "2" * 32))
    assert [m["kind"] for m in one].count("Secret") == 1
    assert [m for m in one if m not in other] == [m for m in one if m["kind"] == "Secret"]


def test_the_token_stands_in_the_secret_alone():
    manifests = rendered("--nodes 2 --tensorboard")
    (secret,) = (m for m in manifests if m["kind"] == "Secret")
    assert base64.b64decode(secret["data"]["token"]).decode() == TOKEN
    assert secret["immutable"] is True
    others = to_yaml([m for m in manifests if m is not secret])
    assert TOKEN not in others
    assert secret["data"]["token"] not in others


@pytest.mark.parametrize(
    "options", ["--nodes 1", "--gpus-per-node 8", "--backend mpijob --nodes 2"]
)
def test_a_job_without_launchers_on_several_nodes_has_no_token(options):
    manifests = rendered(options)
    assert "Secret" not in [m["kind"] for m in manifests]
    assert "VIT_LAUNCH_TOKEN" not in to_yaml(manifests)


def test_one_pod_a_node_and_one_process_a_gpu():
    job = rendered("--nodes 3 --gpus-per-node 8 --max-restarts 2")[-1]
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (3, 3)
    assert job["spec"]["backoffLimit"] == 6
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    words = container["command"]
    assert words[words.index("--hosts") + 1] == "digits-0.digits,digits-1.digits,digits-2.digits"
    assert words[words.index("--processes-per-node") + 1] == "8"


def test_a_job_that_asked_for_gpus_does_not_train_without_them():
    for gpus, device in ((8, "gpu"), (0, "auto")):
        text = rendered(f"--nodes 2 --gpus-per-node {gpus}")[0]["data"]["recipe.yaml"]
        assert yaml.safe_load(text)["distribute"]["device"] == device


def test_the_pod_outlives_the_launcher_and_the_launcher_the_run():
    job = rendered("--nodes 2", "checkpoint.grace_s=300")[-1]
    pod = job["spec"]["template"]["spec"]
    words = pod["containers"][0]["command"]
    launcher_s = float(words[words.index("--grace-s") + 1])
    assert 300 < launcher_s < pod["terminationGracePeriodSeconds"]


def test_another_verb_runs_in_one_pod_without_a_recipe():
    (job,) = render(asked("", verb="evaluate"), TOKEN, arguments=["runs/digits", "--split", "test"])
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] + container["args"] == [
        "vit", "evaluate", "runs/digits", "--split", "test",
    ]  # fmt: skip
    assert list(problems([job])) == []
    validate(json.dumps(job), VERSIONS[-1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--nodes 0", "--nodes must be 1 or more"),
        ("--gpus-per-node -1", "--gpus-per-node must be 0 or more"),
        (f"--name {'a' * 70}", r"at most 61 characters.*70 characters"),
        (f"--name {'a' * 61} --nodes 20", "at most 60 characters"),
        ("--name Digits", "lowercase letters"),
        ("--name 1st", "start with a letter"),
        ("--memory 16GB", "--memory must be a quantity"),
        ("--shm 16Gi --memory 16Gi", "give more --memory"),
        ("--deadline 1w", "90m, 12h or 7d"),
        ("--node-selector gpu", "KEY=VALUE"),
        ("--toleration gpu:Never", "NoSchedule"),
        ("--runtime mirrored --gpus-per-node 8 --nodes 2", "--nodes 1, or --runtime horovod"),
        ("--runtime mirrored", "--gpus-per-node 2 or more"),
        ("--backend mpijob --runtime multi_worker", "--backend job"),
        ("--claim My_Claim", "--claim must be a Kubernetes name"),
        ("--rdma hca", "DOMAIN/RESOURCE"),
        ("--image Vit:1", "--image must be a name"),
    ],
)
def test_options_that_cannot_be_right_are_refused_with_what_to_do(options, said):
    with pytest.raises(SettingsError, match=said):
        asked(options)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "data.path=/home/me/photos",
            "does not exist in the pods.*claim shared is mounted at /shared",
        ),
        ("data.path=../photos", "does not exist in the pods"),
        ("run.dir=/data/runs", "run.dir=/data/runs does not exist in the pods"),
        ("distribute.runtime=mirrored", "--runtime horovod differ"),
    ],
)
def test_settings_that_are_wrong_on_a_cluster_are_refused(setting, said):
    with pytest.raises(SettingsError, match=said):
        rendered("--nodes 2", setting)


def test_a_second_claim_is_for_reading():
    rendered("--data-claim photos", "data.path=/data/photos")
    with pytest.raises(SettingsError, match=r"run\.dir"):
        rendered("--data-claim photos", "run.dir=/data/runs")
