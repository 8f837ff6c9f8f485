"""`dogbreed report`: the page of a run, runs side by side, the table of many."""

import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.data import manifest
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.runs import Run
from tests.report.made import began, exported, scored, trained

EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """What a page holds: its elements, and its text without scripts and styles."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", ""
        self.feed(data.decode())
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open not in {"script", "style"}:
            self.text += f" {data}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> set[str | None]:
        return {attributes.get("id") for _, attributes in self.elements}


def report(*words: str) -> None:
    assert main(["report", *words]) == 0


def page_of(path: str | Path) -> Page:
    return Page(storage.read(str(path)))


def test_the_page_of_a_run_shows_what_its_files_say(
    real: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    report(real, "--out", f"{tmp_path}/r.html")
    data = (tmp_path / "r.html").read_bytes()
    said = capsys.readouterr().out
    assert f"{tmp_path}/r.html: {len(data) / 1000:.0f} kB, open it in a browser" in said
    page = Page(data)
    for split in ("val", "test"):
        summary = storage.read_json(f"{real}/evaluation/{split}.json")
        for name in ("top1", "top5", "macro_f1", "log_loss", "ece"):
            score = summary["scores"][name]
            assert f"{score['value']:.3f} {score['low']:.3f} to {score['high']:.3f}" in page.text
    for breed in summary["per_breed"]:
        shown = [breed["n"]] + [
            "\N{EN DASH}" if breed[k] is None else f"{breed[k]:.2f}"
            for k in ("precision", "recall", "f1")
        ]
        assert " ".join(map(str, shown)) in page.text
    assert f"temperature of {summary['temperature']:.3f}" in page.text
    matrix = json.loads(
        re.search(rb'id="matrix-data">(.*?)</script>', data)[1].decode()  # type: ignore[index]
    )
    assert sum(map(sum, matrix["rows"])) == summary["n"]
    right = sum(row[k] for k, row in enumerate(matrix["rows"]))
    assert right / summary["n"] == pytest.approx(summary["scores"]["top1"]["value"])
    sections = {"scores", "curves", "calibration", "confusion", "breeds", "mistakes", "rejection",
                "data", "run"}  # fmt: skip
    assert sections <= page.ids
    assert "First weights: random" in page.text
    assert "made-up breeds" not in page.text


def test_a_mistake_comes_with_its_picture_and_the_heat_of_the_answer(
    real: str, tmp_path: Path
) -> None:
    report(real, "--out", f"{tmp_path}/r.html")
    page = page_of(tmp_path / "r.html")
    labels = [image["alt"] or "" for image in page.all("img")]
    heat = [label for label in labels if label.startswith("What spoke for ")]
    summary = storage.read_json(f"{real}/evaluation/test.json")
    wrong = round(summary["n"] * (1 - summary["scores"]["top1"]["value"]))
    assert len(heat) == min(wrong, 24) > 0
    assert any("taken for a" in label for label in labels)
    assert all((image["src"] or "").startswith("data:image/webp") for image in page.all("img"))
    assert "What is not shown" not in page.text


def test_the_page_asks_nobody_for_anything(real: str, tmp_path: Path) -> None:
    report(real, "--out", f"{tmp_path}/r.html")
    page = page_of(tmp_path / "r.html")
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {"link", "iframe", "base", "form", "object"}
    )
    assert all("src" not in script for script in page.all("script"))
    places = [a.get("href") or "" for a in page.all("a")] + [
        i["src"] or "" for i in page.all("img")
    ]
    assert all(place.startswith(("#", "data:")) for place in places)
    (policy,) = [m["content"] for m in page.all("meta") if "Policy" in (m.get("http-equiv") or "")]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not any("style" in of or any(k.startswith("on") for k in of) for _, of in page.elements)


def test_names_from_runs_and_data_are_text(tmp_path: Path, tiny_dataset: str) -> None:
    of = Manifest.open(tiny_dataset)
    rows = [
        row | {"split": SPLITS[row["split"]], "uri": storage.join(of.root, row["uri"])}
        for row in of.take(np.arange(len(of)))
    ]
    table = pa.Table.from_pylist(rows, manifest.SCHEMA)
    names = [{"name": name} for name in (EVIL, "a&b", '"quoted"', "</script><b>")]
    manifest.save(f"{tmp_path}/data", table, classes=names, name=EVIL)
    run = scored(str(tmp_path), "run", f"{tmp_path}/data", weights=EVIL, reason=EVIL)
    run.update(name=EVIL)
    config = {"model": {"backbone": EVIL}, "x": "</pre><script>"}
    storage.write(run.path("config.yaml"), json.dumps(config).encode())
    report(run.url, "--out", f"{tmp_path}/one.html")
    other = trained(str(tmp_path), "b")
    other.update(name=EVIL)
    report(run.url, other.url, "--out", f"{tmp_path}/two.html")
    report(str(tmp_path), "--out", f"{tmp_path}/all.html")
    for name in ("one", "two", "all"):
        data = (tmp_path / f"{name}.html").read_bytes()
        scripts = Page(data).all("script")
        assert scripts == [{}] or scripts == [
            {"type": "application/json", "id": "matrix-data"}, {}]  # fmt: skip
        assert Page(data).all("b") == [] or name == "one"
        assert EVIL.encode() not in data
        assert html.escape(EVIL, quote=False)[:14] in data.decode()


@pytest.mark.parametrize("gone", ["all", "pictures", "version"])
def test_a_run_whose_data_cannot_be_reached_is_shown_without_pictures(
    gone: str, tmp_path: Path, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "data"
    shutil.copytree(tiny_dataset, place)
    run = scored(str(tmp_path), "run", str(place), skill=0.5)
    if gone == "all":
        shutil.rmtree(place)
    elif gone == "pictures":
        shutil.rmtree(place / "pictures")
    else:
        summary = storage.read_json(run.path("evaluation/test.json"))
        summary["data"]["version"] = "0" * 64
        storage.write_json(run.path("evaluation/test.json"), summary)
    report(run.url, "--out", f"{tmp_path}/r.html")
    page, said = page_of(tmp_path / "r.html"), capsys.readouterr().out
    told = {"all": "no data set here", "pictures": "cannot be read", "version": "was scored"}
    assert told[gone] in page.text
    assert told[gone] in said
    assert {"confusion", "breeds", "mistakes"} <= page.ids
    assert [i for i in page.all("img") if "Contact" not in (i["alt"] or "")] == []


def test_a_run_of_before_there_were_evaluations_says_which_command_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(str(tmp_path), "old", top1=0.625)
    report(run.url, "--out", f"{tmp_path}/r.html")
    page, said = page_of(tmp_path / "r.html"), capsys.readouterr().out
    assert "0.625" in page.text
    assert "curves" in page.ids
    assert page.ids.isdisjoint({"confusion", "breeds", "mistakes", "calibration", "rejection"})
    for verb in ("test", "validate"):
        assert f"dogbreed {verb} --run {run.url}" in page.text
        assert f"dogbreed {verb} --run {run.url}" in said


def test_a_run_that_failed_at_once_has_a_page_too(tmp_path: Path) -> None:
    run = began(str(tmp_path), "crashed", state="failed", reason="RuntimeError: the fault")
    report(run.url, "--out", f"{tmp_path}/r.html")
    page = page_of(tmp_path / "r.html")
    assert "failed: RuntimeError: the fault" in page.text
    assert "This run has no scores" in page.text


def test_another_split_can_be_looked_at(
    tmp_path: Path, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scored(str(tmp_path), "run", tiny_dataset, splits=("val",))
    report(run.url, "--out", f"{tmp_path}/r.html")
    n = storage.read_json(run.path("evaluation/val.json"))["n"]
    assert f"Confusion val, {n} pictures" in page_of(tmp_path / "r.html").text
    assert main(["report", run.url, "--split", "test"]) == 2
    assert f"dogbreed test --run {run.url}" in capsys.readouterr().err


def test_scores_on_other_data_stand_apart_under_its_name(tmp_path: Path, tiny_dataset: str) -> None:
    run = scored(str(tmp_path), "run", tiny_dataset)
    summary = storage.read_json(run.path("evaluation/test.json"))
    summary["scores"]["top1"] = {"value": 0.1234, "low": 0.1, "high": 0.2}
    storage.write_json(run.path("evaluation/others/full@0123456789ab/test.json"), summary)
    report(run.url, "--out", f"{tmp_path}/r.html")
    text = page_of(tmp_path / "r.html").text
    assert f"other data: full@0123456789ab test {summary['n']} 0.123 0.100 to 0.200" in text


def test_engines_stand_beside_the_module(tmp_path: Path) -> None:
    run = trained(str(tmp_path), "fast")
    exported(run, "<b>int8")
    assert main(["report", run.url, "--out", str(tmp_path / "out.html")]) == 0
    page = (tmp_path / "out.html").read_text()
    assert 'id="engines"' in page
    assert "&lt;b&gt;int8" in page
    assert "+0.0043 (-0.0026 to +0.0120)" in page
    assert "data:image/png;base64,iVBORw0KGgo" in page
    storage.write_json(run.path("engines.json"), {"engines": [{"name": 3}]})
    assert main(["report", run.url, "--out", str(tmp_path / "out.html")]) == 0
    assert (
        "engines.json is not one that dogbreed export wrote" in (tmp_path / "out.html").read_text()
    )


def test_tables_need_no_torch(tmp_path: Path) -> None:
    trained(str(tmp_path), "a")
    code = (
        "import sys; from dogbreed.cli import main; assert main(sys.argv[1:]) == 0;"
        "sys.exit('torch' in sys.modules)"
    )
    words = ["report", str(tmp_path), "--out", f"{tmp_path}/r.html"]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


def test_runs_side_by_side_show_differences_and_what_set_them_apart(
    tmp_path: Path, tiny_dataset: str
) -> None:
    urls = [
        scored(str(tmp_path), n, tiny_dataset, skill=s).url for n, s in (("a", 0.0), ("b", 9.0))
    ]
    config = {"model": {"backbone": "test_net", "lr": 0.5}, "data": {"batch_size": 16}}
    storage.write(f"{urls[1]}/config.yaml", json.dumps(config).encode())
    report(*urls, "--out", f"{tmp_path}/r.html")
    text = page_of(tmp_path / "r.html").text
    scores = [storage.read_json(f"{url}/evaluation/test.json")["scores"] for url in urls]
    apart = scores[1]["top1"]["value"] - scores[0]["top1"]["value"]
    assert apart > 0.3
    assert re.search(re.escape(f"{apart:+.3f}") + r" \(\+0\.\d+ to \+\d\.\d+\)", text)
    assert re.search(r"model\.lr 0\.001 0\.5", text.replace("Setting a b ", ""))
    assert "batch_size" not in text
    html = (tmp_path / "r.html").read_text()
    assert html.count('"interval better"') == 4  # top-1 and log-loss of both splits
    assert '"interval worse"' not in html


def test_runs_on_different_data_are_not_subtracted(tmp_path: Path, tiny_dataset: str) -> None:
    first = scored(str(tmp_path), "a", tiny_dataset)
    other = trained(str(tmp_path), "b")
    report(first.url, other.url, "--out", f"{tmp_path}/r.html")
    text = page_of(tmp_path / "r.html").text
    assert "different data" in text
    assert not re.search(r"[+-]0\.\d{3} ", text)


def test_a_root_is_a_table_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, top1, day in (("a", 0.5, 3), ("b", 0.75, 2), ("c", 0.25, 1)):
        trained(str(tmp_path), name, top1, created=f"2026-03-0{day}T10:00:00+00:00")
    capsys.readouterr()
    report(str(tmp_path))
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["name", "when"]
    assert [row.split()[0] for row in rows] == ["a", "b", "c"]
    assert "0.750" in rows[1]
    Run(f"{tmp_path}/b").update(notes="<i>no mixup")
    report(str(tmp_path), "--sort", "top1", "--filter", "top1>0.3", "--out", f"{tmp_path}/r.html")
    *shown, last = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in shown[1:]] == ["b", "a"]
    assert last.startswith(f"{tmp_path}/r.html: ")
    page = page_of(tmp_path / "r.html")
    assert {"runs", "curves", "table"} <= page.ids
    assert "0.750" in page.text
    assert "<i>no mixup" in page.text
    assert "0.250" not in page.text


def test_runs_that_lie_deeper_are_named_by_their_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(str(tmp_path), "a")
    trained(f"{tmp_path}/sweep", "0003", top1=0.9)
    capsys.readouterr()
    report(str(tmp_path), "--filter", "name~sweep/", "--out", f"{tmp_path}/r.html")
    _, row, _ = capsys.readouterr().out.splitlines()
    assert row.startswith("sweep/0003 ")
    assert "sweep/0003" in page_of(tmp_path / "r.html").text
    report(f"{tmp_path}/sweep")
    assert capsys.readouterr().out.splitlines()[1].startswith("0003 ")


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_the_best_run_is_one_line_for_scripts(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path) if place == "disk" else f"{request.getfixturevalue('bucket')}/runs"
    for name, top1 in (("a", 0.5), ("b", 0.75), ("c", 0.25)):
        trained(root, name, top1)
    capsys.readouterr()
    report(root, "--best", "val/log_loss")
    report(root, "--best", "val/top1", "--filter", "name!=b")
    assert capsys.readouterr().out == f"{root}/b\n{root}/a\n"


def test_a_run_in_a_bucket_has_a_page_in_the_bucket(bucket: str, tiny_dataset: str) -> None:
    run = scored(f"{bucket}/runs", "a", tiny_dataset)
    report(run.url, "--out", f"{bucket}/pages/a.html")
    page = page_of(f"{bucket}/pages/a.html")
    assert {"scores", "confusion", "mistakes"} <= page.ids
    assert page.all("img")


def test_by_default_it_lists_the_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(str(tmp_path / "runs"), "a")
    monkeypatch.chdir(tmp_path)
    report()
    assert "a " in capsys.readouterr().out
    report("runs/a")
    assert Run("runs/a").exists
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "none: no such folder"),
        ([".", "--filter", "name=x"], "none of the 1 runs is left"),
        ([".", "--filter", "name=x", "--best", "val/top1"], "none of the 1 runs is left"),
        ([".", "--sort", "nam"], "did you mean 'name'?"),
        ([".", "--best", "val/tp1"], "did you mean 'val/top1'?"),
        (["a", "--spit", "val"], "did you mean 'split'?"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    trained(str(tmp_path), "a")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["report", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
