"""Services as users have them: health, reflection, and stubs and servicers that protoc generated."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from kvapi.v1 import replication_pb2 as pb
from kvapi.v1 import replication_pb2_grpc as pb_grpc
from tests.wire.pairs import Context, Rig, collect, refusal, soon

StatusCode = grpc.StatusCode
Check = health_pb2.HealthCheckRequest
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAMES = ["kvapi.v1.Replication", "grpc.health.v1.Health", reflection.SERVICE_NAME]


async def open_health(rig: Rig) -> tuple[health.HealthServicer, health_pb2_grpc.HealthStub]:
    """grpcio's own servicer and stub."""
    servicer = health.HealthServicer()
    served = await rig.serve(register=lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server))
    return servicer, health_pb2_grpc.HealthStub(rig.connect(served))


async def test_health_of_services_is_checked(rig: Rig) -> None:
    """SERVING and NOT_SERVING as they are set, NOT_FOUND for what nobody set."""
    servicer, stub = await open_health(rig)
    assert (await soon(stub.Check(Check()))).status == SERVING
    await servicer.set("kv", NOT_SERVING)
    assert (await soon(stub.Check(Check(service="kv")))).status == NOT_SERVING
    await servicer.set("kv", SERVING)
    assert (await soon(stub.Check(Check(service="kv"), timeout=5))).status == SERVING
    assert (await refusal(stub.Check(Check(service="unknown")))).code() is StatusCode.NOT_FOUND


async def test_health_is_watched_until_the_watcher_goes(rig: Rig) -> None:
    """Each change is told at once; who leaves is forgotten by the servicer."""
    servicer, stub = await open_health(rig)
    call = stub.Watch(Check(service="kv"))
    assert (await soon(call.read())).status == UNKNOWN
    for status in (SERVING, NOT_SERVING, SERVING):
        await servicer.set("kv", status)
        assert (await soon(call.read())).status == status
    assert list(servicer._server_watchers) == ["kv"]
    call.cancel()
    async with asyncio.timeout(10):
        while servicer._server_watchers:
            await asyncio.sleep(0.005)


async def test_health_is_watched_by_many_who_are_all_told(rig: Rig) -> None:
    """Five hundred streams on one connection."""
    servicer, stub = await open_health(rig)
    calls = [stub.Watch(Check(service="kv")) for _ in range(500)]

    async def statuses() -> set[int]:
        return {response.status for response in await soon(asyncio.gather(*(call.read() for call in calls)))}

    assert await statuses() == {UNKNOWN}
    for status in (SERVING, NOT_SERVING):
        await servicer.set("kv", status)
        assert await statuses() == {status}
    assert (await soon(stub.Check(Check(service="kv")))).status == NOT_SERVING
    for call in calls:
        call.cancel()


async def ask(stub: Any, *requests: reflection_pb2.ServerReflectionRequest) -> list[Any]:
    """The answers to some questions on one stream."""
    return await soon(collect(stub.ServerReflectionInfo(iter(requests))))


def names_of(files: Any) -> set[str]:
    return {descriptor_pb2.FileDescriptorProto.FromString(data).name for data in files.file_descriptor_proto}


async def test_reflection_lists_services_and_gives_files(rig: Rig) -> None:
    """The list, a file by symbol and by name with what it imports, and errors as answers."""
    served = await rig.serve(register=lambda server: reflection.enable_server_reflection(NAMES, server))
    stub = reflection_pb2_grpc.ServerReflectionStub(rig.connect(served))
    ask_for = reflection_pb2.ServerReflectionRequest
    listed, by_symbol, by_name, unknown = await ask(
        stub,
        ask_for(list_services=""),
        ask_for(file_containing_symbol="kvapi.v1.Replication"),
        ask_for(file_by_filename=health_pb2.DESCRIPTOR.name),
        ask_for(file_containing_symbol="no.such.Symbol"),
    )
    assert {service.name for service in listed.list_services_response.service} == set(NAMES)
    assert "kvapi/v1/replication.proto" in names_of(by_symbol.file_descriptor_response)
    assert names_of(by_name.file_descriptor_response) == {health_pb2.DESCRIPTOR.name}
    assert unknown.error_response.error_code == StatusCode.NOT_FOUND.value[0]

    call = stub.ServerReflectionInfo()
    for _ in range(3):
        await soon(call.write(ask_for(list_services="")))
        assert len((await soon(call.read())).list_services_response.service) == len(NAMES)
    await soon(call.done_writing())
    assert await soon(call.read()) is grpc.aio.EOF


