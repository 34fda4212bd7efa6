"""Why a node does not start, for whoever starts it: what happened, to which file or address, and what to do.

Owns the words for what the operating system refuses. What kvnode itself refuses says so where it is found.
"""

from __future__ import annotations

import errno
import socket

from kvnode.storage.disk import OutOfSpace

DOCTOR = "`kvnode doctor` with the same configuration says more"
_FILES = "raise the limit of open files (LimitNOFILE=65536 in the unit, `ulimit -n 65536` in a shell)"


def cannot_listen(listen: str, setting: str, error: BaseException) -> OSError:
    """The error for a server that cannot have the address which `setting` says; `error`, or its cause, is why."""
    cause = error if isinstance(error, OSError) else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    if isinstance(cause, socket.gaierror):
        what = f"the name does not resolve ({cause.strerror}): correct {setting}"
    elif number == errno.EADDRINUSE:
        what = f"somebody does already: stop that process, or change {setting}"
    elif number == errno.EADDRNOTAVAIL:
        what = f"it is no address of this host, now: correct {setting}, or start the node when the network is up"
    elif number == errno.EACCES:
        what = f"this user may not use so low a port: change {setting}, or give the unit CAP_NET_BIND_SERVICE"
    elif number == errno.EMFILE:
        what = f"too many open files: {_FILES}"
    else:
        what = f"{cause.strerror if isinstance(cause, OSError) and cause.strerror else error}; see {setting}"
    return OSError(f"cannot listen on {listen}: {what}")


def cannot_write_spans(file: str, error: OSError) -> OSError:
    """The error for `tracing.file`."""
    return OSError(f"cannot write spans to {file}: {error.strerror}: make its directory, or correct tracing.file")


def cannot_start(error: BaseException) -> str:
    """What to say of an error that ends a start: its own words, and the way on where it has none."""
    said = str(error).rstrip(".")
    if isinstance(error, OutOfSpace):
        said += ". Free space on that file system, raise storage.quota_bytes, or set node.data_dir to a larger disk"
    elif isinstance(error, OSError) and error.errno == errno.EMFILE:
        said += f": {_FILES}"
    return f"{said}. {DOCTOR}"
