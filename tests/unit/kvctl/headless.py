"""A program whose first thread ends while another goes on, as happens to any process for a moment while it is killed."""

from __future__ import annotations

import ctypes
import platform
import threading
import time

SYS_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]
"""exit(2) as the kernel has it: this thread's end, not the process's."""

if __name__ == "__main__":
    threading.Thread(target=time.sleep, args=(60.0,)).start()
    ctypes.CDLL(None).syscall(SYS_EXIT, 0)
