"""What a browser gets: the page, its script and style, and the description of the interface."""

import html
import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response

_FILES = Path(__file__).parent / "static"
_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


def register(app: FastAPI, document: dict[str, Any]) -> None:
    """Add the page's routes.

    Args:
        app: LitServe's.
        document: the OpenAPI document that /docs shows.
    """
    pages = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
    for path, name in (pages | {"/icon.svg": "icon.svg"}).items():
        _add(app, path, (_FILES / name).read_bytes(), _KINDS[Path(name).suffix])
    _add(app, "/docs", _docs(document).encode(), "text/html")


def _add(app: FastAPI, path: str, data: bytes, kind: str) -> None:
    async def answer() -> Response:
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

    app.add_api_route(path, answer, methods=["GET", "HEAD"])


def _docs(document: dict[str, Any]) -> str:
    """The document as a page that needs no script."""
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(path, method, operation))
    schemas = "".join(
        f"<h3 id='{html.escape(name)}'>{html.escape(name)}</h3>{_code(schema)}"
        for name, schema in document["components"]["schemas"].items()
    )
    info = document["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(info['title'])}: interface</title>"
        '<link rel="icon" href="/icon.svg"><link rel="stylesheet" href="/page.css"></head>'
        f'<body><main class="docs"><h1>{html.escape(info["title"])}</h1>'
        f"<p>{html.escape(info['description'])} <a href='/'>To the page</a>, "
        "<a href='/openapi.json'>openapi.json</a>.</p>"
        f"{_EXAMPLES}{''.join(parts)}<h2>Schemas</h2>{schemas}</main></body></html>"
    )


_EXAMPLES = """<h2>Examples</h2><pre><code>curl -F imagefiles=@rex.jpg -F imagefiles=@fifi.png \
'http://HOST/predict?explain=true'
curl -H 'Content-Type: image/jpeg' --data-binary @rex.jpg http://HOST/predict
curl -H 'Content-Type: application/json' http://HOST/predict \\
  -d '{"instances": [{"gcs": "gs://my-bucket/rex.jpg"}], "parameters": {"topk": 3}}'</code></pre>"""


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    head = f"<code>{method.upper()} {html.escape(path)}</code> {html.escape(operation['summary'])}"
    about = f"<p>{html.escape(operation.get('description', ''))}</p>"
    parameters = "".join(
        f"<li><code>?{html.escape(p['name'])}=</code> {html.escape(p['description'])}</li>"
        for p in operation.get("parameters", ())
    )
    takes = "".join(
        f"<li>takes <code>{html.escape(kind)}</code>{_link(content['schema'])}</li>"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    )
    answers = "".join(
        f"<li><code>{status}</code> {html.escape(answer['description'])}</li>"
        for status, answer in operation["responses"].items()
    )
    return f"<h2>{head}</h2>{about}<ul>{parameters}{takes}{answers}</ul>"


def _link(schema: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    return f" (<a href='#{html.escape(name)}'>{html.escape(name)}</a>)" if name else ""


def _code(schema: dict[str, Any]) -> str:
    return f"<pre><code>{html.escape(json.dumps(schema, indent=2))}</code></pre>"
