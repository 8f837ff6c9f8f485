"""int8 after training: NNCF's quantisation of the ONNX graph, and which layers it hurts.

Weights have a scale for each channel: MobileNetV3's depthwise kernels differ so much from channel
to channel that one scale for all leaves nothing of them.
"""

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
import onnx.utils

from dogbreed.exported import INPUT

LAYERS = frozenset({"Conv", "Gemm", "MatMul"})


def to_int8(
    model: onnx.ModelProto,
    pictures: list[np.ndarray],
    *,
    keep: Iterable[str] = (),
    per_channel: bool = True,
) -> onnx.ModelProto:
    """Quantise weights and activations.

    Args:
        model: in float32.
        pictures: to measure the range of each activation with: uint8, (1, S, S, 3) each.
        keep: names of nodes that stay in float32.
        per_channel: a scale for each channel of a weight, rather than one for all.
    """
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # Of ranges for each channel of a depthwise layer it says that they are not from histograms.
    nncf.set_log_level(logging.ERROR)
    source = onnx.ModelProto()
    source.CopyFrom(model)
    # Rejection score and heat are as exact as the features that they are made of, probabilities as
    # the logits.
    way = _way(model)
    last = max(k for k, node in enumerate(way) if node.op_type in LAYERS)
    on_the_way = {node.name for node in way[: last + 1]}
    beside = {node.name for node in model.graph.node} - on_the_way
    quantised: onnx.ModelProto = nncf.quantize(
        source,
        nncf.Dataset([{INPUT: picture} for picture in pictures]),
        # activations of Swish lie on both sides of zero, unevenly
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(names=sorted({*keep, *beside}), validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            weights_quantization_params=QuantizationParameters(per_channel=per_channel),
            # Ranges of the least error; those of the extremes lose half as much again in accuracy.
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
        ),
    )
    _halve(quantised, beside)
    return quantised


def _halve(model: onnx.ModelProto, names: set[str]) -> None:
    """Keep in 16 bits what nodes of these names alone have in 32: the means of the breeds.

    They would be a sixth of a small network; a cosine changes by 1e-5.
    """
    constants = {each.name: each for each in model.graph.initializer}
    users = Counter(name for node in model.graph.node for name in node.input)
    for node in [n for n in model.graph.node if n.name in names and n.op_type in LAYERS]:
        for k, name in enumerate(node.input):
            if users[name] > 1 or name not in constants or len(constants[name].dims) != 2:
                continue
            half = onnx.numpy_helper.to_array(constants[name]).astype(np.float16)
            constants[name].CopyFrom(onnx.numpy_helper.from_array(half, name))
            whole = onnx.helper.make_node("Cast", [name], [f"{name}_whole"], to=1)  # float32
            model.graph.node.insert(0, whole)
            node.input[k] = f"{name}_whole"


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes with weights on the way to the probabilities, in their order."""
    return [node.name for node in _way(model) if node.op_type in LAYERS]


def _way(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that the probabilities are made by, in their order."""
    usual = onnx.utils.Extractor(model).extract_model([INPUT], ["probabilities"])
    return list(usual.graph.node)


def hurt(
    model: onnx.ModelProto, quantised: onnx.ModelProto, pictures: np.ndarray
) -> list[tuple[str, float]]:
    """How much noise int8 adds at each layer, most first.

    Noise is the mean squared difference of a channel of a layer's output over the mean square of
    what it should be, at most 1, in the mean over channels: a small channel that is lost counts
    as much as a large one, for the layers above may weigh it up. What counts against a layer is
    what it has more than the worst of those before it.

    Args:
        model: in float32.
        quantised: from `to_int8`.
        pictures: uint8, (n, S, S, 3), a few.

    Returns:
        Name of the node in `model`, and its share of noise.
    """
    import onnxruntime

    names = layers(model)
    output = {node.name: node.output[0] for node in model.graph.node}
    seen = []
    for graph in (model, quantised):
        probed = onnx.ModelProto()
        probed.CopyFrom(graph)
        there = {name for node in probed.graph.node for name in node.output}
        wanted = [output[name] for name in names if output[name] in there]
        known = {each.name for each in probed.graph.output}
        probed.graph.output.extend(
            onnx.helper.make_empty_tensor_value_info(name) for name in wanted if name not in known
        )
        session = onnxruntime.InferenceSession(
            probed.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        seen.append(dict(zip(wanted, session.run(wanted, {INPUT: pictures}), strict=True)))
    found, worst = [], 0.0
    for name in names:
        if output[name] in seen[0] and output[name] in seen[1]:
            right, got = seen[0][output[name]], seen[1][output[name]]  # (n, C, …)
            rest = (0, *range(2, right.ndim))
            lost = ((right - got) ** 2).mean(rest) / np.maximum((right**2).mean(rest), 1e-12)
            noise = float(np.minimum(lost, 1).mean())
            found.append((name, max(0.0, noise - worst)))
            worst = max(worst, noise)
    return sorted(found, key=lambda each: -each[1])
