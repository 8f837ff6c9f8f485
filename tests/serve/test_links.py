"""Which pictures go to which worker, and when: no processes, and a wait beyond all tests."""

import asyncio
from collections.abc import Callable

import numpy as np

from dogbreed.serve.links import Dispatcher, Job, Link

BATCH, HOURS = 3, 36_000.0


class Worker(Link):
    """Takes batches and keeps them."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher, lambda about: None, lambda about: None, lambda: None)
        self.batches: list[list[Job]] = []

    def send(self, batch: dict[int, Job]) -> None:
        self.batches.append(list(batch.values()))


def job() -> Job:
    blank = np.zeros((1, 1, 3), np.uint8)
    return Job(blank, False, asyncio.get_running_loop().create_future())


def dispatched(check: Callable[[Dispatcher, Worker], None], wait: float = HOURS) -> None:
    async def run() -> None:
        dispatcher = Dispatcher(BATCH, wait, lambda batch: None)
        check(dispatcher, Worker(dispatcher))

    asyncio.run(run())


def test_a_lone_picture_goes_to_an_idle_worker_at_once() -> None:
    def check(dispatcher: Dispatcher, worker: Worker) -> None:
        dispatcher.ready(worker)
        lone = job()
        dispatcher.put(lone)
        assert worker.batches == [[lone]]

    dispatched(check)


def test_a_busy_worker_waits_until_its_next_batch_is_full() -> None:
    def check(dispatcher: Dispatcher, worker: Worker) -> None:
        jobs = [job() for _ in range(BATCH + 1)]
        dispatcher.put(jobs[0])
        dispatcher.ready(worker)
        dispatcher.put(jobs[1])
        assert worker.batches == []
        dispatcher.put(jobs[2])
        assert worker.batches == [jobs[:BATCH]]
        dispatcher.put(jobs[3])
        assert len(dispatcher) == 1

    dispatched(check)


def test_without_a_wait_a_batch_is_what_is_there() -> None:
    def check(dispatcher: Dispatcher, worker: Worker) -> None:
        jobs = [job() for _ in range(BATCH + 2)]
        for each in jobs:
            dispatcher.put(each)
        for _ in range(2):
            dispatcher.ready(worker)
        assert worker.batches == [jobs[:BATCH], jobs[BATCH:]]

    dispatched(check, wait=0.0)


def test_a_worker_that_is_gone_gets_nothing() -> None:
    def check(dispatcher: Dispatcher, worker: Worker) -> None:
        dispatcher.ready(worker)
        dispatcher.lost(worker)
        dispatcher.put(job())
        assert (worker.batches, len(dispatcher)) == ([], 1)

    dispatched(check)
