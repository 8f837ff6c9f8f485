"""What a run knows of its answers to a split: a JSON of scores and a row for each picture.

evaluation/{split}.json      scores with intervals, per breed, the most confused pairs, reliability
evaluation/{split}.parquet   a row for each picture, in the manifest's order
"""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from dogbreed import storage
from dogbreed.data.parquet import to_parquet
from dogbreed.evaluate import bootstrap
from dogbreed.evaluate.calibration import fit_calibration, reliability
from dogbreed.evaluate.confidence import UNCALIBRATED, Calibration, in_words
from dogbreed.evaluate.rejection import Rejection

FOLDER = "evaluation"
CONFUSED = 20
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int16()),
        ("predicted", pa.int16()),
        ("probability", pa.float32()),
        ("true_probability", pa.float32()),
        ("top5", pa.list_(pa.int16())),
        ("top5_probability", pa.list_(pa.float32())),
        ("reject_score", pa.float32()),
        ("rejected", pa.bool_()),
    ]
)
"""Classes are numbered in the order of `model.json`; probabilities are calibrated."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Answers to n pictures of a split, and what they are worth.

    Args:
        ids: of the pictures.
        labels: int64, (n,).
        logits: float32, (n, classes).
        embedding: float, (n, D).
        class_names: in the order of the logits.
        calibration: of the logits.
        rejection: of the package; none: nothing is rejected.
        fitted_on: whether the rejection was fitted on these very pictures.
    """

    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    embedding: np.ndarray
    class_names: list[str]
    calibration: Calibration = UNCALIBRATED
    rejection: Rejection | None = None
    fitted_on: bool = False

    def fitted(self) -> "Evaluation":
        """With the calibration and the rejection that suit these validation pictures best."""
        calibration = fit_calibration(self.logits, self.labels)
        rejection = Rejection.fitted(
            self.logits, self.embedding, self.labels, calibration.temperature
        )
        return dataclasses.replace(
            self, calibration=calibration, rejection=rejection, fitted_on=True
        )

    def report(self, split: str, data: dict[str, Any]) -> dict[str, Any]:
        """What the JSON says; `data` tells which pictures they were, and how they were seen."""
        judged = bootstrap.Judged.of(self._calibrated, self.labels)
        values, bounds = bootstrap.scores(judged), bootstrap.intervals(judged)
        raw = bootstrap.Judged.of(self.logits, self.labels)
        before, before_bounds = bootstrap.scores(raw), bootstrap.intervals(raw)
        for name in ("log_loss", "ece"):
            values[f"{name}_uncalibrated"] = before[name]
            bounds[f"{name}_uncalibrated"] = before_bounds[name]
        rejection = None
        if self.rejection is not None:
            rejected = self.rejection.rejects(self._reject_scores())
            rejection = self.rejection.about() | {"rejected": float(rejected.mean())}
        scores = {
            name: {"value": values[name], "low": low, "high": high}
            for name, (low, high) in bounds.items()
        }
        scores["ece"] |= {
            "floor": bootstrap.ece_floor(judged),
            "debiased": bootstrap.debiased_ece(judged),
        }
        return {
            "split": split,
            "data": data,
            "n": len(self.ids),
            "scores": scores,
            "temperature": self.calibration.temperature,
            "platt": self.calibration.platt,
            "rejection": rejection,
            "per_breed": _per_breed(judged, self.class_names),
            "confused": _confused(judged, self.class_names),
            "reliability": reliability(judged.confidence, judged.correct),
            "reliability_uncalibrated": reliability(raw.confidence, raw.correct),
        }

    def table(self) -> pa.Table:
        """A row for each picture, see `SCHEMA`."""
        logits = self._calibrated
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        best = np.argsort(-shares, axis=1, kind="stable")[:, :5]
        scores = self._reject_scores()
        rejected = (
            np.zeros(len(scores), bool)
            if self.rejection is None
            else self.rejection.rejects(scores)
        )
        n = np.arange(len(shares))
        return pa.table(
            {
                "id": self.ids,
                "label": self.labels,
                "predicted": best[:, 0],
                "probability": shares[n, best[:, 0]],
                "true_probability": shares[n, self.labels],
                "top5": list(best),
                "top5_probability": list(np.take_along_axis(shares, best, 1)),
                "reject_score": scores,
                "rejected": rejected,
            }
        ).cast(SCHEMA)

    @property
    def _calibrated(self) -> np.ndarray:
        return self.calibration(self.logits.astype(np.float64))

    def _reject_scores(self) -> np.ndarray:
        labels = self.labels if self.fitted_on else None
        rejection = self.rejection or Rejection()
        return rejection.scores(self.logits, self.embedding, self.calibration.temperature, labels)

    def write(self, folder: str, split: str, data: dict[str, Any]) -> dict[str, Any]:
        """Write both files; returns what the JSON says."""
        report = self.report(split, data)
        storage.write(storage.join(folder, f"{split}.parquet"), to_parquet(self.table()))
        storage.write_json(storage.join(folder, f"{split}.json"), report)
        return report


