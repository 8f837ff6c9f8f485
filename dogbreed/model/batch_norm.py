"""BatchNorm with fixed statistics, folded into the kernels before it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.conv2d_same import conv2d_same
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

Forward = Callable[[Tensor], Tensor]


def batch_norms(body: nn.Module) -> list[_BatchNorm]:
    """All BatchNorm layers of a network."""
    return [module for module in body.modules() if isinstance(module, _BatchNorm)]


def fold(body: nn.Module, size: int = 64) -> int:
    """Let each convolution do the work of the BatchNorm behind it, while that is in evaluation.

    With its statistics fixed a BatchNorm is one factor and one shift a channel, so that
    norm(conv(x, w)) = conv(x, w * factor, shift): the same function of the same parameters, with
    the same gradients, without a pass forth and one back over the activations. In training mode,
    and for layers that are not fed by one convolution alone, all stays as it is. Parameters and
    their names do not change.

    Args:
        body: a network of pictures; one forward tells which layers belong together.
        size: side in pixels of the picture for that.

    Returns:
        How many pairs there are; 0 too where what comes out would change, for the network uses
        what its convolutions give in other places as well.
    """
    return len(_folded(body, size))


def merge(body: nn.Module, size: int) -> int:
    """`fold` for a network that learns no more: kernels are multiplied once, not at each forward.

    Args:
        body: a network of pictures, in evaluation.
        size: as for `fold`.

    Returns:
        As `fold`.
    """
    pairs = _folded(body, size) if batch_norms(body) else []
    for conv, norm in dict(pairs).items():  # once, even if a layer is used several times
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        del conv.forward  # the instance's own
    return len(pairs)


def _folded(body: nn.Module, size: int) -> list[tuple[Any, Any]]:
    """The pairs that now work as one."""
    images = torch.rand(1, 3, size, size, device=next(body.parameters()).device)
    pairs = _pairs(body, images)
    before = _answer(body, images)
    for conv, norm in pairs:
        vars(conv)["forward"] = partial(_conv, conv, norm, conv.forward)
        vars(norm)["forward"] = partial(_norm, norm, norm.forward)
    if torch.allclose(before, _answer(body, images), rtol=1e-3, atol=1e-4):
        return pairs
    for module in (module for pair in pairs for module in pair):
        del vars(module)["forward"]
    return []


def _pairs(body: nn.Module, images: Tensor) -> list[tuple[Any, Any]]:
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor too, or its id would be used again
    pairs: list[tuple[Any, Any]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if type(module) in (nn.Conv2d, Conv2dSame) and module.padding_mode == "zeros":
            made[id(output)] = module, output
        elif isinstance(module, _BatchNorm) and module.affine and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    hooks = [module.register_forward_hook(note) for module in body.modules()]
    try:
        _answer(body, images)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _answer(body: nn.Module, images: Tensor) -> Tensor:
    """What comes out in evaluation, with BatchNorms that are far from doing nothing."""
    rng = torch.Generator(images.device).manual_seed(0)
    uneven = {
        f"{name}.{key}": torch.rand(value.shape, generator=rng, device=value.device) + 0.5
        for name, module in body.named_modules()
        if isinstance(module, _BatchNorm)
        for key, value in module.state_dict().items()
        if value.ndim == 1
    }
    modes = [(module, module.training) for module in body.modules()]
    with torch.no_grad():
        out: Tensor = functional_call(body.eval(), uneven, images)
    for module, training in modes:
        module.training = training
    return out


def _conv(conv: nn.Conv2d, norm: Any, plain: Forward, x: Tensor) -> Tensor:
    if norm.training:
        return plain(x)
    factor = torch.rsqrt(norm.running_var + norm.eps) * norm.weight
    shift = norm.bias - norm.running_mean * factor
    if conv.bias is not None:
        shift = shift + conv.bias * factor
    kernel = conv.weight * factor[:, None, None, None]
    convolve = conv2d_same if isinstance(conv, Conv2dSame) else F.conv2d
    out: Tensor = convolve(x, kernel, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
    return out


def _norm(norm: Any, plain: Forward, x: Tensor) -> Tensor:
    if norm.training:
        return plain(x)
    out: Tensor = norm.act(norm.drop(x)) if isinstance(norm, BatchNormAct2d) else x
    return out
