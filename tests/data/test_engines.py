"""Who does the units: this process or others, and what happens when one of these ends."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as pa
import pytest

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.data import engines
from dogbreed.data.listing import Item, listing
from dogbreed.data.work import Recipe
from dogbreed.errors import BadInput
from tests.data.test_prepare import photographs, put


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(str(tmp_path / "out"), str(tmp_path / "out/.parts"), 0, (0.8, 0.1, 0.1), 0)


@pytest.fixture
def units(tmp_path: Path) -> list[pa.Table]:
    """A dozen units of two pictures."""
    files = photographs(each=12)
    put(str(tmp_path / "in"), files)
    table = listing(
        Item(name, name.split("/")[0], "", str(tmp_path / "in" / name), 0, len(data), len(data))
        for name, data in files.items()
    )
    return [table.slice(k, 2) for k in range(0, 24, 2)]


def counted(units: list[pa.Table], taken: list[int]) -> Iterator[pa.Table]:
    for number, unit in enumerate(units):
        taken.append(number)
        yield unit


def then(units: list[pa.Table], act: Callable[[], None]) -> Iterator[pa.Table]:
    """The first unit; when somebody asks for more: `act`, and the others."""
    yield units[0]
    act()
    yield from units[1:]


def children() -> list[BaseProcess]:
    """Processes of an engine; a test before this one may have left workers of a loader."""
    return [p for p in multiprocessing.active_children() if isinstance(p, SpawnProcess)]


def kill_one() -> None:
    process = children()[0]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def interrupt() -> None:
    assert children()
    raise KeyboardInterrupt


class TestLocal:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_unit_is_done_and_few_wait(
        self, units: list[pa.Table], recipe: Recipe, workers: int
    ) -> None:
        taken: list[int] = []
        parts = []
        for part in engines.local(counted(units, taken), recipe, workers):
            assert len(taken) <= len(parts) + 2 * workers
            parts.append(part)
        assert len(storage.files(recipe.parts)) == len(parts) == len(units)
        done = sorted(name for part in parts for name in part.column("id").to_pylist())
        assert done == sorted(name for unit in units for name in unit.column("id").to_pylist())

    def test_a_killed_process_is_an_error_that_says_what_to_do(
        self, units: list[pa.Table], recipe: Recipe
    ) -> None:
        with pytest.raises(BadInput, match="sudden.*--workers"):
            list(engines.local(then(units, kill_one), recipe, 2))
        assert children() == []

    def test_an_interrupt_ends_all_processes(self, units: list[pa.Table], recipe: Recipe) -> None:
        with pytest.raises(KeyboardInterrupt):
            list(engines.local(then(units, interrupt), recipe, 2))
        assert children() == []

    def test_who_wants_no_more_parts_ends_all_processes(
        self, units: list[pa.Table], recipe: Recipe
    ) -> None:
        parts = engines.local(units, recipe, 2)
        next(parts)
        assert children()
        parts.close()  # type: ignore[attr-defined]
        assert children() == []
        assert len(storage.files(recipe.parts)) < len(units)


class TestCommand:
    def test_an_error_in_another_process_is_one_line_and_ends_the_others(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = photographs(each=200, breeds=("beagle", "pug", "whippet"))
        path, out = put(str(tmp_path / "in"), files), tmp_path / "out"
        (out / "pictures").mkdir(parents=True)
        (out / "pictures/whippet").write_text("a file in place of a folder")
        words = ["--path", path, "--out", str(out), "--workers", "2"]
        assert main(["prepare", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"dogbreed prepare: error: {out}/pictures/whippet/")
        assert children() == []
        assert not (out / "dataset.json").exists()
