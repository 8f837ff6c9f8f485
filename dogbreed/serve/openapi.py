"""The description of the interface, for /openapi.json and /docs."""

from typing import Any

from dogbreed import __version__
from dogbreed.package import Package
from dogbreed.serve import auth, uploads
from dogbreed.serve.answers import FOUND, NO_DOG
from dogbreed.serve.limits import Limits

Schema = dict[str, Any]


def document(source: Package, limits: Limits, locked: bool, options: Any) -> Schema:
    """The OpenAPI document of a server.

    Args:
        source: the package that answers.
        limits: what is taken.
        locked: whether API keys are asked for.
        options: the server's.
    """
    paths: Schema = {
        "/predict": {"post": _predict(limits, locked)},
        "/health": {"get": _plain("Whether the server lives", "health", {})},
        "/ready": {"get": _plain("Whether the model is loaded and warm", "ready", _loading())},
        "/info": {"get": _json("The model package and the server's settings", "info", locked)},
        "/metrics": {"get": _plain("Counters in Prometheus' format", "metrics", _keyed(locked))},
        "/openapi.json": {"get": _json("This description", "openapi", False)},
        "/docs": {"get": _html("This description, for reading", "docs")},
        "/": {"get": _html("A page that names breeds in a browser", "page")},
    }
    if options.predict_route and options.predict_route not in paths:
        post = _predict(limits, locked) | {"operationId": "predict_routed"}
        paths[options.predict_route] = {"post": post}
    if options.health_route and options.health_route not in paths:
        get = _plain("As /ready, where Vertex AI asks", "ready_routed", _loading())
        paths[options.health_route] = {"get": get}
    components: Schema = {"schemas": _schemas(len(source.class_names), limits)}
    if locked:
        components["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": auth.HEADER}
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"dogbreed: {source.model['run']}",
            "version": __version__,
            "description": f"Names {len(source.class_names)} dog breeds in photographs.",
        },
        "paths": paths,
        "components": components,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _problem(about: str, again: bool = False) -> Schema:
    answer: Schema = {
        "description": about,
        "content": {"application/json": {"schema": _ref("Problem")}},
    }
    if again:
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return answer


def _predict(limits: Limits, locked: bool) -> Schema:
    entries = {"type": "array", "items": _ref("Entry")}
    query = {
        "topk": {"type": "integer", "minimum": 1, "maximum": 10_000},
        "explain": {"type": "boolean", "default": False},
    }
    about = {
        "topk": "how many breeds `topk` lists; for JSON say it in parameters",
        "explain": "whether the heat map comes too; for JSON say it in parameters",
    }
    picture = {"schema": {"type": "string", "format": "binary"}}
    operation: Schema = {
        "operationId": "predict",
        "summary": "Name the breeds in pictures",
        "description": (
            f"At most {limits.pictures} JPEG, PNG or WebP pictures of at most {limits.pixels:,}"
            f" pixels, {limits.body:,} bytes in all. A form and a picture as it is are answered"
            ' with a list in the order sent, {"instances": …} with {"predictions": […]}. A picture'
            " that cannot be read has an entry with status error in its place."
        ),
        "parameters": [
            {"name": name, "in": "query", "schema": schema, "description": about[name]}
            for name, schema in query.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _ref("Form")},
                "application/json": {"schema": _ref("Instances")},
                "image/jpeg": picture,
                "image/png": picture,
                "image/webp": picture,
                "application/octet-stream": picture,
            },
        },
        "responses": {
            "200": {
                "description": "An entry for each picture",
                "content": {
                    "application/json": {"schema": {"oneOf": [entries, _ref("Predictions")]}}
                },
            },
            "400": _problem("The request is malformed; detail says where"),
            "408": _problem(f"The body did not come within {limits.timeout:g} s"),
            "413": _problem("Too many bytes or pictures"),
            "415": _problem("A Content-Type that is not taken"),
            "500": _problem("The server made a mistake"),
            "503": _problem("Too much to do, loading, or a worker has ended: try again", True),
            "504": _problem(f"No answer within {limits.timeout:g} s"),
            **_keyed(locked),
        },
    }
    return operation | _secured(locked)


def _keyed(locked: bool) -> Schema:
    return {"401": _problem(f"No valid key in {auth.HEADER}")} if locked else {}


def _secured(locked: bool) -> Schema:
    return {"security": [{"key": []}]} if locked else {}


def _loading() -> Schema:
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"503": {"description": "Not yet, or no worker is warm", **text}}


def _get(about: str, name: str, kind: str, schema: Schema, more: Schema) -> Schema:
    answer = {"description": about, "content": {kind: {"schema": schema}}}
    return {"operationId": name, "summary": about, "responses": {"200": answer, **more}} | _secured(
        "401" in more
    )


def _plain(about: str, name: str, more: Schema) -> Schema:
    return _get(about, name, "text/plain", {"type": "string"}, more)


def _html(about: str, name: str) -> Schema:
    return _get(about, name, "text/html", {"type": "string"}, {})


def _json(about: str, name: str, locked: bool) -> Schema:
    return _get(about, name, "application/json", {"type": "object"}, _keyed(locked))


def _schemas(classes: int, limits: Limits) -> Schema:
    text: Schema = {"type": "string"}
    chance: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    best: Schema = {"type": "array", "items": _ref("Breed")}
    picture = {"type": "string", "format": "binary"}
    many = {"type": "array", "minItems": 1, "maxItems": limits.pictures}
    said = {
        "type": "object",
        "properties": {
            "topk": {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000},
            "explain": {"type": ["boolean", "null"]},
        },
    }
    instance = [
        {
            "type": "object",
            "properties": {kind: text, "filename": text},
            "required": [kind],
            "not": {"required": [other]},
        }
        for kind, other in (("b64", "gcs"), ("gcs", "b64"))
    ]
    entry = {
        "filename": text,
        "probability": {
            "type": "number",
            "minimum": -1,
            "maximum": 1,
            "description": "-1 of a picture that cannot be read",
        },
        "breed_idx": {"type": "integer", "minimum": -1, "maximum": classes - 1},
        "breed": {"type": "string", "description": "- of a picture that cannot be read"},
        "status": {"enum": ["success", "error"]},
        "message": {"type": "string", "examples": [FOUND, NO_DOG], "description": "or the reason"},
        "top5": best | {"maxItems": 5},
        "is_dog": {"type": ["boolean", "null"], "description": "null: this model cannot tell"},
        "model": text,
        "topk": best | {"description": "where topk was asked for"},
        "heat": {
            "type": "string",
            "contentEncoding": "base64",
            "contentMediaType": "image/png",
            "description": "where explain was asked for",
        },
    }
    return {
        "Form": {
            "type": "object",
            "required": [uploads.FIELD],
            "properties": {uploads.FIELD: many | {"items": picture}},
        },
        "Instances": {
            "type": "object",
            "required": ["instances"],
            "properties": {
                "instances": many | {"items": {"oneOf": instance}},
                "parameters": {"anyOf": [said, {"type": "null"}]},
            },
        },
        "Breed": {
            "type": "object",
            "required": ["breed", "probability"],
            "properties": {"breed": text, "probability": chance},
        },
        "Entry": {
            "type": "object",
            "required": [name for name in entry if name not in {"topk", "heat"}],
            "properties": entry,
        },
        "Predictions": {
            "type": "object",
            "required": ["predictions"],
            "properties": {"predictions": {"type": "array", "items": _ref("Entry")}},
        },
        "Problem": {"type": "object", "required": ["detail"], "properties": {"detail": text}},
    }
