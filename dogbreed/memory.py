"""How glibc treats memory that is freed."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones.

    By default glibc maps each large block anew and gives it back at once, so that every activation
    of every step is zeroed by the kernel, page after page: a quarter of a training step's time on
    the CPU. The price is that the process never gets smaller than it once was.

    Returns:
        Whether it was done; False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
