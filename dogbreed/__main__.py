"""``python -m dogbreed``, and the console script."""

import os
import select
import sys

from dogbreed.cli import main

READS_NO_MORE = 141  # what a shell says of a command that SIGPIPE has ended


def run() -> None:
    """Run the process' own arguments and exit; without a word if nobody reads on, as `head`."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        status = READS_NO_MORE
    sys.exit(status)


def _nobody_reads() -> bool:
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


if __name__ == "__main__":
    run()
