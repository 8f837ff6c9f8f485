"""The processes with an engine: started, watched, replaced, ended.

They are forked from a process that has imported what they need (`forking`), so that another takes
the place of one that has died within a second: imports alone took ten or twenty under load.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

from dogbreed.serve.forking import fork_server
from dogbreed.serve.lines import log
from dogbreed.serve.links import Dispatcher, Link, Port
from dogbreed.serve.worker import BreedAPI, work

_PATIENCE = 30.0  # seconds between two starts of a worker that ends again and again, at most


class Workers:
    """All workers of a server; belongs to its event loop.

    Args:
        api: what each of them runs.
        count: how many.
        engine: a name that `open_engine` knows.
        dispatcher: whose pictures they get.
        on_change: called when one is warm, with whether it has heat maps, or has ended, with none.
        on_restart: called when another starts in place of one that has ended.
        on_stop: called with a problem that no other worker would solve, and whether the package or
            an option is to blame.
    """

    def __init__(
        self,
        api: BreedAPI,
        count: int,
        engine: str,
        dispatcher: Dispatcher,
        on_change: Callable[[bool | None], None],
        on_restart: Callable[[], None],
        on_stop: Callable[[str, bool], None],
    ) -> None:
        self._api, self._count, self._dispatcher = api, count, dispatcher
        self._on_change, self._on_restart, self._on_stop = on_change, on_restart, on_stop
        self._engine = engine
        self._links: dict[int, Link] = {}  # by worker id
        self._processes: dict[int, ForkServerProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []

    def warm(self) -> list[int]:
        """Process ids of those that are ready to answer."""
        loaded = [worker_id for worker_id, link in self._links.items() if link.loaded]
        return [self._processes[worker_id].pid or 0 for worker_id in loaded]

    def start(self) -> None:
        """Begin to start them."""
        self._keepers = [asyncio.ensure_future(self._keep(k)) for k in range(self._count)]

    def close(self) -> None:
        """Let them go: each ends when it has done its batch."""
        for keeper in self._keepers:
            keeper.cancel()
        for link in self._links.values():
            link.close()

    def kill(self) -> None:
        """End them, whatever they do: a batch that nobody waits for any more, or loading."""
        started = [process for process in self._processes.values() if process.pid]
        for process in started:
            process.kill()
        for process in started:
            process.join(1)

    async def _keep(self, worker_id: int) -> None:
        """Start a worker, and another whenever it has ended."""
        ever, deaths = False, 0  # whether one was warm; how many have ended since
        while True:
            warm, problem = await self._life(worker_id, first=not ever)
            ever, deaths = ever or warm, 1 if warm else deaths + 1
            if not ever:
                self._on_stop(f"worker {worker_id} ended while it loaded ({problem})", False)
                return
            line = f"worker {worker_id} has ended ({problem}); another starts"
            log("ERROR", line, worker=worker_id)
            self._on_restart()
            if deaths > 1:
                await asyncio.sleep(min(0.5 * 2 ** (deaths - 1), _PATIENCE))

    async def _life(self, worker_id: int, first: bool) -> tuple[bool, str]:
        """From a worker's start to its end: whether it was warm, and how it ended."""
        ended = asyncio.Event()

        def loaded(about: dict[str, Any]) -> None:
            log("INFO", f"worker {worker_id} is ready", worker=worker_id)
            self._on_change(about["explains"])

        def refused(about: dict[str, Any]) -> None:
            if first:
                self._on_stop(about["problem"], about["foreseen"])
            else:
                log("ERROR", f"worker {worker_id}: {about['problem']}", worker=worker_id)

        ours, theirs = socket.socketpair()
        process = fork_server(self._engine).Process(
            target=work,
            args=(self._api, worker_id, Port(theirs)),
            name=f"worker-{worker_id}",
            daemon=True,
        )
        link = Link(self._dispatcher, loaded, refused, ended.set)
        self._links[worker_id], self._processes[worker_id] = link, process
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        with theirs:  # then the worker's end of it is the only one
            problem = await _started(process)
        await ended.wait()
        del self._links[worker_id]
        self._on_change(None)
        if problem is None:
            await asyncio.to_thread(process.join, 1)  # it has closed its socket: it is ending
            problem = str(process.exitcode)
        return link.loaded, problem


async def _started(process: ForkServerProcess) -> str | None:
    """Start a process, which takes seconds while the fork server imports; why it could not be.

    Whoever is cancelled meanwhile leaves a thread behind that nobody waits for; the fork server
    ends with this process, before it would fork.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str | None] = loop.create_future()

    def tell(problem: str | None) -> None:
        if not done.done():
            done.set_result(problem)

    def start() -> None:
        problem = None
        try:
            process.start()
        except (OSError, EOFError, ValueError) as error:  # the fork server or this one has ended
            problem = f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, problem)

    threading.Thread(target=start, name="start", daemon=True).start()
    return await done
