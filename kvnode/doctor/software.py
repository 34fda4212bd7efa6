"""The interpreter and the libraries that the node would run on: present, and in their fast builds.

Owns which libraries have slow substitutes. Imports them only to ask.
"""

from __future__ import annotations

import importlib.util
import platform

from kvnode import __version__
from kvnode.doctor.finding import Finding, ok, problem, warning

NAME = "software"


def check_software(transport: str) -> list[Finding]:
    """Versions, and what runs without its compiled part."""
    what = f"kvnode {__version__}, Python {platform.python_version()}, transport {transport}"
    if importlib.util.find_spec("uvloop") is None:
        return [problem(NAME, f"{what}; uvloop is not installed, and the node does not start without", "pip install uvloop")]
    if slow := slow_libraries(_crc32c(), _protobuf()):
        found = f"{what}; {' and '.join(slow)} without compiled code: the node is several times slower"
        return [warning(NAME, found, "Install wheels that are built for this platform and this Python")]
    return [ok(NAME, what)]


def slow_libraries(crc32c: str, protobuf: str) -> list[str]:
    """Those that fell back to Python, from what they say of themselves."""
    return [name for name, is_slow in (("google-crc32c", crc32c == "python"), ("protobuf", protobuf == "python")) if is_slow]


def _crc32c() -> str:
    import google_crc32c

    return str(google_crc32c.implementation)


def _protobuf() -> str:
    from google.protobuf.internal import api_implementation

    return str(api_implementation.Type())
