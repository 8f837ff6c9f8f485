"""From the body of a request to the files in it: multipart forms, JSON, pictures as they are."""

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from fastapi import HTTPException
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dogbreed import images
from dogbreed.errors import named
from dogbreed.ranges import read_pictures, whole
from dogbreed.retries import StorageError
from dogbreed.serve.limits import Limits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "imagefiles"
_NAME = 255  # characters of a file's name that are repeated in the answer


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A picture's name and bytes; or what was wrong instead of the bytes."""

    name: str
    data: bytes | str


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """What a request asks.

    Args:
        files: in the order sent.
        topk: how many breeds are wanted, or none said.
        explain: whether heat maps are wanted.
        instances: whether it is Vertex AI's form, `{"instances": …}`.
    """

    files: list[File]
    topk: int | None
    explain: bool
    instances: bool


def read(body: bytes, content_type: str, query: Mapping[str, str], limits: Limits) -> Upload:
    """Take a body apart. It may wait for a bucket, so call it off the event loop.

    Args:
        body: all of it.
        content_type: the header.
        query: the URL's parameters.
        limits: those of the server.

    Raises:
        HTTPException: 400 malformed, 413 too many pictures, 415 no content type that is known.
    """
    kind, options = parse_options_header(content_type)
    topk, explain = _topk(query.get("topk")), _switch(query.get("explain"))
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 70:
            raise HTTPException(400, "the form's Content-Type names no boundary")
        return Upload(_form(body, boundary, limits), topk, explain, instances=False)
    if kind == b"application/json":
        return _instances(body, limits)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        if not body:
            raise HTTPException(400, "the body is empty; send a picture")
        return Upload([File("", body)], topk, explain, instances=False)
    raise HTTPException(
        415,
        f"Content-Type {content_type[:80]!r} is not taken; send multipart/form-data with files in"
        f" {FIELD}, application/json with instances, or image/jpeg, image/png or image/webp",
    )


