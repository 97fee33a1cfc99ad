"""The interfaces that the environment names are looked at before a job starts."""

import pytest

from jobs.cli import main
from pipeline.errors import SettingsError
from pipeline.runtimes.interfaces import (
    Interface,
    check_interfaces,
    list_interfaces,
    select_for_nccl,
    uses_gloo,
)

HOST = [
    Interface("lo", "127.0.0.1"),
    Interface("eth0", "10.0.0.3"),
    Interface("eth01", "10.0.1.3"),
    Interface("docker0", "172.17.0.1"),
    Interface("ib0", None),
    Interface("ib1", None, has_ipv6=True),
    Interface("eth9", "10.0.9.3", is_up=False),
]
LISTED = (
    "Interfaces: lo (127.0.0.1), eth0 (10.0.0.3), eth01 (10.0.1.3), docker0 (172.17.0.1), "
    "ib0 (no IPv4 address), ib1 (no IPv4 address), eth9 (down, 10.0.9.3)"
)


def test_this_host_has_a_loopback_interface():
    lo = next(interface for interface in list_interfaces() if interface.name == "lo")
    assert (lo.address, lo.is_up) == ("127.0.0.1", True)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("eth", "eth0 eth01 eth9"),
        ("eth0", "eth0 eth01"),
        ("=eth0", "eth0"),
        ("=eth0:5000,lo", "lo eth0"),
        ("ib,docker", "docker0 ib0 ib1"),
        ("^docker,lo,ib", "eth0 eth01 eth9"),
        ("^=eth0", "lo eth01 docker0 ib0 ib1 eth9"),
        ("=eth", ""),
    ],
)
def test_the_syntax_of_nccl(wanted, names):
    assert [interface.name for interface in select_for_nccl(wanted, HOST)] == names.split()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HOROVOD_GLOO_IFACE": "eth1"}, "HOROVOD_GLOO_IFACE=eth1 names no network interface."),
        ({"HOROVOD_GLOO_IFACE": "eth"}, "names no network interface."),
        ({"HOROVOD_GLOO_IFACE": "ib1"}, "names ib1 (no IPv4 address), which cannot be used."),
        ({"HOROVOD_GLOO_IFACE": "eth9"}, "names eth9 (down, 10.0.9.3), which cannot be used."),
        ({"NCCL_SOCKET_IFNAME": "=eth"}, "NCCL_SOCKET_IFNAME==eth names no network interface."),
        ({"NCCL_SOCKET_IFNAME": "ib0"}, "names ib0 (no IPv4 address), which cannot be used."),
    ],
)
def test_a_wrong_interface_is_an_error_that_lists_those_of_the_host(variables, said):
    with pytest.raises(SettingsError) as wrong:
        check_interfaces(variables, "h", gloo=True, interfaces=HOST)
    assert said in str(wrong.value)
    assert str(wrong.value).startswith("on h, ")
    assert LISTED in str(wrong.value)


@pytest.mark.parametrize(
    ("variables", "gloo"),
    [
        ({}, True),
        ({"HOROVOD_GLOO_IFACE": "", "NCCL_SOCKET_IFNAME": ""}, True),
        ({"HOROVOD_GLOO_IFACE": "eth0", "NCCL_SOCKET_IFNAME": "^docker"}, True),
        ({"NCCL_SOCKET_IFNAME": "ib"}, True),  # IPv6 will do for NCCL
        ({"HOROVOD_GLOO_IFACE": "eth1"}, False),
    ],
)
def test_interfaces_that_can_be_used(variables, gloo):
    check_interfaces(variables, "h", gloo=gloo, interfaces=HOST)


@pytest.mark.parametrize(
    ("variables", "answer"),
    [
        ({"HOROVOD_RANK": "0"}, True),
        ({"OMPI_COMM_WORLD_RANK": "0"}, False),
        ({"HOROVOD_RANK": "0", "HOROVOD_CONTROLLER": "mpi"}, False),
        ({"OMPI_COMM_WORLD_RANK": "0", "HOROVOD_CPU_OPERATIONS": "GLOO"}, True),
    ],
)
def test_whether_horovod_uses_gloo(variables, answer):
    assert uses_gloo(variables) is answer


@pytest.mark.processes
@pytest.mark.parametrize("variable", ["HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME"])
def test_vit_launch_starts_nothing_on_a_wrong_interface(variable, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(variable, "nosuch0")
    started = tmp_path / "started"
    words = ["--hosts", "localhost", "--processes-per-node", "1"]
    assert main(["launch", *words, "--", "touch", str(started)]) == 2
    said = capsys.readouterr().err
    assert f"on localhost, {variable}=nosuch0 names no network interface. Interfaces: lo" in said
    assert not started.exists()
