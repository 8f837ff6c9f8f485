"""Which score tells pictures of none of the breeds: several, on pictures that are no dogs.

Half of the others, by a hash of their names, is to choose by, beside the validation dogs; the other
half is scored, beside the test dogs. Both kinds are brought to the same short side, square, and
JPEG quality first, so that neither size nor compression can betray the answer. Thresholds keep 95 %
of the validation dogs as they are.
"""

import argparse
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import roc_auc_score

from dogbreed import images, package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.evaluate.rejection import Rejection
from dogbreed.model.backbone import Network
from dogbreed.ranges import Range, read_pictures, whole

SIDE, QUALITY = 224, 85
Scores = dict[str, np.ndarray]


def alike(data: bytes) -> bytes:
    """The picture at a short side of 224 pixels, cut to its middle square, at quality 85."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SIDE / min(picture.size)
    picture = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
    file = io.BytesIO()
    picture.crop((left, top, left + SIDE, top + SIDE)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def embeddings(
    network: Network, source: package.Package, places: list[Range], recode: bool
) -> np.ndarray:
    """float32, (n, D)."""
    size, crop = source.model["preprocessing"]["size"], source.model["preprocessing"]["crop"]

    def look(data: object) -> np.ndarray:
        assert isinstance(data, bytes)
        data = alike(data) if recode else data
        return images.picture(data, size, lambda w, h: images.centre_box(w, h, crop))

    found = []
    with ThreadPoolExecutor() as pool, torch.inference_mode():
        for start in range(0, len(places), 64):
            batch = np.stack(list(pool.map(look, read_pictures(places[start : start + 64]))))
            found.append(network.embed(torch.from_numpy(batch).permute(0, 3, 1, 2)).float().numpy())
    return np.concatenate(found)


def all_embeddings(run: str, others: str, per_breed: int) -> dict[str, np.ndarray]:
    """What is compared, by name; labels have `_y` behind it."""
    source = package.read(f"{run}/model")
    data = Manifest.open(storage.read_json(f"{run}/run.json")["data"]["root"])
    flip = source.model["preprocessing"]["flip"]
    network = Network(source.model["backbone"], len(source.class_names), flip=flip).eval()
    network.body.load_state_dict(load(source.weights()))
    network.to(memory_format=torch.channels_last)
    labels, found = data.column("label"), {}
    for split in ("train", "val", "test"):
        rows = data.rows_of(split)
        if split == "train":
            rows = np.concatenate([rows[labels[rows] == k][:per_breed] for k in range(120)])
        places = data.ranges(data.take(rows))
        found[f"{split}_y"] = labels[rows]
        if split != "test":
            found[split] = embeddings(network, source, places, recode=False)
        if split != "train":
            found[f"{split}_alike"] = embeddings(network, source, places, recode=True)
    files = sorted(Path(others).glob("*.jpg"))
    places = [whole(str(file)) for file in files]
    found["others_alike"] = embeddings(network, source, places, recode=True)
    names = [hashlib.sha256(file.name.encode()).digest()[-1] % 2 for file in files]
    return found | {"others_half": np.array(names)}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def all_scores(run: str, of: dict[str, np.ndarray]) -> dict[str, Scores]:
    """Each score of each set of pictures; more is less like a dog."""
    source = package.read(f"{run}/model")
    state = load(source.weights())
    head = Network(source.model["backbone"], len(source.class_names)).head_name
    weights, bias = (state[f"{head}.{part}"].numpy() for part in ("weight", "bias"))
    t, train, y = source.calibration.temperature, of["train"], of["train_y"]
    means = np.stack([train[y == k].mean(0) for k in range(len(weights))])
    centred = train - means[y]
    shared = centred.T @ centred / len(train)
    shared = 0.9 * shared + 0.1 * np.trace(shared) / len(shared) * np.eye(len(shared))
    whiten = np.linalg.cholesky(np.linalg.inv(shared)).astype(np.float32)
    origin = -np.linalg.pinv(weights) @ bias  # ViM (Wang et al. 2022)
    _, axes = np.linalg.eigh((train - origin).T @ (train - origin))
    rest = axes[:, : -min(512, len(axes) // 2)]
    alpha = (train @ weights.T + bias).max(1).mean() / np.linalg.norm(
        (train - origin) @ rest, axis=1
    ).mean()
    fitted = Rejection.fitted(of["val"] @ weights.T + bias, of["val"], of["val_y"], t)
    found: dict[str, Scores] = {}
    for name in ("val", "val_alike", "test_alike", "others_alike"):
        x = of[name]
        logits = x @ weights.T + bias
        logs = log_softmax(logits / t, axis=1)
        near = ((x @ whiten) ** 2).sum(1)[:, None] - 2 * (x @ whiten) @ (means @ whiten).T
        energy, residual = -logsumexp(logits, axis=1), np.linalg.norm((x - origin) @ rest, axis=1)
        own = of["val_y"] if name.startswith("val") else None
        found[name] = {
            "maximum probability": -logs.max(1),
            "entropy": -(np.exp(logs) * logs).sum(1),
            "energy": energy,
            "energy, logits over the temperature": -t * logsumexp(logits / t, axis=1),
            "maximum logit": -logits.max(1),
            "Mahalanobis, shared covariance": (near + ((means @ whiten) ** 2).sum(1)).min(1),
            "ViM": alpha * residual + energy,
            "10th nearest neighbour, cosine": -np.sort(unit(x) @ unit(train).T, axis=1)[:, -10],
            "cosine to the classifier's rows": -(unit(x) @ unit(weights).T).max(1),
            "cosine to means of training": -(unit(x) @ unit(means).T).max(1),
            "**cosine to means of validation**": fitted.scores(logits, x, t, own),
        }
    return found


def auroc(dogs: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> str:
    """The area with its 95 % bootstrap interval."""

    def area(a: np.ndarray, b: np.ndarray) -> float:
        return float(roc_auc_score(np.r_[np.zeros(len(a)), np.ones(len(b))], np.r_[a, b]))

    drawn = [area(rng.choice(dogs, len(dogs)), rng.choice(others, len(others))) for _ in range(200)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{area(dogs, others):.4f} ({low:.4f} to {high:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="a run with its package and its data")
    parser.add_argument("--others", required=True, help="folder of JPEGs that show no dog")
    parser.add_argument("--per_breed", type=int, default=32, help="training pictures looked at")
    parser.add_argument("--features", help=".npz to keep the embeddings in, or to take them from")
    options = parser.parse_args()
    if options.features and Path(options.features).exists():
        of = dict(np.load(options.features))
    else:
        of = all_embeddings(options.run, options.others, options.per_breed)
        if options.features:
            np.savez(options.features, **of)
    scores, half, rng = all_scores(options.run, of), of["others_half"], np.random.default_rng(0)
    print(f"others: {(half == 0).sum()} to choose by, {(half == 1).sum()} scored;", end=" ")
    print(f"dogs: {len(of['val_y']):,} and {len(of['test_y']):,}")
    print("| score | AUROC, to choose by | AUROC, scored | others rejected | dogs kept |")
    print("|---|---|---|---|---|")
    for name, plain in scores["val"].items():
        threshold = np.quantile(plain, 0.95)
        others, dogs = scores["others_alike"][name], scores["test_alike"][name]
        chosen = auroc(scores["val_alike"][name], others[half == 0], rng)
        scored = auroc(dogs, others[half == 1], rng)
        rejected, kept = (others[half == 1] > threshold).mean(), (dogs <= threshold).mean()
        print(f"| {name} | {chosen} | {scored} | {rejected:.1%} | {kept:.1%} |", flush=True)


if __name__ == "__main__":
    main()
