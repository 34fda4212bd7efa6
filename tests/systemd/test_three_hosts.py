"""Three machines on a private network, set up with what is installed and nothing else."""

from __future__ import annotations

import asyncio
import socket

import pytest

import kvclient
from tests.systemd.deployment import Hosts
from tests.systemd.lab.network import OWN_ADDRESS

URI = "kv://10.0.0.1:7401,10.0.0.2:7401,10.0.0.3:7401?timeout=10"
OUTSIDE = "192.0.2.254"
"""An address that is not private, which reaches the hosts all the same."""


async def _put_and_get() -> str:
    async with kvclient.connect(URI) as client:
        await client.put("greeting", "hello")
        found = await client.get("greeting")
    assert found is not None
    return found.text


def test_examples_on_three_hosts_make_a_cluster_that_the_network_reaches(cluster: Hosts, hosts: Hosts) -> None:
    """Installed, copied, enabled: the three find each other, and serve a client elsewhere on the private network."""
    assert hosts.network.call(lambda: asyncio.run(_put_and_get())) == "hello"


def test_callers_from_beyond_private_networks_get_no_answer_of_a_node(cluster: Hosts, hosts: Hosts) -> None:
    """The same way, the same port; only the caller's address differs. That is the unit's doing: without it they are served."""
    hosts.network.add_address(f"{OUTSIDE}/24")
    machine = hosts.machines["n1"]
    machine.run("ip", "route", "add", f"{OUTSIDE}/32", "dev", "eth0")

    def call(source: str) -> None:
        with socket.create_connection(("10.0.0.1", 7401), 0.5, (source, 0)):
            pass

    hosts.network.call(lambda: call(OWN_ADDRESS))
    with pytest.raises(TimeoutError):
        hosts.network.call(lambda: call(OUTSIDE))
    machine.run("systemctl", "set-property", "--runtime", "kvnode@n1", f"IPAddressAllow={OUTSIDE}")
    hosts.network.call(lambda: call(OUTSIDE))
