"""Secrets by systemd's credentials, as examples/credentials.conf has it: for their node alone, and shown to nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.systemd.deployment import Deployment

SECRET = "Bearer 5f2b7c"
DROP_IN = "/etc/systemd/system/kvnode@n1.service.d/credentials.conf"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Notes with which headers spans arrive."""

    def __init__(self) -> None:
        self.headers: list[str] = []

    def Export(self, request, context):  # type: ignore[no-untyped-def]
        """The one call of the service."""
        self.headers.append(str(dict(context.invocation_metadata()).get("authorization")))
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def secret(host: Deployment) -> Iterator[Deployment]:
    """n1 has a credential, in the way that the example's comment tells."""
    machine = host.machine
    machine.run("install", "-d", "-m", "0700", "/etc/kvnode/credentials/n1")
    machine.write("/etc/kvnode/credentials/n1/otlp_headers", f"authorization={SECRET}\n", 0o600)
    machine.run("install", "-D", "-m", "0644", "/usr/share/kvnode/examples/credentials.conf", DROP_IN)
    machine.run("systemctl", "daemon-reload")
    yield host
    machine.path(DROP_IN).unlink()
    machine.run("systemctl", "daemon-reload")
    host.write_configuration("n1")


def test_secret_of_a_node_arrives_with_its_spans_and_is_shown_to_nobody(secret: Deployment) -> None:
    """The collector knows the node by it; `config dump` says where it comes from and not what it is; spans that wait are sent
    before a stopping node ends."""
    host, collector = secret, Collector()
    host.stop("n1")

    def serve() -> grpc.Server:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
        server.add_insecure_port("127.0.0.1:4317")
        server.start()
        return server

    server = host.machine.call(serve)
    traced = {"otlp_endpoint": '"http://127.0.0.1:4317"', "file": '"spans.jsonl"', "sample_ratio": "1.0"}
    host.write_configuration("n1", {f"tracing.{name}": value for name, value in traced.items()})
    host.start_all()
    host.machine.run("systemctl", "reload", "kvnode@n1")  # (What checks the file may not read the secret.)
    host.with_client(lambda client: client.put("traced", "x"))
    host.stop("n1")
    server.stop(0)
    assert set(collector.headers) == {SECRET}
    assert host.machine.path("/var/lib/kvnode/n1/spans.jsonl").stat().st_size  # (A relative path means the state directory.)
    dump = host.in_place_of("n1", "/opt/kvnode/bin/kvnode config dump --config /etc/kvnode/n1.toml -o json")
    assert "5f2b7c" not in json.dumps(dump)
    assert "credential" in dump["origins"]["tracing.otlp_headers"]  # type: ignore[index]
    assert not [entry for entry in host.machine.journal("kvnode@n1") if "5f2b7c" in entry.message]
