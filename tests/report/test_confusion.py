"""The confusion matrix: what it counts, and who stands beside whom."""

from xml.etree import ElementTree

import numpy as np
import pytest

from dogbreed.report import confusion


def test_rows_are_the_true_classes() -> None:
    counts = confusion.counted(np.array([0, 0, 1, 2]), np.array([1, 1, 1, 0]), 3)
    assert counts.tolist() == [[0, 2, 0], [0, 1, 0], [1, 0, 0]]


def test_a_picture_counts_for_its_likely_classes_by_their_probability() -> None:
    mass = confusion.softened(np.array([2, 2]), np.array([[2, 0], [0, 1]]),
                              np.array([[0.75, 0.25], [0.5, 0.5]]), 3)  # fmt: skip
    assert mass.tolist() == [[0, 0, 0], [0, 0, 0], [0.75, 0.5, 0.75]]


def test_classes_taken_for_each_other_become_neighbours() -> None:
    mass = np.eye(8) * 10
    for a, b in ((0, 5), (3, 7), (1, 6), (2, 4)):
        mass[a, b] = mass[b, a] = 5
    order, tree = confusion.clustered(mass)
    assert sorted(order) == list(range(8))
    apart = {abs(order.index(a) - order.index(b)) for a, b in ((0, 5), (3, 7), (1, 6), (2, 4))}
    assert apart == {1}
    assert len(tree) == 7


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_few_classes_and_classes_without_pictures_have_an_order(classes: int) -> None:
    order, _ = confusion.clustered(np.zeros((classes, classes)))
    assert sorted(order) == list(range(classes))


def test_each_cell_that_counts_is_drawn_in_its_place_and_names_stay_text() -> None:
    counts = np.array([[4, 1, 0], [0, 5, 0], [0, 0, 0]])
    names = ["<b>a</b>", "B & co", "C"]
    drawn = ElementTree.fromstring(confusion.drawing(counts, names, [1, 0, 2], []))
    room = float(drawn.get("data-room", ""))
    cells = {
        (cell.get("class"), round((float(cell.get("y", "")) - room) / confusion.CELL),
         round((float(cell.get("x", "")) - room) / confusion.CELL))
        for cell in drawn.iter("rect") if cell.get("class") in {"hit", "miss"}
    }  # fmt: skip
    assert cells == {("hit", 0, 0), ("hit", 1, 1), ("miss", 1, 0)}
    assert [text.text for text in drawn.iter("text")][::2] == ["B & co", "<b>a</b>", "C"]
