"""`vit submit RECIPE [settings] --image I --claim C [options]`"""

from __future__ import annotations

import argparse
import logging
import secrets
from collections.abc import Sequence
from importlib import import_module

from jobs.submit_options import ONE_POD_VERBS, add_job_arguments, parse_job
from k8s.api import ClusterApi
from k8s.api_errors import ClusterError, NoCluster, Unreachable
from k8s.cluster_job import ClusterJob
from k8s.create import create
from k8s.manifests import Manifest
from k8s.render import render, settings_for_cluster
from k8s.training_checks import check_training
from k8s.yaml_text import to_yaml
from pipeline.config import load_config
from pipeline.errors import SettingsError
from pipeline.recipes import find_recipe

_LOG = logging.getLogger(__name__)

_EPILOG = """The recipe and its settings are checked on this machine, and passed to the pods in a
ConfigMap. In the pods, the claim is mounted at /shared. Paths that do not start with / are relative
to /shared. The run folder is /shared/runs/NAME, unless run.dir=... is given. The launchers in
several pods authenticate each other with a secret, which is created for each job and passed to the
pods in a Secret.

  vit submit cifar10 data.source=records data.path=data/cifar10 \\
      --name cifar10 --image registry.example.com/vit:1.0 --claim shared --nodes 4 --gpus-per-node 8
  vit submit --verb prepare /data/photos data/photos --data-claim photos --name prepare ...
  vit submit --verb evaluate runs/cifar10 --name evaluate ... -- --split test
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RECIPE [section.key=value ...]",
        help="as for `vit train`; with --verb, the arguments of that verb, its options after --",
    )
    parser.add_argument(
        "--verb",
        choices=("train", *ONE_POD_VERBS),
        default="train",
        help="verb to run (default: train); all other verbs run in one pod",
    )
    add_job_arguments(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--render", action="store_true", help="print the manifests, without asking the cluster"
    )
    how.add_argument(
        "--dry-run", action="store_true", help="ask the API server, but create nothing"
    )
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Renders the job, and prints or creates it."""
    job = parse_job(arguments, arguments.verb)
    manifests = _manifests(job, arguments.words)
    for warning in _warnings(job):
        _LOG.warning("%s", warning)
    if arguments.render:
        print(to_yaml(manifests), end="")
        return 0
    try:
        print(create(ClusterApi(job.namespace), job, manifests, dry_run=arguments.dry_run))
    except (NoCluster, Unreachable) as error:
        if not arguments.dry_run:
            raise
        why = error.why if isinstance(error, NoCluster) else str(error).partition(". ")[0]
        kind = SettingsError if isinstance(error, NoCluster) else ClusterError
        raise kind(
            f"--dry-run needs a cluster, and there is none to ask ({why}): --render prints the "
            "manifests without a cluster"
        ) from None
    return 0


def _warnings(job: ClusterJob) -> list[str]:
    warnings = []
    if job.rdma is not None:
        warnings.append(
            "--rdma adds IPC_LOCK, which a namespace with restricted Pod Security rejects"
        )
    if job.launched and job.runtime == "multi_worker":
        warnings.append(
            "--runtime multi_worker opens ports in the pods where TensorFlow executes whatever "
            "connects: only a network plug-in that enforces NetworkPolicies keeps other pods out"
        )
    return warnings


def _manifests(job: ClusterJob, words: Sequence[str]) -> list[Manifest]:
    token = secrets.token_hex(32)
    if job.verb != "train":
        _check_usage(job.verb, words)
        return render(job, token, arguments=words)
    recipe, *settings = words
    # Overrides a run.dir of the recipe, which is meant for another machine.
    config = load_config(find_recipe(recipe), [f"run.dir=runs/{job.name}", *settings])
    config = settings_for_cluster(config, job)
    check_training(config, job)
    return render(job, token, config)


def _check_usage(verb: str, words: Sequence[str]) -> None:
    """Parses the words with the verb's own parser, which exits with its usage on an error."""
    module = import_module(f"jobs.{verb}")
    parser = argparse.ArgumentParser(prog=f"vit {verb}")
    module.add_arguments(parser)
    parser.parse_intermixed_args(words)
