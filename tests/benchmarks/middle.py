"""Is it worth keeping activations at a mid stage? What a step costs below the place and above it.

    python -m tests.benchmarks.middle --weights FILE [--backbone NAME]

Stem and lower stages stay as they are in `configs/mobilenet.yaml`. With their activations kept, for
some augmented views of each picture, a step would be what lies above them, and no picture decoded.
"""

import argparse
import time

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from dogbreed.memory import keep_freed_memory
from dogbreed.model.backbone import Network
from dogbreed.model.schedule import Schedule

LEARN = 5  # the recipe's parts that learn: the last convolution and four stages
RECIPE = Schedule(2e-3, 5e-5, 1.0, 0.02, 0.1, [0.0] * LEARN)
SKIPPED = 2  # steps in which memory warms up


def main() -> None:
    """Print medians, and the size of what would be kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="of the backbone, a .safetensors file")
    parser.add_argument("--backbone", default="tf_mobilenetv3_large_minimal_100")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    keep_freed_memory()
    network = Network(options.backbone, 1000)
    network.body.load_state_dict(load_file(options.weights))
    network.to(memory_format=torch.channels_last)
    RECIPE.freeze(network)
    network.keep_statistics()
    body, cut = network.train().body, len(network.body.blocks) - (LEARN - 1)
    learning = [parameter for parameter in body.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-6, fused=True)
    images = torch.randint(0, 256, (options.batch_size, 3, 224, 224), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (options.batch_size,))
    spent = []
    for _ in range(options.steps):
        begun = time.monotonic()
        with torch.no_grad():
            x = body.bn1(body.conv_stem((images.float() - network.mean) / network.std))
            x = body.blocks[:cut](x)
        middle = time.monotonic()
        loss = cross_entropy(body.forward_head(body.blocks[cut:](x)), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        spent.append((middle - begun, time.monotonic() - middle))
    below, above = np.median(spent[SKIPPED:], axis=0) / options.batch_size
    print(
        f"{options.backbone}: below {1e3 * below:.2f} ms a picture, above {1e3 * above:.2f};"
        f" {1 / (below + above):.0f} images/s, {1 / above:.0f} with activations kept, of"
        f" {2 * x[0].numel() / 1e3:.0f} kB a view in float16"
    )


if __name__ == "__main__":
    main()
