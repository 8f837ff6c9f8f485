"""The package's network as one ONNX graph: pixels in, all that an engine answers out."""

import contextlib
import dataclasses
import gzip
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnx.utils
import torch
from torch import Tensor, nn

from dogbreed.engine import TorchEngine
from dogbreed.errors import BadInput
from dogbreed.evaluate.confidence import AHEAD
from dogbreed.evaluate.rejection import Rejection
from dogbreed.exported import HEAT, INPUT, OUTPUTS
from dogbreed.package import Package

OPSET = 20  # of the current exporter; HardSwish and HardSigmoid are single operators since 14


class Graph(nn.Module):
    """What `engine.Answers.of` and `Rejection.scores` do behind a network, as a module.

    Args:
        package: says the network, its calibration and its rejection score.

    Raises:
        BadInput: as `TorchEngine`.
    """

    means: Tensor

    def __init__(self, package: Package) -> None:
        super().__init__()
        self.network = TorchEngine(package, "cpu").network
        self.size = package.model["preprocessing"]["size"]
        self.flip = self.network.flip
        self.calibration = package.calibration
        rejection = package.rejection or Rejection()
        self.score = rejection.score
        if rejection.means is not None and rejection.counts is not None:
            here = torch.from_numpy(rejection.means[rejection.counts > 0])
            self.register_buffer("means", nn.functional.normalize(here, eps=1e-12))
        self.explains = True
        try:
            with torch.inference_mode():
                self(torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8))
        except BadInput:  # a network without a map to its end
            self.explains = False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Probabilities, rejection score, embedding and heat of uint8 images, (B, S, S, 3)."""
        pixels = images.permute(0, 3, 1, 2)
        if self.flip:  # as one batch, so that the graph has each layer once
            pixels = torch.cat([pixels, pixels.flip(3)])
        features = self.network.features(pixels)
        embedding = self.network.pool(features)
        if self.flip:
            embedding = embedding.view(2, images.shape[0], -1).mean(0)
            features = features[: images.shape[0]]
        logits = self.network.classify(embedding)
        temperature = self.calibration.temperature
        scaled = logits / temperature
        probabilities = self._answers_moved(scaled).softmax(1)
        if self.score == "cosine":
            unit = nn.functional.normalize(embedding, eps=1e-12)
            score = 1 - (unit @ self.means.T).amax(1)
        elif self.score == "energy":
            score = -temperature * scaled.logsumexp(1)
        else:
            score = -scaled.softmax(1).amax(1)
        answers = (probabilities, score, embedding)
        if not self.explains:
            return answers
        return (*answers, self.network.heat(features, logits.argmax(1)))

    def _answers_moved(self, scaled: Tensor) -> Tensor:
        """What `Calibration` does beside the temperature."""
        slope, offset = self.calibration.slope, self.calibration.offset
        if (slope, offset) == (1.0, 0.0):
            return scaled
        is_answer = torch.arange(scaled.shape[1]) == scaled.argmax(1, keepdim=True)
        others = scaled.masked_fill(is_answer, -torch.inf)
        rest, runner_up = others.logsumexp(1, keepdim=True), others.amax(1, keepdim=True)
        moved = rest + slope * (scaled.amax(1, keepdim=True) - rest) + offset
        return torch.where(is_answer, moved.maximum(runner_up + AHEAD), scaled)


@dataclasses.dataclass(frozen=True)
class Exported:
    """An ONNX graph, and what it is made of."""

    model: onnx.ModelProto
    size: int
    explains: bool
    opset: int = OPSET


def to_onnx(package: Package) -> Exported:
    """Trace a package's network; its batch is any number of pictures.

    Raises:
        BadInput: the exporter cannot translate this network.
    """
    graph = Graph(package).eval()
    example = torch.zeros(2, graph.size, graph.size, 3, dtype=torch.uint8)
    names = [*OUTPUTS, *([HEAT] if graph.explains else [])]
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=names,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        line = " ".join(str(error).split())[:200]
        backbone = package.model["backbone"]
        raise BadInput(f"{backbone}: torch cannot export this network ({line})") from error
    assert program is not None
    return Exported(program.model_proto, graph.size, graph.explains)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself, which a user can do nothing about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    silence = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def onnx_files(exported: Exported) -> dict[str, bytes]:
    """The files of format `onnx`: one with `heat`, one without, and the weights of both."""
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "explain.onnx"
        # Saving moves the weights out of the graph that it is given.
        model = onnx.ModelProto()
        model.CopyFrom(exported.model)
        onnx.save_model(
            model,
            whole,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location="weights.bin",
            size_threshold=1024,
        )
        graph = onnx.load(whole, load_external_data=False)
        extractor = onnx.utils.Extractor(graph)
        usual = extractor.extract_model([INPUT], list(OUTPUTS))
        files = {"model.onnx": usual.SerializeToString()}
        if exported.explains:
            files["explain.onnx"] = graph.SerializeToString()
        weights = Path(folder) / "weights.bin"
        return files | {"weights.bin": weights.read_bytes() if weights.exists() else b""}


def openvino_files(exported: Exported, *, half: bool = False) -> dict[str, bytes]:
    """The files of format `openvino`.

    Args:
        exported: from `to_onnx`, or quantised.
        half: keep in 16 bits what is in 32.
    """
    import openvino

    graph = openvino.Core().read_model(exported.model.SerializeToString())
    with TemporaryDirectory() as folder:
        openvino.save_model(graph, Path(folder) / "model.xml", compress_to_fp16=half)
        # The description of an int8 graph is a megabyte of text, which shrinks to a twentieth.
        text = gzip.compress(Path(folder, "model.xml").read_bytes(), mtime=0)
        return {"model.xml.gz": text, "model.bin": Path(folder, "model.bin").read_bytes()}
