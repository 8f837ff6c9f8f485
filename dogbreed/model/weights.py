"""Where a network's first weights come from."""

import os
import socket
import urllib.parse
import urllib.request

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from dogbreed import breeds, package, storage
from dogbreed.errors import BadInput, OutOfReach, nearest
from dogbreed.model.backbone import Network
from dogbreed.runs import RUN_FILE

PROBE_SECONDS = 3.0


def hub_reachable() -> bool:
    """Whether the Hugging Face Hub (`$HF_ENDPOINT`) takes a connection, asked once, at most 3 s.

    timm would retry for 46 s before it said no. A cached model needs no Hub, but then
    `$HF_HUB_OFFLINE` says so.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return True
    url = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if proxy := urllib.request.getproxies().get(url.scheme):
        url = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=PROBE_SECONDS):
            return True
    except OSError:
        return False


def load_weights(
    network: Network,
    backbone: str,
    weights: str,
    class_names: list[str],
    *,
    head: str = "new",
    random_allowed: bool = False,
) -> str:
    """Fill `network` with its first weights.

    Args:
        network: of this backbone; its head keeps its own start unless the weights are those of
            a run with the same classes, or `head` says otherwise.
        backbone: timm's name.
        weights: `auto`, `imagenet`, `none`, a .safetensors file in timm's names, or a run.
        class_names: the classes of the head.
        head: `new`; `known`: each class that the weights' own classifier knows starts from its
            row there; `auto`: so if there is such a class.
        random_allowed: whether `auto` may fall back to random weights when there is no Hub.

    Returns:
        One line that says what was really used.

    Raises:
        BadInput: the weights cannot be had, or are those of another model.
    """
    if weights == "none":
        return _random("", head)
    if weights in {"auto", "imagenet"}:
        if not timm.get_pretrained_cfg(backbone).has_weights:
            if weights == "auto":
                return _random(": timm has no pretrained weights of this backbone", head)
            raise BadInput(f"--model.weights imagenet: timm has no weights of {backbone}")
        if hub_reachable():
            state = _from_hub(backbone, weights)
            _fill(network, state, weights)
            used = f"imagenet: {timm.get_pretrained_cfg(backbone).hf_hub_id or backbone}"
            return used + _know(network, state, class_names, weights, head)
        if weights == "auto" and random_allowed:
            return _random(": the Hugging Face Hub cannot be reached", head)
        raise OutOfReach(
            f"--model.weights {weights}: the Hugging Face Hub cannot be reached; give a"
            " .safetensors file or a run, or pass --model.weights none to start from random weights"
        )
    if urllib.parse.urlsplit(weights).path.endswith(".safetensors"):
        data = storage.read(weights)
        try:
            state = load_safetensors(data)
        except SafetensorError as error:
            raise BadInput(f"{weights}: not a safetensors file ({error})") from None
        _fill(network, state, weights)
        used = f"file: {weights} (SHA-256 {storage.digest_of(data)[:12]})"
        return used + _know(network, state, class_names, weights, head)
    if "/" not in weights and not storage.exists(storage.join(weights, RUN_FILE)):
        known = nearest(weights, ("auto", "imagenet", "none"))
        raise BadInput(f"--model.weights {weights}: neither a run nor a .safetensors file{known}")
    source = package.read(storage.join(weights, package.FOLDER))
    if source.model["backbone"] != backbone:
        raise BadInput(
            f"--model.weights {weights}: that run's model is {source.model['backbone']},"
            f" not {backbone}"
        )
    names = [entry["name"] for entry in source.model["classes"]]
    state = load_safetensors(source.weights())
    _fill(network, state, weights, keep_head=names == class_names)
    used = f"run: {weights} ({source.model['pretraining']})"
    if names == class_names:
        return f"{used}, head kept"
    return used + _know(network, state, class_names, weights, head, names)


def has_learnt(used: str) -> tuple[bool, bool]:
    """Whether the backbone and all of the head start from weights, by what `load_weights` said."""
    backbone = not used.startswith("none")
    return backbone, backbone and not used.endswith("new")


def _random(why: str, head: str) -> str:
    if head == "known":
        raise BadInput(
            f"--model.head known: random weights know no class{why}; pass --model.head auto"
        )
    return f"none (random){why}"


def _from_hub(backbone: str, weights: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:  # the Hub's client, its HTTP client and timm each have their own
        line = " ".join(str(error).split())[:200]
        raise OutOfReach(
            f"--model.weights {weights}: {backbone} cannot be had from the Hugging Face Hub: {line}"
        ) from error
    return state


def _fill(
    network: Network, state: dict[str, Tensor], source: str, *, keep_head: bool = False
) -> None:
    """Load a timm state dict, all of it but the head.

    Raises:
        BadInput: names or shapes differ: the weights are those of another model.
    """
    own = network.body.state_dict()

    def loaded(name: str) -> bool:
        return keep_head or not name.startswith(f"{network.head_name}.")

    wanted, given = set(filter(loaded, own)), set(filter(loaded, state))
    wrong = sorted(wanted ^ given) or sorted(
        name for name in wanted if own[name].shape != state[name].shape
    )
    if wrong:
        raise BadInput(
            f"--model.weights {source}: weights of another model: {len(wrong)} tensors don't fit,"
            f" first {wrong[0]!r}"
        )
    network.body.load_state_dict({name: state[name] for name in wanted}, strict=False)


def _know(
    network: Network,
    state: dict[str, Tensor],
    class_names: list[str],
    source: str,
    head: str,
    names: list[str] | None = None,
) -> str:
    """Start the head's rows from those of the same classes in `state`, if `head` says so.

    Args:
        network: whose head it is.
        state: timm's state dict.
        class_names: the head's classes.
        source: where `state` is from.
        head: `new`, `known` or `auto`.
        names: the classes of `state`; none: those of ImageNet-1k, where it has 1,000.

    Returns:
        What was done.

    Raises:
        BadInput: no class is known, and `head` is `known`.
    """
    keys, wanted = names or timm.data.ImageNetInfo().label_names(), class_names
    if names is None:
        wanted = [breeds.synset_of(name) or "" for name in class_names]
    rows = {key: row for row, key in enumerate(keys)}
    pairs = [(k, rows[key]) for k, key in enumerate(wanted) if key in rows]
    tensors = [state.get(f"{network.head_name}.{kind}") for kind in ("weight", "bias")]
    classes = 0 if tensors[0] is None else len(tensors[0])
    if head == "new" or (head == "auto" and (classes != len(keys) or not pairs)):
        return ", head new"
    if classes != len(keys) or not pairs:
        raise BadInput(
            f"--model.head known: of {len(class_names)} classes {source}, a classifier of"
            f" {classes}, knows none by name; pass --model.head new"
        )
    to, of = torch.tensor(pairs).T
    with torch.no_grad():
        for kind, tensor in zip(("weight", "bias"), tensors, strict=True):
            assert tensor is not None
            network.head.get_parameter(kind)[to] = tensor[of]
    rest = "" if len(pairs) == len(class_names) else ", the rest new"
    return f", head: {len(pairs)} of {len(class_names)} classes known{rest}"
