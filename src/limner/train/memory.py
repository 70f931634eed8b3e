"""The C library's memory, kept by the process between the steps of a training on a CPU."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST_BLOCK = 32 << 20  # bytes; glibc takes no more


def keep_freed() -> None:
    """Let glibc keep what is freed; elsewhere, nothing.

    By default it hands large blocks and the top of the heap back to the kernel at once. A training step frees and takes
    the same hundreds of megabytes again and again, and pays for each page anew: on the built-in prior 8,000 page faults
    a step, a twentieth of its time. What the process holds at most stays the same.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
