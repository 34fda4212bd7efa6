"""gRPC over HTTP/2 on asyncio, with grpc.aio's interfaces: `server`, `insecure_channel`, `secure_channel`.

A package of its own: it knows nothing of kvnode. Messages, metadata, deadlines, status codes and cancellation are as with
grpcio; see docs/protocols/wire.md for what is not there.
"""

from kvwire.channel import insecure_channel, secure_channel
from kvwire.credentials import ssl_channel_credentials, ssl_server_credentials
from kvwire.server import Server, server

__all__ = ["Server", "insecure_channel", "secure_channel", "server", "ssl_channel_credentials", "ssl_server_credentials"]
