"""What only a CUDA device can show; `nox -s gpu`."""

import json
from pathlib import Path

import pytest
import torch

from dogbreed import images
from dogbreed.cli import main
from dogbreed.data.device import DeviceDecoder, Encoded
from tests.conftest import picture_file

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def device() -> torch.device:
    assert torch.cuda.is_available(), "these tests need a CUDA device"
    return torch.device("cuda", 0)


def test_it_decodes_as_the_cpu_does(device: torch.device) -> None:
    data = [picture_file(90 + 9 * k, 140 - 7 * k, seed=k) for k in range(9)]
    encoded = []
    for place, jpeg in enumerate(data):
        box = images.jpeg_box(jpeg, images.centre_box)
        assert box is not None
        encoded.append(Encoded(place, jpeg, box, place % 2 == 1))
    decoder = DeviceDecoder(device)
    none = torch.empty((0, 3, 96, 96), dtype=torch.uint8, device=device)
    batch, bad = decoder(encoded, none)
    assert (bad, decoder.fallbacks) == ({}, 0)
    for place, jpeg in enumerate(data):
        pixels = images.picture(jpeg, 96, images.centre_box).copy()
        wanted = torch.from_numpy(pixels).permute(2, 0, 1)
        wanted = wanted.flip(2) if place % 2 == 1 else wanted
        assert (batch[place].cpu().int() - wanted.int()).abs().float().mean() < 1.5


@pytest.mark.parametrize("decode", ["cpu", "gpu"])
def test_a_fit_uses_mixed_precision_and_decodes_where_it_was_told_to(
    tiny_dataset: str, tmp_path: Path, decode: str
) -> None:
    words = ["--data.root", tiny_dataset, "--data.image_size", "64", "--data.batch_size", "8"]
    words += ["--data.decode", decode, "--data.workers", "1", "--trainer.max_epochs", "2"]
    words += ["--model.backbone", "mobilenetv3_small_050", "--model.weights", "none"]
    assert main(["fit", *words, "--run_root", str(tmp_path), "--name", "one"]) == 0
    about = json.loads((tmp_path / "one/run.json").read_text())
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert about["precision"] == ("bf16-mixed" if bf16 else "16-mixed")
    assert about.get("decoded_on_cpu") == (0 if decode == "gpu" else None)
    assert main(["test", "--run", str(tmp_path / "one")]) == 0
