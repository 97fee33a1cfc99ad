"""A chief and a worker as Vertex AI and Kubeflow start them, behind a company's proxy."""

import http.server
import json
import os
import random
import subprocess
import sys
import threading

import pytest

from pipeline.runtimes.ports import find_free_ports
from tests.parallel.launches import ROOT

pytestmark = pytest.mark.processes

SMALL = ["model.depth=1", "monitor.pictures=false", "monitor.report=false"]


@pytest.fixture
def proxy():
    """A proxy that leads nowhere, and the requests that came to it."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self):
            requests.append(self.path)
            self.send_error(403)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_a_chief_and_a_worker_train_past_a_proxy(proxy, tmp_path):
    url, requests = proxy
    first = find_free_ports(3, random.SystemRandom())
    cluster = {
        name: [f"127.0.0.1:{first + index}"]
        for index, name in enumerate(("chief", "worker", "evaluator"))
    }
    train = ["-m", "jobs.cli", "train", "digits", "train.max_steps=1", f"run.dir={tmp_path}/run"]
    started = []
    for kind in ("worker", "chief"):
        place = {"cluster": cluster, "task": {"type": kind, "index": 0}, "environment": "cloud"}
        variables = {"TF_CONFIG": json.dumps(place), "http_proxy": url, "grpc_proxy": url}
        started.append(
            subprocess.Popen(
                [sys.executable, *train, *SMALL],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    try:
        worker, chief = (process.communicate(timeout=300)[0] for process in started)
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0], worker + chief
    assert "rank 0 of 2" in chief
    assert "rank 1 of 2" in worker
    assert "2 workers, 2 replicas" in chief
    # Nobody but TF_CONFIG's author can have kept others out.
    assert f"TensorFlow serves 127.0.0.1:{first} from TF_CONFIG on all" in chief
    assert (tmp_path / "run/metrics.jsonl").is_file()
    assert requests == []
