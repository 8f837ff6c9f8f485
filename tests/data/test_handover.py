"""Batches in memory that workers and the process that trains share."""

import numpy as np
import pytest
import torch

from dogbreed.data.handover import Handover


@pytest.fixture
def handover() -> Handover:
    made = Handover(2, 3, 4, pin=False)
    made.begin()
    return made


def sent(handover: Handover, value: int, n: int = 3) -> dict[str, object]:
    """What comes from a worker for a batch of pictures of one grey."""
    slot = handover.lend()
    assert slot is not None
    handover.room(slot, n)[:] = value
    return {"image": (slot, n), "label": np.arange(n), "skipped": []}


def test_a_batch_is_what_the_worker_wrote_uncopied(handover: Handover) -> None:
    message = sent(handover, 7, n=2)
    batch = handover.take(message)
    assert batch["image"].shape == (2, 3, 4, 4)
    assert (batch["image"] == 7).all()
    assert torch.equal(batch["label"], torch.arange(2))
    slot = message["image"][0]  # type: ignore[index]
    handover.room(slot, 2)[:] = 8
    assert (batch["image"] == 8).all()


def test_a_slot_is_lent_again_only_when_nothing_looks_at_it(handover: Handover) -> None:
    first = handover.take(sent(handover, 1))["image"]
    second = handover.take(sent(handover, 2))["image"]
    assert handover.lend() is None
    part = first[1:, :, 2:].reshape(-1)[:3]
    row = second[2].permute(1, 2, 0)
    del first, second, part
    freed = handover.lend()
    assert freed is not None
    assert handover.lend() is None
    assert (row == 2).all()
    del row
    assert handover.lend() not in {None, freed}


def test_an_epoch_begins_with_all_slots_but_those_in_use(handover: Handover) -> None:
    kept = handover.take(sent(handover, 5))["image"]
    assert handover.lend() is not None  # on its way, when the epoch is left
    handover.begin()
    handover.room(handover.lend() or 0, 3)[:] = 6
    assert handover.lend() is None
    assert (kept == 5).all()


def test_a_batch_in_memory_of_its_own_is_taken_as_it_is(handover: Handover) -> None:
    image = torch.ones((1, 3, 4, 4), dtype=torch.uint8)
    assert handover.take({"image": image})["image"] is image
