"""Units of work: how a listing is cut, and what one unit writes."""

import io
import subprocess
import tarfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dogbreed import images, retries, storage
from dogbreed.data import sample, work
from dogbreed.data.duplicates import perceptual_hash
from dogbreed.data.listing import Item, items_of, listing
from dogbreed.data.parquet import from_parquet
from dogbreed.data.work import Recipe, name_of, part_url, split_of, units, uris_of
from dogbreed.ranges import Range, read_pictures, read_ranges
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS

BREEDS = ("beagle", "pug", "shih_tzu")


def recipe_at(out: str, shard_size: int = 0, seed: int = 0) -> Recipe:
    return Recipe(out, f"{out}/.parts", shard_size, (0.6, 0.2, 0.2), seed)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_at(str(tmp_path / "out"))


@pytest.fixture
def packing(tmp_path: Path) -> Recipe:
    """Everything into one shard."""
    return recipe_at(str(tmp_path / "out"), shard_size=10**9)


def imagined(sizes: Sequence[int]) -> pa.Table:
    """A listing of pictures that are nowhere."""
    items = (
        Item(f"pug/{k}.jpg", "pug", "", f"/nowhere/{k}.jpg", 0, s, s) for k, s in enumerate(sizes)
    )
    return listing(items)


def stored(folder: str, files: dict[str, bytes], **more: object) -> pa.Table:
    """A listing of files, which are written."""
    urls = {name: storage.join(folder, name) for name in files}
    storage.write_many({urls[name]: data for name, data in files.items()})
    return listing(
        Item(name, name.split("/")[0], "", urls[name], 0, len(data), len(data))._replace(**more)
        for name, data in files.items()
    )


def photographs(each: int = 6) -> dict[str, bytes]:
    return {
        f"{breed}/{k}.jpg": picture_file(20 + k, 24, seed=100 * number + k)
        for number, breed in enumerate(BREEDS)
        for k in range(each)
    }


def ids(table: pa.Table) -> list[str]:
    return [str(name) for name in table.column("id").to_pylist()]


class TestUnits:
    @pytest.mark.parametrize("shard_size", [0, 5000])
    def test_each_picture_is_in_one_unit_in_the_order_of_the_listing(self, shard_size: int) -> None:
        table = imagined(range(1000))
        cut = list(units(table, recipe_at("/out", shard_size)))
        assert len(cut) > 1
        assert [name for unit in cut for name in ids(unit)] == ids(table)

    def test_of_loose_pictures_it_has_a_bounded_number_and_size(self) -> None:
        small = [len(unit) for unit in units(imagined([10] * 600), recipe_at("/out"))]
        assert small == [work.CHUNK, work.CHUNK, 600 - 2 * work.CHUNK]
        large = [len(unit) for unit in units(imagined([10 * 2**20] * 20), recipe_at("/out"))]
        assert large == [6, 6, 6, 2]

    def test_of_a_shard_it_is_near_the_size_asked_for_and_never_above(self) -> None:
        sizes = np.random.default_rng(0).integers(1, 5000, 4000)
        cut = list(units(imagined(sizes), recipe_at("/out", 10**6)))
        sums = [sum(unit.column("size").to_pylist()) for unit in cut]
        assert all(10**6 - 5000 < total <= 10**6 for total in sums[:-1])
        assert max(map(len, cut)) > work.CHUNK

    def test_a_picture_larger_than_a_shard_is_a_unit_of_its_own(self) -> None:
        cut = list(units(imagined([10] * 30 + [5000] + [10] * 30), recipe_at("/out", 100)))
        (alone,) = (unit for unit in cut if 5000 in unit.column("size").to_pylist())
        assert ids(alone) == ["pug/30.jpg"]

    def test_pictures_of_unknown_size_are_cut_by_their_number(self) -> None:
        assert len(list(units(imagined([0] * 600), recipe_at("/out")))) == 3

    def test_an_empty_listing_has_none(self) -> None:
        assert list(units(imagined([]), recipe_at("/out"))) == []

    def test_a_picture_at_the_end_leaves_the_units_before_it_alone(self) -> None:
        table = imagined([10] * 1000)
        for shard_size in (0, 500):
            recipe = recipe_at("/out", shard_size)
            whole, less = (
                [name_of(u, recipe) for u in units(t, recipe)] for t in (table, table[:-1])
            )
            assert whole[:-1] == less[: len(whole) - 1]

    def test_pickled_it_is_as_small_as_its_pictures(self) -> None:
        first = next(units(imagined([10] * 5000), recipe_at("/out", 100)))
        assert len(first) == 10
        assert first.nbytes < 5000

    def test_breeds_are_shuffled_over_the_units(self) -> None:
        table = listing(
            Item(f"{breed}/{k}.jpg", breed, "", "", size=10) for breed in BREEDS for k in range(500)
        )
        for unit in units(table, recipe_at("/out", 3000)):
            counts = [unit.column("breed").to_pylist().count(breed) for breed in BREEDS]
            assert min(counts) > 0.5 * max(counts)


