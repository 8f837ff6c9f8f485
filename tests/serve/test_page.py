"""The page in a browser: what people do with it, on a screen and on a phone."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import MARKS, browsing, playwright, window
from tests.conftest import picture_file
from tests.serve.conftest import BREEDS, PATIENCE, Served, serving, write_tiny

pytestmark = MARKS
PHOTO = picture_file(320, 240, 1)
FILE = {"name": "rex.jpg", "mimeType": "image/jpeg", "buffer": PHOTO}
OTHER = {"name": "fifi.png", "mimeType": "image/png", "buffer": picture_file(200, 300, 2, "PNG")}
BROKEN = {"name": "torn.jpg", "mimeType": "image/jpeg", "buffer": PHOTO[:400]}
KEY = "rex-rex-rex-rex-rex"
SHARED = """([kind, text]) => {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "rex.jpg", {type: "image/jpeg"}));
    const event = kind === "paste"
        ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
        : new DragEvent("drop", {dataTransfer: data, bubbles: true});
    document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="module")
def served(tiny_package: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tiny_package, tmp_path_factory.mktemp("cwd")) as made:
        yield made


@pytest.fixture(params=[1280, 360])
def page(request: pytest.FixtureRequest, browser: Any, served: Served) -> Iterator[Any]:
    phone = request.param == 360
    allowed = (served.url, "blob:", "data:")
    with window(browser, request.param, *allowed, has_touch=phone, is_mobile=phone) as opened:
        opened.goto(served.url)
        yield opened


def done(page: Any) -> Any:
    """The cards, once all of them are answered."""
    page.locator("article").first.wait_for(timeout=PATIENCE * 1000)
    playwright.expect(page.locator("[aria-busy]")).to_have_count(0, timeout=PATIENCE * 1000)
    return page.locator("article")


def test_photographs_that_are_chosen_are_named_with_the_most_likely_breeds(page: Any) -> None:
    page.locator("#files").set_input_files([FILE, OTHER])
    cards = done(page)
    assert cards.locator(".name").all_inner_texts() == ["rex.jpg", "fifi.png"]
    shown = {name.replace("_", " ").capitalize() for name in BREEDS}
    assert set(cards.locator("h2").all_inner_texts()) <= shown
    first = cards.first
    assert set(first.locator("li span:first-child").all_inner_texts()) == shown
    values = [float(bar.get_attribute("value")) for bar in first.locator("progress").all()]
    assert values == sorted(values, reverse=True)
    assert page.locator("#status").inner_text() == "2 photographs looked at."


def test_the_heat_map_takes_the_photographs_place_and_gives_it_back(page: Any) -> None:
    page.locator("#files").set_input_files(FILE)
    card = done(page)
    toggle = card.get_by_role("button", name="Show where it looked")
    toggle.focus()
    page.keyboard.press("Enter")
    assert toggle.get_attribute("aria-pressed") == "true"
    assert card.locator(".heat").is_visible()
    assert card.locator(".heat").evaluate("image => image.naturalWidth > 0")
    assert not card.locator(".photo").is_visible()
    page.keyboard.press("Enter")
    assert card.locator(".photo").is_visible()


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_photograph_may_be_pasted_or_dropped(kind: str, page: Any) -> None:
    page.evaluate(SHARED, [kind, base64.b64encode(PHOTO).decode()])
    assert done(page).locator("li").count() == len(BREEDS)


def test_a_broken_picture_is_told_of_beside_its_neighbours_answer(page: Any) -> None:
    page.locator("#files").set_input_files([BROKEN, FILE])
    broken, good = done(page).all()
    assert broken.locator("h2").inner_text() == "I can't read this picture"
    assert "broken" in broken.locator(".sure").inner_text()
    assert good.locator("li").count() == len(BREEDS)


def test_a_screen_reader_and_a_keyboard_get_along(page: Any) -> None:
    page.locator("#files").focus()
    assert page.evaluate("document.activeElement.id") == "files"
    page.locator("#files").set_input_files(FILE)
    done(page)
    playwright.expect(page.locator("article")).to_be_focused()
    tree = page.locator("main").aria_snapshot()
    assert 'heading "Which breed is it?" [level=1]' in tree
    assert 'img "Your photograph rex.jpg"' in tree
    assert 'list "The five most likely breeds"' in tree
    said = page.get_by_role("status").inner_text()
    assert said.startswith(page.locator("h2").inner_text())
    assert page.evaluate("document.documentElement.lang") == "en"


def test_what_is_no_dog_is_said_to_be_none(browser: Any, tmp_path: Path) -> None:
    rejection = {"score": "energy", "threshold": -100.0, "keeps": 0.95}
    model = write_tiny(str(tmp_path / "model"), rejection=rejection)
    (tmp_path / "cwd").mkdir()
    with (
        serving(model, tmp_path / "cwd") as served,
        window(browser, 360, served.url, "blob:", "data:") as page,
    ):
        page.goto(served.url)
        page.locator("#files").set_input_files(FILE)
        assert done(page).locator("h2").inner_text() == "That's no dog that I know"


def test_a_key_is_asked_for_and_the_photograph_waits_for_it(
    browser: Any, tiny_package: str, tmp_path: Path
) -> None:
    with (
        serving(tiny_package, tmp_path, DOGBREED_API_KEYS=KEY) as served,
        window(browser, 360, served.url, "blob:", "data:", expected="401") as page,
    ):
        page.goto(served.url)
        page.locator("#files").set_input_files(FILE)
        for key, said in (("wrong", "That key is not valid."), (KEY, "")):
            page.locator("#key").wait_for(state="visible")
            page.locator("#key").fill(key)
            page.get_by_role("button", name="Use it").click()
            if said:
                page.get_by_text(said).wait_for()
        assert done(page).locator("li").count() == len(BREEDS)


def test_a_server_that_is_gone_is_told_of(browser: Any, tiny_package: str, tmp_path: Path) -> None:
    with (
        serving(tiny_package, tmp_path) as served,
        window(browser, 360, served.url, "blob:", "data:", expected="ERR_CONN") as page,
    ):
        page.goto(served.url)
        served.end()
        page.locator("#files").set_input_files(FILE)
        assert "can't be reached" in done(page).locator(".sure").inner_text()
