"""The confusion matrix, its breeds ordered so that those taken for each other stand together."""

import numpy as np
from markupsafe import Markup, escape
from scipy.cluster.hierarchy import dendrogram, linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist

CELL = 10  # side of a cell in the drawing's units


def counted(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Pictures by true and predicted class: int64, (classes, classes).

    Args:
        labels: int, (n,).
        predicted: int, (n,).
        classes: how many there are.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def softened(
    labels: np.ndarray, best: np.ndarray, probabilities: np.ndarray, classes: int
) -> np.ndarray:
    """Like `counted`, but a picture counts for each of its likely classes by their probability.

    So breeds that are nearly taken for each other show it, also in a small test set.

    Args:
        labels: int, (n,).
        best: int, (n, k): the k most likely classes of each picture.
        probabilities: float, (n, k).
        classes: how many there are.

    Returns:
        float64, (classes, classes).
    """
    mass = np.zeros((classes, classes))
    np.add.at(mass, (np.repeat(labels, best.shape[1]), best.ravel()), probabilities.ravel())
    return mass


def clustered(mass: np.ndarray) -> tuple[list[int], list[list[tuple[float, float]]]]:
    """Order classes by hierarchical clustering of what they are taken for.

    Average linkage on the cosine distance of the rows, with the leaves ordered so that neighbours
    are as close as can be (Bar-Joseph et al. 2001).

    Args:
        mass: float, (classes, classes), rows the true classes.

    Returns:
        The classes in their order, and the tree: lines of four points (place of the leaf in
        `CELL`s from the middle of the first one, height from 0 to 1).
    """
    classes = len(mass)
    if classes < 3:
        return list(range(classes)), []
    # A class without pictures is like none but itself; its row must not be zero.
    rows = mass / np.maximum(mass.sum(1, keepdims=True), 1e-12) + 1e-6 * np.eye(classes)
    distances = np.clip(pdist(rows, "cosine"), 0, None)
    tree = optimal_leaf_ordering(linkage(distances, "average"), distances)
    drawn = dendrogram(tree, no_plot=True)
    highest = float(tree[:, 2].max()) or 1.0
    branches = [
        [(x / 10 - 0.5, y / highest) for x, y in zip(across, up, strict=True)]
        for across, up in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    return [int(leaf) for leaf in drawn["leaves"] or []], branches


def drawing(
    counts: np.ndarray, names: list[str], order: list[int], tree: list[list[tuple[float, float]]]
) -> Markup:
    """The matrix as SVG: rows are the true breeds, columns the predicted ones.

    Args:
        counts: int, (classes, classes).
        names: of the classes, as shown.
        order: from `clustered`.
        tree: likewise; it stands on the right.
    """
    n = len(order)
    side = n * CELL
    text = 7.5 if n > 40 else 6.5 if n > 12 else 5.0
    room = round(max((len(name) for name in names), default=1) * text * 0.55) + 8
    branches = min(80, side // 4) if tree else 0
    totals = counts.sum(1)
    parts = [f'<rect class="field" x="{room}" y="{room}" width="{side}" height="{side}"/>']
    for row, true in enumerate(order):
        for column, predicted in enumerate(order):
            if many := counts[true, predicted]:
                share = max(0.12, float(np.sqrt(many / totals[true])))
                kind = "hit" if true == predicted else "miss"
                parts.append(
                    f'<rect class="{kind}" x="{room + column * CELL}" y="{room + row * CELL}"'
                    f' width="{CELL}" height="{CELL}" fill-opacity="{share:.2f}"/>'
                )
    for place, breed in enumerate(order):
        middle, name = room + (place + 0.5) * CELL, escape(names[breed])
        parts.append(
            f'<text class="breed" x="{room - 3}" y="{middle + text * 0.35:.1f}"'
            f' font-size="{text}" text-anchor="end">{name}</text>'
            f'<text class="breed" font-size="{text}"'
            f' transform="translate({middle + text * 0.35:.1f} {room - 3}) rotate(-90)">'
            f"{name}</text>"
        )
    for branch in tree:
        points = " ".join(
            f"{room + side + 4 + up * (branches - 8):.1f},{room + (at + 0.5) * CELL:.1f}"
            for at, up in branch
        )
        parts.append(f'<polyline class="tree" points="{points}"/>')
    return Markup(
        f'<svg id="matrix" class="matrix" viewBox="0 0 {room + side + branches} {room + side}"'
        f' data-room="{room}" data-cell="{CELL}" tabindex="0" role="img"'
        ' aria-label="Confusion matrix; the list beside it names the most frequent confusions">'
        f'{"".join(parts)}<path class="cross" d=""/></svg>'
    )
