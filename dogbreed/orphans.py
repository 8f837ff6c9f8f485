"""No process of ours outlives the one that started it, however that one ended."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """From now on this process ends, whatever it is doing, when its parent has ended.

    Torch's own watch looks at the parent's process id, which is that of the fork server; and that
    ends only after its last child.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
