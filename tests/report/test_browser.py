"""Reports in a browser: nothing it complains of, and all that is to be clicked works."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.monitor import compare, drift, rows
from dogbreed.monitor.page import page as drift_page
from dogbreed.monitor.tally import Tally
from dogbreed.runs import Run
from dogbreed.sweep.page import page as page_of
from dogbreed.sweep.space import Space
from dogbreed.sweep.work import Plan
from tests.browser import MARKS, browsing, window
from tests.conftest import picture_file
from tests.monitor.made import BREEDS, logged, reference
from tests.report.made import exported, scored, trained

pytestmark = MARKS


@pytest.fixture(scope="module")
def pages(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run's page, one of two runs, and one of a root; for reading only."""
    folder = tmp_path_factory.mktemp("pages")
    for name, skill in (("a", 0.5), ("b", 2.0)):
        scored(f"{folder}/runs", name, tiny_dataset, skill=skill)
    trained(f"{folder}/runs", "c", top1=0.75)
    exported(Run(f"{folder}/runs/a"))
    assert main(["report", f"{folder}/runs/a", "--out", f"{folder}/run.html"]) == 0
    both = [f"{folder}/runs/a", f"{folder}/runs/b"]
    assert main(["report", *both, "--out", f"{folder}/two.html"]) == 0
    assert main(["report", f"{folder}/runs", "--out", f"{folder}/root.html"]) == 0
    (folder / "sweep.html").write_bytes(swept())
    (folder / "drift.html").write_bytes(drifted(folder / "log"))
    return folder


def swept() -> bytes:
    """Make the page of a sweep whose trials were told, not trained."""
    space = Space.read("configs/sweep.yaml")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(20):
        trial = study.ask()
        rate, *_ = [of.suggest(trial) for of in space.parameters]
        for epoch in (1, 2, 3):
            trial.report(1 + (rate - 0.005) ** 2 + 1 / epoch, epoch)
        if number % 7 == 6:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, 1 + (rate - 0.005) ** 2)
    plan = Plan("runs/<b>sweep</b>", "", "", space, ["--name", "<i>"], 20, 0, True)
    return page_of(plan, study)


def drifted(log: Path) -> bytes:
    """Make the page of a log over three days, too dark, with some pictures kept."""
    known, seen = reference(), Tally(reference(), BREEDS)
    kept = iter(range(3000))
    changes = {
        "picture": lambda row: row["picture"] | {"brightness": row["picture"]["brightness"] / 3},
        "image": lambda row: f"images/{k}.jpg" if (k := next(kept)) % 100 == 0 else None,
        "breed": lambda row: "<b>wolf" if row["probability"] < 0.3 else row["breed"],
    }
    made = logged(known, BREEDS, 3000, 1, **changes)
    seen.add([rows.parse(json.dumps(row)) for row in made])
    for k in range(0, 3000, 100):
        storage.write(str(log / f"images/{k}.jpg"), picture_file(320, 200, k))
    found = compare.compare(seen, known)
    said = drift._summary(seen, known, found, "exp<1>", seen.first, seen.last)
    return drift_page(said, seen, known, found, str(log))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


@pytest.fixture(params=[1280, 360])
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """Open a window, as wide as a screen and as a phone, and see that nothing goes wrong in it."""
    with window(browser, request.param, "file:", "data:") as opened:
        yield opened


@pytest.mark.parametrize("name", ["run", "two", "root", "sweep", "drift"])
def test_a_page_opens_from_the_disk(name: str, pages: Path, page: Any) -> None:
    page.goto(f"file://{pages}/{name}.html")
    assert page.locator("h1").is_visible()
    assert page.evaluate(
        "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )
    assert page.locator("svg.chart").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_table_is_sorted_by_its_heads_also_with_the_keyboard(pages: Path, page: Any) -> None:
    page.goto(f"file://{pages}/run.html")
    head = page.locator("#breeds thead th", has_text="F1").first

    def column() -> list[float]:
        return [
            float(text)
            for text in page.locator("#breeds tbody tr td:nth-child(5)").all_inner_texts()
        ]

    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    page.locator("#breeds thead button", has_text="Breed").click()
    names = page.locator("#breeds tbody th").all_inner_texts()
    assert names == sorted(names)
    assert page.locator("#breeds th[aria-sort]").count() == 1


def test_the_matrix_tells_a_cell_that_is_pointed_at_or_reached_by_keys(
    pages: Path, page: Any
) -> None:
    page.goto(f"file://{pages}/run.html")
    told = page.locator("#cell")
    page.locator("#matrix .hit").first.click()
    assert re.search(r": \d+ of \d+ right", told.inner_text())
    page.locator("#matrix").focus()
    page.keyboard.press("ArrowDown")
    assert re.search(r" taken for .*: \d+ of \d+", told.inner_text())


def test_curves_go_by_samples_or_by_epochs(pages: Path, page: Any) -> None:
    page.goto(f"file://{pages}/two.html")
    shown = page.locator("#curves [data-axis]:visible .axis")
    assert set(shown.all_text_contents()) == {"samples seen"}
    page.get_by_role("radio", name="epochs").check()
    assert set(shown.all_text_contents()) == {"epochs"}


def test_runs_are_found_by_what_is_typed(pages: Path, page: Any) -> None:
    page.goto(f"file://{pages}/root.html")
    rows = page.locator("#table tbody tr:visible")
    assert rows.count() == 3
    page.locator("input[type=search]").fill("abababab")
    assert rows.count() == 1
    assert rows.locator("th").inner_text() == "c"


def test_on_paper_everything_is_open(pages: Path, page: Any) -> None:
    page.goto(f"file://{pages}/run.html")
    assert page.pdf()[:5] == b"%PDF-"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_what_has_drifted_stands_first_and_is_seen_in_pictures(pages: Path, page: Any) -> None:
    page.goto(f"file://{pages}/drift.html")
    assert page.locator("#findings tbody tr").first.inner_text().startswith("Brightness")
    assert page.locator("#distributions figcaption").first.inner_text().startswith("Brightness")
    assert page.locator("#days svg").count() == 3
    assert page.locator("#examples img").count() > 12
    assert "<b>wolf" in page.locator("#examples").inner_text().lower()
    assert "Others" in page.locator("#breeds").inner_text()
