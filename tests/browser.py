"""A browser without a window, and windows in it that nothing may go wrong in."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MARKS = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]


@contextlib.contextmanager
def browsing() -> Iterator[Any]:
    """Start a browser."""
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextlib.contextmanager
def window(
    browser: Any, width: int, *origins: str, expected: str = "", **options: Any
) -> Iterator[Any]:
    """Open a window, and at the end see that nothing went wrong in it.

    Args:
        browser: from `browsing`.
        width: in pixels; 360 is a phone.
        origins: what addresses that it asks for may begin with.
        expected: words of a line on the console that is no fault.
        options: more for `Browser.new_page`.
    """
    page = browser.new_page(viewport={"width": width, "height": 740}, **options)
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda asked: None if asked.url.startswith(origins) else wrong.append(asked.url)
    )
    yield page
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    page.close()
    assert [line for line in wrong if not expected or expected not in line] == []
    assert wide <= 0, "the page can be pushed sideways"