class Replication(pb_grpc.ReplicationServicer):
    """Three kinds of methods by generated code; one is left as it was generated."""

    async def Append(self, request_iterator: AsyncIterator[pb.AppendRequest], context: Context) -> Any:
        async for request in request_iterator:
            results = [pb.ShardAppendResult(shard=append.shard, success=True) for append in request.appends]
            yield pb.AppendResponse(results=results)

    async def InstallSnapshot(self, request_iterator: Any, context: Context) -> pb.InstallSnapshotResponse:
        size = sum([len(part.data) async for part in request_iterator])
        return pb.InstallSnapshotResponse(success=True, last_index=size)

    async def ReadIndex(self, request: pb.ReadIndexRequest, context: Context) -> pb.ReadIndexResponse:
        if not request.shard:
            await context.abort(StatusCode.INVALID_ARGUMENT, "no shard")
        return pb.ReadIndexResponse(index=request.shard * 2)


async def test_generated_code_serves_and_calls_all_kinds(rig: Rig) -> None:
    """Messages of protobuf through the servicer's registration and the stub, in each style of calling."""

    def register(server: grpc.aio.Server) -> None:
        pb_grpc.add_ReplicationServicer_to_server(Replication(), server)

    stub = pb_grpc.ReplicationStub(rig.connect(await rig.serve(register=register)))
    assert (await soon(stub.ReadIndex(pb.ReadIndexRequest(shard=7), timeout=5))).index == 14
    error = await refusal(stub.ReadIndex(pb.ReadIndexRequest()))
    assert (error.code(), error.details()) == (StatusCode.INVALID_ARGUMENT, "no shard")

    parts = [pb.InstallSnapshotRequest(data=b"x" * 50_000) for _ in range(20)]
    assert (await soon(stub.InstallSnapshot(iter(parts)))).last_index == 1_000_000
    by_hand = stub.InstallSnapshot()
    for part in parts:
        await soon(by_hand.write(part))
    await soon(by_hand.done_writing())
    assert (await soon(by_hand)).last_index == 1_000_000

    asked = [pb.AppendRequest(appends=[pb.ShardAppend(shard=shard)]) for shard in range(50)]
    answers = await soon(collect(stub.Append(iter(asked), wait_for_ready=True)))
    assert [result.shard for response in answers for result in response.results] == list(range(50))
    call = stub.Append()
    for request in asked[:5]:
        await soon(call.write(request))
        assert (await soon(call.read())).results[0].shard == request.appends[0].shard
    await soon(call.done_writing())
    assert await soon(call.read()) is grpc.aio.EOF

    error = await refusal(stub.ReplicateEventual(pb.ReplicateEventualRequest()))
    assert error.code() is StatusCode.UNIMPLEMENTED
    assert "Method not implemented!" in error.details()


async def test_generated_code_with_garbage_on_the_wire_refuses(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are no message of protobuf fail the call at the one who reads them; the next call is served."""
    caplog.set_level(logging.CRITICAL)

    def register(server: grpc.aio.Server) -> None:
        pb_grpc.add_ReplicationServicer_to_server(Replication(), server)

    channel = rig.connect(await rig.serve(register=register))
    method = channel.unary_unary("/kvapi.v1.Replication/ReadIndex")
    assert (await refusal(method(b"\xff\xff\xff"))).code() is StatusCode.UNKNOWN
    assert pb.ReadIndexResponse.FromString(await soon(method(b"\x10\x07"))).index == 14
