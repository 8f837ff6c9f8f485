"""The data set: a request goes in, a batch of uint8 pictures with labels comes out."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dogbreed import images, retries, storage
from dogbreed.data import manifest
from dogbreed.data.build import Options
from dogbreed.data.build import build as build_dataset
from dogbreed.data.cache import Cache
from dogbreed.data.dataset import Batch, PictureDataset
from dogbreed.data.listing import Item, listing
from dogbreed.data.manifest import Manifest
from dogbreed.data.order import Request
from dogbreed.data.sources import Source
from dogbreed.data.transforms import Augment
from dogbreed.errors import BadInput
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS

SIZE = 32


def dataset(root: str, labels: np.ndarray | None = None, **options: Any) -> PictureDataset:
    data = Manifest.open(root)
    if labels is None:
        labels = np.arange(len(data.classes))
    return PictureDataset(data, labels, **{"size": SIZE, "crop": 1.0} | options)


def request(rows: list[int], *, epoch: int = 0, padding: int = 0) -> Request:
    padded = np.array(rows + rows[:1] * padding)
    valid = np.arange(len(padded)) < len(rows)
    return Request(epoch, padded, valid, samples_seen=77, times=np.zeros(len(padded), np.int64))


def build(root: str, pictures: dict[str, bytes]) -> str:
    """A data set of class folders, all for training, as `dogbreed prepare` makes it."""
    with tempfile.TemporaryDirectory() as folder:
        items = []
        for number, (name, data) in enumerate(pictures.items()):
            path = Path(folder, str(number))
            path.write_bytes(data)
            size = len(data)
            items.append(Item(name, name.split("/")[0], "train", str(path), 0, size, size))
        build_dataset(Source(listing(items)), root, name="some", kind="test", options=Options())
    return root


def save(root: str, rows: list[dict[str, Any]], **about: Any) -> None:
    manifest.save(root, pa.Table.from_pylist(rows, manifest.SCHEMA), **about)


def some_pictures(each: int = 3) -> dict[str, bytes]:
    return {
        f"{breed}/{k}.jpg": picture_file(60 + k, 50, seed=100 * number + k)
        for number, breed in enumerate(("beagle", "pug"))
        for k in range(each)
    }


def pixels(batch: Batch) -> np.ndarray:
    """(B, H, W, 3)."""
    return batch["image"].permute(0, 2, 3, 1).numpy()


class TestBatch:
    def test_its_fields_have_the_promised_types_and_shapes(self, tiny_dataset: str) -> None:
        batch = dataset(tiny_dataset).__getitems__(request([3, 1, 40]))
        assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (3, 3, SIZE, SIZE))
        assert batch["image"].is_contiguous(memory_format=torch.channels_last)
        assert (batch["label"].dtype, batch["valid"].dtype) == (torch.int64, torch.bool)
        assert batch["row"].tolist() == [3, 1, 40]
        assert torch.equal(batch["light"], torch.ones(3, 3))
        assert (batch["samples_seen"], batch["skipped"]) == (77, [])

    @pytest.mark.parametrize("crop", [1.0, 0.8])
    def test_evaluation_sees_the_centre_of_each_picture(
        self, tiny_dataset: str, tiny_folder: Path, crop: float
    ) -> None:
        data = dataset(tiny_dataset, crop=crop)
        batch = data.__getitems__(request([5, 30]))
        for got, row in zip(pixels(batch), data.manifest.take([5, 30]), strict=True):
            file = (tiny_folder / row["id"]).read_bytes()
            wanted = images.picture(file, SIZE, lambda w, h: images.centre_box(w, h, crop))
            np.testing.assert_array_equal(got, wanted)

    def test_labels_follow_the_models_names(self, tiny_dataset: str) -> None:
        labels = np.array([7, 0, 119, 3])
        data = dataset(tiny_dataset, labels)
        batch = data.__getitems__(request(list(range(48))))
        names = [row["id"].split("/")[0] for row in data.manifest.take(range(48))]
        wanted = [labels[data.manifest.classes.index(name)] for name in names]
        assert batch["label"].tolist() == wanted
        assert set(wanted) == {7, 0, 119, 3}

    def test_padding_is_not_valid_and_its_pixels_are_black(self, tiny_dataset: str) -> None:
        batch = dataset(tiny_dataset).__getitems__(request([9, 8], padding=1))
        assert batch["valid"].tolist() == [True, True, False]
        assert batch["image"][2].max() == 0
        assert batch["row"].tolist() == [9, 8, 9]

    def test_a_row_without_label_is_a_picture_that_does_not_count(self, tmp_path: Path) -> None:
        file = picture_file()
        (tmp_path / "a.jpg").write_bytes(file)
        digest = storage.digest_of(file)
        row = {"id": "a", "uri": "a.jpg", "offset": 0, "size": len(file), "digest": digest}
        known = row | {"label": 0, "split": "train"}
        unknown = row | {"id": "b", "label": -1, "split": "unlabelled"}
        save(str(tmp_path), [known, unknown], classes=[{"name": "pug"}], name="x")
        batch = dataset(str(tmp_path), np.array([4])).__getitems__(request([0, 1]))
        assert batch["valid"].tolist() == [True, False]
        assert batch["label"].tolist() == [4, 0]
        assert torch.equal(batch["image"][0], batch["image"][1])

    def test_an_index_gives_a_batch_of_one(self, tiny_dataset: str) -> None:
        data = dataset(tiny_dataset)
        assert len(data) == 48
        alone = data[11]
        assert torch.equal(alone["image"], data.__getitems__(request([11]))["image"])
        assert alone["valid"].tolist() == [True]

    def test_workers_get_little_to_unpickle(self, tiny_dataset: str) -> None:
        data = dataset(tiny_dataset, augment=Augment())
        data[0]
        pickled = pickle.dumps(data)
        assert len(pickled) < 4000
        assert torch.equal(pickle.loads(pickled)[7]["image"], data[7]["image"])


class TestAugmentation:
    def test_it_is_the_same_for_seed_epoch_and_id_whatever_the_batch(
        self, tiny_dataset: str
    ) -> None:
        data = dataset(tiny_dataset, augment=Augment(), seed=5)
        together = data.__getitems__(request(list(range(12)), epoch=3))
        for row in range(12):
            other = [row, 40, 41] if row % 2 else [45, row]
            batch = data.__getitems__(request(other, epoch=3))
            at = other.index(row)
            assert torch.equal(batch["image"][at], together["image"][row])
            assert torch.equal(batch["light"][at], together["light"][row])

    @pytest.mark.parametrize("change", [{"epoch": 4}, {"seed": 6}])
    def test_another_epoch_or_seed_shows_other_pixels(
        self, tiny_dataset: str, change: dict[str, int]
    ) -> None:
        def batch(seed: int = 5, epoch: int = 3) -> Batch:
            data = dataset(tiny_dataset, augment=Augment(), seed=seed)
            return data.__getitems__(request([1, 2], epoch=epoch))

        first, other = batch(), batch(**change)
        for k in range(2):
            assert not torch.equal(first["image"][k], other["image"][k])
            assert not torch.equal(first["light"][k], other["light"][k])

    def test_a_picture_that_comes_again_in_an_epoch_looks_different(
        self, tiny_dataset: str
    ) -> None:
        data = dataset(tiny_dataset, augment=Augment())
        asked = request([3, 3, 3])._replace(times=np.array([0, 1, 2]))
        first, second, third = data.__getitems__(asked)["image"].numpy()
        assert np.array_equal(first, data.__getitems__(request([3]))["image"][0].numpy())
        assert not np.array_equal(first, second)
        assert not np.array_equal(second, third)

    def test_pictures_of_a_batch_have_draws_of_their_own(self, tiny_dataset: str) -> None:
        batch = dataset(tiny_dataset, augment=Augment()).__getitems__(request(list(range(24))))
        assert len({tuple(row) for row in batch["light"].tolist()}) == 24

    def test_flips_mirror_about_as_many_pictures_as_asked_for(self, tiny_dataset: str) -> None:
        whole = Augment(scale=1, ratio=1, flip=0.5, brightness=0, contrast=0, saturation=0)
        rows = list(range(48))
        as_is = dataset(tiny_dataset).__getitems__(request(rows))["image"]
        drawn = dataset(tiny_dataset, augment=whole).__getitems__(request(rows))["image"]
        same = [torch.equal(a, b) for a, b in zip(as_is, drawn, strict=True)]
        turned = [torch.equal(a.flip(2), b) for a, b in zip(as_is, drawn, strict=True)]
        assert all(a != b for a, b in zip(same, turned, strict=True))
        assert 12 < sum(turned) < 36

    @pytest.mark.parametrize("flip", [0.0, 1.0])
    def test_flips_can_be_never_or_always(self, tiny_dataset: str, flip: float) -> None:
        whole = Augment(scale=1, ratio=1, flip=flip)
        rows = list(range(12))
        as_is = dataset(tiny_dataset).__getitems__(request(rows))["image"]
        drawn = dataset(tiny_dataset, augment=whole).__getitems__(request(rows))["image"]
        assert torch.equal(drawn, as_is.flip(3) if flip else as_is)


class TestBadPictures:
    @pytest.fixture(params=["missing", "changed", "no picture"])
    def damaged(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """A data set in which pug/1.jpg is no longer what it was."""
        root = build(str(tmp_path), some_pictures())
        path = tmp_path / "pictures/pug/1.jpg"
        if request.param == "missing":
            path.unlink()
        elif request.param == "changed":
            path.write_bytes(picture_file(61, 50, seed=9))
        else:  # as if it had been prepared so
            data = b"no picture " * 20
            path.write_bytes(data)
            rows = Manifest.open(root).take(range(6))
            for row in rows:
                row["split"] = "train"
                if row["id"] == "pug/1.jpg":
                    row |= {"size": len(data), "digest": storage.digest_of(data)}
            classes = [{"name": "beagle"}, {"name": "pug"}]
            save(root, rows, classes=classes, name="x")
        return root

    def test_it_is_an_error_of_one_line_that_names_the_picture(self, damaged: str) -> None:
        with pytest.raises(BadInput, match=r"picture pug/1.jpg: .*on_bad_image skip") as caught:
            dataset(damaged).__getitems__(request([0, 4, 5]))
        assert "\n" not in str(caught.value)

    def test_skipped_it_is_named_and_leaves_its_neighbours_alone(
        self, damaged: str, tmp_path: Path
    ) -> None:
        batch = dataset(damaged, skip_bad=True).__getitems__(request([0, 4, 5]))
        assert batch["valid"].tolist() == [True, False, True]
        assert len(batch["skipped"]) == 1
        assert batch["skipped"][0].startswith("pug/1.jpg: ")
        assert batch["image"][1].max() == 0
        files = [(tmp_path / "pictures" / n).read_bytes() for n in ("beagle/0.jpg", "pug/2.jpg")]
        for k, file in zip((0, 2), files, strict=True):
            wanted = images.picture(file, SIZE, images.centre_box)
            np.testing.assert_array_equal(pixels(batch)[k], wanted)

    def test_as_padding_it_is_not_even_looked_at(self, damaged: str) -> None:
        rows = Request(0, np.array([0, 4]), np.array([True, False]), 1, np.zeros(2, np.int64))
        batch = dataset(damaged).__getitems__(rows)
        assert batch["valid"].tolist() == [True, False]
        assert batch["skipped"] == []


class TestBucket:
    @pytest.fixture
    def remote(self, gcs: FakeGCS, bucket: str) -> str:
        """A data set of six pictures in a bucket; counts begin at nothing."""
        build(bucket, some_pictures())
        Manifest.open(bucket)
        gcs.reset()
        return bucket

    def test_a_batch_is_the_same_as_from_a_disk(self, remote: str, tmp_path: Path) -> None:
        local = build(str(tmp_path), some_pictures())
        batches = [
            dataset(root, augment=Augment()).__getitems__(request([5, 0, 3], epoch=2))
            for root in (remote, local)
        ]
        assert torch.equal(batches[0]["image"], batches[1]["image"])
        assert torch.equal(batches[0]["light"], batches[1]["light"])

    def test_loose_pictures_cost_a_request_each(self, gcs: FakeGCS, remote: str) -> None:
        data = dataset(remote)
        gcs.counts.clear()
        data.__getitems__(request([0, 1, 4]))
        assert gcs.counts["media"] == 3

    def test_a_packed_batch_costs_one_request(self, gcs: FakeGCS, bucket: str) -> None:
        pictures = some_pictures()
        storage.write(f"{bucket}/0.tar", b"".join(pictures.values()))
        rows, offset = [], 0
        for name, data in pictures.items():
            digest = storage.digest_of(data)
            row = {"id": name, "uri": "0.tar", "offset": offset, "size": len(data), "label": 0}
            rows.append(row | {"split": "train", "digest": digest})
            offset += len(data)
        save(bucket, rows, classes=[{"name": "dog"}], name="packed")
        packed = dataset(bucket)
        gcs.counts.clear()
        batch = packed.__getitems__(request([4, 0, 5, 2]))
        assert gcs.counts["media"] == 1
        names = [row["id"] for row in packed.manifest.take([4, 0, 5, 2])]
        for got, name in zip(pixels(batch), names, strict=True):
            wanted = images.picture(pictures[name], SIZE, images.centre_box)
            np.testing.assert_array_equal(got, wanted)

    def test_what_was_read_once_is_not_fetched_again(
        self, gcs: FakeGCS, remote: str, tmp_path: Path
    ) -> None:
        data = dataset(remote, cache=Cache(tmp_path / "cache", 10**9))
        gcs.counts.clear()
        first = data.__getitems__(request([0, 1, 2]))
        assert gcs.counts["media"] == 3
        again = data.__getitems__(request([2, 5, 0]))
        assert gcs.counts["media"] == 4
        assert torch.equal(first["image"][2], again["image"][0])
        other_run = dataset(remote, cache=Cache(tmp_path / "cache", 10**9))
        gcs.counts.clear()
        assert torch.equal(other_run.__getitems__(request([5, 1]))["image"][1], first["image"][1])
        assert gcs.counts["media"] == 0

    def test_spoiled_bodies_reach_neither_batch_nor_cache(
        self, gcs: FakeGCS, remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
        clean = dataset(remote).__getitems__(request(list(range(6))))
        gcs.faults.cut_rate = gcs.faults.corrupt_rate = 0.4
        gcs.faults.only = "/pictures/"
        data = dataset(remote, cache=Cache(tmp_path / "cache", 10**9))
        for _ in range(2):
            batch = data.__getitems__(request(list(range(6))))
            assert torch.equal(batch["image"], clean["image"])
        assert gcs.counts["cut"] + gcs.counts["corrupt"] > 0
        kept = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
        assert len(kept) == 6
        assert all(storage.digest_of(path.read_bytes()[:-4]) == path.name for path in kept)

    def test_without_a_cache_every_read_is_fetched(self, gcs: FakeGCS, remote: str) -> None:
        data = dataset(remote)
        gcs.counts.clear()
        for _ in range(2):
            data.__getitems__(request([0, 1]))
        assert gcs.counts["media"] == 4
