"""From a template to one file that a browser opens from the disk, and that asks nobody else."""

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dogbreed import __version__, breeds
from dogbreed.evaluate.figures import MEANING, TITLES
from dogbreed.report.listing import size_text


def render(template: str, **values: Any) -> bytes:
    """Fill a template of this package; the result is UTF-8.

    Whatever comes from a run or a data set is escaped. The page's policy forbids all but the one
    script and the one style sheet in it, by their digests, and pictures within the file.
    """
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}';"
        f" script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        loader=PackageLoader("dogbreed.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"title_of": breeds.title, "size": size_text, "percent": _percent}
    page = environment.get_template(template).render(
        **values,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        version=__version__,
        titles=TITLES,
        meaning=MEANING,
    )
    # A file's name or a breed may hold bytes that are no text.
    return page.encode(errors="replace")


def _percent(share: float) -> str:
    """``12.3 %``, on one line."""
    return (
        "<\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%"
        if 0 < share < 5e-4
        else f"{share:.1%}".replace("%", "\N{NO-BREAK SPACE}%")
    )


def _asset(name: str) -> str:
    return (files("dogbreed.report") / "templates" / name).read_text("utf-8")


def _digest(text: str) -> str:
    """As Content-Security-Policy names what it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
