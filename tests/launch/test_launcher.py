"""Decisions of the launcher, without processes: ranks, exit codes and membership."""

import json
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from jobs import cli, launch
from pipeline.errors import SettingsError
from pipeline.launch.job import Job, elastic_variables, environment, rank_variables
from pipeline.launch.processes import ProcessExit, exit_code, job_exit_code
from pipeline.launch.registry import Registry
from pipeline.launch.reports import Report
from pipeline.runtimes.interfaces import find_interface
from pipeline.runtimes.ports import is_free

ROOT = Path(__file__).parent.parent.parent
TOKEN = "0123456789abcdef" * 2
LOST_AFTER_S = 15.0
JOB = Job(hosts=("h0", "h1"), slots=2, index=1, command=("vit", "train", "digits"))


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([0, 0], 0),
        ([75, 75], 75),
        ([75, 0], 75),
        ([76, 76], 76),
        ([76, 75], 75),
        ([76, 1], 1),
        ([75, 1], 1),
        ([76, -9], 137),
        ([-11, 1], 139),
        ([1, -11], 1),
        ([1, 3], 3),
        ([3, 2], 2),
        ([0, 76, 75, 5, 3], 3),
        ([0, 120], 120),
    ],
)
def test_the_exit_code_of_several_processes_is_that_of_the_cause(statuses, code):
    assert exit_code(ProcessExit(rank, status) for rank, status in enumerate(statuses)) == code


@pytest.mark.parametrize(
    ("status", "code"), [(-15, 76), (-9, 76), (75, 76), (1, 76), (0, 0), (2, 2)]
)
def test_a_process_that_the_launcher_ended_is_a_consequence(status, code):
    assert ProcessExit(0, status, by_launcher=True).code == code
    assert exit_code([ProcessExit(0, status, by_launcher=True), ProcessExit(1, 5)]) in (2, 5)


@pytest.mark.parametrize(
    ("own", "nodes", "code"),
    [
        (0, [0, 0], 0),
        (0, [0, 1], 76),
        (0, [0, None], 76),
        (0, [0, 75], 75),
        (0, [75, 76], 76),
        (76, [1, 76], 76),
        (3, [0, 3], 3),
        (76, [2, None], 2),
        (0, [0, 3], 3),
    ],
)
def test_a_node_succeeds_only_if_all_do(own, nodes, code):
    assert job_exit_code(own, nodes) == code


def test_tensorflow_is_told_a_port_of_its_own_for_each_process():
    places = {"gpus": ("4", "6"), "trust_network": True}
    job = Job(("h0", "h1"), 2, 1, ("vit",), "multi_worker", **places)
    own = rank_variables(job, 1, ("10.0.0.1", 29500), "eth0")
    assert json.loads(own.pop("TF_CONFIG")) == {
        "cluster": {"worker": ["h0:29501", "h0:29502", "h1:29503", "h1:29504"]},
        "task": {"type": "worker", "index": 3},
    }
    assert own == {"CUDA_VISIBLE_DEVICES": "6", "VIT_LAUNCH_HOSTS": "h0,h1"}


def test_a_worker_of_an_elastic_job_has_one_gpu_and_no_rank_yet():
    job = Job(("h0", "h1"), 2, 1, ("vit",), gpus=("4", "6"), min_workers=2)
    own = elastic_variables(job, 1, "a" * 32, ("127.0.0.1:5/secret", 5), "eth0")
    assert own["CUDA_VISIBLE_DEVICES"] == "6"
    assert own["VIT_LAUNCH_SLOT"] == "3,4,1,2"
    assert own["VIT_LAUNCH_MEMBERSHIP"] == "127.0.0.1:5/secret:5"
    assert own["HOROVOD_GLOO_IFACE"] == "eth0"
    assert not {"HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_GLOO_RENDEZVOUS_ADDR"} & set(own)


