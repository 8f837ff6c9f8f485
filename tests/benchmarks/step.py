"""Images a second of full fine-tuning in `fit`, over the same step in a bare loop.

    python -m tests.benchmarks.step --root DATA --weights FILE

The bare loop has its batches in memory, cropped, flipped and lit; otherwise forward, loss,
backward and AdamW are the same. Rounds alternate; medians of steps, the first ones left out.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch

from dogbreed.data.datamodule import DogDataModule
from dogbreed.data.dataset import Batch
from dogbreed.data.transforms import relight
from dogbreed.finding import Clock, bare_trainer
from dogbreed.memory import keep_freed_memory
from dogbreed.model.metrics import masked_cross_entropy
from dogbreed.model.module import DogModule
from dogbreed.training import quiet

SKIPPED = 3  # steps of a round in which workers and memory warm up


class Keep(Clock):
    """Times the steps and keeps the first batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep a batch."""
        if len(self.batches) < 8:
            self.batches.append({**batch, "image": batch["image"].clone()})


def in_fit(options: argparse.Namespace, precision: Any) -> tuple[list[float], DogModule, Keep]:
    """Seconds of each step of a fit of that many steps."""
    data = DogDataModule(root=options.root, batch_size=options.batch_size, crop=1.0)
    module = DogModule(
        data.class_names, backbone=options.backbone, weights=options.weights, lr=1e-4
    )
    clock = Keep()
    trainer = bare_trainer(options.steps, clock, {"accelerator": "cpu", "precision": precision})
    trainer.fit(module, data)
    return list(np.diff(clock.ends)), module, clock


def bare(module: DogModule, batches: list[Batch], steps: int) -> list[float]:
    """Seconds of each step on batches in memory."""
    network = module.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    for batch in batches:
        batch["image"] = relight(batch["image"], batch["light"])
    ends = [time.monotonic()]
    for step in range(steps):
        batch = batches[step % len(batches)]
        loss = masked_cross_entropy(
            network(batch["image"]), batch["label"], batch["valid"], module.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        ends.append(time.monotonic())
    return list(np.diff(ends))


def main() -> None:
    """Alternate, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="a prepared data set")
    parser.add_argument("--weights", required=True, help="of the backbone, a .safetensors file")
    parser.add_argument("--backbone", default="tf_mobilenetv3_large_minimal_100")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quiet()
    keep_freed_memory()
    ratios = []
    for number in range(options.rounds):
        fitted, module, clock = in_fit(options, "32-true")
        alone = bare(module, clock.batches, options.steps)
        speeds = [options.batch_size / float(np.median(s[SKIPPED:])) for s in (fitted, alone)]
        ratios.append(speeds[0] / speeds[1])
        print(
            f"round {number + 1}: fit {speeds[0]:.1f}, bare {speeds[1]:.1f} images/s,"
            f" ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median ratio {np.median(ratios):.3f}")


if __name__ == "__main__":
    main()
