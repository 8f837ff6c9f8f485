"""Scores against scikit-learn's, on one process and on two."""

import math
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss, top_k_accuracy_score
from torch import Tensor

from dogbreed.model.metrics import Scores, masked_cross_entropy, sentence, wilson

ORDER = ["top1", "top5", "log_loss", "macro_f1", "n"]


def answers(n: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw logits that are right more often than by chance, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator) * 2
    logits[torch.arange(n), labels] += 1.5
    return logits, labels


def by_sklearn(logits: Tensor, labels: Tensor) -> dict[str, float]:
    classes = logits.shape[1]
    shares, names = logits.double().softmax(1).numpy(), np.arange(classes)
    truth = labels.numpy()
    top5 = 1.0 if classes <= 5 else top_k_accuracy_score(truth, shares, k=5, labels=names)
    return {
        "top1": float((shares.argmax(1) == truth).mean()),
        "top5": float(top5),
        "log_loss": float(log_loss(truth, shares, labels=names)),
        "macro_f1": float(f1_score(truth, shares.argmax(1), average="macro")),
        "n": len(truth),
    }


def scored(logits: Tensor, labels: Tensor, valid: Tensor, batch: int) -> dict[str, float]:
    scores = Scores(logits.shape[1])
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        scores.update(logits[part], labels[part], valid[part])
    return scores.compute()


class TestScores:
    @pytest.mark.parametrize("classes", [2, 3, 5, 6, 120])
    @pytest.mark.parametrize("batch", [7, 1000])
    def test_they_are_those_of_scikit_learn(self, classes: int, batch: int) -> None:
        logits, labels = answers(300, classes)
        got = scored(logits, labels, torch.ones(300, dtype=torch.bool), batch)
        assert list(got) == ORDER
        assert got == pytest.approx(by_sklearn(logits, labels), rel=1e-5)
        assert 0.01 < got["top1"] < 0.99

    def test_macro_f1_is_over_the_breeds_that_occur(self) -> None:
        logits, labels = answers(40, 10)
        labels, logits = labels % 4, logits.clone()
        logits[:, 6:] = -100  # neither labelled nor answered
        got = scored(logits, labels, torch.ones(40, dtype=torch.bool), 8)
        assert got == pytest.approx(by_sklearn(logits, labels), rel=1e-5)

    def test_padding_does_not_count(self) -> None:
        logits, labels = answers(60, 9)
        valid = torch.arange(60) % 3 != 0
        valid[20:30] = False  # a batch of padding only
        got = scored(logits, labels, valid, 10)
        assert got["n"] == int(valid.sum())
        assert got == pytest.approx(by_sklearn(logits[valid], labels[valid]), rel=1e-5)

    def test_half_precision_is_scored_in_single(self) -> None:
        logits, labels = answers(50, 9)
        half = logits.bfloat16()
        got = scored(half, labels, torch.ones(50, dtype=torch.bool), 50)
        assert got == pytest.approx(by_sklearn(half.float(), labels), rel=1e-5)

    def test_a_reset_forgets(self) -> None:
        scores, valid = Scores(9), torch.ones(30, dtype=torch.bool)
        scores.update(*answers(30, 9, seed=1), valid)
        scores.compute()
        scores.reset()
        logits, labels = answers(30, 9, seed=2)
        scores.update(logits, labels, valid)
        assert scores.compute() == pytest.approx(by_sklearn(logits, labels), rel=1e-5)

    @pytest.mark.e2e
    def test_two_processes_score_as_one(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(share_of_scores, (2, port, str(tmp_path)), nprocs=2)
        logits, labels = answers(101, 9)
        for rank in range(2):
            got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
            assert got == pytest.approx(by_sklearn(logits, labels), rel=1e-5)


def share_of_scores(rank: int, world: int, port: int, folder: str) -> None:
    """Score every other answer in one process of several; padded, as the loader pads."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    logits, labels = answers(101, 9)
    rows = torch.arange(rank, 102, world)
    valid = rows < 101
    rows = rows.clamp(max=100)
    torch.save(scored(logits[rows], labels[rows], valid, 10), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


class TestLoss:
    def test_it_is_the_mean_over_the_valid_rows(self) -> None:
        logits, labels = answers(12, 6)
        valid = torch.arange(12) < 8
        loss = masked_cross_entropy(logits, labels, valid)
        expected = by_sklearn(logits[:8], labels[:8])["log_loss"]
        assert float(loss) == pytest.approx(expected, rel=1e-5)

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


class TestWilson:
    @pytest.mark.parametrize(
        ("right", "n", "low", "high"),
        # R: prop.test(right, n, correct = FALSE)$conf.int
        [
            (0, 10, 0.0, 0.2775),
            (10, 10, 0.7225, 1.0),
            (5, 10, 0.2366, 0.7634),
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (1, 29, 0.0061, 0.1718),
        ],
    )
    def test_known_values(self, right: int, n: int, low: float, high: float) -> None:
        assert wilson(right / n, n) == pytest.approx((low, high), abs=2e-4)

    def test_it_lies_within_zero_and_one_around_the_share_and_shrinks(self) -> None:
        for share in np.linspace(0, 1, 21):
            widths = []
            for n in (20, 200, 2000):
                low, high = wilson(float(share), n)
                assert 0 <= low <= share + 1e-12
                assert share - 1e-12 <= high <= 1
                widths.append(high - low)
            assert widths == sorted(widths, reverse=True)

    def test_a_sentence_has_all_scores_and_the_interval(self) -> None:
        scores = {"top1": 0.5, "top5": 0.75, "log_loss": math.e, "macro_f1": 0.25, "n": 10_000}
        assert sentence(scores) == (
            "top-1 0.500 (95 % 0.490 to 0.510, n = 10,000), top-5 0.750, macro-F1 0.250,"
            " log-loss 2.718"
        )