def test_variables_of_an_outer_launcher_are_removed_and_the_users_are_kept():
    inherited = {
        "PATH": "/bin",
        "HOROVOD_RANK": "7",
        "HOROVOD_ELASTIC": "1",
        "OMPI_COMM_WORLD_RANK": "7",
        "TF_CONFIG": "{}",
        "HOROVOD_FUSION_THRESHOLD": "1",
        "NCCL_SOCKET_IFNAME": "ib0",
    }
    whole = environment(inherited, {"HOROVOD_SIZE": "2", "NCCL_SOCKET_IFNAME": "eth0"})
    assert whole == {
        "PATH": "/bin",
        "HOROVOD_FUSION_THRESHOLD": "1",
        "NCCL_SOCKET_IFNAME": "ib0",
        "HOROVOD_SIZE": "2",
        "PYTHONUNBUFFERED": "1",
    }


def test_the_interface_is_the_one_with_the_address():
    assert find_interface("127.0.0.1") == "lo"
    with pytest.raises(SettingsError, match=r"192\.0\.2\.77.*HOROVOD_GLOO_IFACE"):
        find_interface("192.0.2.77")


def test_a_port_in_use_is_not_free():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        assert not is_free(server.getsockname()[1])


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(clock):
    """A registry of two nodes, of which node 0 has arrived."""
    registry = Registry(("h0", "h1"), "attempt", {"--processes-per-node": "2"}, clock)
    registry.update(report(0))
    return registry


def report(index, uid=None, slots="2", **rest):
    return Report(
        index, uid or f"uid-{index}", f"host-{index}", {"--processes-per-node": slots}, **rest
    )


def test_the_job_starts_when_all_nodes_have_arrived(registry):
    assert registry.update(report(0)).phase == "waiting"
    assert registry.update(report(0)).missing == [1]
    assert registry.update(report(1)).phase == "running"
    assert registry.update(report(0)).phase == "running"


def test_every_node_sees_codes_and_failures_of_all(registry):
    registry.update(report(1, code=5, failure=(5, "rank 1 ...")))
    view = registry.update(report(0))
    assert view.codes == [None, 5]
    assert view.failures == [None, (5, "rank 1 ...")]
    assert not registry.all_nodes_know()
    registry.update(report(0, code=76))
    registry.update(report(1, code=5, failure=(5, "rank 1 ...")))
    assert registry.all_nodes_know()


def test_a_second_launcher_of_an_index_ends_a_running_attempt(registry):
    registry.update(report(1))
    for view in (registry.update(report(1, "another")), registry.update(report(0))):
        assert view.error_code == 76
        assert "two launchers have index 1 (h1)" in view.error
    # A third one waits for the next attempt.
    view = registry.update(report(1, "third"))
    assert (view.phase, view.error) == ("other", None)


def test_before_the_start_a_silent_launcher_is_replaced(registry, clock):
    registry = Registry(("h0", "h1", "h2"), "attempt", {"--processes-per-node": "2"}, clock)
    registry.update(report(0))
    registry.update(report(1, "first"))
    assert registry.update(report(1, "second")).error is None
    clock.now_s += 4
    assert registry.update(report(1, "second")).error is None
    assert registry.update(report(2)).phase == "running"


def test_before_the_start_two_launchers_with_one_index_both_fail(registry, clock):
    registry = Registry(("h0", "h1", "h2"), "attempt", {"--processes-per-node": "2"}, clock)
    registry.update(report(0))
    registry.update(report(1, "first"))
    registry.update(report(1, "second"))
    for uid in ("first", "second"):
        assert "two launchers have index 1" in registry.update(report(1, uid)).error
    assert registry.all_nodes_know()


def test_different_settings_are_named_and_end_the_attempt_before_the_start(registry):
    for view in (registry.update(report(1, slots="3")), registry.update(report(0))):
        assert view.error_code == 2
        assert "--processes-per-node 3, and node 0 with --processes-per-node 2" in view.error


