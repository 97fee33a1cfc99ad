"""A cluster to talk to, and commands that talk to it."""

import os
import re
import secrets
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from jobs.cli import main
from k8s.api import ClusterApi
from k8s.cluster_job import ClusterJob
from k8s.create import create
from k8s.render import render, settings_for_cluster
from pipeline.config import load_config
from pipeline.recipes import find_recipe
from tests.k8s.api_server import kubeconfig, serving

ROOT = Path(__file__).parents[2]
Done = namedtuple("Done", "code out err")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The stand-in for an API server, which KUBECONFIG names; with a claim `shared`."""
    claim = tmp_path / "claim"
    claim.mkdir()
    with serving(claim) as (api, address):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", address)))
        api.address = address
        api.add_claim("shared")
        yield api


@pytest.fixture
def vit(capsys):
    """Runs a command in this process."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    return run


def vit_process(*arguments):
    """Runs a command as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def cluster_job(**changes):
    """A small job in two pods."""
    given = {"name": "digits", "image": "registry.example/vit:1", "claim": "shared", "nodes": 2}
    return ClusterJob(**(given | changes))


def manifests(job, *settings):
    """What `vit submit digits` makes of it."""
    config = load_config(find_recipe("digits"), [f"run.dir=runs/{job.name}", *settings])
    return render(job, secrets.token_hex(32), settings_for_cluster(config, job))


def submit(job=None, *settings, dry_run=False):
    """Creates it, without the checks of settings that need TensorFlow."""
    job = job or cluster_job()
    return create(ClusterApi(job.namespace), job, manifests(job, *settings), dry_run)


def words(text):
    """Columns of each line of a table."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
