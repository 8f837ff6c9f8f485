"""The answers of a split, on one process and on two; the training loss."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dogbreed.model.metrics import Answered, Gathered, masked_cross_entropy


def answers(n: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw logits that are right more often than by chance, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator) * 2
    logits[torch.arange(n), labels] += 1.5
    return logits, labels


def collected(
    logits: Tensor, labels: Tensor, valid: Tensor, rows: Tensor, batch: int, made: Gathered
) -> Answered:
    made.reset()
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        embedding = 3 * logits[part, :4]
        made.update(logits[part], embedding, labels[part], valid[part], rows[part])
    return made.compute()


class TestAnswers:
    @pytest.mark.parametrize("batch", [7, 1000])
    def test_they_come_in_the_manifests_order_in_single_precision(self, batch: int) -> None:
        logits, labels = answers(60, 9)
        logits = logits.bfloat16()
        rows = torch.randperm(60, generator=torch.Generator().manual_seed(1)) + 5
        got = collected(logits, labels, torch.ones(60, dtype=torch.bool), rows, batch, Gathered())
        order = torch.argsort(rows)
        np.testing.assert_array_equal(got.rows, np.arange(5, 65))
        np.testing.assert_array_equal(got.labels, labels[order])
        np.testing.assert_array_equal(got.logits, logits[order].float())
        assert got.logits.dtype == np.float32
        unit = torch.nn.functional.normalize(logits[order, :4].float())
        np.testing.assert_allclose(got.embedding, unit, atol=1e-2)  # of bfloat16
        assert got.embedding.dtype == np.float16

    def test_padding_does_not_count(self) -> None:
        logits, labels = answers(60, 9)
        valid = torch.arange(60) % 3 != 0
        valid[20:30] = False  # a batch of padding only
        got = collected(logits, labels, valid, torch.arange(60), 10, Gathered())
        np.testing.assert_array_equal(got.rows, np.flatnonzero(valid))
        np.testing.assert_array_equal(got.logits, logits[valid])

    def test_a_reset_forgets(self) -> None:
        made, valid = Gathered(), torch.ones(30, dtype=torch.bool)
        collected(*answers(30, 9, seed=1), valid, torch.arange(30), 8, made)
        logits, labels = answers(30, 9, seed=2)
        got = collected(logits, labels, valid, torch.arange(30), 8, made)
        np.testing.assert_array_equal(got.logits, logits)

    @pytest.mark.e2e
    def test_two_processes_collect_as_one(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(share_of_answers, (2, port, str(tmp_path)), nprocs=2)
        logits, labels = answers(101, 9)
        for rank in range(2):
            got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
            assert got["rows"].tolist() == list(range(101))
            assert torch.equal(got["labels"], labels)
            assert torch.equal(got["logits"], logits)


def share_of_answers(rank: int, world: int, port: int, folder: str) -> None:
    """Collect every other answer in one process of several; padded, as the loader pads."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    logits, labels = answers(101, 9)
    rows = torch.arange(rank, 102, world)
    valid = rows < 101
    at = rows.clamp(max=100)
    got = collected(logits[at], labels[at], valid, rows, 10, Gathered())
    tensors = {name: torch.from_numpy(part) for name, part in got._asdict().items()}
    torch.save(tensors, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


class TestLoss:
    def test_it_is_the_mean_over_the_valid_rows(self) -> None:
        logits, labels = answers(12, 6)
        valid = torch.arange(12) < 8
        loss = masked_cross_entropy(logits, labels, valid)
        plain = torch.nn.CrossEntropyLoss()(logits[:8], labels[:8])
        assert float(loss) == pytest.approx(float(plain), rel=1e-5)

    def test_what_is_not_valid_has_no_gradient(self) -> None:
        logits, labels = answers(12, 6)
        valid = torch.arange(12) < 8
        logits.requires_grad_()
        masked_cross_entropy(logits, labels, valid, 0.1).backward()
        assert logits.grad is not None
        assert (logits.grad[8:] == 0).all()
        assert (logits.grad[:8] != 0).any(1).all()

    def test_with_nothing_valid_it_is_zero_and_so_are_its_gradients(self) -> None:
        logits, labels = answers(4, 6)
        logits.requires_grad_()
        loss = masked_cross_entropy(logits, labels, torch.zeros(4, dtype=torch.bool))
        loss.backward()
        assert float(loss.detach()) == 0
        assert logits.grad is not None
        assert (logits.grad == 0).all()

    def test_label_smoothing_is_torchs(self) -> None:
        logits, labels = answers(12, 6)
        loss = masked_cross_entropy(logits, labels, torch.ones(12, dtype=torch.bool), 0.2)
        plain = torch.nn.CrossEntropyLoss(label_smoothing=0.2)(logits, labels)
        assert float(loss) == pytest.approx(float(plain), rel=1e-6)
        assert float(loss) > float(torch.nn.CrossEntropyLoss()(logits, labels))


class TestWeightedLoss:
    WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.0, 0.5, 2.0])

    def test_batches_of_a_size_have_in_the_mean_the_loss_of_all(self) -> None:
        """So that its gradient estimates that of all, which torch's normalisation does not."""
        logits, labels = answers(60, 6)
        valid = torch.ones(60, dtype=torch.bool)
        whole = masked_cross_entropy(logits, labels, valid, 0.1, self.WEIGHTS)
        parts = [
            masked_cross_entropy(*part, 0.1, self.WEIGHTS)
            for part in zip(logits.split(5), labels.split(5), valid.split(5), strict=True)
        ]
        assert float(torch.stack(parts).mean()) == pytest.approx(float(whole), rel=1e-5)

    def test_a_row_counts_as_its_class_weighs(self) -> None:
        logits, labels = answers(12, 6)
        valid = torch.arange(12) < 9
        logits.requires_grad_()
        plain, weighted = (
            torch.autograd.grad(masked_cross_entropy(logits, labels, valid, 0.1, w), logits)[0]
            for w in (None, self.WEIGHTS)
        )
        torch.testing.assert_close(weighted, plain * self.WEIGHTS[labels][:, None])
        assert (weighted[9:] == 0).all()

    def test_weights_of_one_change_nothing(self) -> None:
        logits, labels = answers(12, 6)
        valid = torch.arange(12) < 9
        plain = masked_cross_entropy(logits, labels, valid, 0.1)
        assert masked_cross_entropy(logits, labels, valid, 0.1, torch.ones(6)) == plain