def test_a_launcher_that_omits_a_setting_is_rejected(registry):
    view = registry.update(Report(1, "uid-1", "host-1", {}))
    assert view.error_code == 2
    assert "--processes-per-node not given" in view.error


def test_a_stray_launcher_of_another_job_does_not_end_a_running_attempt(registry):
    registry.update(report(1))
    assert registry.update(report(1, "stray", slots="3")).error_code == 2
    assert registry.update(report(0)).error is None


def test_a_launcher_of_an_older_attempt_does_not_belong_to_this_one(registry):
    view = registry.update(report(1, attempt="older"))
    assert view.phase == "other"
    assert view.attempt == "attempt"
    assert registry.update(report(0)).missing == [1]


def test_a_silent_node_is_lost_but_not_when_it_has_ended(registry, clock):
    registry.update(report(1))
    clock.now_s += LOST_AFTER_S + 1
    view = registry.update(report(0))
    assert view.error_code == 76
    assert "node 1 (h1, on host-1) was lost" in view.error


def test_a_node_that_has_ended_may_be_silent(registry, clock):
    registry.update(report(1, code=0))
    clock.now_s += LOST_AFTER_S + 1
    assert registry.update(report(0)).error is None


def read(*words, **environment):
    """Parses a command line to a Job."""
    import argparse

    parser = argparse.ArgumentParser()
    launch.add_arguments(parser)
    environment = {"CUDA_VISIBLE_DEVICES": "", "VIT_LAUNCH_TOKEN": TOKEN} | environment
    return launch.read_job(parser.parse_args([*words, "--", "true"]), environment)


@pytest.mark.parametrize(
    ("words", "variables", "index"),
    [
        (["--hosts=a"], {}, 0),
        (["--hosts=a"], {"SLURM_NODEID": "3"}, 0),
        (["--hosts=a,b", "--index=1"], {"SLURM_NODEID": "0"}, 1),
        (["--hosts=a,b"], {"JOB_COMPLETION_INDEX": "1"}, 1),
        (["--hosts=a,b"], {"SLURM_NODEID": "1"}, 1),
    ],
)
def test_the_index_comes_from_the_argument_or_the_scheduler(words, variables, index):
    assert read(*words, **variables).index == index


def test_slots_are_the_gpus_or_one():
    assert read("--hosts=a").slots == 1
    assert read("--hosts=a", CUDA_VISIBLE_DEVICES="0,2").slots == 2
    assert read("--hosts=a", "--processes-per-node=3").slots == 3
    assert read("--hosts=a:3").slots == 3
    assert read("--slots=3").slots == 3
    assert read("--hosts=a:2,b:2", "--index=1").hosts == ("a", "b")


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["--hosts=a,a"], {}, "names a twice"),
        (["--hosts=a,"], {}, "separated by commas"),
        (["--hosts=a:b"], {}, "with or without :SLOTS"),
        (["--hosts=a:2,b:3"], {}, "must be the same on every node"),
        (["--hosts=a:2", "--processes-per-node=3"], {}, "give one of them"),
        (["--hosts=a,localhost", "--index=0"], {}, "localhost is a different machine"),
        (["--hosts=a,b"], {}, "which of the 2 nodes this is"),
        (["--hosts=a,b", "--index=2"], {}, "--index must be 0 to 1"),
        (["--hosts=a,b"], {"SLURM_NODEID": "4"}, "SLURM_NODEID must be 0 to 1"),
        (["--hosts=a", "--index=-1"], {}, "--index must be 0 to 0"),
        (["--hosts=a", "--processes-per-node=0"], {}, "--processes-per-node must be 1 or more"),
        (
            ["--hosts=a", "--processes-per-node=3"],
            {"CUDA_VISIBLE_DEVICES": "0,1"},
            "this node has 2",
        ),
        (["--hosts=a", "--port=65536"], {}, "--port must be 1 to 65535"),
        (["--hosts=a", "--port=65535", "--runtime=multi_worker"], {}, "--port must be 1 to 65534"),
        (
            ["--hosts=a,b", "--index=0", "--runtime=multi_worker"],
            {},
            "executes whatever connects.*--runtime horovod, or add --trust-network",
        ),
        (
            ["--hosts=a", "--trust-network"],
            {},
            "--trust-network applies to --runtime multi_worker only",
        ),
        (["--hosts=a", "--wait-s=-1"], {}, "--wait-s must be 0 or more"),
        (["--slots=4", "--min-workers=5"], {}, "--min-workers must be 1 to 4. Received: 5"),
        (["--slots=4", "--min-workers=0"], {}, "--min-workers must be 1 to 4"),
        (["--slots=4", "--min-workers=3", "--max-workers=2"], {}, "--min-workers must be 1 to 2"),
        (["--slots=4", "--min-workers=3", "--max-workers=5"], {}, "--max-workers must be 1 to 4"),
        (["--slots=4", "--max-workers=2"], {}, "--max-workers applies to --min-workers only"),
        (["--min-workers=1", "--heartbeat-timeout-s=0"], {}, "--heartbeat-timeout-s must be more"),
        (
            ["--min-workers=1", "--runtime=multi_worker"],
            {},
            "TensorFlow cannot connect its collectives a second time",
        ),
        (["--hosts=a", "--end-within-s=5"], {}, "--end-within-s must be 6 or more. Received: 5"),
        (["--hosts=a", "--end-within-s=nan"], {}, "--end-within-s must be 6 or more"),
        (["--hosts=a", "--", "no-such-program"], {}, "'no-such-program' does not exist"),
    ],
)
def test_wrong_arguments_are_explained(words, variables, message):
    with pytest.raises(SettingsError, match=message):
        read(*words, **variables)


