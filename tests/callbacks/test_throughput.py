"""What a user gets to know of how fast a fit goes."""

import csv
import io

import pytest

from dogbreed import storage
from dogbreed.callbacks.throughput import IDLE, Spent
from dogbreed.cli import main
from tests.doubles.gcs import FakeGCS


@pytest.mark.parametrize(
    ("spent", "limit"),
    [
        (Spent(waited=0.5 * IDLE, worked=1, fetching=9, decoding=1), "model"),
        (Spent(waited=1, worked=1, fetching=9, decoding=1), "bucket"),
        (Spent(waited=1, worked=1, fetching=1, decoding=9), "decoding"),
    ],
)
def test_the_limit_is_what_is_waited_for(spent: Spent, limit: str) -> None:
    assert spent.limit == limit


def test_sums_and_shares_are_over_all_batches() -> None:
    one = Spent(images=30, waited=1, worked=2, bytes=5, hits=30, misses=0, fetching=1, decoding=2)
    other = Spent(images=10, waited=0, worked=1, bytes=6, hits=0, misses=10, fetching=3, decoding=4)
    both = Spent.of((one, other))
    assert both == Spent(40, 1, 3, 11, 30, 10, 4, 6)
    assert (both.images_per_s, both.waiting, both.cache_hits) == (10, 0.25, 0.75)


def test_without_a_batch_nothing_is_divided_by_zero() -> None:
    assert (Spent().images_per_s, Spent().waiting, Spent().cache_hits) == (0, 0, 0)


def test_a_fit_from_a_bucket_tells_what_it_fetched_and_what_the_cache_had(
    gcs: FakeGCS, tiny_folder: object, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = f"{gcs.bucket()}/dogs", f"{tmp_path}/runs/a"
    words = ["--source", "folder", "--path", str(tiny_folder), "--out", data]
    assert main(["prepare", *words, "--splits", "0.5,0.25,0.25"]) == 0
    words = ["--data.root", data, "--run_root", f"{tmp_path}/runs", "--name", "a"]
    words += ["--model.backbone", "test_efficientnet", "--model.weights", "none"]
    words += ["--data.cache_dir", f"{tmp_path}/cache", "--data.workers", "1"]
    words += ["--data.image_size", "32", "--trainer.max_epochs", "2", "--trainer.accelerator=cpu"]
    assert main(["fit", *words]) == 0
    first, second = csv.DictReader(io.StringIO(storage.read(f"{run}/metrics.csv").decode()))
    assert float(first["cache_hits"]) < 1 == float(second["cache_hits"])
    assert float(first["fetched_mb"]) > 0 == float(second["fetched_mb"])
    assert all(0 <= float(row["waiting"]) <= 1 for row in (first, second))
    assert "images/s" in capsys.readouterr().out
