"""Which workers of an elastic MPIJob horovodrun may use."""

import socket
import subprocess
import time

import pytest

from k8s import answering_hosts
from k8s.answering_hosts import AnsweringHosts, answers, interface_to
from pipeline.errors import SettingsError

HOSTS = {"127.0.0.1": 2, "127.0.0.2": 4}


@pytest.fixture
def servers():
    """Two hosts with the same port."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with socket.create_server(("127.0.0.2", port)) as second:
            yield port, first, second


def listed(hosts):
    file = hosts.script.with_name("hosts")
    return file.read_text().splitlines()


def test_a_host_is_there_once_it_answers_and_absent_after_two_misses(tmp_path, servers):
    port, _, second = servers
    hosts = AnsweringHosts(lambda: HOSTS, port, tmp_path)
    assert hosts.update() == HOSTS
    assert listed(hosts) == ["127.0.0.1:2", "127.0.0.2:4"]
    second.close()
    assert hosts.update() == HOSTS  # one lost connection
    assert hosts.update() == {"127.0.0.1": 2}
    assert listed(hosts) == ["127.0.0.1:2"]
    with socket.create_server(("127.0.0.2", port)):
        assert hosts.update() == HOSTS


def test_a_host_that_never_answered_is_absent_at_once(tmp_path, servers):
    port, *_ = servers
    hosts = AnsweringHosts(lambda: HOSTS | {"127.0.0.3": 1}, port, tmp_path)
    assert hosts.update() == HOSTS


@pytest.mark.processes
def test_the_script_prints_the_hosts(tmp_path, servers):
    port, *_ = servers
    hosts = AnsweringHosts(lambda: HOSTS, port, tmp_path)
    assert subprocess.check_output([hosts.script], text=True) == ""
    hosts.update()
    expected = "127.0.0.1:2\n127.0.0.2:4\n"
    assert subprocess.check_output([hosts.script], text=True) == expected


def test_a_thread_keeps_the_list_even_if_the_hostfile_cannot_be_read_for_a_while(
    tmp_path, servers, monkeypatch
):
    monkeypatch.setattr(answering_hosts, "_EVERY_S", 0.1)
    port, _, second = servers
    results = [HOSTS, SettingsError("the hostfile is being replaced"), HOSTS]

    def read():
        result = results.pop(0) if len(results) > 1 else results[0]
        if isinstance(result, Exception):
            raise result
        return result

    hosts = AnsweringHosts(read, port, tmp_path)
    hosts.update()
    second.close()
    with hosts.updating():
        limit = time.monotonic() + 30
        while len(listed(hosts)) > 1:
            assert time.monotonic() < limit
            time.sleep(0.1)
    assert listed(hosts) == ["127.0.0.1:2"]


def test_the_interface_is_that_of_the_route(servers):
    port, *_ = servers
    assert interface_to("127.0.0.1", port) == "lo"
    assert interface_to("no-such-host.invalid", port) is None
    assert answers("127.0.0.1", port)
