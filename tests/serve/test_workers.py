"""Several workers, the environment's ports, and the same answers as from the command line."""

import concurrent.futures
import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dogbreed.cli import main
from tests.conftest import picture_file
from tests.serve.conftest import PATIENCE, Served, serving
from tests.serve.test_lifecycle import send, until

PICTURES = {f"{k:03d}.jpg": picture_file(80 + k, 170 - k, k) for k in range(100)}


@pytest.fixture(scope="module")
def served(tiny_package: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start two workers, as a container of Vertex AI has its port said."""
    words = ["--workers", "2", "--batch_size", "4", "--batch_wait", "0.05", "--timeout", "120"]
    cwd = tmp_path_factory.mktemp("cwd")
    with serving(tiny_package, cwd, *words, port=None, AIP_HTTP_PORT="0", PORT="1") as made:
        until(made, "dogbreed_workers_ready", 2)
        yield made


def test_the_environments_port_is_listened_at_on_all_addresses(served: Served) -> None:
    assert served.url.startswith("http://0.0.0.0:")
    assert served.get("/ready").status_code == 200


def test_who_takes_and_refuses_requests_goes_before_the_workers(served: Served) -> None:
    server = psutil.Process(served.process.pid)
    assert all(worker.nice() > server.nice() for worker in served.workers())


def test_while_one_worker_is_busy_another_answers_and_both_are_counted(served: Served) -> None:
    answered = served.metric("dogbreed_batch_pictures_sum")
    held, _ = served.workers()
    held.suspend()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = {pool.submit(send, served) for _ in range(8)}
        # The held one has a batch of four at most.
        for answer in itertools.islice(concurrent.futures.as_completed(asked, PATIENCE), 4):
            assert answer.result().status_code == 200
        held.resume()
        assert {answer.result(PATIENCE).status_code for answer in asked} == {200}
    assert served.metric("dogbreed_batch_pictures_sum") - answered == 8
    memory = served.metric('dogbreed_memory_bytes{process="workers"}')
    assert memory > sum(worker.memory_info().rss for worker in served.workers()) / 2


def test_a_hundred_pictures_have_the_answers_of_the_command_line(
    served: Served, tiny_package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    words = ["--images", str(tmp_path), "--model", tiny_package, "--device", "cpu"]
    assert main(["predict", *words]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        entries = dict(zip(PICTURES, pool.map(served.predict, PICTURES.values()), strict=True))
    assert len(rows) == len(entries)
    for row in rows:
        (entry,) = entries[Path(row["id"]).name]
        assert entry["breed"] == row["breed"]
        assert entry["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)
        assert entry["is_dog"] == (row["rejected"] == "no")
