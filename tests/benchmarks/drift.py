"""Whether drift is found, and only then: `python -m tests.benchmarks.drift --help`.

Draws of 200, 1,000 and 5,000 predictions from the test pictures of a data set, as they are and
changed in growing doses (then of each second picture), are compared with the statistics of its
validation pictures. Each picture is answered once by the package's engine; the draws are of these
answers, with replacement where a draw is more than the pool. The reference is made as `fit` makes
it, by the same engine. A draw counts as found if `drift` would end with status 3 or 4. Doses grow;
once one is found in `FOUND` of the draws, stronger ones are drawn only where a goal speaks of them.
"""

import argparse
import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dogbreed import images, package
from dogbreed.data.manifest import Manifest
from dogbreed.engine import Engine, open_engine
from dogbreed.evaluate import corruptions
from dogbreed.monitor import compare, tally
from dogbreed.monitor.reference import Reference
from dogbreed.monitor.rows import unit16
from dogbreed.monitor.statistics import FEATURES, statistics
from dogbreed.ranges import Range, read_pictures, whole

DOSES = {  # from the weakest
    "darkness": (0.98, 0.95, 0.9, 0.8, 0.6),
    "blur": (0.3, 0.4, 0.5, 1, 2),
    "jpeg": (70, 60, 50, 30, 10),
    "rotation": (3, 5, 10, 15, 30),
    "colour_cast": (0.02, 0.05, 0.1, 0.2),
    "resolution": (216, 208, 192, 160, 112),
    "breeds": (0.05, 0.1, 0.15, 0.2, 0.3, 0.4),
    "non_dogs": (0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
}
GOALS = {("darkness", 0.6, 1000), ("blur", 2, 1000), ("non_dogs", 0.2, 1000)}
FOUND = 0.95  # of the draws
MIXED = {"breeds", "non_dogs"}  # doses that change who comes, not the pictures


@dataclasses.dataclass(frozen=True)
class Answered:
    """Statistics of n pictures and what was answered; as in `Reference`, of all of them."""

    statistics: np.ndarray
    probability: np.ndarray
    reject_score: np.ndarray
    predicted: np.ndarray
    rejected: np.ndarray
    embedding: np.ndarray
    logits: np.ndarray


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a model package")
    parser.add_argument("--data", required=True, help="the prepared data set it was trained on")
    parser.add_argument("--not_dogs", required=True, help="folder of pictures without a breed")
    parser.add_argument("--cache", required=True, help="folder for answers, taken up again")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--draws", type=int, default=200, help="as they are, and of the goals")
    parser.add_argument("--dose_draws", type=int, default=50, help="of all other doses")
    parser.add_argument("--sizes", nargs="*", type=int, default=[200, 1000, 5000])
    parser.add_argument(
        "--only", nargs="*", help="these, such as plain blur=2 breeds; default: all"
    )
    options = parser.parse_args()
    bench = Bench(options)
    bench.run(options.draws, options.dose_draws, options.sizes, options.only)


class Bench:
    """The pool, the reference, and answers on demand."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.source = package.read(options.model)
        self.cache = Path(options.cache)
        self.cache.mkdir(parents=True, exist_ok=True)
        self._engine = functools.cache(lambda: open_engine(self.source, options.engine))
        data = Manifest.open(options.data)
        rows = {split: data.take(data.rows_of(split)) for split in ("val", "test")}
        self.places = {split: data.ranges(of) for split, of in rows.items()}
        self.labels = {split: np.array([row["label"] for row in of]) for split, of in rows.items()}
        folder = sorted(Path(options.not_dogs).glob("*.jpg"))
        self.places["not_dogs"] = [whole(str(path)) for path in folder]
        order = [self.source.class_names.index(name) for name in data.classes]
        self.labels = {split: np.array(order)[of] for split, of in self.labels.items()}
        self.reference = self._reference()

    def run(self, draws: int, dose_draws: int, sizes: list[int], only: list[str] | None) -> None:
        """Print a line for each dose and size, then the table."""
        plain = self.answered("test")
        print(f"pool {len(plain.probability)}, reference {len(self.reference.right)}")
        shares: dict[tuple[str, float], dict[int, float]] = {}
        if only is None or "plain" in only:
            shares["as they are", 0] = {n: self._measure("", 0, plain, n, draws) for n in sizes}
        for name, doses in DOSES.items():
            wanted = [d for d in doses if only is None or {name, f"{name}={d:g}"} & set(only)]
            for size in sizes:
                found = False
                for dose in wanted:
                    goal = (name, dose, size) in GOALS
                    if found and not goal:
                        continue
                    of = plain if name in MIXED else self.answered("test", name, dose)
                    share = self._measure(name, dose, of, size, draws if goal else dose_draws)
                    shares.setdefault((name, dose), {})[size] = share
                    found = share >= FOUND
        print("\n| change | dose | " + " | ".join(f"{n:,}" for n in sizes) + " |")
        print("|---" * (2 + len(sizes)) + "|")
        for (name, dose), of_sizes in shares.items():
            cells = (f"{100 * of_sizes[n]:.1f} %" if n in of_sizes else "" for n in sizes)
            print(f"| {name} | {dose:g} | {' | '.join(cells)} |")

    def _measure(self, name: str, dose: float, of: Answered, size: int, draws: int) -> float:
        """Share of the draws that are found; prints it, and what found them."""
        rng, found, alerts, by = np.random.default_rng(size), 0, 0, Counter[str]()
        for _ in range(draws):
            findings = self.findings(of, self._drawn(name, dose, of, size, rng), rng)
            severity = compare.severity_of(findings)
            found += severity != "ok"
            alerts += severity == "alert"
            by.update(one.name for one in findings if one.severity != "ok")
        line = {"change": name, "dose": dose, "n": size, "draws": draws, "found": found}
        print(json.dumps(line | {"alerts": alerts, "by": by}), flush=True)
        return found / draws

    def _drawn(
        self, name: str, dose: float, of: Answered, size: int, rng: np.random.Generator
    ) -> Any:
        """Rows of the pool, and of the pictures of none of the breeds as numbers below zero."""
        n = len(of.probability)
        rows = rng.integers(0, n, size) if size > n else rng.permutation(n)[:size]
        if name == "non_dogs":
            others = rng.random(size) < dose
            rows[others] = -1 - rng.integers(0, len(self.places["not_dogs"]), others.sum())
        if name == "breeds":  # a share of the predictions comes from a tenth of the breeds alone
            favoured = np.flatnonzero(self.labels["test"] % 10 == 0)
            others = rng.random(size) < dose
            rows[others] = rng.choice(favoured, others.sum())
        return rows

    def findings(self, of: Answered, rows: np.ndarray, rng: np.random.Generator) -> Any:
        """What `drift` would find in a log of these rows."""
        parts = [(of, rows[rows >= 0])]
        if (rows < 0).any():
            parts.append((self.answered("not_dogs"), -1 - rows[rows < 0]))
        seen = tally.Tally(self.reference, self.source.class_names)
        for answered, some in parts:
            for k, name in enumerate(FEATURES):
                seen.columns[name].add(answered.statistics[some, k])
            seen.columns["probability"].add(answered.probability[some])
            seen.columns["reject_score"].add(answered.reject_score[some])
            counts = np.bincount(answered.predicted[some], minlength=len(seen.breeds))
            seen.breeds += counts
            seen.judged += len(some)
            seen.rejected += int(answered.rejected[some].sum())
            seen.n += len(some)
        vectors = np.concatenate([answered.embedding[some] for answered, some in parts])
        kept = rng.permutation(len(vectors))[: tally.EMBEDDINGS]
        seen.embeddings = lambda: vectors[kept]  # type: ignore[method-assign]
        return compare.compare(seen, self.reference)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def answered(self, split: str, change: str = "", dose: float = 0) -> Answered:
        """Answers to the pictures of a split, changed."""
        path = self.cache / f"{split}-{change}-{dose:g}.npz"
        if not path.exists():
            step = 2 if change else 1
            np.savez(path, **vars(self._answer(self.places[split][::step], change, dose)))
            print(f"answered: {path.name}", flush=True)
        with np.load(path) as kept:
            return Answered(**kept)

    def _answer(self, places: list[Range], change: str, dose: float) -> Answered:
        seen = self.source.model["preprocessing"]
        engine: Engine = self._engine()
        parts = []
        with ThreadPoolExecutor(2) as pool:
            for start in range(0, len(places), 32):
                files = read_pictures(places[start : start + 32])
                look = functools.partial(_look, seen["size"], seen["crop"], change, dose)
                pictures, about = zip(*pool.map(look, files), strict=True)
                answers = engine.answer(np.stack(pictures))
                rejection = self.source.rejection
                assert rejection is not None
                parts.append(
                    (
                        np.stack(about),
                        answers.probabilities.max(1),
                        answers.reject_score,
                        answers.probabilities.argmax(1),
                        rejection.rejects(answers.reject_score),
                        unit16(answers.embedding),
                        np.log(np.maximum(answers.probabilities, 1e-30)),
                    )
                )
        return Answered(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _reference(self) -> Reference:
        """As `fit` makes it: rejection scores of each picture against the others of its breed."""
        of, labels, rejection = self.answered("val"), self.labels["val"], self.source.rejection
        assert rejection is not None
        scores = rejection.scores(of.logits, of.embedding, 1.0, labels)
        return Reference(
            of.statistics,
            of.probability,
            scores,
            of.predicted,
            of.predicted == labels,
            rejection.rejects(scores),
            of.embedding[np.random.default_rng(0).permutation(len(labels))[:1000]],
        )


def _look(
    size: int, crop: float, change: str, dose: float, data: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A picture as the network sees it, and its statistics, after a change."""
    sizes: list[tuple[int, int]] = []

    def box(width: int, height: int) -> images.Box:
        sizes.append((width, height))
        return images.centre_box(width, height, crop)

    picture, nbytes = images.picture(data, size, box), len(data)
    (width, height) = sizes[0]
    if change == "resolution":  # and enlarged again: its size, which would tell, stays
        small = Image.fromarray(picture).resize((int(dose),) * 2, Image.Resampling.BICUBIC)
        picture = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
    elif change:
        alter: Callable[[np.ndarray, float], np.ndarray] = corruptions.CORRUPTIONS[change][0]
        if change == "jpeg":  # else the file's bits are taken to stay as they were
            nbytes = round(len(corruptions.as_jpeg(picture, dose)) * width * height / size**2)
        picture = alter(picture, dose)
    return picture, statistics(picture, width, height, nbytes)


if __name__ == "__main__":
    main()
