"""The manifest: what was saved is opened again, from anywhere, by any number of processes."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dogbreed import storage
from dogbreed.data import manifest
from dogbreed.data.manifest import SCHEMA, SPLITS, Manifest, version_of
from dogbreed.errors import BadInput
from dogbreed.ranges import read_ranges
from tests.doubles.gcs import FakeGCS

CLASSES = [{"name": "beagle", "synset": "n02088364"}, {"name": "pug", "synset": None}]


def row(number: int, **fields: Any) -> dict[str, Any]:
    """A row with values that follow from its number."""
    standard = {
        "id": f"{number:04d}.jpg",
        "uri": f"pictures/{number:04d}.jpg",
        "offset": 0,
        "size": 100 + number,
        "label": number % 2,
        "split": ("train", "train", "val", "test")[number % 4],
        "width": 64,
        "height": 48,
        "digest": storage.digest_of(str(number).encode()),
        "group": f"group {number}",
        "phash": bytes([number % 256]) * 16,
    }
    return standard | fields


ROWS = [row(k) for k in range(20)]


def save(root: str, rows: list[dict[str, Any]] = ROWS, **about: Any) -> dict[str, Any]:
    table = pa.Table.from_pylist(rows, SCHEMA)
    return manifest.save(root, table, classes=CLASSES, **{"name": "dogs"} | about)


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a folder for a data set on each kind of file system."""
    return str(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket")


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a cache folder in which no manifest lies yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cold cache"))
    return tmp_path / "cold cache"


class TestRoundTrip:
    def test_rows_are_read_as_they_were_saved_in_the_order_of_their_ids(self, root: str) -> None:
        shuffled = np.random.default_rng(0).permutation(len(ROWS))
        save(root, [ROWS[k] for k in shuffled])
        data = Manifest.open(root)
        wanted = [r | {"split": SPLITS.index(r["split"])} for r in ROWS]
        assert len(data) == len(ROWS)
        assert data.take(range(len(ROWS))) == wanted

    def test_the_description_is_returned_and_opened(self, root: str) -> None:
        saved = save(root, source={"kind": "folder"})
        data = Manifest.open(root + "/")
        assert data.dataset == saved == storage.read_json(storage.join(root, "dataset.json"))
        assert (data.name, data.classes, data.root) == ("dogs", ["beagle", "pug"], root)
        assert saved["classes"] == CLASSES
        assert saved["source"] == {"kind": "folder"}
        assert saved["counts"] == {
            "train": {"beagle": 5, "pug": 5},
            "val": {"beagle": 5},
            "test": {"pug": 5},
        }

    def test_rows_without_a_label_are_kept_and_counted(self, root: str) -> None:
        save(root, [*ROWS, row(99, label=-1, split="unlabelled")])
        data = Manifest.open(root)
        assert data.dataset["counts"]["unlabelled"] == {"": 1}
        assert data.rows_of("unlabelled").tolist() == [20]
        assert data.take([20])[0]["label"] == -1
        assert data.column("label").tolist() == [r["label"] for r in ROWS] + [-1]

    def test_take_keeps_the_order_asked_for_and_repeats(self, root: str) -> None:
        save(root)
        taken = Manifest.open(root).take(np.array([7, 0, 7, 19]))
        assert [r["id"] for r in taken] == ["0007.jpg", "0000.jpg", "0007.jpg", "0019.jpg"]
        assert Manifest.open(root).take([]) == []

    def test_more_rows_than_are_converted_at_once(
        self, root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(manifest, "_CHUNK", 7)
        save(root)
        data = Manifest.open(root)
        assert [r["id"] for r in data.take(range(20))] == [r["id"] for r in ROWS]
        assert data.rows_of("test").tolist() == [3, 7, 11, 15, 19]
        assert data.files_of(data.rows_of("test")).tolist() == [0, 1, 2, 3, 4]


class TestSplits:
    def test_rows_of_a_split_ascend(self, root: str) -> None:
        save(root)
        data = Manifest.open(root)
        assert data.rows_of("val").tolist() == [2, 6, 10, 14, 18]
        every = np.concatenate([data.rows_of(split) for split in ("train", "val", "test")])
        assert sorted(every) == list(range(20))

    def test_a_missing_split_is_an_error_that_names_those_there(self, root: str) -> None:
        save(root, [r for r in ROWS if r["split"] != "val"])
        with pytest.raises(BadInput, match="no pictures in split 'val'; there are: train, test"):
            Manifest.open(root).rows_of("val")


class TestVersion:
    def version(self, tmp_path: Path, rows: list[dict[str, Any]], **about: Any) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return str(save(str(folder), rows, **about)["version"])

    def test_where_the_bytes_lie_does_not_change_it(self, tmp_path: Path) -> None:
        packed = [
            r | {"uri": "gs://other/shard.tar", "offset": 512 * k} for k, r in enumerate(ROWS)
        ]
        loose = self.version(tmp_path, ROWS)
        assert loose == self.version(tmp_path, packed)
        assert loose == self.version(tmp_path, ROWS[::-1], name="another name", source="x")

    @pytest.mark.parametrize(
        "change",
        [{"id": "0003b.jpg"}, {"digest": "0" * 64}, {"label": 0}, {"label": -1}, {"split": "val"}],
    )
    def test_what_the_pictures_are_changes_it(self, tmp_path: Path, change: dict[str, Any]) -> None:
        changed = [r | change if r["id"] == "0003.jpg" else r for r in ROWS]
        assert self.version(tmp_path, changed) != self.version(tmp_path, ROWS)

    def test_a_row_more_or_less_changes_it(self, tmp_path: Path) -> None:
        versions = {self.version(tmp_path, ROWS[:k]) for k in (18, 19, 20)}
        assert len(versions) == 3

    def test_the_names_of_the_classes_change_it(self) -> None:
        table = pa.Table.from_pylist(ROWS, SCHEMA)
        names = [["beagle", "pug"], ["pug", "beagle"], ["beagle", "boxer"]]
        assert len({version_of(table, classes) for classes in names}) == 3

    def test_how_a_table_lies_in_memory_does_not_change_it(self) -> None:
        table = pa.Table.from_pylist(ROWS, SCHEMA)
        in_parts = pa.concat_tables([table.slice(0, 5), table.slice(5)])
        assert version_of(in_parts, ["a", "b"]) == version_of(table, ["a", "b"])


class TestPlaces:
    def test_relative_uris_lie_below_the_data_set_and_absolute_ones_where_they_say(
        self, root: str
    ) -> None:
        local = "/data/y.jpg" if storage.is_local(root) else "gs://third/y.jpg"
        uris = ["pictures/a b.jpg", "gs://other/x.jpg", local, "memory://m/z.jpg"]
        save(root, [row(k, uri=uri, offset=k) for k, uri in enumerate(uris)])
        data = Manifest.open(root)
        ranges = data.ranges(data.take(range(4)))
        assert [r.url for r in ranges] == [storage.join(root, "pictures/a b.jpg"), *uris[1:]]
        assert [(r.offset, r.size) for r in ranges] == [(k, 100 + k) for k in range(4)]
        assert [r.digest for r in ranges] == [row(k)["digest"] for k in range(4)]

    @pytest.mark.parametrize(
        "uri",
        [
            "/etc/passwd",
            "file:///etc/passwd",
            "local:///etc/passwd",
            "simplecache::file:///etc/passwd",
            "../../secret.jpg",
        ],
    )
    def test_a_row_that_points_out_of_a_bucket_is_refused(self, uri: str, bucket: str) -> None:
        save(bucket, [row(0, uri=uri)])
        data = Manifest.open(bucket)
        with pytest.raises(BadInput, match="points out of it"):
            data.ranges(data.take([0]))

    def test_a_digest_that_is_a_path_is_refused(self, root: str) -> None:
        save(root, [row(0)])
        dataset = storage.read_json(storage.join(root, "dataset.json"))
        dataset["manifest"]["sha256"] = "../../outside"
        storage.write_json(storage.join(root, "dataset.json"), dataset)
        with pytest.raises(BadInput, match="is not a SHA-256"):
            Manifest.open(root)

    def test_ranges_read_back_the_pictures_of_loose_files_and_of_shards(self, root: str) -> None:
        pieces = [bytes([k]) * (10 + k) for k in range(6)]
        storage.write(storage.join(root, "shards/0.tar"), b"--".join(pieces[:3]))
        rows, offset = [], 0
        for k, piece in enumerate(pieces):
            place = {"uri": "shards/0.tar", "offset": offset} if k < 3 else {"uri": f"{k}.jpg"}
            offset += len(piece) + 2
            rows.append(row(k, size=len(piece), digest=storage.digest_of(piece), **place))
            if k >= 3:
                storage.write(storage.join(root, f"{k}.jpg"), piece)
        save(root, rows)
        data = Manifest.open(root)
        assert read_ranges(data.ranges(data.take([5, 0, 2, 3, 1]))) == [
            pieces[k] for k in (5, 0, 2, 3, 1)
        ]
        assert data.files_of(np.arange(6)).tolist() == [0, 0, 0, 1, 2, 3]
        assert data.files_of(np.array([4, 0, 1])).tolist() == [0, 1, 1]


class TestOpening:
    def test_a_pickle_is_small_and_opens_the_same_rows(self, root: str) -> None:
        save(root, [row(k) for k in range(5000)])
        data = Manifest.open(root)
        data.take([0])
        pickled = pickle.dumps(data)
        assert len(pickled) < 4000
        assert pickle.loads(pickled).take([4999]) == data.take([4999])

    @pytest.mark.usefixtures("cold")
    def test_the_manifest_is_fetched_once(self, gcs: FakeGCS, bucket: str) -> None:
        save(bucket)
        gcs.counts.clear()
        Manifest.open(bucket)
        assert gcs.counts["media"] == 2  # dataset.json and manifest.parquet
        Manifest.open(bucket)
        assert gcs.counts["media"] == 3

    def test_nothing_but_the_manifest_is_left_in_the_cache(self, root: str, cold: Path) -> None:
        save(root)
        data = Manifest.open(root)
        assert [p for p in cold.rglob("*") if p.is_file()] == [data.path]

    @pytest.mark.usefixtures("cold")
    def test_data_that_changed_are_opened_anew(self, root: str) -> None:
        save(root)
        assert len(Manifest.open(root)) == 20
        save(root, ROWS[:5])
        assert [r["id"] for r in Manifest.open(root).take(range(5))] == [r["id"] for r in ROWS[:5]]

    def test_no_data_set_is_an_error_that_says_how_to_make_one(self, root: str) -> None:
        for url in (root, storage.join(root, "none")):
            with pytest.raises(BadInput, match=r"no data set here.*dogbreed prepare") as caught:
                Manifest.open(url)
            assert str(caught.value).startswith(url)

    def test_a_newer_schema_is_an_error_that_says_to_upgrade(self, root: str) -> None:
        path = storage.join(root, manifest.DATASET_FILE)
        storage.write_json(path, save(root) | {"schema": manifest.SCHEMA_VERSION + 1})
        with pytest.raises(BadInput, match="schema 3, this dogbreed reads up to 2; upgrade"):
            Manifest.open(root)

    @pytest.mark.parametrize("damage", ["flipped", "cut", "other"])
    def test_a_damaged_manifest_is_an_error_and_never_kept(
        self, root: str, damage: str, cold: Path
    ) -> None:
        save(root)
        path = storage.join(root, manifest.MANIFEST_FILE)
        good = storage.read(path)
        middle = len(good) // 2
        damaged = {
            "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "cut": good[:middle],
            "other": b"not parquet at all",
        }
        storage.write(path, damaged[damage])
        with pytest.raises(BadInput, match=r"manifest.parquet: its content differs"):
            Manifest.open(root)
        assert not [p for p in cold.rglob("*") if p.is_file()]
        storage.write(path, good)
        assert len(Manifest.open(root).take(range(20))) == 20

    def test_two_kills_while_it_is_replaced_leave_one_that_can_be_opened(
        self, root: str, cold: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Killed(BaseException):
            pass

        def write(url: str, data: bytes) -> None:
            if url.endswith(fatal[0]):
                raise Killed
            storage_write(url, data)

        storage_write, fatal = storage.write, [""]
        save(root, ROWS[:5])
        monkeypatch.setattr(storage, "write", write)
        for rows, name in ((ROWS[:10], "manifest.parquet"), (ROWS, "dataset.json")):
            fatal[0] = name
            with pytest.raises(Killed):
                save(root, rows)
        shutil.rmtree(cold, ignore_errors=True)
        assert len(Manifest.open(root).take(range(10))) == 10

    def test_a_missing_manifest_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        save(str(tmp_path), [row(777)])
        (tmp_path / manifest.MANIFEST_FILE).unlink()
        with pytest.raises(BadInput, match=r"manifest.parquet: no such file"):
            Manifest.open(str(tmp_path))

    def test_a_damaged_description_is_an_error(self, root: str) -> None:
        storage.write(storage.join(root, manifest.DATASET_FILE), b"{")
        with pytest.raises(BadInput, match=r"dataset.json: not valid JSON"):
            Manifest.open(root)

    def test_the_file_is_plain_parquet_of_the_schema(self, tmp_path: Path) -> None:
        save(str(tmp_path))
        assert pq.read_table(tmp_path / manifest.MANIFEST_FILE).schema.equals(SCHEMA)
