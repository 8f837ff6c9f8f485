"""Features are computed once: after a kill, by several processes, of damaged files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dogbreed.data import extraction
from dogbreed.data.dataset import PictureDataset
from dogbreed.data.extraction import Extractor, Features
from dogbreed.data.features import FeatureCache, View
from dogbreed.data.manifest import Manifest

SIZE = 32


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the few pictures of a test make several chunks."""
    monkeypatch.setattr(extraction, "CHUNK", 8)
    monkeypatch.setattr(extraction, "BATCH", 4)


class Net:
    """Counts the pictures that pass it; fails after so many."""

    def __init__(self, fail_after: float = float("inf")) -> None:
        self.seen, self.fail_after = 0, fail_after

    def __call__(self, images: Tensor) -> Tensor:
        if self.seen >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return images.float().mean(2).flatten(1)

    def view(self, **changed: Any) -> View:
        standard = {"network": "net", "size": SIZE, "crop": 1.0, "precision": "32-true"}
        return View(embed=self, **standard | changed)


@pytest.fixture
def extract(tiny_dataset: str, tmp_path: Path) -> Callable[..., Features]:
    """Give features of the training pictures, kept in one place for the whole test."""
    manifest = Manifest.open(tiny_dataset)
    labels = np.arange(len(manifest.classes))

    def run(
        net: Net,
        *,
        skip_bad: bool = False,
        view: dict[str, Any] | None = None,
        data: Manifest = manifest,
        **of: Any,
    ) -> Features:
        def pictures(view: View) -> PictureDataset:
            return PictureDataset(data, labels, size=view.size, crop=1.0, skip_bad=skip_bad)

        cache = FeatureCache(str(tmp_path / "kept"), 10**9)
        return Extractor(cache, pictures, **of).features("train", net.view(**view or {}))

    return run


def test_they_are_those_of_the_rows_asked_for_in_any_order(
    extract: Callable[..., Features], tiny_dataset: str
) -> None:
    net = Net()
    found = extract(net)
    rows = np.random.default_rng(0).permutation(found.rows)
    pictures = PictureDataset(Manifest.open(tiny_dataset), np.arange(4), size=SIZE, crop=1.0)
    direct = torch.cat([net(pictures[int(row)]["image"]) for row in rows])
    np.testing.assert_allclose(found.take(rows), direct, rtol=1e-6)
    mirrored = extract(net, view={"mirrored": True}).take(rows)
    direct = torch.cat([net(pictures[int(row)]["image"].flip(3)) for row in rows])
    np.testing.assert_allclose(mirrored, direct, rtol=1e-6)


def test_after_a_kill_it_goes_on_with_the_chunk_at_hand(extract: Callable[..., Features]) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract(Net(fail_after=12))
    net = Net()
    found = extract(net)
    assert net.seen == len(found.rows) - 8
    whole = Net()
    np.testing.assert_array_equal(
        found.take(found.rows), extract(whole, view={"network": "again"}).take(found.rows)
    )


def test_one_damaged_chunk_is_computed_again_and_no_other(
    extract: Callable[..., Features], tmp_path: Path
) -> None:
    first = extract(Net())
    expected = first.take(first.rows)
    path = sorted((tmp_path / "kept").glob("??/*"))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    net = Net()
    found = extract(net)
    assert 0 < net.seen <= 8
    np.testing.assert_array_equal(found.take(found.rows), expected)


@pytest.mark.parametrize("changed", [{"network": "x"}, {"size": 16}, {"crop": 0.5}])
def test_under_another_view_nothing_is_taken_from_what_is_kept(
    extract: Callable[..., Features], changed: dict[str, Any]
) -> None:
    extract(Net())
    net = Net()
    assert net.seen < len(extract(net, view=changed).rows) == net.seen


def test_of_another_version_of_the_data_nothing_is_taken(
    extract: Callable[..., Features], tiny_dataset: str
) -> None:
    extract(Net())
    other = Manifest.open(tiny_dataset)
    other = Manifest(other.root, other.dataset | {"version": "0" * 64}, other.path)
    net = Net()
    assert len(extract(net, data=other).rows) == net.seen


def test_of_two_processes_each_computes_its_share(extract: Callable[..., Features]) -> None:
    nets = Net(), Net()

    def the_other() -> None:
        extract(nets[1], rank=1, world_size=2)

    found = extract(nets[0], rank=0, world_size=2, barrier=the_other)
    # The second came to its barrier while the first waited, so it computed nothing twice.
    assert nets[0].seen + nets[1].seen == len(found.rows)
    assert min(net.seen for net in nets) > 0


def test_a_picture_that_cannot_be_read_is_named_and_tried_again_the_next_time(
    extract: Callable[..., Features], tiny_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Manifest.open(tiny_dataset)
    bad = int(data.rows_of("train")[3])
    (about,) = data.take([bad])
    with monkeypatch.context() as patch:
        ranges = Manifest.ranges
        patch.setattr(
            Manifest,
            "ranges",
            lambda self, rows: ranges(
                self, [r | {"uri": "gone.jpg"} if r["id"] == about["id"] else r for r in rows]
            ),
        )
        found = extract(Net(), skip_bad=True)
    assert list(found.problems) == [bad]
    assert found.problems[bad].startswith(f"{about['id']}: ")
    net = Net()
    assert extract(net).problems == {}
    assert net.seen == 8
