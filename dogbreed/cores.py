"""How many processors there are for this process, and what they are good at."""

import os
from pathlib import Path


def cores() -> int:
    """Those that it may run on; a container or `taskset` may leave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def computes_in_bf16() -> bool:
    """Whether they multiply in bfloat16 (AVX512-BF16, AMX, Arm's BF16), as Linux tells; others: no.

    Those that don't can be made to, at two thirds of their speed in float32.
    """
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(told.split())
