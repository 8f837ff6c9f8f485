"""The submission of Kaggle's "Dog Breed Identification": a row of probabilities for each picture.

Which rows and columns it has, and in which order, stands in the data set's `submission.json`.
Kaggle refuses a file in which a row is missing, so a picture without an answer has its row too,
with all breeds equally likely.
"""

import csv
import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dogbreed import storage
from dogbreed.errors import BadInput, named, nearest

FORM_FILE = "submission.json"  # {"columns": [breed, …], "ids": [id, …]}
SMALLEST = 1e-15  # where the score, a log-loss, clips


def read_form(root: str) -> tuple[list[str], list[str]] | None:
    """Columns and ids of a data set's submission, each in its order; None without the file.

    Raises:
        BadInput: the file is not one that `dogbreed prepare` wrote.
    """
    url = storage.join(root, FORM_FILE)
    if not storage.exists(url):
        return None
    form = storage.read_json(url)
    about = form if isinstance(form, dict) else {}
    return _names(about.get("columns"), url), _names(about.get("ids"), url)


def _names(value: Any, url: str) -> list[str]:
    """`value`, if it is a list of different names.

    Raises:
        BadInput: it is something else.
    """
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise BadInput(f"{url}: not one that dogbreed prepare wrote; prepare the data again")
    if not value or len(set(value)) < len(value):
        raise BadInput(f"{url}: lists nothing, or a name twice; prepare the data again")
    return value


class Submission:
    """A submission that is being filled in; until a row has its answer, it is uniform.

    Args:
        columns: the breeds, in the order of the header.
        ids: of the pictures, in the order of the rows, each once.
        class_names: the model's, in the order of its probabilities.

    Raises:
        BadInput: a column that the model doesn't know.
    """

    def __init__(
        self, columns: Sequence[str], ids: Sequence[str], class_names: Sequence[str]
    ) -> None:
        index = {name: number for number, name in enumerate(class_names)}
        unknown = [name for name in columns if name not in index]
        if unknown:
            first = "; ".join(f"{name!r}{nearest(name, class_names)}" for name in unknown[:3])
            raise BadInput(
                f"{len(unknown)} of the submission's {len(columns)} breeds are unknown to the"
                f" model: {first}{'; …' if unknown[3:] else ''} (classes are matched by name)"
            )
        wanted = set(columns)
        if dropped := [name for name in class_names if name not in wanted]:
            print(
                f"{len(dropped):,} of the model's breeds are no columns of the submission and"
                f" dropped, the others made to sum to 1: {named(dropped)}",
                file=sys.stderr,
            )
        self._columns, self._ids = columns, ids
        self._classes = np.array([index[name] for name in columns])
        self._row = {name: number for number, name in enumerate(ids)}
        self._table = np.full((len(ids), len(columns)), 1 / len(columns))
        self._unanswered = dict.fromkeys(ids, "not in the split")  # id -> why it is uniform

    @classmethod
    def of(
        cls, root: str, classes: Sequence[str], there: Sequence[str], class_names: Sequence[str]
    ) -> "Submission":
        """Begin the submission of a data set.

        Args:
            root: the data set's URL.
            classes: its classes: sorted, they are the columns if it has no `submission.json`.
            there: ids of the pictures in the split: the rows if it has no `submission.json`.
            class_names: the model's.

        Raises:
            BadInput: most of the rows are not in the split, the model doesn't know a column, or
                `submission.json` is damaged.
        """
        columns, ids = read_form(root) or (sorted(classes), list(dict.fromkeys(there)))
        missing = len(set(ids).difference(there))
        if missing > len(ids) / 2:
            raise BadInput(
                f"{root}: {missing:,} of the {len(ids):,} ids in {FORM_FILE} are not in the split:"
                " it belongs to other pictures; see --data and --split"
            )
        made = cls(columns, ids, class_names)
        if extra := [name for name in there if name not in made]:
            print(
                f"{len(extra):,} pictures of the split are no rows of the submission and left out:"
                f" {named(extra)}",
                file=sys.stderr,
            )
        return made

    def __contains__(self, name: str) -> bool:
        return name in self._row

    def add(self, names: Sequence[str], errors: Sequence[str], probabilities: np.ndarray) -> None:
        """Fill in rows.

        Args:
            names: ids of k pictures, in any order.
            errors: for each why it could not be read, or an empty string.
            probabilities: of those that could be read: floats, (at most k, classes of the model).

        Raises:
            BadInput: the model answered with NaN.
        """
        why = dict(zip(names, errors, strict=True))
        read = [name for name in names if not why[name]]
        wanted = probabilities[:, self._classes].astype(np.float64).clip(SMALLEST)
        if not np.isfinite(wanted).all():
            raise BadInput("the model answers with NaN, which Kaggle refuses; train another")
        self._table[[self._row[name] for name in read]] = wanted / wanted.sum(1, keepdims=True)
        self._unanswered.update(why)

    def finish(self) -> tuple[str, str]:
        """The CSV, and what it holds in a few words; rows without an answer are named on stderr.

        Nine digits are what tells float32s apart; a row of them sums to 1 within 1e-8.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("id", *self._columns))
        for name, row in zip(self._ids, self._table, strict=True):
            table.writerow((name, *(f"{share:.9g}" for share in row)))
        about = f"{len(self._ids):,} rows"
        if uniform := [f"{name} ({why})" for name, why in self._unanswered.items() if why]:
            about += f", {len(uniform):,} of them without an answer"
            print(
                f"{len(uniform):,} of {len(self._ids):,} rows have no answer and are uniform,"
                f" 1/{len(self._columns)} each: {named(uniform)}",
                file=sys.stderr,
            )
        return text.getvalue(), about
