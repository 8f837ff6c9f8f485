"""The embedded sample: cartoon dogs of made-up breeds, for when there are no photographs yet.

A breed is a shape: the form of its ears and tail, the length of its muzzle, back and legs, its
outline, and the pattern of its coat. Everything else is drawn anew for each picture and says
nothing about the breed: the colours, the pose, the size, the place, the side that it faces, the
background, the light and the noise. So a classifier has to look at shapes, as it has to in
photographs; one that counts colours stays near chance.

Every part of a dog is the same thing, a *stroke*: a smooth curve with a radius that changes along
it. Points are complex numbers (x to the right, y down, a dog of about two units that looks to the
right), so that to turn is to multiply and to mirror is to conjugate.
"""

import io
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

VERSION = 1  # raise it when a picture or PER_CLASS changes: it is part of the version of the data
PER_CLASS = 250

_QUALITY = 90
_SIDES = (96, 128)
_SUPERSAMPLE = 2

Curve = NDArray[np.complex128]
Points = Sequence[complex]
Colour = tuple[int, int, int]


class _Breed(NamedTuple):
    """What defines a breed; lengths are in dog units."""

    ear: str
    tail: str
    coat: str
    muzzle: float
    snout: float  # radius of the muzzle's end
    back: float
    chest: float  # radius of the body between the forelegs
    waist: float  # radius of the body in its middle
    legs: float
    fringe: float = 0.0  # how far tufts stand out, as a part of the radius
    pompons: bool = False


_BREEDS = {
    "synthetic_flopear": _Breed("flop", "sabre", "saddle", 0.25, 0.13, 0.85, 0.30, 0.27, 0.34),
    "synthetic_prickear": _Breed("prick", "brush", "saddle", 0.34, 0.10, 0.95, 0.32, 0.25, 0.42),
    "synthetic_longback": _Breed("drop", "whip", "points", 0.36, 0.09, 1.50, 0.25, 0.23, 0.12),
    "synthetic_curltail": _Breed("point", "curl", "pale", 0.20, 0.09, 0.70, 0.32, 0.28, 0.36),
    "synthetic_flatface": _Breed("button", "screw", "mask", 0.04, 0.18, 0.66, 0.36, 0.33, 0.20),
    "synthetic_spotted": _Breed("drop", "whip", "spots", 0.26, 0.12, 0.90, 0.29, 0.22, 0.46),
    "synthetic_batear": _Breed("bat", "stub", "stripes", 0.09, 0.16, 0.72, 0.32, 0.28, 0.24),
    "synthetic_longleg": _Breed("rose", "hook", "plain", 0.40, 0.07, 0.92, 0.31, 0.14, 0.72),
    "synthetic_shaggy": _Breed("drop", "plume", "patches", 0.16, 0.17, 0.76, 0.36, 0.37, 0.2, 0.2),
    "synthetic_pompon": _Breed(
        "puff", "whisk", "plain", 0.30, 0.07, 0.70, 0.28, 0.18, 0.50, pompons=True
    ),
}
BREEDS: tuple[str, ...] = tuple(_BREEDS)

