"""How many processors there are for this process."""

import os


def cores() -> int:
    """Those that it may run on; a container or `taskset` may leave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
