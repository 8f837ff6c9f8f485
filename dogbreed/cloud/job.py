"""`fit` in a container of Vertex AI: one fixed command that starts, goes on, and gives up for good.

Vertex AI starts a container that failed again, several times. What would fail again in the same way
leaves `FAILED` in the run's directory, and then each further start ends in seconds.
"""

import os
import sys
from collections.abc import Sequence

from dogbreed import storage
from dogbreed.cloud.environment import adopt, run_directory
from dogbreed.cloud.secrets import set_wandb_key
from dogbreed.errors import BadInput, OutOfReach
from dogbreed.runs import FAILED_FILE


def fit(argv: Sequence[str]) -> int:
    """Train as this machine of the job; returns the exit status.

    Args:
        argv: words after `fit`.
    """
    place = run_directory(argv, os.environ)
    mark = storage.join(*place, FAILED_FILE) if place else None
    if mark and storage.exists(mark):
        reason = storage.read(mark).decode().strip()
        print(f"dogbreed fit: error: {reason} (delete {mark} to try again)", file=sys.stderr)
        return 1
    try:
        words = adopt(argv, os.environ)
        set_wandb_key()
        from dogbreed.training import fit as train

        return train(words)
    except Exception as error:
        if mark and _permanent(error):
            named = "" if isinstance(error, BadInput) else f"{type(error).__name__}: "
            storage.write(mark, f"{named}{error}\n".encode())
        raise


def _permanent(error: Exception) -> bool:
    """Whether the same command would fail in the same way.

    The network, a disk or another machine may be better next time; a bad option, a missing file or
    too little memory are not.
    """
    from torch import OutOfMemoryError

    if isinstance(error, OutOfReach):
        return False
    if isinstance(error, storage.StorageError):
        return isinstance(error.__cause__, FileNotFoundError)
    return isinstance(error, OutOfMemoryError) or not isinstance(error, OSError | RuntimeError)