# Points and radii, from where an ear joins the head and where a tail leaves the body.
_EARS: dict[str, tuple[Points, Sequence[float]]] = {
    "flop": ((0, -0.11 + 0.12j, -0.14 + 0.36j, -0.06 + 0.52j), (0.05, 0.10, 0.13, 0.09)),
    "drop": ((0, -0.11 + 0.06j, -0.13 + 0.26j), (0.05, 0.09, 0.08)),
    "prick": ((0.04 + 0.06j, -0.02 - 0.14j, -0.04 - 0.36j), (0.13, 0.09, 0.01)),
    "point": ((0.04 + 0.06j, 0.02 - 0.10j, 0.03 - 0.22j), (0.12, 0.08, 0.01)),
    "button": ((-0.03 + 0.02j, 0.07 - 0.03j, 0.12 + 0.10j), (0.06, 0.09, 0.02)),
    "bat": ((0.02 + 0.06j, -0.04 - 0.16j, -0.06 - 0.32j), (0.08, 0.14, 0.08)),
    "rose": ((0.02, -0.14 - 0.04j, -0.26 + 0.04j), (0.08, 0.06, 0.02)),
    "puff": ((-0.06 + 0.10j, -0.10 + 0.22j, -0.10 + 0.32j), (0.10, 0.17, 0.16)),
}
_TAILS: dict[str, tuple[Points, Sequence[float]]] = {
    "sabre": ((0.1, -0.12 - 0.14j, -0.20 - 0.36j, -0.18 - 0.60j), (0.08, 0.07, 0.06, 0.03)),
    "brush": ((0.1, -0.20 + 0.12j, -0.34 + 0.36j, -0.52 + 0.52j), (0.08, 0.10, 0.13, 0.02)),
    "whip": ((0.1, -0.18 - 0.06j, -0.36 - 0.14j, -0.52 - 0.36j), (0.07, 0.05, 0.04, 0.02)),
    "curl": (
        (0.1, -0.12 - 0.16j, -0.06 - 0.36j, 0.14 - 0.38j, 0.18 - 0.22j, 0.06 - 0.18j),
        (0.10, 0.11, 0.11, 0.10, 0.08, 0.05),
    ),
    "screw": ((0.1, -0.1 - 0.06j, -0.1 - 0.2j, 0.02 - 0.2j), (0.07, 0.06, 0.05, 0.04)),
    "stub": ((0.1, -0.04 - 0.04j, -0.08 - 0.08j), (0.07, 0.06, 0.05)),
    "hook": ((0.1, -0.18 + 0.22j, -0.26 + 0.60j, -0.46 + 0.62j), (0.06, 0.045, 0.035, 0.02)),
    "plume": ((0.1, -0.16 - 0.12j, -0.24 - 0.34j, -0.10 - 0.52j), (0.09, 0.15, 0.17, 0.08)),
    "whisk": ((0.1, -0.08 - 0.18j, -0.12 - 0.34j), (0.05, 0.04, 0.04)),
}

_COATS: tuple[Colour, ...] = (
    (244, 232, 208), (232, 190, 124), (204, 136, 68), (150, 86, 46), (92, 58, 42), (56, 50, 52),
    (132, 130, 138), (192, 194, 202), (240, 240, 238), (182, 88, 46), (104, 116, 138),
)  # fmt: skip
_BLACK, _WHITE = (26, 22, 24), (252, 252, 250)


def draw(breed: int, k: int, seed: int = 0) -> Image.Image:
    """Draw picture `k` of a breed; the same arguments always give the same picture.

    Args:
        breed: index into `BREEDS`.
        k: number of the picture, from 0, without an upper end.
        seed: another seed gives other pictures of the same breeds.

    Returns:
        An RGB picture, 96 to 128 pixels on each side.

    Raises:
        ValueError: if there is no such breed, or if `k` or `seed` is negative.
    """
    if not 0 <= breed < len(BREEDS):
        raise ValueError(f"breed {breed}: there are {len(BREEDS)}, numbered from 0")
    if k < 0 or seed < 0:
        raise ValueError(f"k {k}, seed {seed}: neither can be negative")
    rng = np.random.default_rng((seed, breed, k))
    width, height = rng.integers(*_SIDES, size=2, endpoint=True).tolist()
    canvas = _background(rng, width * _SUPERSAMPLE, height * _SUPERSAMPLE)
    _place(rng, canvas, _dog(rng, _BREEDS[BREEDS[breed]]))
    return _photograph(rng, canvas.reduce(_SUPERSAMPLE))


def jpeg(breed: int, k: int, seed: int = 0) -> bytes:
    """Draw picture `k` of a breed as a JPEG file; arguments and errors are those of `draw`."""
    file = io.BytesIO()
    draw(breed, k, seed).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def path(breed: int, k: int) -> str:
    """The picture's path: `<breed>/<breed>_<k in four digits>.jpg`."""
    return f"{BREEDS[breed]}/{BREEDS[breed]}_{k:04d}.jpg"


