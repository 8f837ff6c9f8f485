"""Writes dashboard.json as a console page of Prometheus, for `show.sh`."""

import html
import json
from pathlib import Path
from typing import Any

STATIC = "/classic/static"
HEAD = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>dogbreed</title>
<link rel="stylesheet" href="{STATIC}/rickshaw/rickshaw.min.css">
<link rel="stylesheet" href="{STATIC}/css/prom_console.css">
<script src="{STATIC}/d3/d3.min.js"></script>
<script src="{STATIC}/rickshaw/rickshaw.min.js"></script>
<script src="{STATIC}/jquery/jquery.min.js"></script>
<script>const PATH_PREFIX = "";</script>
<script src="{STATIC}/js/prom_console.js"></script>
<style>
body {{ display: grid; grid-template-columns: repeat(24, 1fr); gap: 1em; font: 14px sans-serif }}
section {{ min-width: 0 }}
h2 {{ font-size: 1em }}
</style></head><body>
"""


def console(board: dict[str, Any]) -> str:
    """The page: the panels of a dashboard where they lie, each query as a curve."""
    parts = [HEAD]
    for panel in board["panels"]:
        place = panel["gridPos"]
        graph = {
            "expr": [
                target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
                for target in panel["targets"]
            ],
            "name": [
                (target["legendFormat"] or "all").replace("{{", "[[").replace("}}", "]]")
                for target in panel["targets"]
            ],
            "min": 0,
            "duration": 600,
            "height": 150,
        }
        name = f"panel-{panel['id']}"
        words = json.dumps(graph).replace("<", "\\u003c")
        parts.append(
            f'<section style="grid-column: {place["x"] + 1} / span {place["w"]}">'
            f"<h2>{html.escape(panel['title'])}</h2><div id={name}></div>"
            f"<script>new PromConsole.Graph(Object.assign({words},"
            f' {{node: document.getElementById("{name}")}}))</script></section>\n'
        )
    return "".join([*parts, "</body></html>\n"])


if __name__ == "__main__":
    print(console(json.loads((Path(__file__).parent / "dashboard.json").read_text())), end="")
