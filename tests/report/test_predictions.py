"""Answers to single pictures: the worst first, and nothing else taken for them."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dogbreed.data.parquet import to_parquet
from dogbreed.errors import BadInput
from dogbreed.evaluate.evaluation import Evaluation
from dogbreed.report.predictions import Predictions


def made(logits: list[list[float]], labels: list[int]) -> Predictions:
    ids = [f"{k}.jpg" for k in range(len(labels))]
    names = [f"breed {k}" for k in range(len(logits[0]))]
    scores = np.array(logits, np.float32)
    table = Evaluation(ids, np.array(labels), scores, scores[:, :2], names).table()
    return Predictions.parse(to_parquet(table), "test.parquet")


def test_the_worst_mistakes_are_those_whose_truth_was_thought_least_likely() -> None:
    answers = made([[2, 0, 0], [9, 0, 0], [0, 5, 0], [4, 0, 0], [0, 0, 1]], [1, 1, 1, 2, 0])
    assert answers.worst(9).tolist() == [1, 3, 0, 4]
    assert answers.worst(2).tolist() == [1, 3]


def test_pictures_of_a_pair_come_with_the_surest_first() -> None:
    answers = made([[2, 0, 0], [9, 0, 0], [0, 5, 0], [4, 0, 0]], [1, 1, 1, 1])
    assert answers.taken_for(1, 0).tolist() == [1, 3, 0]
    assert answers.taken_for(0, 1).tolist() == []


@pytest.mark.parametrize("kind", ["bytes", "columns", "ragged"])
def test_a_file_of_another_kind_is_an_error_that_names_it(kind: str) -> None:
    file = io.BytesIO(b"no parquet")
    if kind != "bytes":
        tables = {
            "columns": {"id": ["a"], "label": [1]},
            "ragged": {"id": ["a", "b"], "label": [0, 1], "predicted": [0, 1],
                       "probability": [0.5, 0.5], "true_probability": [0.5, 0.5],
                       "top5": [[0], [0, 1]], "top5_probability": [[0.5], [0.5, 0.1]],
                       "reject_score": [0.0, 0.0], "rejected": [False, False]},
        }  # fmt: skip
        file = io.BytesIO()
        pq.write_table(pa.table(tables[kind]), file)
    with pytest.raises(BadInput, match="not what `dogbreed test` writes") as caught:
        Predictions.parse(file.getvalue(), "gs://b/test.parquet")
    assert str(caught.value).startswith("gs://b/test.parquet")
