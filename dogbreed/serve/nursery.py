"""What the fork server imports last: it is of use there alone."""

import atexit
import gc
import os

gc.freeze()  # what was imported stays in pages that all workers share
atexit.register(os._exit, 0)  # taking apart what was imported takes seconds, and nobody needs it
