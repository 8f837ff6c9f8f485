"""An earlier project's recipe on the same photographs, weights and split: the fair baseline.

Raw pixels from 0 to 255 without normalisation, pictures squeezed to 200x200, Adam at 1e-3 on all
layers, BatchNorm in training mode, no augmentation, five epochs.

    python -m tests.benchmarks.earlier --root DATA --weights FILE
"""

import argparse
import time

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dogbreed import images
from dogbreed.data.dataset import PictureDataset
from dogbreed.data.manifest import Manifest
from dogbreed.memory import keep_freed_memory

SIZE = 200


def pictures(manifest: Manifest, split: str) -> tuple[Tensor, Tensor]:
    """All of a split: uint8, (n, 3, 200, 200), squeezed, and labels, int64, (n,)."""
    rows = manifest.rows_of(split)
    data = PictureDataset(manifest, np.arange(len(manifest.classes)), size=SIZE, crop=1.0)
    pixels = torch.empty(len(rows), SIZE, SIZE, 3, dtype=torch.uint8)
    for begin in range(0, len(rows), 256):
        for k, found in enumerate(data._fetch(manifest.take(rows[begin : begin + 256]))):
            assert isinstance(found, bytes)
            whole = images.picture(found, SIZE, lambda w, h: (0, 0, w, h))
            pixels[begin + k] = torch.from_numpy(whole)
    labels = torch.from_numpy(np.asarray(manifest.column("label")[rows], np.int64))
    return pixels.permute(0, 3, 1, 2), labels


def scored(network: nn.Module, pixels: Tensor, labels: Tensor) -> tuple[float, float]:
    """Top-1 and log-loss."""
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(batch.float()) for batch in pixels.split(64)])
    top1 = (logits.argmax(1) == labels).float().mean().item()
    return top1, nn.functional.cross_entropy(logits, labels).item()


def main() -> None:
    """Train, and score each epoch on val and the last one on test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="a prepared data set")
    parser.add_argument("--weights", required=True, help="of the backbone, a .safetensors file")
    parser.add_argument("--backbone", default="tf_mobilenetv3_large_minimal_100")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    manifest = Manifest.open(options.root)
    network = timm.create_model(options.backbone, num_classes=1000)
    network.load_state_dict(load_file(options.weights))
    network.reset_classifier(len(manifest.classes))
    network.to(memory_format=torch.channels_last)
    pixels, labels = pictures(manifest, "train")
    val = pictures(manifest, "val")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    begun = time.monotonic()
    for epoch in range(options.epochs):
        network.train()
        for batch in torch.randperm(len(labels)).split(options.batch_size):
            loss = nn.functional.cross_entropy(network(pixels[batch].float()), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        minutes = (time.monotonic() - begun) / 60
        top1, log_loss = scored(network, *val)
        print(
            f"epoch {epoch + 1}: {minutes:.1f} min, val top-1 {top1:.4f}, log-loss {log_loss:.3f}",
            flush=True,
        )
    top1, log_loss = scored(network, *pictures(manifest, "test"))
    print(f"test top-1 {top1:.4f}, log-loss {log_loss:.3f}")


if __name__ == "__main__":
    main()
