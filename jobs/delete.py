"""`vit delete NAME`"""

from __future__ import annotations

import argparse

from k8s.api import ClusterApi
from k8s.delete import delete


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the job")
    parser.add_argument(
        "--namespace", "-n", help="namespace (default: that of the kubectl context)"
    )
    parser.epilog = (
        "A running job is asked to save a checkpoint and exit. Its name is free again after its "
        "pods have ended."
    )


def run(arguments: argparse.Namespace) -> int:
    """Deletes the job and everything that belongs to it."""
    print(delete(ClusterApi(arguments.namespace), arguments.name))
    return 0
