"""Reads that stall are asked for a second time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from dogbreed import hedging, ranges, retries, storage
from dogbreed.hedging import Pace, first_good
from dogbreed.ranges import Range, copy_range, read_ranges
from tests.doubles.gcs import FakeGCS, Faults


class TestPace:
    def test_a_read_is_waited_for_some_times_as_long_as_is_usual(self) -> None:
        pace = Pace()
        for _ in range(20):
            pace.note(2.0, 0)
        assert pace.patience(0) == pytest.approx(hedging.TIMES * 2)
        assert pace.patience(2**20) == pytest.approx(hedging.TIMES * 4)

    def test_quick_reads_do_not_make_it_hasty(self) -> None:
        pace = Pace()
        for _ in range(20):
            pace.note(0.001, 1000)
        assert pace.patience(1000) == hedging.LEAST

    def test_a_few_slow_reads_do_not_make_it_slow(self) -> None:
        pace = Pace()
        for k in range(20):
            pace.note(30.0 if k % 4 == 0 else 0.5, 0)
        assert pace.patience(0) == pytest.approx(hedging.TIMES * 0.5)

    def test_before_anything_is_known_large_reads_get_longer(self) -> None:
        assert Pace().patience(10**7) > Pace().patience(10**3) >= hedging.LEAST


def answers(*outcomes: str | Exception | None) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    """Asks that give these one after the other, None being an answer that never comes."""
    asked: list[int] = []

    async def ask() -> str:
        asked.append(len(asked))
        outcome = outcomes[len(asked) - 1]
        if outcome is None:
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, str)
        return outcome

    return ask, asked


class TestFirstGood:
    def test_an_answer_in_time_is_asked_for_once(self) -> None:
        ask, asked = answers("a", "b")
        assert asyncio.run(first_good(ask, 600)) == "a"
        assert len(asked) == 1

    def test_one_that_stalls_is_asked_for_again(self) -> None:
        ask, asked = answers(None, "b")
        assert asyncio.run(first_good(ask, 0)) == "b"
        assert len(asked) == 2

    def test_a_bad_second_answer_does_not_end_the_wait_for_the_first(self) -> None:
        later = asyncio.Event()

        async def main() -> str:
            asked: list[int] = []

            async def ask() -> str:
                asked.append(0)
                if len(asked) == 2:
                    later.set()
                    raise OSError("second")
                await later.wait()
                await asyncio.sleep(0)
                return "first"

            return await first_good(ask, 0)

        assert asyncio.run(main()) == "first"

    def test_a_failure_in_time_is_not_asked_for_again_here(self) -> None:
        ask, asked = answers(OSError("no"), "b")
        with pytest.raises(OSError, match="no"):
            asyncio.run(first_good(ask, 600))
        assert len(asked) == 1

    def test_what_is_no_longer_wanted_is_withdrawn(self) -> None:
        withdrawn = []

        async def main() -> str:
            asked: list[int] = []

            async def ask() -> str:
                asked.append(0)
                if len(asked) == 2:
                    return "second"
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    withdrawn.append("first")
                    raise
                raise AssertionError

            answer = await first_good(ask, 0)
            await asyncio.sleep(0)
            return answer

        assert asyncio.run(main()) == "second"
        assert withdrawn == ["first"]


class TestReadRanges:
    @pytest.fixture
    def there(self, gcs: FakeGCS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Range:
        """A file of which the first read stalls for ten minutes."""
        storage.write(f"{bucket}/a", b"0123456789")
        monkeypatch.setattr(hedging, "LEAST", 0.1)
        monkeypatch.setattr(hedging, "AT_FIRST", 0.1)
        monkeypatch.setattr(ranges, "_pace", Pace())
        gcs.counts.clear()
        gcs.faults.stall_rate, gcs.faults.stall_seconds = 0.5, 600
        gcs.faults.seed = next(seed for seed in range(100) if _stalls(seed, "a") == (True, False))
        return Range(f"{bucket}/a", 0, 10, storage.digest_of(b"0123456789"))

    def test_a_stalled_read_is_asked_for_a_second_time_within_a_try(
        self, gcs: FakeGCS, there: Range, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "ATTEMPTS", 1)
        before = ranges.traffic.requests
        assert read_ranges([there]) == [b"0123456789"]
        assert gcs.counts["stall"] == 1
        assert ranges.traffic.requests - before == 2

    def test_a_stalled_copy_likewise(
        self, gcs: FakeGCS, there: Range, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "ATTEMPTS", 1)
        got: list[tuple[bytes, int]] = []
        copy_range(there, lambda data, at: got.append((data, at)))
        assert got == [(b"0123456789", 0)]
        assert gcs.counts["stall"] == 1

    def test_one_that_is_late_for_good_is_an_error_when_its_time_is_up(
        self, gcs: FakeGCS, there: Range, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gcs.faults.stall_rate = 1.0
        monkeypatch.setattr(hedging, "LEAST", 0.0)
        monkeypatch.setattr(hedging, "AT_FIRST", 0.0)
        monkeypatch.setattr(retries, "TIMEOUT", 1.0)
        monkeypatch.setattr(retries, "DEADLINE", 0.0)
        before = ranges.traffic.requests
        (answer,) = read_ranges([there])
        assert isinstance(answer, retries.StorageError)
        assert str(answer).startswith(there.url)
        assert ranges.traffic.requests - before == 2  # one try, asked twice


def _stalls(seed: int, name: str) -> tuple[bool, ...]:
    """Whether a double with this seed stalls the first and the second read of an object."""
    double = FakeGCS.__new__(FakeGCS)
    double.faults, double._draws, double.counts = Faults(seed=seed), Counter(), Counter()
    return tuple(bool(double._draw("stall", 0.5, name)) for _ in range(2))
