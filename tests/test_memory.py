"""What happens to memory that is freed."""

import subprocess
import sys

FAULTS = """
import resource, sys, torch
from dogbreed.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc")
for _ in range(20):  # until the blocks have settled
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    """Pages that ten tensors of 64 MiB, one after the other, are given by the kernel."""
    command = [sys.executable, "-c", FAULTS, word]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_kept_memory_is_used_again_without_the_kernel() -> None:
    pages = 10 * 2**26 // 4096
    assert faults("keep") < pages / 10
    assert faults("plain") > pages / 2