def _per_breed(judged: bootstrap.Judged, names: list[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each breed; none where there is nothing to divide by."""
    size = judged.classes
    occurs = np.bincount(judged.labels, minlength=size)
    answered = np.bincount(judged.predicted, minlength=size)
    hits = np.bincount(judged.labels[judged.correct], minlength=size)

    def share(part: np.ndarray, whole: np.ndarray, k: int) -> float | None:
        return float(part[k] / whole[k]) if whole[k] else None

    return [
        {
            "name": name,
            "n": int(occurs[k]),
            "precision": share(hits, answered, k),
            "recall": share(hits, occurs, k),
            "f1": share(2 * hits, occurs + answered, k),
        }
        for k, name in enumerate(names)
    ]


def _confused(judged: bootstrap.Judged, names: list[str]) -> list[dict[str, Any]]:
    """The pairs of breeds that are most often taken for one another, the most frequent first."""
    wrong = ~judged.correct
    pairs = np.stack([judged.labels[wrong], judged.predicted[wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return [
        {"true": names[found[k, 0]], "predicted": names[found[k, 1]], "n": int(counts[k])}
        for k in np.argsort(-counts, kind="stable")[:CONFUSED]
    ]


def values_of(report: dict[str, Any]) -> dict[str, float]:
    """The scores that metrics.json has: values alone, and the number of pictures."""
    names = ("top1", "top5", "log_loss", "macro_f1", "ece")
    return {name: report["scores"][name]["value"] for name in names} | {"n": report["n"]}


def sentence(report: dict[str, Any]) -> str:
    """Scores in words, with their 95 % intervals."""

    def words(name: str) -> str:
        score = report["scores"][name]
        return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"

    return (
        f"top-1 {words('top1')}, top-5 {words('top5')}, macro-F1 {words('macro_f1')},"
        f" log-loss {words('log_loss')}, calibration error {words('ece')}; n = {report['n']:,},"
        " 95 % intervals"
    )


def details(report: dict[str, Any]) -> str:
    """What else a person wants to know of an evaluation, in a few lines."""
    scores, rejection = report["scores"], report["rejection"]
    lines = [
        f"temperature {report['temperature']:.3f}, the answer's log-odds"
        f" {in_words(report['platt'])}; without both log-loss"
        f" {scores['log_loss_uncalibrated']['value']:.3f}, calibration error"
        f" {scores['ece_uncalibrated']['value']:.3f}; of the error with them chance alone gives"
        f" {scores['ece']['floor']:.3f}, and {scores['ece']['debiased']:.3f} is left without it"
    ]
    if rejection:
        lines[0] += f"; {rejection['rejected']:.1%} rejected as none of the breeds"
    breeds = [breed for breed in report["per_breed"] if breed["n"]]
    breeds.sort(key=lambda breed: breed["f1"])
    weakest = (f"{breed['name']} {breed['f1']:.2f}" for breed in breeds[:3])
    lines.append(f"lowest F1: {', '.join(weakest)}")
    if pairs := report["confused"][:3]:
        taken = (f"{pair['true']} for {pair['predicted']} ({pair['n']})" for pair in pairs)
        lines[1] += f"; most often mistaken: {', '.join(taken)}"
    return "\n".join(lines)
