"""How hard is the embedded sample? Prints a table in markdown; about 4 minutes on two cores.

Colours alone, a template of pixels, or shuffled labels must not tell the breeds, and a network must
gain from more pictures. All networks start from random weights, take as many epochs as the
quickstart, and are scored on the same unseen pictures.
"""

import argparse
import time

import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from dogbreed.data import sample

TEST_PER_CLASS = 100
BATCH = 32


def load(per_class: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw pictures of all breeds by turns: uint8 NCHW, and int64 labels."""
    keys = [(b, k, seed) for k in range(per_class) for b in range(len(sample.BREEDS))]
    pictures = np.stack([np.asarray(sample.draw(*key).resize((size, size))) for key in keys])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.tensor([b for b, _, _ in keys])


def crop_and_flip(x: Tensor) -> Tensor:
    """Crop 0.8 to 1 of each side and mirror half of the pictures; every picture on its own."""
    scale, mirror = torch.empty(len(x)).uniform_(0.8, 1), torch.randint(0, 2, (len(x),)) * 2 - 1
    shift = torch.empty(len(x), 2).uniform_(-1, 1) * (1 - scale)[:, None]
    affine = torch.zeros(len(x), 2, 3)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = scale * mirror, scale, shift
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False, padding_mode="reflection")


def normal(x: Tensor) -> Tensor:
    return x.float().div(127.5).sub(1).to(memory_format=torch.channels_last)


def train(x: Tensor, y: Tensor, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model("mobilenetv3_small_050", num_classes=len(sample.BREEDS))
    model.train().to(memory_format=torch.channels_last)
    steps = epochs * len(x) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 6e-3, total_steps=steps, pct_start=0.1
    )
    order = torch.cat([torch.randperm(len(x)) for _ in range(epochs)])
    for rows in order[: steps * BATCH].split(BATCH):
        logits = model(crop_and_flip(normal(x[rows])))
        optimizer.zero_grad()
        F.cross_entropy(logits, y[rows], label_smoothing=0.1).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    right = [
        model(normal(a)).argmax(1) == b for a, b in zip(x.split(100), y.split(100), strict=True)
    ]
    return torch.cat(right).float().mean().item()


def colour_histograms(x: Tensor) -> np.ndarray:
    return F.one_hot(x.flatten(2).long() // 32, 8).float().mean(2).flatten(1).numpy()


def small_pixels(x: Tensor) -> np.ndarray:
    return F.adaptive_avg_pool2d(x.float(), 16).flatten(1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-class", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--epochs", type=int, default=24, help="of each network")
    parser.add_argument("--size", type=int, default=80, help="side of the pictures, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, order and crops")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    largest = max(args.per_class)
    x, y = load(largest, args.size, seed=0)
    test_x, test_y = load(TEST_PER_CLASS, args.size, seed=1)
    rate = (len(x) + len(test_x)) / (time.perf_counter() - began)
    print(f"Chance is {1 / len(sample.BREEDS):.2f}; {rate:.0f} pictures drawn a second\n")
    print("| classifier | pictures a breed | test top-1 | s |\n|---|---|---|---|")

    def row(name: str, per_class: int, score: float, since: float) -> None:
        print(
            f"| {name} | {per_class} | {score:.3f} | {time.perf_counter() - since:.0f} |",
            flush=True,
        )

    for features in (colour_histograms, small_pixels):
        since = time.perf_counter()
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        score = linear.fit(features(x), y.numpy()).score(features(test_x), test_y.numpy())
        row(f"linear, {features.__name__.replace('_', ' ')}", largest, float(score), since)
    since = time.perf_counter()
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(args.seed))]
    model = train(x, shuffled, args.epochs, args.seed)
    row("network, shuffled labels", largest, accuracy(model, test_x, test_y), since)
    for per_class in args.per_class:
        since, n = time.perf_counter(), per_class * len(sample.BREEDS)
        model = train(x[:n], y[:n], args.epochs, args.seed)
        row("network", per_class, accuracy(model, test_x, test_y), since)


if __name__ == "__main__":
    main()
