"""Heat lies where the object is, in the numbers and in the picture laid over it."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.explain import overlay, save
from dogbreed.evaluate.grad_cam import grad_cam
from dogbreed.model.backbone import Network

SIDE, PATCH = 96, 32


def scenes(n: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw noise with one striped patch each: pictures, which way the stripes run, and where."""
    images = rng.integers(90, 166, (n, 3, SIDE, SIDE)).astype(np.uint8)
    inside = np.zeros((n, SIDE, SIDE), bool)
    labels = rng.integers(0, 2, n)
    stripes = np.where(np.arange(PATCH) // 4 % 2, 230, 20).astype(np.uint8)
    for k, label in enumerate(labels):
        x, y = rng.integers(0, (SIDE - PATCH) // 32 + 1, 2) * 32
        patch = np.broadcast_to(stripes[:, None] if label else stripes[None], (3, PATCH, PATCH))
        images[k, :, y : y + PATCH, x : x + PATCH] = patch
        inside[k, y : y + PATCH, x : x + PATCH] = True
    return torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(inside)


@pytest.fixture(scope="module")
def network() -> Network:
    """Teach a small network to tell stripes that lie from stripes that stand."""
    torch.manual_seed(0)
    made, rng = Network("test_efficientnet", 2), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(made.parameters(), 3e-3)
    for _ in range(25):
        images, labels, _ = scenes(24, rng)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(made(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return made.eval()


@pytest.mark.parametrize("way", ["heat", "grad_cam"])
def test_the_heat_is_where_the_object_is(way: str, network: Network) -> None:
    images, labels, inside = scenes(40, np.random.default_rng(1))
    with torch.no_grad():
        answers = network.answers(images)
        predicted = answers.logits.argmax(1)
        assert (predicted == labels).float().mean() > 0.9
        heat = network.heat(answers.features, predicted)
    if way == "grad_cam":
        heat = grad_cam(network, images, predicted)
    assert heat.shape == (40, 3, 3)
    cells = inside.unflatten(1, (3, 32)).unflatten(3, (3, 32)).float().mean((2, 4))  # (n, 3, 3)
    hottest = heat.flatten(1).argmax(1)
    assert (cells.flatten(1).gather(1, hottest[:, None]) > 0.5).float().mean() > 0.8
    within, around = (float((heat * part).sum() / part.sum()) for part in (cells, 1 - cells))
    assert within > around


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_where_pooling_is_followed_by_the_classifier_alone_the_mean_heat_is_the_logit(
    backbone: str,
) -> None:
    torch.manual_seed(0)
    made = Network(backbone, 3).eval()
    torch.nn.init.normal_(made.head.weight)
    torch.nn.init.normal_(made.head.bias)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        answers = made.answers(images)
        heat = made.heat(answers.features, torch.tensor([2, 0]))
    assert heat.shape == (2, *answers.features.shape[2:])
    if backbone != "test_convnext":  # it normalises what it has pooled
        expected = answers.logits[[0, 1], [2, 0]]
        torch.testing.assert_close(heat.mean((1, 2)), expected, rtol=1e-4, atol=1e-4)


def test_a_transformer_has_no_heat() -> None:
    made = Network("test_vit", 3).eval()
    images = torch.randint(0, 256, (1, 3, 160, 160), dtype=torch.uint8)
    with pytest.raises(BadInput, match="no heat to show"), torch.no_grad():
        made.heat(made.features(images), torch.tensor([0]))
    with pytest.raises(BadInput, match="no heat to show"):
        grad_cam(made, images, torch.tensor([0]))


def test_an_overlay_glows_where_the_heat_is_and_shows_the_picture_elsewhere() -> None:
    picture = np.full((70, 50, 3), 40, np.uint8)
    heat = np.zeros((7, 5), np.float32)
    heat[1, 3] = 5
    drawn = overlay(picture, heat)
    assert (drawn.shape, drawn.dtype) == (picture.shape, np.uint8)
    light = drawn.astype(int).sum(2)
    y, x = np.unravel_index(light.argmax(), light.shape)
    assert (y // 10, x // 10) == (1, 3)
    assert (drawn[40:] == 40).all()
    np.testing.assert_array_equal(overlay(picture, 3 * heat - 7), drawn)


def test_heat_that_is_the_same_everywhere_leaves_the_picture() -> None:
    picture = np.full((20, 20, 3), 99, np.uint8)
    np.testing.assert_array_equal(overlay(picture, np.full((2, 2), 3.0)), picture)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("b.PNG", "b.PNG.jpg"),
        ("gs://bucket/c.jpeg", "gs/bucket/c.jpeg"),
        ("/home/me/d.webp", "home/me/d.webp.jpg"),
        ("../../e.jpg", "e.jpg"),
    ],
)
def test_an_explanation_lies_below_its_folder(name: str, place: str, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    save(str(tmp_path / "out"), name, picture)
    assert [found for found, _ in storage.find(str(tmp_path))] == [f"out/{place}"]
    with Image.open(io.BytesIO((tmp_path / "out" / place).read_bytes())) as opened:
        assert (opened.format, opened.size) == ("JPEG", (16, 16))