def test_after_a_failure_there_is_time_for_each_step_until_the_limit():
    default, short = read("--hosts=a").timeouts, read("--hosts=a", "--end-within-s=12").timeouts
    for times, limit_s in ((default, 30), (short, 12)):
        assert times.lost_after_s == limit_s / 2
        # A sixth is left for the reports.
        assert times.own_end_s + times.kill_after_s == limit_s * 5 / 6
        after_loss_s = times.lost_after_s + times.own_end_after_loss_s + times.kill_after_s
        assert after_loss_s == limit_s * 5 / 6


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", r"VIT_LAUNCH_TOKEN is not set\. Run `export VIT_LAUNCH_TOKEN=\$\(openssl rand"),
        ("0123456789", "must be 32 to 1024 .*Received: 10 characters"),
        ("0123456789 abcdef" * 2, "without spaces. Received: 34 characters"),
    ],
)
def test_several_nodes_need_a_token_which_no_message_repeats(token, message):
    with pytest.raises(SettingsError, match=message) as caught:
        read("--hosts=a,b", "--index=0", VIT_LAUNCH_TOKEN=token)
    assert not token or token not in str(caught.value)


def test_one_node_draws_a_token_of_its_own():
    first, second = (read("--hosts=a", VIT_LAUNCH_TOKEN="").token for _ in range(2))
    assert len(first) == 64
    assert first != second


def test_the_token_is_neither_shown_nor_inherited():
    job = read("--hosts=a,b", "--index=0")
    assert job.token == TOKEN
    assert TOKEN not in repr(job)
    assert "VIT_LAUNCH_TOKEN" not in environment({"VIT_LAUNCH_TOKEN": TOKEN}, {})


def test_options_after_the_command_belong_to_it(capsys):
    code = cli.main(
        [
            "launch",
            "--hosts=localhost",
            "--processes-per-node=0",
            "--",
            "vit",
            "--processes-per-node",
            "2",
            "--x",
        ]
    )
    assert code == 2
    assert "--processes-per-node must be 1 or more. Received: 0" in capsys.readouterr().err


@pytest.mark.processes
def test_the_launcher_does_not_import_tensorflow():
    code = (
        "import sys, jobs.launch\n"
        "sys.exit(not {'tensorflow', 'numpy', 'horovod'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