class TestName:
    def test_it_says_which_pictures_and_how_they_are_written(self) -> None:
        recipe = recipe_at("/out")
        table = imagined([10, 20])
        field = table.schema.field("box")
        boxed = table.set_column(9, field, pa.array([[0, 0, 9, 9]] * 2, field.type))
        others = [
            name_of(imagined([10, 21]), recipe),
            name_of(imagined([10]), recipe),
            name_of(boxed, recipe),
            name_of(table, recipe_at("/out", seed=1)),
            name_of(table, recipe_at("/out", shard_size=5)),
        ]
        assert len({name_of(table, recipe), *others}) == 6

    def test_it_says_not_where_they_come_from_and_go_to(self) -> None:
        table = imagined([10, 20])
        moved = table.set_column(3, "url", pa.array(["gs://x/1", "gs://x/2"]))
        assert name_of(table, recipe_at("/out")) == name_of(moved, recipe_at("gs://out"))


class TestLoose:
    def test_each_picture_is_a_file_unchanged_and_a_row(
        self, tmp_path: Path, recipe: Recipe
    ) -> None:
        files = photographs()
        part = work.work(stored(str(tmp_path / "in"), files), recipe)
        assert part.schema == work.PART
        assert sorted(ids(part)) == sorted(files)
        for row in part.to_pylist():
            data = files[row["id"]]
            assert row["uri"] == f"pictures/{row['id']}"
            assert storage.read(f"{recipe.pictures}/{row['uri']}") == data
            assert (row["offset"], row["size"], row["reason"]) == (0, len(data), "")
            assert (row["width"], row["height"]) == images.decode(data).size
            assert row["digest"] == storage.digest_of(data)
            assert row["phash"] == perceptual_hash(images.decode(data))

    def test_the_part_is_the_last_that_it_writes(
        self, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unit = stored(str(tmp_path / "in"), photographs())
        url = part_url(name_of(unit, recipe), recipe)

        def refused(files: dict[str, bytes]) -> None:
            assert not storage.exists(url)
            raise storage.StorageError("the disk is full")

        with monkeypatch.context() as patch, pytest.raises(storage.StorageError):
            patch.setattr(storage, "write_many", refused)
            work.work(unit, recipe)
        assert storage.files(recipe.parts) == {}
        part = work.work(unit, recipe)
        assert from_parquet(storage.read(url)).equals(part)
        assert list(storage.files(recipe.parts)) == [url]

    def test_done_again_it_writes_the_same(self, tmp_path: Path, recipe: Recipe) -> None:
        unit = stored(str(tmp_path / "in"), photographs())
        found = []
        for _ in range(2):
            work.work(unit, recipe)
            folder = Path(recipe.pictures)
            found.append({p: p.read_bytes() for p in folder.rglob("*") if p.is_file()})
        assert found[0] == found[1]

    def test_it_writes_no_other_files_than_it_says_beforehand(
        self, tmp_path: Path, recipe: Recipe
    ) -> None:
        unit = stored(str(tmp_path / "in"), photographs() | {"pug/without suffix": picture_file()})
        work.work(unit, recipe)
        written = {name for name, _ in storage.find(recipe.pictures)}
        assert written == set(uris_of(unit, recipe))
        assert "pictures/pug/without suffix.jpg" in written

    def test_what_is_no_picture_is_a_row_with_a_reason_and_no_file(
        self, tmp_path: Path, recipe: Recipe
    ) -> None:
        bad = {"pug/page.jpg": b"<html>404</html>", "pug/cut.jpg": picture_file(300, 200)[:2000]}
        part = work.work(stored(str(tmp_path / "in"), photographs() | bad), recipe)
        reasons = {row["id"]: row["reason"] for row in part.to_pylist() if row["reason"]}
        assert reasons.keys() == bad.keys()
        assert "not a JPEG" in reasons["pug/page.jpg"]
        assert {name for name, _ in storage.find(recipe.pictures)} == {
            f"pictures/{name}" for name in photographs()
        }

    def test_a_picture_is_cut_to_its_box(self, tmp_path: Path, recipe: Recipe) -> None:
        part = work.work(
            stored(
                str(tmp_path / "in"), {"pug/1.jpg": picture_file(200, 100)}, box=(10, 20, 60, 90)
            ),
            recipe,
        )
        (row,) = part.to_pylist()
        data = storage.read(f"{recipe.pictures}/{row['uri']}")
        assert images.decode(data).size == (row["width"], row["height"]) == (50, 70)
        assert (row["size"], row["digest"]) == (len(data), storage.digest_of(data))

    def test_drawings_are_made_on_the_spot(self, recipe: Recipe) -> None:
        part = work.work(listing([Item("a/1.jpg", "a", "", "2:5:7", kind="drawn")]), recipe)
        (row,) = part.to_pylist()
        assert row["digest"] == storage.digest_of(sample.jpeg(2, 5, 7))

    def test_it_holds_few_pictures_at_a_time(
        self, tmp_path: Path, packing: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[list[Range]] = []

        def seen(ranges: list[Range]) -> object:
            asked.append(ranges)
            return read_pictures(ranges)

        monkeypatch.setattr(work, "read_pictures", seen)
        files = photographs()
        unit = stored(str(tmp_path / "in"), files)
        most = sum(map(len, files.values())) // 4
        for name, limit, measure in (
            ("CHUNK", 5, len),
            ("CHUNK_BYTES", most, lambda ranges: sum(r.size for r in ranges)),
        ):
            asked.clear()
            with monkeypatch.context() as patch:
                patch.setattr(work, name, limit)
                work.work(unit, packing)
            assert 4 <= len(asked) <= 8
            assert max(map(measure, asked)) <= limit
            urls = [r.url for ranges in asked for r in ranges]
            assert urls == [item.url for item in items_of(unit)]

    def test_a_picture_that_cannot_be_fetched_leaves_no_part(
        self, gcs: FakeGCS, bucket: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "ATTEMPTS", 2)
        unit = stored(bucket, photographs())
        gcs.faults.error_rate, gcs.faults.only = 1.0, "pug/3.jpg"
        with pytest.raises(storage.StorageError, match=r"pug/3\.jpg"):
            work.work(unit, recipe)
        assert storage.files(recipe.parts) == {}


class TestPacked:
    def shard(self, unit: pa.Table, packing: Recipe) -> str:
        return f"{packing.pictures}/shards/{name_of(unit, packing)}.tar"

    def test_a_shard_is_a_plain_tar_of_the_pictures(self, tmp_path: Path, packing: Recipe) -> None:
        files = photographs()
        unit = stored(str(tmp_path / "in"), files)
        work.work(unit, packing)
        with tarfile.open(self.shard(unit, packing), "r:") as archive:
            there = {info.name: info for info in archive}
            assert {name: archive.extractfile(there[name]).read() for name in there} == files  # type: ignore[union-attr]
        for info in there.values():
            assert (info.mode, info.uid, info.gid, info.mtime) == (0o644, 0, 0, 0)
        listed = subprocess.run(
            ["tar", "tf", self.shard(unit, packing)], check=True, capture_output=True, text=True
        )
        assert listed.stderr == ""
        assert sorted(listed.stdout.splitlines()) == sorted(files)

    def test_each_row_is_the_range_of_its_picture(self, tmp_path: Path, packing: Recipe) -> None:
        files = photographs()
        part = work.work(stored(str(tmp_path / "in"), files), packing)
        rows = part.to_pylist()
        ranges = [
            Range(f"{packing.pictures}/{r['uri']}", r["offset"], r["size"], r["digest"])
            for r in rows
        ]
        assert read_ranges(ranges) == [files[row["id"]] for row in rows]
        assert len(rows) == len(files)

    def test_long_names_and_other_alphabets_are_kept(self, tmp_path: Path, packing: Recipe) -> None:
        names = [
            f"pug/{'n' * 99}.jpg",
            f"pug/{'n' * 100}.jpg",
            f"pug/{'d' * 200}/{'n' * 200}.jpg",
            f"собака/{'я' * 100}.jpg",
            "柴犬/いぬ %+#=[1]&?.jpg",
        ]
        files = {name: picture_file(20, 20 + k, seed=k) for k, name in enumerate(names)}
        unit = stored(str(tmp_path / "in"), files)
        rows = {row["id"]: row for row in work.work(unit, packing).to_pylist()}
        with tarfile.open(self.shard(unit, packing)) as archive:
            assert sorted(archive.getnames()) == sorted(names)
            for info in archive:
                assert info.offset_data == rows[info.name]["offset"]
        data = storage.read(self.shard(unit, packing))
        for name, row in rows.items():
            assert data[row["offset"] : row["offset"] + row["size"]] == files[name]

    def test_pictures_of_a_split_lie_side_by_side(self, tmp_path: Path, packing: Recipe) -> None:
        files = photographs(each=20)
        part = work.work(stored(str(tmp_path / "in"), files), packing).sort_by("offset")
        splits = [
            split_of(d, packing.shares, packing.seed) for d in part.column("digest").to_pylist()
        ]
        changes = sum(one != other for one, other in pairwise(splits))
        assert changes + 1 == len(set(splits)) == 3

    def test_breeds_are_shuffled_within_a_shard(self, tmp_path: Path, packing: Recipe) -> None:
        part = work.work(stored(str(tmp_path / "in"), photographs(each=20)), packing)
        breeds = [name.split("/")[0] for name in ids(part.sort_by("offset"))]
        same = sum(one == other for one, other in pairwise(breeds))
        assert same < len(breeds) / 2

    def test_two_pictures_of_one_name_are_no_matter(self, tmp_path: Path, packing: Recipe) -> None:
        names = ["pug/1", "pug/1.jpg"]
        unit = stored(str(tmp_path / "in"), {n: picture_file(seed=k) for k, n in enumerate(names)})
        rows = {row["id"]: row for row in work.work(unit, packing).to_pylist()}
        data = storage.read(self.shard(unit, packing))
        for k, name in enumerate(names):
            start, size = rows[name]["offset"], rows[name]["size"]
            assert data[start : start + size] == picture_file(seed=k)

    def test_done_again_or_elsewhere_it_is_the_same_bytes(self, tmp_path: Path) -> None:
        unit, shards = stored(str(tmp_path / "in"), photographs()), []
        for place in ("a", "a", "b"):
            recipe = recipe_at(str(tmp_path / place), 10**9)
            work.work(unit, recipe)
            shards.append(storage.read(self.shard(unit, recipe)))
        assert shards[0] == shards[1] == shards[2]

    def test_without_a_usable_picture_there_is_no_shard(
        self, tmp_path: Path, packing: Recipe
    ) -> None:
        part = work.work(stored(str(tmp_path / "in"), {"pug/1.jpg": b"x"}), packing)
        assert [bool(row["reason"]) for row in part.to_pylist()] == [True]
        assert not Path(packing.pictures, "shards").exists()

    def test_it_is_read_by_who_wants_it_as_a_stream(self, tmp_path: Path, packing: Recipe) -> None:
        files = photographs()
        unit = stored(str(tmp_path / "in"), files)
        work.work(unit, packing)
        with tarfile.open(
            fileobj=io.BytesIO(storage.read(self.shard(unit, packing))), mode="r|"
        ) as s:
            assert {info.name: s.extractfile(info).read() for info in s} == files  # type: ignore[union-attr]
