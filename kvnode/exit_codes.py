"""How `kvnode run` ends: the codes of sysexits(3), so that a service manager knows what starting again can cure.

Owns their meaning. The unit file's RestartPreventExitStatus lists those that need a person first.
"""

from __future__ import annotations

from kvnode.errors import Corrupt, UnusableDirectory, WrongCluster
from kvnode.storage.disk import DiskFailed

OK = 0
FAILED = 1
"""Something that may be over when it is started again: a bug's trigger, a port or a directory that is in use."""
USAGE = 2
"""The command line is wrong."""
UNUSABLE_DATA = 65
"""EX_DATAERR: the data directory is damaged, of another node or cluster, of a format that this release does not know, or not
this user's to write."""
DISK_FAILED = 74
"""EX_IOERR: a write or a sync failed. What the disk holds is unknown: it must be looked after before it is used again."""
UNUSABLE_CONFIG = 78
"""EX_CONFIG: the configuration cannot be used."""


def exit_code(error: BaseException) -> int:
    """The code for what ended a node."""
    if isinstance(error, Corrupt | UnusableDirectory | WrongCluster):
        return UNUSABLE_DATA
    return DISK_FAILED if isinstance(error, DiskFailed) else FAILED
