"""The hosts of a job are excluded from proxies, and nothing else is."""

import pytest

from pipeline.runtimes.proxies import bypass_proxies, host_of

PROXY = "http://proxy.example.com:3128"


@pytest.mark.parametrize(
    ("environment", "changed"),
    [
        ({}, {}),
        ({"http_proxy": "", "no_proxy": "a"}, {}),
        (
            {"http_proxy": PROXY},
            {"no_proxy": "localhost,127.0.0.1,h0,h1", "NO_PROXY": "localhost,127.0.0.1,h0,h1"},
        ),
        (
            {"ALL_PROXY": PROXY, "NO_PROXY": ".example.com, h1"},
            {"no_proxy": ".example.com,h1,localhost,127.0.0.1,h0",
             "NO_PROXY": ".example.com,h1,localhost,127.0.0.1,h0"},
        ),
        (
            {"grpc_proxy": PROXY, "no_proxy": "a", "NO_PROXY": "b", "no_grpc_proxy": "c"},
            {"no_proxy": "a,localhost,127.0.0.1,h0,h1", "NO_PROXY": "b,localhost,127.0.0.1,h0,h1",
             "no_grpc_proxy": "c,localhost,127.0.0.1,h0,h1"},
        ),
    ],
)  # fmt: skip
def test_the_jobs_hosts_are_added_to_what_the_user_excludes(environment, changed):
    assert bypass_proxies(environment, ["h0", "h1"]) == changed


@pytest.mark.parametrize(
    ("address", "host"), [("h0:1", "h0"), ("10.0.0.1:22", "10.0.0.1"), ("[::1]:5", "::1")]
)
def test_the_host_of_an_address(address, host):
    assert host_of(address) == host
