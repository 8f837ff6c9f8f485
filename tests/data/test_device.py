"""Decoding on the device, with nvImageCodec's own decoders for the CPU where there is no GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dogbreed import images
from dogbreed.cli import main
from dogbreed.data.dataset import Batch, PictureDataset
from dogbreed.data.device import DeviceDecoder, Encoded
from dogbreed.data.loader import EpochLoader
from dogbreed.data.manifest import Manifest
from dogbreed.data.order import Request
from dogbreed.data.transforms import Augment
from tests.conftest import picture_file

SIZE = 32
CPU = torch.device("cpu")


def decoder() -> DeviceDecoder:
    return DeviceDecoder(CPU)


def none() -> torch.Tensor:
    return torch.empty((0, 3, SIZE, SIZE), dtype=torch.uint8)


def encoded(data: bytes, place: int = 0, *, flip: bool = False) -> Encoded:
    box = images.jpeg_box(data, images.centre_box)
    assert box is not None
    return Encoded(place, data, box, flip)


def by_cpu(data: bytes) -> torch.Tensor:
    pixels = images.picture(data, SIZE, images.centre_box)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def dataset(root: str, *, on_device: bool, size: int = SIZE) -> PictureDataset:
    data = Manifest.open(root)
    return PictureDataset(
        data,
        np.arange(len(data.classes)),
        size=size,
        crop=1.0,
        augment=Augment(),
        seed=4,
        encoded=on_device,
    )


def differences(a: torch.Tensor, b: torch.Tensor) -> tuple[float, int]:
    apart = (a.int() - b.int()).abs()
    return float(apart.float().mean()), int(apart.max())


class TestDecoder:
    @pytest.mark.parametrize("size", [(64, 48), (40, 40), (48, 90)])
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_it_gives_what_the_cpu_gives(self, size: tuple[int, int], mode: str) -> None:
        data = picture_file(*size)
        if mode == "L":
            data = images.cut(data, (0, 0, *size))
        (got,), bad = decoder()([encoded(data)], none())
        mean, most = differences(got, by_cpu(data))
        assert not bad
        assert (mean < 0.6, most <= 12) == (True, True)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_it_turns_pictures_upright(self, orientation: int) -> None:
        exif = images.Image.Exif()
        exif[0x0112] = orientation
        data = picture_file(64, 40, exif=exif)
        (got,), _ = decoder()([encoded(data)], none())
        assert differences(got, by_cpu(data))[0] < 0.6

    def test_it_mirrors(self) -> None:
        data = picture_file()
        plain, _ = decoder()([encoded(data)], none())
        mirrored, _ = decoder()([encoded(data, flip=True)], none())
        assert torch.equal(mirrored, plain.flip(3))
        assert not torch.equal(mirrored, plain)

    def test_what_is_decoded_already_keeps_its_place(self) -> None:
        data = [picture_file(seed=k) for k in range(2)]
        ready = torch.full((2, 3, SIZE, SIZE), 7, dtype=torch.uint8)
        one = decoder()
        batch, _ = one([encoded(data[0], 1), encoded(data[1], 3)], ready)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert [bool((batch[k] == 7).all()) for k in range(4)] == [True, False, True, False]
        assert differences(batch[3], by_cpu(data[1]))[0] < 0.6
        assert one.fallbacks == 2

    def test_what_it_gives_up_on_the_cpu_decodes_and_that_is_counted(self) -> None:
        png = picture_file(format="PNG")
        foreign = Encoded(0, b"\0" * 8 + png, (0, 0, 48, 48), False)
        lossless = Encoded(1, picture_file(format="WEBP", lossless=True), (8, 0, 56, 48), False)
        one = decoder()
        batch, bad = one([foreign, lossless], none())
        assert list(bad) == [0]
        assert (batch[0] == 0).all()
        assert differences(batch[1], by_cpu(lossless.data))[0] < 0.6
        assert one.fallbacks >= 1


class TestDataset:
    def request(self, rows: list[int]) -> Request:
        n = len(rows)
        valid = np.arange(n) < n - 1  # the last is padding
        return Request(3, np.array(rows), valid, samples_seen=n, times=np.zeros(n, np.int64))

    def test_the_views_are_those_that_the_cpu_takes(self, tiny_dataset: str) -> None:
        size = (
            64  # larger than half of any box: the CPU would decode fewer pixels for a smaller one
        )
        rows = list(range(0, 24, 2))
        here, there = (
            dataset(tiny_dataset, on_device=where, size=size).__getitems__(self.request(rows))
            for where in (False, True)
        )
        assert len(there["jpegs"]) == len(rows) - 1
        assert {picture.flip for picture in there["jpegs"]} == {False, True}
        assert len(there["image"]) == 1
        batch, _ = DeviceDecoder(CPU)(there["jpegs"], there["image"])
        assert differences(batch, here["image"])[0] < 1
        for name in ("light", "label", "valid", "row"):
            assert torch.equal(here[name], there[name])

    def test_they_come_through_workers(self, tiny_dataset: str) -> None:
        def batches(workers: int) -> list[Batch]:
            loader = EpochLoader(
                dataset(tiny_dataset, on_device=True),
                np.arange(20),
                batch_size=8,
                shuffle=True,
                workers=workers,
            )
            found = list(loader)
            loader.close()
            return found

        for a, b in zip(batches(0), batches(1), strict=True):
            assert a["jpegs"] == b["jpegs"]
            assert torch.equal(a["image"], b["image"])


def test_without_a_cuda_device_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    words = ["fit", "--data.decode", "gpu", "--run_root", str(tmp_path), "--name", "x"]
    assert main(words) == 2
    assert "--data.decode gpu: there is no CUDA device here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