def pictures(per_class: int = PER_CLASS, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Draw the whole sample, breed after breed.

    Args:
        per_class: number of pictures of each breed.
        seed: as in `draw`.

    Yields:
        Its path, and the bytes of that JPEG file.

    Raises:
        ValueError: if `seed` is negative.
    """
    for breed in range(len(BREEDS)):
        for k in range(per_class):
            yield path(breed, k), jpeg(breed, k, seed)


class _Part(NamedTuple):
    inside: Curve
    edge: Curve  # the same outline, a pen's width further out


class _Layer(NamedTuple):
    """Parts painted together, so that no line shows where they overlap."""

    parts: Sequence[_Part]
    fill: Colour
    line: Colour | None = None
    marks: Sequence[_Part] = ()  # the pattern of the coat, clipped to the parts
    mark: Colour = _BLACK


_PEN = 0.022
_TURN = np.exp(1j * np.linspace(np.pi / 2, -np.pi / 2, 11))


@cache
def _spline(points: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Curve]:
    """Work out what turns control points into the outline of a Catmull-Rom curve.

    Returns:
        For each point of the outline: weights of the control points that give the nearest point of
        the curve, those that give its slope, and the turn from the slope to the way outwards.
    """
    knots = np.eye(points)[[0, *range(points), points - 1]]
    t = np.linspace(0, 1, 6)[:, None]
    where, slope = [], []
    for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        p, q, r = (c - a) / 2, a - 2.5 * b + 2 * c - d / 2, (d - a + 3 * (b - c)) / 2
        last = None if c is knots[-2] else -1
        where.append((b + p * t + q * t**2 + r * t**3)[:last])
        slope.append((p + 2 * q * t + 3 * r * t**2)[:last])
    w, s = np.concatenate(where), np.concatenate(slope)
    n, cap = len(w), len(_TURN)
    there_and_back = [*range(n), *[n - 1] * cap, *reversed(range(n)), *[0] * cap]
    out = np.concatenate([np.full(n, 1j), _TURN, np.full(n, -1j), -_TURN])
    return w[there_and_back], s[there_and_back], out


def _stroke(points: Points, radii: Sequence[float], fringe: float = 0.0) -> _Part:
    where, slope, turn = _spline(len(points))
    p = np.array(points, complex)
    along = slope @ p
    out = turn * along / np.abs(along)
    radius = np.maximum(where @ np.array(radii), 0.005)
    if fringe:
        radius *= 1 + fringe * (np.arange(len(radius)) % 2)
    inside = where @ p + out * radius
    return _Part(inside, inside + out * _PEN)


def _dot(at: complex, radius: float, fringe: float = 0.0) -> _Part:
    return _stroke((at - 0.01, at + 0.01), (radius, radius), fringe)


def _tint(colour: Colour, factor: float) -> Colour:
    """Darken below 1, whiten above."""
    to, part = (0, 1 - factor) if factor < 1 else (255, factor - 1)
    r, g, b = (round(c + (to - c) * part) for c in colour)
    return r, g, b


def _dog(rng: np.random.Generator, breed: _Breed) -> list[_Layer]:
    """Pose a dog of the breed and colour it: layers from back to front."""
    coat, mark = (_COATS[i] for i in rng.permutation(len(_COATS))[:2])
    while abs(sum(coat) - sum(mark)) < 220:  # the pattern must be seen
        coat, mark = (_COATS[i] for i in rng.permutation(len(_COATS))[:2])
    line, shade = _tint(coat, 0.3), _tint(coat, 0.78)
    fringe, chest = breed.fringe, breed.chest
    hip, shoulder, ground = -breed.back / 2, breed.back / 2, chest + breed.legs
    rear = (breed.waist + chest) / 2

    def limb(x: float, knee: float) -> list[_Part]:
        step = rng.uniform(-0.16, 0.16) * (0.4 + breed.legs)
        foot = x + step + 1j * ground
        bend = x + step * 0.3 + knee + 1j * (chest + breed.legs * 0.35)
        joints = (x, bend, foot - 0.05j, foot + 0.08)
        leg = [_stroke(joints, (rear * 0.6, 0.09, 0.07, 0.065), fringe)]
        return [*leg, _dot(foot - 0.12j, 0.12, 0.12)] if breed.pompons else leg

    far = limb(shoulder - 0.06, 0) + limb(hip + 0.04, -0.06)
    near = limb(shoulder, 0) + limb(hip, -0.06)

    wag = np.exp(1j * rng.uniform(-0.25, 0.25))
    root = hip - rear * (0.75 + 0.35j)
    points, radii = _TAILS[breed.tail]
    tail = [_stroke([root + wag * p for p in points], radii, fringe)]

    skull = shoulder + rng.uniform(0.14, 0.28) - 1j * (chest + rng.uniform(0.2, 0.34))
    nod = np.exp(1j * rng.uniform(-0.3, 0.25))

    def face(x: float, y: float) -> complex:
        return complex(skull + nod * complex(x, y))

    mouth = 0.2 + breed.muzzle
    torso = _stroke((hip, -0.03j, shoulder), (rear, breed.waist, chest), fringe)
    neck = _stroke((shoulder - 0.05j, skull), (chest * 0.75, 0.18), fringe)
    head = [
        _dot(skull, 0.28, fringe),
        _stroke((face(0.08, 0.06), face(mouth, 0.09)), (0.2, breed.snout), fringe / 2),
    ]
    if breed.pompons:
        tail.append(_dot(root + wag * points[-1], 0.15, 0.12))
        head.append(_dot(face(-0.06, -0.22), 0.2, 0.1))

    points, radii = _EARS[breed.ear]
    hangs = max(p.imag for p in map(complex, points)) > 0.2  # then it hangs whatever the head does
    flap = np.exp(1j * rng.uniform(-0.12, 0.12)) * (1 if hangs else nod)
    tufts = 0.1 if breed.pompons else fringe / 2
    ears = [
        _stroke([face(x, -0.2) + flap * p for p in points], radii, tufts) for x in (-0.06, 0.08)
    ]

    marks: list[_Part] = []
    if breed.coat == "saddle":
        y = -0.75j * chest
        marks = [_stroke((hip - 0.2 + y, y, shoulder - 0.1 + y), (chest * 0.75,) * 3)]
    elif breed.coat == "pale":
        y = 0.9j * chest
        marks = [_stroke((hip + y, y, shoulder + 0.2 + y / 2), (chest * 0.5,) * 3)]
        marks += [_dot(face(mouth, 0.2), 0.22)]
    elif breed.coat == "mask":
        marks = [_dot(face(mouth + 0.02, 0.08), 0.27)]
    elif breed.coat == "points":
        marks = [_dot(face(mouth + 0.05, 0.12), 0.2), _dot(shoulder + 0.2 + 0.1j, 0.14)]
        marks += [_stroke((hip - 0.3 + 1j * ground, shoulder + 0.4 + 1j * ground), (0.09, 0.09))]
    elif breed.coat == "stripes":
        xs = np.arange(hip - 0.3, shoulder + 0.35, 0.15) + rng.uniform(-0.04, 0.04)
        marks = [_stroke((x - 0.4j, x + 0.05, x - 0.02 + 0.3j), (0.01, 0.04, 0.01)) for x in xs]
    elif breed.coat == "spots":
        low, high = complex(hip - 0.3, skull.imag - 0.2), complex(skull.real + 0.3, ground)
        spread = rng.uniform(size=(40, 3)) * (high.real - low.real, high.imag - low.imag, 0.035)
        marks = [_dot(low + complex(x, y), 0.03 + r) for x, y, r in spread]
    elif breed.coat == "patches":
        marks = [_stroke((hip - 0.4 - 0.1j, hip + 0.1), (0.4, 0.34), 0.1), _dot(face(-0.1, 0), 0.2)]

    eye, nose = face(0.11, -0.06), face(mouth + breed.snout * 0.75, 0.09 - breed.snout * 0.55)
    lip = (nose + 0.1j * nod, face(mouth - 0.06, 0.1 + breed.snout / 2), face(mouth - 0.18, 0.13))
    throat = [skull + p for p in (-0.2 + 0.22j, -0.04 + 0.31j, 0.12 + 0.27j)]
    ear = mark if breed.coat in ("mask", "patches", "spots") else _tint(coat, 0.68)
    collar: Colour = tuple(rng.integers(0, 255, 3).tolist())
    return [
        _Layer(ears[1:], _tint(ear, 0.7), line),
        _Layer(far, shade, line),
        _Layer([*tail, torso, neck, *near, *head], coat, line, marks, mark),
        _Layer([_stroke(throat, (0.035,) * 3)], collar, line),
        _Layer(ears[:1], ear, line),
        _Layer([_dot(eye, 0.06)], _tint(coat, 1.7)),
        _Layer([_dot(eye + 0.008, 0.047), _dot(nose, 0.065)], _BLACK),
        _Layer([_dot(eye + 0.022 - 0.02j, 0.016), _dot(nose - 0.01 - 0.025j, 0.014)], _WHITE),
        _Layer([_stroke(lip, (0.012,) * 3)], line),
    ]


def _place(rng: np.random.Generator, canvas: Image.Image, layers: Sequence[_Layer]) -> None:
    """Turn, mirror, scale and shift the dog so that all of it is in the picture; paint it."""
    turn = np.exp(1j * rng.uniform(-0.12, 0.12))
    mirror = rng.random() < 0.5

    def turned(z: Curve) -> Curve:
        z = z * turn
        return -z.conj() if mirror else z

    outline = turned(np.concatenate([p.edge for layer in layers for p in layer.parts]))
    left, top = outline.real.min(), outline.imag.min()
    wide, high = np.ptp(outline.real), np.ptp(outline.imag)
    scale = rng.uniform(0.86, 0.98) * min(canvas.width / wide, canvas.height / high)
    x = rng.random() * (canvas.width - wide * scale) - left * scale
    y = rng.random() * (canvas.height - high * scale) - top * scale

    def pixels(curve: Curve) -> list[float]:
        flat: list[float] = (turned(curve) * scale + complex(x, y)).view(float).tolist()
        return flat

    pen = ImageDraw.Draw(canvas)
    for layer in layers:
        if layer.line:
            for part in layer.parts:
                pen.polygon(pixels(part.edge), layer.line)
        for part in layer.parts:
            pen.polygon(pixels(part.inside), layer.fill)
        if layer.marks:
            stencils = [Image.new("L", canvas.size) for _ in range(2)]
            for stencil, parts in zip(stencils, (layer.parts, layer.marks), strict=True):
                brush = ImageDraw.Draw(stencil)
                for part in parts:
                    brush.polygon(pixels(part.inside), 255)
            canvas.paste(layer.mark, mask=ImageChops.multiply(*stencils))


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw ground, wall and clutter small and enlarge them: out of focus, as behind a real dog."""

    def colour() -> Colour:
        r, g, b = (rng.uniform(70, 220) + rng.uniform(-40, 40, 3)).astype(int).tolist()
        return r, g, b

    w, h = width // 2, height // 2
    scene = Image.new("RGB", (w, h), colour())
    pen = ImageDraw.Draw(scene)
    horizon, tilt = rng.uniform(0.3, 0.8) * h, rng.uniform(-0.08, 0.08) * h
    pen.polygon((0, horizon - tilt, w, horizon + tilt, w, h, 0, h), colour())
    for _ in range(rng.integers(2, 9)):
        x, y, a, b = rng.uniform(0, 1, 4) * (w, h, w / 5, h / 5)
        shape = (pen.ellipse, pen.rectangle)[rng.integers(2)]
        shape((x - a, y - b, x + a, y + b), colour())
    return scene.reduce(4).resize((width, height), Image.Resampling.BICUBIC)


def _photograph(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Add light from one side, a colour cast, and the noise of a sensor."""
    pixels = np.asarray(picture, np.float32)
    height, width, _ = pixels.shape
    across, down = rng.uniform(-0.15, 0.15, 2)
    light = np.add.outer(np.linspace(-down, down, height), np.linspace(-across, across, width))
    gain = (light + rng.uniform(0.8, 1.1))[..., None] * rng.uniform(0.93, 1.07, 3)
    noise = rng.standard_normal(pixels.shape, np.float32) * rng.uniform(1, 6)
    return Image.fromarray(np.clip(pixels * gain + noise, 0, 255).astype(np.uint8))
