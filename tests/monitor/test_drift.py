"""`dogbreed drift` from a log to a status, a report and pictures to label."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dogbreed import package, storage
from dogbreed.cli import main
from dogbreed.data.manifest import Manifest
from dogbreed.monitor import rows
from dogbreed.monitor.reference import Reference
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS
from tests.monitor.made import NOON, logged, reference, write_log

SPAN = ["--since", "2026-11-23", "--until", "2026-11-24"]


@pytest.fixture
def watched(monitored: package.Package, tmp_path: Path) -> package.Package:
    """Copy the package, and give it a reference of more pictures."""
    copy = package.copy(monitored, str(tmp_path / "model"))
    about = reference().write(copy.url, copy.class_names)
    path = storage.join(copy.url, package.MODEL_FILE)
    storage.write_json(path, storage.read_json(path) | {"reference": about})
    return package.read(copy.url)


def log_of(watched: package.Package, folder: Path, n: int = 300, **changes: Any) -> list[Any]:
    made = logged(Reference.read(watched), watched.class_names, n, 1, **changes)
    write_log(folder, rows.model_of(watched), made)
    return made


def run(watched: package.Package, log: object, *words: str) -> int:
    out = str(Path(watched.url).parent / "drift.html")
    return main(["drift", "--log", str(log), "--model", watched.url, "--out", out, *SPAN, *words])


def darker(row: dict[str, Any]) -> dict[str, float]:
    return row["picture"] | {"brightness": row["picture"]["brightness"] / 3}


def test_status_is_0_for_the_same_3_for_a_warning_and_4_for_an_alert(
    watched: package.Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_of(watched, tmp_path / "same")
    assert run(watched, tmp_path / "same") == 0
    slightly = lambda row: row["picture"] | {"brightness": row["picture"]["brightness"] * 0.7}  # noqa: E731
    log_of(watched, tmp_path / "some", picture=slightly)
    assert run(watched, tmp_path / "some") == 3
    log_of(watched, tmp_path / "much", picture=darker)
    capsys.readouterr()
    assert run(watched, tmp_path / "much") == 4
    said = capsys.readouterr().out
    assert said.startswith("alert: 300 predictions of")
    assert "Brightness" in said
    assert "top-1 without labels" in said


def test_the_report_is_one_file_that_asks_nobody_and_escapes_what_it_shows(
    watched: package.Package, tmp_path: Path
) -> None:
    made = log_of(watched, tmp_path / "log", n=60, picture=darker, breed="<script>pug")
    assert made[0]["breed"].startswith("<script>")
    assert run(watched, tmp_path / "log") == 4
    html = (tmp_path / "drift.html").read_text()
    assert "http://" not in html
    assert "https://" not in html
    assert "<script>pug" not in html
    assert "Brightness" in html
    assert html.count("<svg") >= 12


def test_json_has_all_findings_with_their_severity(
    watched: package.Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_of(watched, tmp_path / "log", picture=darker)
    assert run(watched, tmp_path / "log", "--json", "-") == 4
    said = json.loads(capsys.readouterr().out)
    assert (said["severity"], said["predictions"], said["model"]) == (
        "alert",
        300,
        rows.model_of(watched),
    )
    by_name = {of["name"]: of for of in said["findings"]}
    assert by_name["brightness"]["severity"] == "alert"
    assert by_name["width"]["severity"] == "ok"
    assert {"embedding", "breeds", "rejected", "accuracy", "probability"} <= by_name.keys()
    assert 0 < said["accuracy"]["low"] < said["accuracy"]["thresholded"] < 1


def test_rows_outside_of_the_time_and_of_other_models_do_not_count(
    watched: package.Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_of(watched, tmp_path / "log", n=90)
    others = logged(reference(), watched.class_names, 50, 2)
    write_log(tmp_path / "log", "other@00000000", others)
    noon = "2026-11-23T13:00"  # an hour after the first: they come once a minute
    words = ["drift", "--log", str(tmp_path / "log"), "--model", watched.url]
    words += ["--out", str(tmp_path / "drift.html"), "--json", "-"]
    assert main([*words, "--since", noon, "--until", "2026-11-24"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"] == 30


def test_without_any_row_the_models_that_are_there_are_named(
    watched: package.Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "log", "other@00000000", [])
    assert run(watched, tmp_path / "log") == 2
    assert "it has rows of other@00000000" in capsys.readouterr().err
    assert run(watched, tmp_path / "nowhere") == 2


@pytest.mark.parametrize("since", ["yesterday", "7", "d7", "-7d", "2026-13-01"])
def test_a_time_that_is_none_is_an_error(
    since: str, watched: package.Package, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["drift", "--log", "x", "--model", watched.url, f"--since={since}"]
    assert main(words) == 2
    assert "is no time" in capsys.readouterr().err


def test_what_is_damaged_or_newer_is_counted_and_the_rest_is_read(
    watched: package.Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = log_of(watched, tmp_path / "log", n=100)
    model = rows.model_of(watched)
    newer = made[0] | {"schema": 99}
    path = write_log(tmp_path / "log", model, [newer, {"no": "row"}, *made], "two")
    cut = gzip.compress(b"\n".join(json.dumps(row).encode() for row in made))[:-900]
    (path.parent / "three.jsonl.gz").write_bytes(cut)
    (path.parent / "four.jsonl.gz").write_bytes(b"no gzip")
    (path.parent / ".part-x.jsonl.gz").write_bytes(b"of a writer that was killed")
    assert run(watched, tmp_path / "log", "--json", "-") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["predictions"] >= 200
    assert said["not_read"]["rows_of_a_later_schema"] == 1
    assert said["not_read"]["damaged_files"] == 2
    assert said["not_read"]["damaged_rows"] in {1, 2}


def test_a_log_in_a_bucket_is_read_like_one_on_a_disk(
    watched: package.Package, tmp_path: Path, bucket: str, gcs: FakeGCS
) -> None:
    log_of(watched, tmp_path / "log", n=60)
    for name, _ in storage.find(str(tmp_path / "log")):
        url = storage.join(bucket, "log", name)
        storage.write(url, (tmp_path / "log" / name).read_bytes())
    assert run(watched, f"{bucket}/log") == 0


def test_pictures_worth_labelling_go_to_a_folder_from_which_prepare_extends_the_data(
    watched: package.Package, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log", tmp_path / "to_label"
    number = iter(range(10**6))
    log_of(watched, log, n=60, image=lambda row: f"images/day=x/{next(number)}.jpg")
    for k in range(60):
        storage.write(str(log / f"images/day=x/{k}.jpg"), picture_file(120, 90, 1000 + k))
    assert run(watched, log, "--label", str(out), "--label_count", "6") == 0
    assert "6 pictures to label" in capsys.readouterr().out
    table = list(csv.DictReader((out / "labels.csv").read_text().splitlines()))
    assert len(table) == 6
    assert {row["breed"] for row in table} == {""}
    assert len({row["why"] for row in table}) >= 2

    data = tmp_path / "data"
    words = ["prepare", "--out", str(data), "--splits", "0.5,0.25,0.25"]
    assert main([*words, "--source", "folder", "--path", str(tiny_folder)]) == 0
    extend = ["prepare", "--out", str(data), "--source", "labelled", "--path", str(out)]
    assert main(extend) == 2
    assert "no breed is written" in capsys.readouterr().err
    before = Manifest.open(str(data))
    for row in table[:4]:
        row["breed"] = before.classes[0]
    with (out / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    assert main(extend) == 0
    after = Manifest.open(str(data))
    new = [r for r in after.take(range(len(after))) if r["id"].startswith("labelled/")]
    assert len(after) == len(before) + 4
    assert {(row["split"], row["label"]) for row in new} == {(0, 0)}  # of train

    with (out / "labels.csv").open("a") as file:
        file.write("../../etc/passwd,pug,,,,,\n")
    assert main(extend) == 2
    assert "not in the folder: row 8" in capsys.readouterr().err


def test_the_day_of_noon_is_what_these_tests_take_it_for() -> None:
    assert rows.day_of(NOON) == "2026-11-23"