def _topk(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 10_000:
        raise HTTPException(400, f"topk {text[:20]!r}: must be a whole number from 1 to 10000")
    return int(text)


def _switch(text: str | None) -> bool:
    if text is None or text.lower() in {"false", "0", "no"}:
        return False
    if text.lower() in {"true", "1", "yes"}:
        return True
    raise HTTPException(400, f"explain {text[:20]!r}: must be true or false")


class _Form:
    """Gathers the files of a form while the parser goes through it."""

    def __init__(self, limits: Limits) -> None:
        self.files: list[File] = []
        self.others: set[str] = set()
        self.whole = False
        self._limits = limits
        self._clear()

    def _clear(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._data: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""

        def field(data: bytes, start: int, end: int) -> None:
            self._field += data[start:end]

        def value(data: bytes, start: int, end: int) -> None:
            self._value += data[start:end]

        def header_end() -> None:
            self._headers[self._field.lower()] = self._value
            self._field = self._value = b""

        def content(data: bytes, start: int, end: int) -> None:
            self._data.append(data[start:end])

        def end() -> None:
            self.whole = True

        return {
            "on_part_begin": self._clear,
            "on_header_field": field,
            "on_header_value": value,
            "on_header_end": header_end,
            "on_part_data": content,
            "on_part_end": self._part,
            "on_end": end,
        }

    def _part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != FIELD:
            self.others.add(name)
        elif len(self.files) == self._limits.pictures:
            raise _too_many(self._limits)
        else:
            said = options.get(b"filename", b"").decode("utf-8", "replace")
            self.files.append(File(said[:_NAME], b"".join(self._data)))
        self._clear()


def _too_many(limits: Limits) -> HTTPException:
    return HTTPException(
        413, f"more than {limits.pictures} pictures; send them in several requests"
    )


def _form(body: bytes, boundary: bytes, limits: Limits) -> list[File]:
    form = _Form(limits)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        line = " ".join(str(error).split())[:120]
        raise HTTPException(400, f"the form cannot be read: {line}") from None
    if not form.whole:
        raise HTTPException(400, "the form is cut short: its last boundary is missing")
    if not form.files:
        instead = named(sorted(repr(name[:40]) for name in form.others))
        raise HTTPException(
            400,
            f"the form has no file in the field {FIELD!r}" + (instead and f", but in {instead}"),
        )
    return form.files


def _instances(body: bytes, limits: Limits) -> Upload:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {str(error)[:120]}") from None
    instances = said.get("instances") if isinstance(said, dict) else None
    if not isinstance(instances, list) or not instances:
        raise HTTPException(400, 'the body must be {"instances": [{"b64": "…"}, …]}, one at least')
    if len(instances) > limits.pictures:
        raise _too_many(limits)
    parameters = said.get("parameters")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict):
        raise HTTPException(400, "parameters must be an object")
    topk, explain = parameters.get("topk"), parameters.get("explain")
    if isinstance(topk, bool) or not isinstance(topk, int | None):
        raise HTTPException(400, "parameters.topk: must be a whole number")
    if not isinstance(explain, bool | None):
        raise HTTPException(400, "parameters.explain: must be true or false")
    files = []
    left = limits.body  # what comes from a bucket counts like what is sent
    for number, instance in enumerate(instances):
        file = _instance(instance, f"instances[{number}]", limits, left)
        if "gcs" in instance and isinstance(file.data, bytes):
            left -= len(file.data)
        files.append(file)
    return Upload(files, _topk(None if topk is None else str(topk)), bool(explain), instances=True)


def _instance(instance: Any, where: str, limits: Limits, left: int) -> File:
    if not isinstance(instance, dict) or ("b64" in instance) == ("gcs" in instance):
        raise HTTPException(400, f'{where}: must be {{"b64": "…"}} or {{"gcs": "gs://…"}}')
    kind = "b64" if "b64" in instance else "gcs"
    text, name = instance[kind], instance.get("filename", "")
    if not isinstance(text, str) or not isinstance(name, str):
        raise HTTPException(400, f"{where}: {kind} and filename must be text")
    name = name.encode("utf-8", "replace").decode()[:_NAME]
    if kind == "gcs":
        url = text.encode("utf-8", "replace").decode()
        return File(name or url[:1024], _from_bucket(url, limits, left))
    try:
        return File(name, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return File(name, "b64 is no base64")


def _from_bucket(url: str, limits: Limits, left: int) -> bytes | str:
    bucket, _, path = url.removeprefix("gs://").partition("/")
    if not url.startswith("gs://") or not path:
        return "no URL of the form gs://bucket/name"
    if bucket not in limits.buckets:
        return f"bucket {bucket[:80]!r} is not among those that this server reads"
    if any(sign in url for sign in "*?[]#") or "::" in url:
        return "a name with *, ?, [, ], # or :: is not read from here"
    try:
        place = whole(url)
        if place.size > left:
            return f"file of {place.size:,} bytes; a request takes {limits.body:,} in all"
        piece = read_pictures([place])[0]
    except StorageError as error:
        return str(error)
    return piece if isinstance(piece, bytes) else str(piece)


class Picture(NamedTuple):
    """A decoded file."""

    pixels: np.ndarray
    """uint8, (S, S, 3), RGB: as the network takes it."""
    size: tuple[int, int]
    """Width and height of the whole picture, upright."""


def picture_of(file: File, size: int, crop: float, limits: Limits) -> Picture:
    """The picture as the network takes it, `size` pixels on each side.

    Raises:
        BadImage: it cannot be read; the message says why.
    """
    if isinstance(file.data, str):
        raise images.BadImage(file.data)
    if not file.data:
        raise images.BadImage("the file is empty")
    whole_size = (0, 0)

    def box(width: int, height: int) -> images.Box:
        nonlocal whole_size
        whole_size = width, height
        return images.centre_box(width, height, crop)

    return Picture(images.picture(file.data, size, box, limits.pixels), whole_size)
