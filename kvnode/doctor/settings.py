"""The configuration: what works, and is rarely meant.

Owns warnings about settings that are valid. What is invalid `kvnode.config` refuses, with its own words.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator

from kvnode.config import Config
from kvnode.config_layers import ConfigError
from kvnode.doctor.finding import Finding, ok, problem, warning
from kvnode.doctor.subject import Subject, as_user

NAME = "configuration"
_WILDCARDS = ("0.0.0.0", "[::]")


def check_invalid(error: ConfigError) -> list[Finding]:
    """Every mistake of a configuration that cannot be used."""
    return [problem(NAME, text, "Correct it; `kvnode config check` says whether it can be used") for text in error.problems]


def check_settings(config: Config, source: str) -> list[Finding]:
    """Whose configuration it is, and every setting that is rarely meant."""
    members = len(config.cluster.members)
    what = f"node {config.node.name} of cluster {config.cluster.id}, {members} member{'s' if members > 1 else ''}"
    summary = ok(NAME, f"{source or 'the settings'}: {what}, {config.cluster.shards} shards")
    return [summary, *_redundancy(config), *_addresses(config), *_switches(config)]


def check_readable(subject: Subject) -> list[Finding]:
    """Whether the service's user can read the file. Forks where that is somebody else: no threads yet."""
    path = subject.config_path
    if not path or as_user(subject.uid, lambda: "yes" if os.access(path, os.R_OK) else "no") in ("yes", None):
        return []
    found = f"{path} cannot be read by {subject.user}, whom the node runs as"
    return [problem(NAME, found, f"As root: chgrp {subject.user} {path} && chmod 640 {path}, and see to its directory")]


def _redundancy(config: Config) -> Iterator[Finding]:
    cluster, members = config.cluster, len(config.cluster.members)
    if members == 2:
        found = "cluster.members has two: with either of them down no strong request is served"
        yield warning(NAME, found, "Use three members, or one: two are less available than one, and cost twice as much")
    if cluster.replication_factor == 1 and members > 1:
        found = "cluster.replication_factor is 1: each shard is on one node, and lost with it"
        yield warning(NAME, found, "Set it to 3 before the first start of the cluster")
    elif cluster.replication_factor % 2 == 0 and members != 2:
        fewer, more = cluster.replication_factor - 1, cluster.replication_factor + 1
        found = f"cluster.replication_factor is {cluster.replication_factor}: it survives no more failures than {fewer} does"
        yield warning(NAME, found, f"Set it to {more if more <= members else fewer} before the first start of the cluster")
    if members > 1 and cluster.shards < 2 * members:
        found = f"cluster.shards is {cluster.shards} for {members} nodes: their leaders cannot spread the writes evenly"
        yield warning(NAME, found, f"Set it to {2 * members} or more before the first start; it cannot be changed later")


def _addresses(config: Config) -> Iterator[Finding]:
    node, members = config.node, config.cluster.members
    remote = [name for name, address in members.items() if name != node.name and not is_loopback(address)]
    if remote and is_loopback(node.listen):
        found = f"node.listen is {node.listen}, which {', '.join(remote)} cannot reach from other hosts"
        yield problem(NAME, found, "Set node.listen to this host's address in the network of the cluster")
    elif remote and is_loopback(node.advertise):
        found = f"node.advertise is {node.advertise}, which means another host on {', '.join(remote)}"
        yield problem(NAME, found, "Set node.advertise, and cluster.members on all nodes, to an address that others can reach")
    local = [name for name, address in members.items() if name != node.name and is_loopback(address)]
    if local and not is_loopback(node.advertise):
        found = f"cluster.members has {', '.join(local)} on this host's loopback, and this node at {node.advertise}"
        yield warning(NAME, found, "Give every member an address that all others reach; the list is the same on all nodes")
    if is_open(node.listen):
        found = f"node.listen is {node.listen}: whoever reaches this host may read and write everything"
        yield warning(
            NAME, found, "Listen on an address of a private network, or let a firewall admit members and clients only"
        )
    if config.metrics.listen and is_open(config.metrics.listen):
        found = f"metrics.listen is {config.metrics.listen}: whoever reaches this host may read the metrics"
        yield warning(NAME, found, "Listen on 127.0.0.1 or on the address that Prometheus uses")


def _switches(config: Config) -> Iterator[Finding]:
    if config.faults.enabled:
        found = "faults.enabled is true: whoever reaches the node may cut its links, fail its disk and turn its clock"
        yield warning(NAME, found, "Leave it out except for game days")
    if config.log.level == "debug":
        yield warning(NAME, "log.level is debug: several lines a request", 'Set it to "info" in production')
    if config.storage.ballast_size_bytes == 0 and len(config.cluster.members) > 1:
        found = "storage.ballast_size_bytes is 0: a full disk leaves no room for the writes that free it"
        yield warning(NAME, found, 'Leave it out ("16MiB")')


def is_loopback(address: str) -> bool:
    """Whether "host:port" means the host that reads it."""
    host = address.rpartition(":")[0].strip("[]")
    ip = _ip(host)
    return host == "localhost" or (ip is not None and ip.is_loopback)


def is_open(address: str) -> bool:
    """Whether a listener there may be reached from the internet: all addresses of the host, or a public one."""
    host = address.rpartition(":")[0]
    ip = _ip(host.strip("[]"))
    return host in _WILDCARDS or (ip is not None and ip.is_global)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
