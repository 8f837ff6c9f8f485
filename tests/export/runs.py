"""Runs with nothing but a package: networks that were never trained, or only their heads."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from dogbreed import package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.evaluate.rejection import Rejection
from dogbreed.export.pictures import Pictures
from dogbreed.model.backbone import Network

SIZE = 64


def write_run(network: Network, data: Manifest, folder: Path, *, flip: bool = True) -> str:
    """A run that holds a network; its URL."""
    rng = np.random.default_rng(0)
    classes = len(data.classes)
    means = rng.normal(size=(classes, network.head.in_features)).astype(np.float32)
    rejection = Rejection("cosine", 0.5, means=means, counts=np.arange(classes) % 3)
    model = {
        "run": "tiny",
        "backbone": network.name,
        "classes": [{"name": name} for name in data.classes],
        "preprocessing": {"size": SIZE, "crop": 1.0, "flip": flip},
        "temperature": 1.7,
        "platt": {"slope": 0.8, "offset": 0.3},
        "data": {"name": data.name, "version": data.version},
        "pretraining": "none (random)",
        "metrics": {"val": {"top1": 0.5}},
    }
    weights = save({k: v.contiguous() for k, v in network.body.state_dict().items()})
    package.write(str(folder / "model"), model, weights, rejection=rejection)
    about = {"created": "2026", "data": {"root": data.root, "version": data.version}}
    storage.write_json(str(folder / "run.json"), about)
    return str(folder)


def make_run(backbone: str, data: Manifest, folder: Path) -> str:
    """A run of random weights that tell pictures apart."""
    torch.manual_seed(0)
    network = Network(backbone, len(data.classes))
    for _ in range(3):
        network(torch.randint(0, 256, (16, 3, SIZE, SIZE), dtype=torch.uint8))
    torch.nn.init.normal_(network.head.weight, std=8.0)  # type: ignore[arg-type]
    return write_run(network, data, folder)


def make_fitted_run(
    backbone: str, data: Manifest, folder: Path, *, spread: float, where: str = "bn1"
) -> str:
    """A run of random weights whose head was fitted to the training pictures.

    Args:
        backbone: with depthwise layers.
        data: pictures of a breed must be much alike, for nothing else was learnt.
        folder: of the run.
        spread: how much the channels of some layers differ, as those of trained networks do: the
            standard deviation of the logarithms of their scales.
        where: the end of the names of these layers' BatchNorm.
    """
    torch.manual_seed(0)
    network = Network(backbone, len(data.classes))
    for name, module in network.body.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d) and name.endswith(where):
            module.weight.data.normal_(std=spread).exp_()
    source = package.read(write_run(network, data, folder) + "/model")
    pictures = Pictures.of(source, data, "train")
    batches = [torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in pictures.batches("train")]
    with torch.no_grad():
        for _ in range(4):
            for batch in batches:
                network.train()(batch)
        network.eval()
        x = torch.cat([network.answers(batch).embedding for batch in batches]).double()
        centre, scale = x.mean(0), x.std()
        x = (x - centre) / scale
        y = torch.nn.functional.one_hot(torch.from_numpy(pictures.labels)).double()
        y -= y.mean(0)
        w = torch.linalg.solve(x.T @ x + 5 * torch.eye(x.shape[1]).double(), x.T @ y).T * 10 / scale
        network.head.weight.copy_(w)
        network.head.bias.copy_(-(w @ centre))
    return write_run(network, data, folder, flip=False)
