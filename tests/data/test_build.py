"""Putting a data set together: interrupted, continued, extended, packed, to several places."""

import io
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dogbreed import retries, storage
from dogbreed.data import build, prepare, work
from dogbreed.data.build import Options
from dogbreed.data.listing import items_of
from dogbreed.data.manifest import DATASET_FILE, SPLITS, Manifest
from dogbreed.data.sources import from_folder
from dogbreed.data.work import Recipe, units
from dogbreed.errors import BadInput
from dogbreed.ranges import read_ranges
from tests.conftest import picture_file
from tests.data.test_prepare import photographs, put, rejects
from tests.doubles.gcs import FakeGCS


@pytest.fixture(params=["disk", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty place for a data set."""
    if request.param == "disk":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('bucket')}/out"


@pytest.fixture(params=[None, "4KB"], ids=["loose", "packed"])
def shard_size(request: pytest.FixtureRequest) -> str | None:
    """Give what `--shard_size` says; a picture has some 800 bytes."""
    size: str | None = request.param
    return size


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loose pictures come in units of five, and an error is one after two attempts."""
    monkeypatch.setattr(work, "CHUNK", 5)
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)


def run(path: str, out: str, **options: Any) -> Manifest:
    """`dogbreed prepare` in this process alone."""
    prepare.prepare("folder", out, path, **{"name": "dogs", "workers": 1} | options)
    return Manifest.open(out)


def tree(url: str) -> dict[str, str]:
    """Every file below with its digest, hidden ones too."""
    fs, path = storage.filesystem(url)
    names = [name.removeprefix(path).strip("/") for name in fs.find(path)]
    return {name: storage.digest_of(storage.read(storage.join(url, name))) for name in names}


def contents(data: Manifest) -> dict[str, bytes]:
    """What a reader gets for each picture: its bytes, checked."""
    rows = data.take(range(len(data)))
    got = dict(zip((row["id"] for row in rows), read_ranges(data.ranges(rows)), strict=True))
    return {name: piece for name, piece in got.items() if isinstance(piece, bytes)}


def rows_of(data: Manifest) -> dict[str, tuple[str, str, str, str]]:
    """Id -> breed, split, group, uri."""
    return {
        row["id"]: (data.classes[row["label"]], SPLITS[row["split"]], row["group"], row["uri"])
        for row in data.take(range(len(data)))
    }


def in_order(path: str, shard_size: str | None = None) -> list[list[str]]:
    """Ids of the pictures of each unit."""
    recipe = Recipe("", "", 4000 if shard_size else 0, (0.8, 0.1, 0.1), 0)
    return [[item.id for item in items_of(unit)] for unit in units(from_folder(path).table, recipe)]


def detailed(seed: int, quality: int = 90, side: int = 128) -> bytes:
    """A picture with enough in it to be recognised at another size or quality."""
    fine = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(fine).resize((side, side), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=quality
    )
    return file.getvalue()


class Killed(BaseException):
    """Ends the process, as far as the code under test can tell."""


def killed(*_: object) -> None:
    raise Killed


def killed_at_part(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process end when it would write its part number so and so; the first is 0."""
    write, seen = storage.write, iter(range(number))

    def dying(url: str, data: bytes) -> None:
        if url.endswith(".parquet") and "/.parts/" in url and next(seen, None) is None:
            raise Killed
        write(url, data)

    patch.setattr(storage, "write", dying)


def killed_at_write(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process end when it would write or remove something for the so manieth time."""
    left = iter(range(number))

    def dying(act: Callable[..., None]) -> Callable[..., None]:
        def acting(*args: Any, **options: Any) -> None:
            if next(left, None) is None:
                raise Killed
            act(*args, **options)

        return acting

    for name in ("write", "remove", "sweep"):
        patch.setattr(storage, name, dying(getattr(storage, name)))


class TestContinuing:
    def test_only_pictures_of_unfinished_units_are_read_again(
        self, gcs: FakeGCS, bucket: str, tmp_path: Path, shard_size: str | None
    ) -> None:
        path, out = put(bucket, photographs(each=10)), str(tmp_path / "out")
        order = in_order(path, shard_size)
        assert len(order) > 3
        gcs.faults.cut_rate, gcs.faults.only = 1.0, order[2][-1]
        with pytest.raises(BadInput, match="bytes came instead of"):
            run(path, out, shard_size=shard_size)
        gcs.reset()
        run(path, out, shard_size=shard_size)
        assert gcs.counts["media"] == sum(map(len, order[2:]))
        undisturbed = str(tmp_path / "undisturbed")
        run(path, undisturbed, shard_size=shard_size)
        assert tree(out) == tree(undisturbed)

    def test_only_unfinished_units_are_written_again(
        self, gcs: FakeGCS, bucket: str, tmp_path: Path
    ) -> None:
        path, out = put(str(tmp_path / "in"), photographs(each=10)), f"{bucket}/out"
        undisturbed = str(tmp_path / "undisturbed")
        run(path, undisturbed)
        order = in_order(path)
        gcs.faults.error_rate, gcs.faults.only = 1.0, f"pictures/{order[2][1]}"
        with pytest.raises(BadInput, match=order[2][1]):
            run(path, out)
        assert not storage.exists(f"{out}/{DATASET_FILE}")
        gcs.reset()
        run(path, out)
        others = len(["rejects", "manifest", "dataset", "contact sheet", "duplicates", "plan"])
        assert gcs.counts["write"] == 10 + len(order[2:]) + others
        assert tree(out) == tree(undisturbed)

    def test_finished_parts_alone_need_no_picture_at_all(
        self, gcs: FakeGCS, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, out = put(bucket, photographs()), str(tmp_path / "out")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(build, "_write_reports", killed)
            run(path, out)
        gcs.reset()
        run(path, out)
        assert gcs.counts["media"] == 0
        run(path, str(tmp_path / "undisturbed"))
        assert tree(out) == tree(str(tmp_path / "undisturbed"))

    def test_what_is_of_no_use_to_a_changed_source_is_removed(
        self, out: str, shard_size: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = photographs(each=10)
        path = put(str(tmp_path / "in"), files)
        order = in_order(path, shard_size)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_at_part(patch, 2)
            run(path, out, shard_size=shard_size)
        written = tree(out)
        gone = [order[0][0], order[2][-1]]  # of a finished unit, and of one that has no part
        if not shard_size:
            assert {f"pictures/{name}" for name in gone} <= written.keys()
        for name in gone:
            storage.remove([f"{path}/{name}"])
        data = run(path, out, shard_size=shard_size)
        assert contents(data) == {name: files[name] for name in files.keys() - set(gone)}
        undisturbed = str(tmp_path / "undisturbed")
        run(path, undisturbed, shard_size=shard_size)
        assert tree(out) == tree(undisturbed)

    def test_pictures_that_changed_to_and_fro_between_attempts_are_not_mixed_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files, out = photographs(each=10), str(tmp_path / "out")
        path = put(str(tmp_path / "in"), files)
        changed = {in_order(path)[0][0]: picture_file(90, 90)}
        for now in (files, files | changed):
            put(path, now)
            with monkeypatch.context() as patch, pytest.raises(Killed):
                killed_at_part(patch, 2)
                run(path, out)
        assert contents(run(put(path, files), out)) == files

    def test_pictures_for_another_place_are_written_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files, out, other = photographs(each=10), str(tmp_path / "out"), tmp_path / "other"
        path = put(str(tmp_path / "in"), files)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_at_part(patch, 2)
            run(path, out, pictures=str(other))
        data = run(path, out)
        shutil.rmtree(other)
        assert contents(data) == files
        assert not Path(out, ".parts").exists()

    def test_leftovers_of_killed_writes_are_swept_and_nothing_of_the_user(
        self, tmp_path: Path
    ) -> None:
        path, out = put(str(tmp_path / "in"), photographs()), tmp_path / "out"
        ours = ["pictures/pug/.part-1", "shards/.part-2", ".part-3", ".parts/here/.part-4"]
        users = ["notes.txt", "pictures/mine.txt", "runs/1/.part-live", "empty/folder/", ".git/x"]
        for name in ours + users:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                (out / name).write_text("x")
        (out / "empty/folder").mkdir(parents=True, exist_ok=True)
        run(path, str(out))
        assert [name for name in ours if (out / name).exists()] == []
        assert [name for name in users if not (out / name).exists()] == []
        assert not (out / ".parts").exists()
        assert not (out / "shards").exists()

    def test_a_picture_below_folders_named_like_the_data_sets_own_stays(
        self, tmp_path: Path
    ) -> None:
        out = str(tmp_path / "out")
        files = photographs() | {f"pug{out}/1.jpg": picture_file()}
        assert contents(run(put(str(tmp_path / "in"), files), out)) == files

    @pytest.mark.parametrize("more", [False, True], ids=["new", "extension"])
    def test_a_kill_at_any_write_leaves_a_whole_data_set_or_none_and_loses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bool
    ) -> None:
        """Of an extension, the old data set or the new one can be opened at any moment."""
        shard_size = "3KB" if more else None
        path = put(str(tmp_path / "in"), photographs(each=3))
        start = tmp_path / "start"
        versions: dict[str, int] = {}  # version -> pictures
        if more:
            versions[run(path, str(start)).version] = 6
            put(path, photographs(each=6) | {"pug/bad.jpg": b"x"})
        else:
            start.mkdir()
        undisturbed = tmp_path / "undisturbed"
        shutil.copytree(start, undisturbed)
        data = run(path, str(undisturbed), shard_size=shard_size)
        versions[data.version] = len(data)
        expected = tree(str(undisturbed))

        number = -1
        while True:
            number += 1
            out = tmp_path / f"{number}"
            shutil.copytree(start, out)
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{number}"))
            with monkeypatch.context() as patch:
                killed_at_write(patch, number)
                try:
                    run(path, str(out), shard_size=shard_size)
                    ended = True
                except Killed:
                    ended = False
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"another{number}"))
            if more or (out / DATASET_FILE).exists():
                opened = Manifest.open(str(out))
                assert len(contents(opened)) == len(opened) == versions[opened.version]
            if ended:
                break
            run(path, str(out), shard_size=shard_size)
            assert tree(str(out)) == expected, f"killed at write {number}"
            assert not (out / ".parts").exists()
        assert number > 15


class TestExtending:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        return put(str(tmp_path / "in"), photographs(each=12))

    def test_old_rows_stay_and_new_ones_are_added(
        self, path: str, out: str, shard_size: str | None
    ) -> None:
        old = rows_of(run(path, out, shard_size=shard_size))
        more = photographs(each=20, breeds=("beagle", "pug", "affenpinscher"))
        data = run(put(path, more), out, shard_size=shard_size)
        new = rows_of(data)
        assert new.items() >= old.items()
        assert data.classes == ["affenpinscher", "beagle", "pug"]
        assert {name: row[0] for name, row in new.items()} == {n: n.split("/")[0] for n in more}
        assert contents(data) == more
        assert {split for _, split, _, _ in new.values()} == {"train", "val", "test"}

    def test_new_pictures_get_the_splits_that_they_would_have_had_at_once(
        self, path: str, tmp_path: Path
    ) -> None:
        first, second = str(tmp_path / "first"), str(tmp_path / "second")
        run(path, first)
        put(path, photographs(each=20))
        assert run(path, first).version == run(path, second).version
        assert tree(first) == tree(second)

    def test_with_nothing_new_every_file_stays_as_it_was(
        self, path: str, out: str, shard_size: str | None, gcs: FakeGCS
    ) -> None:
        put(path, {"pug/bad.jpg": b"x", "pug/notes.txt": b"x"})
        run(path, out, shard_size=shard_size)
        before = tree(out)
        gcs.reset()
        run(path, out, shard_size=shard_size)
        assert tree(out) == before

    def test_only_new_pictures_are_read(self, gcs: FakeGCS, bucket: str, tmp_path: Path) -> None:
        path, out = put(bucket, photographs(each=12)), str(tmp_path / "out")
        run(path, out)
        put(path, photographs(each=15))
        gcs.reset()
        run(path, out)
        assert gcs.counts["media"] == 6

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pug/3.jpg": picture_file(70, 70)}, "with another size: pug/3.jpg;"),
            ({}, "with another breed: pug/3.jpg;"),
        ],
        ids=["size", "breed"],
    )
    def test_a_changed_picture_is_an_error_that_names_it_and_changes_nothing(
        self, path: str, out: str, change: dict[str, bytes], message: str
    ) -> None:
        run(path, out)
        before = tree(out)
        source = from_folder(put(path, photographs(each=15) | change))
        if not change:
            ids = source.table.column("id").to_pylist()
            breeds = source.table.column("breed").cast("string").to_pylist()
            breeds[ids.index("pug/3.jpg")] = "beagle"
            field = source.table.schema.field("breed")
            place = source.table.schema.get_field_index("breed")
            column = pa.array(breeds, pa.string()).cast(field.type)
            source.table = source.table.set_column(place, field, column)
        with pytest.raises(BadInput, match=message):
            build.build(source, out, name="dogs", kind="folder", options=Options())
        assert tree(out) == before

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"seed": 1}, "--seed 0"), ({"splits": "0.7,0.2,0.1"}, r"--splits \[0\.8, 0\.1, 0\.1\]")],
    )
    def test_other_splits_are_an_error_that_says_the_old_ones(
        self, path: str, out: str, options: dict[str, Any], message: str
    ) -> None:
        run(path, out)
        before = tree(out)
        put(path, photographs(each=15))
        with pytest.raises(BadInput, match=message):
            run(path, out, **options)
        assert tree(out) == before

    def test_the_same_pictures_cut_otherwise_are_an_error(self, path: str, out: str) -> None:
        run(path, out)
        source = from_folder(put(path, photographs(each=15)))
        with pytest.raises(BadInput, match="24 of the pictures are there with --crop none"):
            build.build(source, out, name="dogs", kind="x", options=Options(crop="box"))

    def test_a_duplicate_of_an_old_picture_joins_its_group_and_split(
        self, path: str, tmp_path: Path
    ) -> None:
        out = str(tmp_path / "out")
        files = {f"pug/big{k}.jpg": detailed(k) for k in range(12)}
        old = rows_of(run(put(path, files), out))
        again = {f"pug/again{k}.jpg": files[f"pug/big{k}.jpg"] for k in range(12)}
        near = {f"pug/near{k}.jpg": detailed(k, 60) for k in range(12)}
        new = rows_of(run(put(path, again | near), out))
        assert new.items() >= old.items()
        for k in range(12):
            for name in ("again", "near"):
                assert new[f"pug/{name}{k}.jpg"][:3] == old[f"pug/big{k}.jpg"][:3]

    def test_it_can_come_from_another_folder_and_another_way_of_packing(
        self, path: str, out: str, tmp_path: Path
    ) -> None:
        old = rows_of(run(path, out, shard_size="4KB"))
        others = {f"whippet/{k}.jpg": picture_file(30, 30, seed=7000 + k) for k in range(4)}
        data = run(put(str(tmp_path / "more"), others), out, name="another")
        assert contents(data) == photographs(each=12) | others
        assert rows_of(data).items() >= old.items()
        assert {uri.split("/")[0] for *_, uri in rows_of(data).values()} == {"shards", "pictures"}
        assert data.name == "dogs"
        last = {f"whippet/{k}.jpg": picture_file(30, 30, seed=7000 + k) for k in range(4, 8)}
        data = run(put(str(tmp_path / "last"), last), out, shard_size="4KB")
        assert contents(data) == photographs(each=12) | others | last

    def test_rejects_of_all_runs_are_listed_until_the_picture_is_there(
        self, path: str, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(put(path, {"pug/a.jpg": b"x", "pug/b.jpg": b"x"}), out)
        other = {"pug/c.jpg": b"x"} | {f"pug/n{k}.jpg": picture_file(seed=50 + k) for k in range(3)}
        capsys.readouterr()
        data = run(put(str(tmp_path / "more"), other), out)
        assert list(rejects(out)) == ["pug/a.jpg", "pug/b.jpg", "pug/c.jpg"]
        assert data.dataset["source"]["rejected"] == 3
        assert "1 of 4 files rejected" in capsys.readouterr().out
        run(put(path, {"pug/a.jpg": picture_file(seed=60)}), out)
        assert list(rejects(out)) == ["pug/b.jpg", "pug/c.jpg"]

    def test_a_data_set_without_perceptual_hashes_is_an_error(self, path: str, out: str) -> None:
        run(path, out)
        about = storage.read_json(f"{out}/{DATASET_FILE}")
        storage.write_json(f"{out}/{DATASET_FILE}", about | {"schema": 1})
        before = tree(out)
        with pytest.raises(BadInput, match="an earlier dogbreed prepared this data set"):
            run(put(path, photographs(each=15)), out)
        assert tree(out) == before

    def test_a_damaged_manifest_is_an_error(
        self, path: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(path, out)
        storage.write(f"{out}/manifest.parquet", b"damaged")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with pytest.raises(BadInput, match="differs from what dataset.json says"):
            run(put(path, photographs(each=15)), out)


class TestConflicts:
    @pytest.fixture
    def files(self) -> dict[str, bytes]:
        files = photographs(each=6)
        return files | {"pug/wrong.jpg": files["beagle/1.jpg"]}

    def test_equal_files_of_two_breeds_are_an_error_that_names_them(
        self, files: dict[str, bytes], out: str, tmp_path: Path
    ) -> None:
        path = put(str(tmp_path / "in"), files)
        with pytest.raises(BadInput, match=r"beagle/1\.jpg \(beagle\) = pug/wrong\.jpg \(pug\)"):
            run(path, out)
        assert not storage.exists(f"{out}/{DATASET_FILE}")

    def test_once_that_is_corrected_prepare_goes_on(
        self, files: dict[str, bytes], out: str, tmp_path: Path
    ) -> None:
        path = put(str(tmp_path / "in"), files)
        with pytest.raises(BadInput):
            run(path, out)
        storage.remove([f"{path}/pug/wrong.jpg"])
        run(path, out)
        run(path, str(tmp_path / "undisturbed"))
        assert tree(out) == tree(str(tmp_path / "undisturbed"))

    def test_rejected_they_are_named_and_their_files_removed(
        self, files: dict[str, bytes], out: str, tmp_path: Path
    ) -> None:
        data = run(put(str(tmp_path / "in"), files), out, conflicts="reject")
        reason = "equal files of different breeds: beagle/1.jpg (beagle) = pug/wrong.jpg (pug)"
        assert rejects(out) == {"beagle/1.jpg": reason, "pug/wrong.jpg": reason}
        assert data.dataset["source"]["rejected"] == 2
        left = files.keys() - rejects(out).keys()
        assert contents(data).keys() == left
        kept = {name for name in tree(out) if name.startswith("pictures/")}
        assert kept == {f"pictures/{name}" for name in left}

    def test_in_an_extension_old_rows_stay(
        self, files: dict[str, bytes], out: str, tmp_path: Path
    ) -> None:
        path = put(str(tmp_path / "in"), photographs(each=6))
        old = run(path, out)
        put(path, files)
        with pytest.raises(BadInput, match=r"pug/wrong\.jpg \(pug\)"):
            run(path, out)
        assert Manifest.open(out).version == old.version
        assert contents(Manifest.open(out)) == photographs(each=6)
        data = run(path, out, conflicts="reject")
        assert data.version == old.version
        assert list(rejects(out)) == ["pug/wrong.jpg"]
        assert f"pictures/{'pug/wrong.jpg'}" not in tree(out)

    def test_near_duplicates_may_differ_in_their_breeds(self, out: str, tmp_path: Path) -> None:
        files = photographs(each=6) | {
            "pug/a.jpg": detailed(0),
            "beagle/a.jpg": detailed(0, quality=60),
        }
        rows = rows_of(run(put(str(tmp_path / "in"), files), out))
        assert rows["pug/a.jpg"][1:3] == rows["beagle/a.jpg"][1:3]


class TestPlaces:
    def test_packed_and_loose_data_sets_are_the_same_version(
        self, out: str, tmp_path: Path
    ) -> None:
        files = photographs(each=12)
        path = put(str(tmp_path / "in"), files)
        loose, packed = run(path, f"{out}/loose"), run(path, f"{out}/packed", shard_size="4KB")
        assert loose.version == packed.version
        assert contents(loose) == contents(packed) == files
        assert 3 <= len({uri for *_, uri in rows_of(packed).values()}) <= 6

    def test_pictures_may_lie_in_a_bucket_and_the_manifest_here(
        self, tmp_path: Path, bucket: str, shard_size: str | None
    ) -> None:
        files, out = photographs(each=6), str(tmp_path / "out")
        path, place = put(str(tmp_path / "in"), files), f"{bucket}/the pictures"
        data = run(path, out, pictures=f"{place}/", shard_size=shard_size)
        assert all(uri.startswith(f"{place}/") for *_, uri in rows_of(data).values())
        assert contents(data) == files
        assert not Path(out, "pictures").exists()
        assert tree(place).keys() == {
            uri.removeprefix(f"{place}/") for *_, uri in rows_of(data).values()
        }
        beside = run(path, str(tmp_path / "beside"), shard_size=shard_size)
        assert data.version == beside.version
        put(path, photographs(each=9))
        assert contents(run(path, out, pictures=place)) == photographs(each=9)

    def test_pictures_may_lie_in_another_folder_named_relative_to_this_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = photographs(each=6)
        path = put(str(tmp_path / "in"), files)
        monkeypatch.chdir(tmp_path)
        data = run(path, "out", pictures="elsewhere")
        digest = storage.digest_of(files["pug/1.jpg"])
        assert (tmp_path / f"elsewhere/pictures/{digest}.jpg").exists()
        assert contents(data) == files
        assert not any(name.startswith("pictures/") for name in tree("out"))

    @pytest.mark.parametrize("size", [None, "20KB"], ids=["loose", "packed"])
    def test_data_sets_may_share_a_place_for_their_pictures(
        self, tmp_path: Path, bucket: str, size: str | None
    ) -> None:
        names = photographs(each=6)
        sets = [
            {n: picture_file(24, 20, seed=100 * k + i) for i, n in enumerate(names)} for k in (1, 2)
        ]
        sets.append(dict(list(sets[0].items())[:9]))  # some of the first one's pictures
        built = [
            run(
                put(str(tmp_path / f"in{k}"), files),
                str(tmp_path / f"out{k}"),
                pictures=bucket,
                shard_size=size,
            )
            for k, files in enumerate(sets)
        ]
        assert [contents(data) for data in built] == sets

    def test_pictures_here_and_the_manifest_in_a_bucket_are_an_error(
        self, tmp_path: Path, bucket: str
    ) -> None:
        path = put(str(tmp_path / "in"), photographs())
        with pytest.raises(BadInput, match="--pictures .*: who reads gs://.* has no such folder"):
            run(path, bucket, pictures=str(tmp_path / "pictures"))
        assert tree(bucket) == {}

    @pytest.fixture
    def memory(self) -> Iterator[str]:
        url = f"memory://{uuid.uuid4().hex}"
        yield url
        fsspec.filesystem("memory").rm(url, recursive=True)

    def test_memory_is_read_and_written_by_this_process(
        self, tmp_path: Path, memory: str, shard_size: str | None
    ) -> None:
        files = photographs(each=12)
        path = put(f"{memory}/in", files)
        for _ in range(2):
            data = run(path, f"{memory}/out", shard_size=shard_size, workers=3)
            assert contents(data) == files
            files |= photographs(each=15)
            put(path, files)
        disk = put(str(tmp_path / "in"), photographs(each=12))
        from_disk = run(disk, f"{memory}/other", workers=3)
        run(disk, str(tmp_path / "out"))
        assert tree(from_disk.root) == tree(str(tmp_path / "out"))

    def test_any_number_of_processes_writes_the_same_files(self, tmp_path: Path) -> None:
        path = put(str(tmp_path / "in"), photographs(each=20) | {"pug/bad.jpg": b"x"})
        trees = []
        for workers in (1, 2, 3):
            out = str(tmp_path / f"out{workers}")
            run(path, out, workers=workers, shard_size="4KB")
            trees.append(tree(out))
        assert trees[0] == trees[1] == trees[2]

    def test_disk_and_bucket_hold_the_same_files(
        self, tmp_path: Path, bucket: str, shard_size: str | None
    ) -> None:
        path = put(str(tmp_path / "in"), photographs(each=6))
        run(path, str(tmp_path / "out"), shard_size=shard_size)
        run(path, bucket, shard_size=shard_size)
        assert tree(str(tmp_path / "out")) == tree(bucket)


class TestSplits:
    def test_those_of_the_source_win_and_leaks_are_counted(
        self, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = [f"{s}/{b}/{k}.jpg" for s in SPLITS[:3] for b in "ab" for k in range(3)]
        files = {name: picture_file(seed=k) for k, name in enumerate(names)}
        files["train/a/leak.jpg"] = files["test/a/0.jpg"]
        data = run(put(str(tmp_path / "in"), files), out)
        rows = rows_of(data)
        assert {name: row[1] for name, row in rows.items()} == {n: n.split("/")[0] for n in files}
        assert rows["train/a/leak.jpg"][2] == rows["test/a/0.jpg"][2]
        assert data.dataset["source"]["in_several_splits"] == 1
        assert "duplicates in several splits, scores will flatter: " in capsys.readouterr().out

    def test_near_duplicates_share_a_split(self, out: str, tmp_path: Path) -> None:
        files = photographs(each=3)
        for k in range(20):
            files[f"pug/one{k}.jpg"] = detailed(k)
            files[f"pug/other{k}.jpg"] = detailed(k, side=90)
        rows = rows_of(run(put(str(tmp_path / "in"), files), out, splits="0.4,0.3,0.3"))
        pairs = [(rows[f"pug/one{k}.jpg"], rows[f"pug/other{k}.jpg"]) for k in range(20)]
        assert all(one[1:3] == other[1:3] for one, other in pairs)
        assert len({one[1] for one, _ in pairs}) == 3
