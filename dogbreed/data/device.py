"""JPEGs that the device decodes, crops and flips, a batch at once (nvImageCodec).

Workers then only fetch, check and look at headers. What the device's decoder does not take
(PNG, WebP, CMYK) they decode themselves, and what it gives up on is decoded here, by
`images.picture`; both are counted.
"""

import importlib.util
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dogbreed import images
from dogbreed.errors import BadInput


class Encoded(NamedTuple):
    """A picture that is still a JPEG."""

    place: int
    """Its row in the batch."""
    data: bytes
    box: tuple[int, int, int, int]
    """Left, top, right, bottom: what to cut, in whole pixels of the upright picture."""
    flip: bool


def check_available() -> None:
    """See that a GPU can decode here.

    Raises:
        BadInput: there is none, or nvImageCodec is not installed.
    """
    if not torch.cuda.is_available():
        raise BadInput("--data.decode gpu: there is no CUDA device here; leave it at cpu")
    if importlib.util.find_spec("nvidia.nvimgcodec") is None:
        raise BadInput("--data.decode gpu needs nvImageCodec: pip install 'dogbreed[gpu]'")


class DeviceDecoder:
    """Turns encoded pictures into a batch.

    Args:
        device: where to decode; a CPU will do too, with the same library.
    """

    def __init__(self, device: torch.device) -> None:
        from nvidia import nvimgcodec as codec

        self.device = device
        self.fallbacks = 0
        """Pictures of all batches so far that `images.picture` decoded."""
        self._params = codec.DecodeParams(
            apply_exif_orientation=True, sample_format=codec.SampleFormat.I_RGB
        )
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._decoder = codec.Decoder(device_id=index)
        else:
            self._decoder = codec.Decoder(
                device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY,
                backends=[codec.Backend(codec.BackendKind.CPU_ONLY)],
            )

    def __call__(
        self, encoded: list[Encoded], decoded: Tensor
    ) -> tuple[Tensor, dict[int, images.BadImage]]:
        """A whole batch.

        Args:
            encoded: the pictures to decode, k of them.
            decoded: uint8, (B - k, 3, S, S), on the device: the batch's others, in order.

        Returns:
            uint8, (B, 3, S, S), channels last, on the device; and by their places the pictures
            that nobody can read, which are black.
        """
        self.fallbacks += len(decoded)
        bad = {}
        n, size = len(encoded) + len(decoded), decoded.shape[-1]
        batch = torch.zeros((n, size, size, 3), dtype=torch.uint8, device=self.device)
        batch = batch.permute(0, 3, 1, 2)
        others = sorted(set(range(n)) - {picture.place for picture in encoded})
        batch[others] = decoded
        stream = torch.cuda.current_stream(self.device).cuda_stream if self._on_cuda else 0
        found = self._decoder.decode(
            [picture.data for picture in encoded], params=self._params, cuda_stream=stream
        )
        for picture, pixels in zip(encoded, found, strict=True):
            try:
                square = (
                    self._by_cpu(picture, size)
                    if pixels is None
                    else self._square(picture, pixels, size)
                )
            except images.BadImage as error:
                bad[picture.place] = error
                continue
            batch[picture.place] = square.flip(2) if picture.flip else square
        return batch, bad

    @property
    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def _square(self, picture: Encoded, pixels: Any, size: int) -> Tensor:
        """The box of a decoded picture, resized: uint8, (3, S, S)."""
        here = torch.as_tensor(pixels if self._on_cuda else np.asarray(pixels), device=self.device)
        left, top, right, bottom = picture.box
        part = here[top:bottom, left:right].permute(2, 0, 1)[None].float()
        resized = F.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]
        return resized.round_().clamp_(0, 255).to(torch.uint8)

    def _by_cpu(self, picture: Encoded, size: int) -> Tensor:
        self.fallbacks += 1
        pixels = images.picture(picture.data, size, lambda _width, _height: picture.box)
        return torch.from_numpy(pixels).permute(2, 0, 1).to(self.device)
