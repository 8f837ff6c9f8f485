"""fit in several processes, on one machine and on two "nodes", and with kills in between."""

import csv
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.data import prepare
from dogbreed.data.manifest import Manifest
from dogbreed.model.module import DogModule
from dogbreed.model.schedule import learning_rate_scale
from dogbreed.runs import Run
from tests.conftest import RUN_FILES, TIMES
from tests.doubles.gcs import FakeGCS
from tests.test_features import fit_words as head_words

pytestmark = pytest.mark.e2e

DEADLINE = 240.0  # seconds that nothing here takes
MARK = "DOGBREED_TEST_MARK"  # in the environment of every process that a test starts
EPOCHS, LR = 3, 1e-3


class Recorder(Callback):
    """Writes down what each process sees, a file for each, a line for each batch."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def _write(self, trainer: Trainer, line: dict[str, Any]) -> None:
        path = Path(self.folder, f"{trainer.global_rank}-{os.getpid()}.jsonl")
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DogModule)
        shown = [
            (int(row), zlib.crc32(image.numpy().tobytes()))
            for row, image, valid in zip(batch["row"], batch["image"], batch["valid"], strict=True)
            if valid
        ]
        line = {
            "before": pl_module.samples_seen,
            "after": batch["samples_seen"],
            "batch_idx": batch_idx,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "counted": float(pl_module.train_top1.weight),
            "shown": shown,
        }
        self._write(trainer, line)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rows = batch["row"][batch["valid"]].tolist()
        self._write(trainer, {"validated_at": pl_module.samples_seen, "rows": rows})


class SignalAt(Callback):
    """Sends a signal to its own process in the step that sees the sample of this number."""

    def __init__(self, sample: int, signum: int, rank: int = 0) -> None:
        self.sample, self.signum, self.rank = sample, signum, rank

    def on_train_batch_end(  # before this step's checkpoint, if there is one
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DogModule)
        if trainer.global_rank == self.rank and pl_module.samples_seen >= self.sample:
            self.sample = sys.maxsize
            os.kill(os.getpid(), self.signum)


def fit_words(data: str, root: str, records: Path, *more: str) -> list[str]:
    """Words of a fit with a recorder; the network has no BatchNorm, so that it can be compared."""
    records.mkdir(exist_ok=True)
    words = f"fit --data.root {data} --run_root {root} --data.workers 0"
    words += " --model.backbone test_convnext --model.weights none --data.image_size 32"
    words += f" --model.lr {LR} --trainer.max_epochs {EPOCHS} --trainer.accelerator cpu"
    words += f" --trainer.callbacks+={__name__}.Recorder --trainer.callbacks.folder={records}"
    return [*words.split(), *more]


def signal_at(sample: int, signum: int, rank: int) -> list[str]:
    words = f"--trainer.callbacks+={__name__}.SignalAt --trainer.callbacks.sample={sample}"
    return f"{words} --trainer.callbacks.signum={signum} --trainer.callbacks.rank={rank}".split()


def resume_words(run: Run, records: Path, *more: str) -> list[str]:
    records.mkdir(exist_ok=True)
    root, name = run.url.rsplit("/", 1)
    words = f"fit --resume last --run_root {root} --name {name} --trainer.callbacks null"
    words += f" --trainer.callbacks+={__name__}.Recorder --trainer.callbacks.folder={records}"
    return [*words.split(), *more]


def _all_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


class Processes:
    """Commands that run beside each other, in an environment of which one can tell them."""

    def __init__(self, *commands: list[str]) -> None:
        self.mark = uuid.uuid4().hex
        environment = os.environ | {MARK: self.mark}
        self.started = []
        for command in commands:
            # No pipes: whoever is left behind would hold their ends open.
            said, complained = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
            words = [sys.executable, "-m", *command]
            process = subprocess.Popen(words, stdout=said, stderr=complained, env=environment)
            self.started.append((process, said, complained))

    def end(self) -> list[tuple[int, str, str]]:
        """Wait for them and all that they started: status, stdout and stderr of each."""
        try:
            for process, _, _ in self.started:
                process.wait(timeout=DEADLINE)
            self._wait_for_the_rest()  # they speak after the first has gone
            return [
                (process.returncode, _all_of(said), _all_of(complained))
                for process, said, complained in self.started
            ]
        finally:
            for pid in self._alive():
                os.kill(pid, signal.SIGKILL)
            for process, said, complained in self.started:
                process.wait()
                said.close()
                complained.close()

    def _alive(self) -> list[int]:
        found = []
        for folder in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                mark = f"{MARK}={self.mark}".encode()
                if mark in Path("/proc", folder, "environ").read_bytes().split(b"\0"):
                    found.append(int(folder))
        return found

    def _wait_for_the_rest(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while left := self._alive():
            for pid in left:
                with suppress(ProcessLookupError):
                    handle, poll = os.pidfd_open(pid), select.poll()
                    poll.register(handle, select.POLLIN)
                    ended = poll.poll(1000 * max(0.0, deadline - time.monotonic()))
                    os.close(handle)
                    assert ended, f"process {pid} was left behind"


def nodes(words: list[str]) -> list[list[str]]:
    """Commands that run `words` on two nodes, each of one process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torchrun = f"torch.distributed.run --nnodes 2 --nproc_per_node 1 --master_port {port}"
    torchrun += " --master_addr 127.0.0.1 --node_rank"
    return [
        [*torchrun.split(), rank, "-m", "dogbreed", *words, "--trainer.num_nodes", "2"]
        for rank in "01"
    ]


def records(folder: Path) -> list[dict[str, Any]]:
    """What all processes wrote down, in the order of the steps."""
    lines = [
        json.loads(line)
        for path in folder.iterdir()
        for line in path.read_text().split("\n")
        if line
    ]
    return sorted(lines, key=lambda line: line.get("after", line.get("validated_at")))


def history(run: Run) -> list[dict[str, float]]:
    """The rows of metrics.csv without the columns that the clock fills."""
    rows = csv.DictReader(io.StringIO(storage.read(run.path("metrics.csv")).decode()))
    return [{k: float(v) for k, v in row.items() if k not in TIMES} for row in rows]


def epochs(lines: list[dict[str, Any]], size: int) -> list[list[tuple[int, int]]]:
    """For each epoch its rows with the checksums of their pixels, sorted."""
    seen: list[list[tuple[int, int]]] = [[] for _ in range(EPOCHS)]
    for line in lines:
        if "after" in line:
            seen[(line["after"] - 1) // size] += [(row, pixels) for row, pixels in line["shown"]]
    return [sorted(epoch) for epoch in seen]


def validations(lines: list[dict[str, Any]]) -> dict[int, list[int]]:
    """For each number of samples seen the rows that were validated then, sorted."""
    seen: dict[int, list[int]] = {}
    for line in lines:
        if "rows" in line:
            seen.setdefault(line["validated_at"], []).extend(line["rows"])
    return {at: sorted(rows) for at, rows in seen.items()}


def counted(lines: list[dict[str, Any]]) -> dict[int, float]:
    """By the samples seen before a step, how many all processes had in the epoch's mean."""
    sums: dict[int, float] = {}
    for line in lines:
        if "after" in line:
            sums[line["before"]] = sums.get(line["before"], 0.0) + line["counted"]
    return sums


def rates(lines: list[dict[str, Any]]) -> dict[int, float]:
    """The learning rate by the samples seen before a step."""
    return {line["before"]: line["lr"] for line in lines if "after" in line}


@dataclass
class Whole:
    """A run in this process alone, never broken off."""

    data: str
    run: Run
    lines: list[dict[str, Any]]
    train: list[int]
    val: list[int]

    def __init__(self, data: str, folder: Path, *more: str) -> None:
        self.data, self.run = data, Run(f"{folder}/whole")
        words = fit_words(data, str(folder), folder / "records", "--name", "whole", *more)
        assert main([*words, "--data.batch_size", "8"]) == 0
        self.lines = records(folder / "records")
        opened = Manifest.open(data)
        self.train, self.val = (opened.rows_of(split).tolist() for split in ("train", "val"))

    def agrees_with(self, lines: list[dict[str, Any]], run: Run) -> None:
        """Each picture once an epoch and validation, with the same pixels; rates by samples."""
        n = len(self.train)
        assert epochs(lines, n) == epochs(self.lines, n)
        assert validations(lines) == {n * (e + 1): self.val for e in range(EPOCHS)}
        assert counted(lines) == {before: before % n for before in rates(lines)}
        for before, rate in rates(lines).items():
            scale = learning_rate_scale(before, warmup=0.1, total=EPOCHS * n)
            assert rate == pytest.approx(LR * scale, rel=1e-9)
        rows = history(run)
        assert [(row["epoch"], row["samples_seen"]) for row in rows] == [
            (e, n * (e + 1)) for e in range(EPOCHS)
        ]
        assert {row["val/n"] for row in rows} == {len(self.val)}


@pytest.fixture(scope="module")
def whole(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tiny_dataset, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def packed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The same on packed pictures, which come in another order."""
    folder = tmp_path_factory.mktemp("packed")
    out, split = str(folder / "data"), "0.5,0.25,0.25"
    prepare.prepare("folder", out, str(tiny_folder), name="tiny", splits=split, shard_size="20KB")
    return Whole(out, folder)


@dataclass
class Several:
    """A run of two processes beside that of one."""

    whole: Whole
    root: str
    run: Run
    lines: list[dict[str, Any]]
    ended: list[tuple[int, str, str]]


@pytest.fixture(scope="module", params=["two devices on gs", "two nodes on a disk"])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Several:
    folder = tmp_path_factory.mktemp("several")
    noted = folder / "records"
    if request.param == "two devices on gs":
        single: Whole = request.getfixturevalue("whole")
        double: FakeGCS = request.getfixturevalue("gcs_double")
        root, data = double.bucket() + "/runs", double.bucket(folder=Path(single.data))
        more = "--trainer.devices 2 --data.batch_size 4"  # and no strategy
        words = fit_words(data, root, noted, *more.split())
        ended = Processes(["dogbreed", *words]).end()
    else:
        single, root = request.getfixturevalue("packed"), f"{folder}/runs"
        words = fit_words(single.data, root, noted, "--data.batch_size", "4")
        ended = Processes(*nodes(words)).end()
    (url,) = storage.folders(root)
    return Several(single, root, Run(url), records(noted), ended)


class TestSeveralProcesses:
    def test_share_an_epoch_and_see_each_picture_once_as_one_process_does(
        self, several: Several
    ) -> None:
        assert [status for status, _, _ in several.ended] == [0] * len(several.ended)
        several.whole.agrees_with(several.lines, several.run)
        assert rates(several.lines) == rates(several.whole.lines)

    def test_score_as_one_process_does_with_batches_as_large_as_theirs_together(
        self, several: Several
    ) -> None:
        # Sums of floats come in another order, and AdamW makes small differences larger.
        for ours, theirs in zip(history(several.run), history(several.whole.run), strict=True):
            # One picture whose likeliest breeds are level may be right here and wrong there.
            level = 1 / len(several.whole.train) + 2e-5
            assert ours.pop("train/top1") == pytest.approx(theirs.pop("train/top1"), abs=level)
            assert ours == pytest.approx(theirs, abs=2e-5)
        ours, theirs = several.run.metrics()["val"], several.whole.run.metrics()["val"]
        assert ours == pytest.approx(theirs, abs=2e-5)

    def test_write_one_run_and_nothing_else(self, several: Several) -> None:
        fs, path = storage.filesystem(several.root)
        base = len(path) + 1 + len(several.run.url.rsplit("/", 1)[1]) + 1
        assert {name[base:] for name in fs.find(path)} == RUN_FILES
        about = several.run.read()
        assert (about["state"], about["device"]) == ("done", "2 x cpu")
        assert "resumed" not in about

    def test_say_each_thing_once(self, several: Several) -> None:
        said = "".join(out for _, out, _ in several.ended)
        lines = said.splitlines()
        assert [x.split()[1] for x in lines if x.startswith("epoch")] == ["1/3", "2/3", "3/3"]
        assert len(lines) == len(set(lines))
        if len(several.ended) == 1:  # torchrun speaks for itself
            assert several.ended[0][2] == ""


def merged(run: Run, before: Path, after: Path, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """What counts of a run that was killed and then resumed: up to the checkpoint, and from it."""
    done = checkpoint["samples_seen"]
    first = [
        line for line in records(before) if line.get("after", line.get("validated_at")) <= done
    ]
    second = records(after)
    assert min(line["before"] for line in second if "after" in line) == done
    return first + second


class TestResume:
    @pytest.mark.parametrize("rank", [0, 1])
    def test_of_two_processes_killed_in_mid_epoch_one_goes_on(
        self, rank: int, whole: Whole, tmp_path: Path
    ) -> None:
        n = len(whole.train)
        more = "--name run --data.batch_size 3 --data.workers 1 --trainer.devices 2"
        more += " --trainer.strategy ddp --checkpoints.every_n_train_steps 1"
        words = fit_words(whole.data, str(tmp_path), tmp_path / "first", *more.split())
        words += signal_at(n + [8, 15][rank], signal.SIGKILL, rank)
        ((status, _, complaint),) = Processes(["dogbreed", *words]).end()
        assert status == [-signal.SIGKILL, 1][rank]
        assert "lost the others" in complaint
        assert "Traceback" not in complaint

        run = Run(f"{tmp_path}/run")
        last = torch.load(run.checkpoint("last"), weights_only=True)
        assert n < last["samples_seen"] < 2 * n
        more = "--data.batch_size 5 --data.workers 2 --trainer.devices 1 --trainer.strategy auto"
        assert main(resume_words(run, tmp_path / "second", *more.split())) == 0
        whole.agrees_with(merged(run, tmp_path / "first", tmp_path / "second", last), run)
        ends = {
            line["batch_idx"]
            for line in records(tmp_path / "second")
            if line.get("after", 1) % n == 0
        }
        assert ends == {-(-n // 5) - 1}  # as if the epoch had begun with this batch size

    def test_where_one_process_was_killed_in_mid_epoch_two_go_on(
        self, whole: Whole, tmp_path: Path
    ) -> None:
        n = len(whole.train)
        more = "--name run --data.batch_size 5 --data.workers 1 --checkpoints.every_n_train_steps 2"
        # With BatchNorm, for the sake of the validation below.
        more += " --model.backbone test_efficientnet"
        words = fit_words(whole.data, str(tmp_path), tmp_path / "first", *more.split())
        words += signal_at(n + 11, signal.SIGKILL, 0)
        ((status, _, _),) = Processes(["dogbreed", *words]).end()
        assert status == -signal.SIGKILL

        run = Run(f"{tmp_path}/run")
        last = torch.load(run.checkpoint("last"), weights_only=True)
        assert n < last["samples_seen"] < 2 * n
        more = "--data.batch_size 3 --data.workers 2 --trainer.devices 2 --trainer.strategy ddp"
        words = resume_words(run, tmp_path / "second", *more.split())
        ((status, _, _),) = Processes(["dogbreed", *words]).end()
        assert status == 0
        whole.agrees_with(merged(run, tmp_path / "first", tmp_path / "second", last), run)
        ends = {
            line["batch_idx"]
            for line in records(tmp_path / "second")
            if line.get("after", 1) % n == 0
        }
        assert ends == {-(-n // 6) - 1}

        # Each of two has its own running means; the scores are of those in the checkpoint.
        words = ["validate", "--run", run.url, "--checkpoint", "last", "--trainer.devices", "1"]
        assert main([*words, "--trainer.callbacks", "null", "--trainer.strategy", "auto"]) == 0
        (place,) = storage.folders(run.path("evaluation", "others"))
        scores = storage.read_json(f"{place}/val.json")["scores"]
        row = history(run)[-1]
        found = {name: scores[name]["value"] for name in ("top1", "top5", "macro_f1")}
        found |= {"log_loss": scores["log_loss_uncalibrated"]["value"]}  # as metrics.csv has it
        assert found == pytest.approx({name: row[f"val/{name}"] for name in found}, abs=2e-6)

    def test_two_processes_of_which_one_gets_sigterm_save_and_end_as_one_does(
        self, whole: Whole, tmp_path: Path
    ) -> None:
        n = len(whole.train)
        more = "--name run --data.batch_size 4 --trainer.devices 2"
        words = fit_words(whole.data, str(tmp_path), tmp_path / "first", *more.split())
        words += signal_at(n + 10, signal.SIGTERM, 1)
        ((status, said, complaint),) = Processes(["dogbreed", *words]).end()
        assert (status, complaint) == (143, "")
        hint = f"go on with: dogbreed fit --resume last --run_root {tmp_path} --name run"
        assert said.splitlines()[-1] == f"ended by SIGTERM; {hint}"
        run = Run(f"{tmp_path}/run")
        assert run.read()["state"] == "preempted"
        last = torch.load(run.checkpoint("last"), weights_only=True)
        assert last["samples_seen"] == n + 16

        more = "--data.batch_size 8 --trainer.devices 1"
        assert main(resume_words(run, tmp_path / "second", *more.split())) == 0
        whole.agrees_with(merged(run, tmp_path / "first", tmp_path / "second", last), run)
        for ours, theirs in zip(history(run), history(whole.run), strict=True):
            assert ours == pytest.approx(theirs, abs=2e-5)


class TestBadInput:
    def test_on_two_nodes_is_an_error_in_both(self, whole: Whole, tmp_path: Path) -> None:
        root = whole.run.url.rsplit("/", 1)[0]
        words = fit_words(whole.data, root, tmp_path / "records", "--name", "whole")
        for status, said, complaint in Processes(*nodes(words)).end():
            assert status == 1  # torchrun's own; it shows that of its process
            assert said == ""
            assert "dogbreed fit: error: " in complaint
            assert "there is a run of this name" in complaint
            assert "exitcode  : 2 " in complaint

    def test_a_picture_that_the_second_process_cannot_read_ends_both(
        self, tiny_folder: Path, tmp_path: Path
    ) -> None:
        data = str(tmp_path / "data")
        prepare.prepare("folder", data, str(tiny_folder), name="tiny", splits="0.5,0.25,0.25")
        opened = Manifest.open(data)
        (bad,) = opened.take(opened.rows_of("val")[1:2])  # of the first batch, the second's share
        Path(data, "pictures", bad["id"]).write_bytes(b"damaged")
        words = fit_words(data, str(tmp_path), tmp_path / "records", "--name", "run")
        ((status, _, complaint),) = Processes(["dogbreed", *words, "--trainer.devices", "2"]).end()
        # 137: Lightning looks every 5 seconds for a process that failed, and kills the others.
        assert status in {2, -signal.SIGKILL}
        assert f"dogbreed fit: error: {data}: picture {bad['id']}: " in complaint
        assert "Traceback" not in complaint


def test_two_processes_share_the_features_of_a_frozen_backbone(
    tiny_dataset: str, tmp_path: Path
) -> None:
    kept, root = str(tmp_path / "kept"), str(tmp_path)
    words = head_words(tiny_dataset, root, "two", kept, "--trainer.devices", "2")
    ((status, said, complaint),) = Processes(["dogbreed", *words, "--data.batch_size", "4"]).end()
    assert status == 0, complaint
    assert "features of train: 0 from the cache, 23 computed" in said
    assert main(head_words(tiny_dataset, root, "one", kept, "--data.batch_size", "8")) == 0
    one, two = (history(Run(f"{root}/{name}")) for name in ("one", "two"))
    for mine, theirs in zip(one, two, strict=True):
        for column in ("samples_seen", "train/loss", "val/log_loss", "val/top1"):
            assert mine[column] == pytest.approx(theirs[column], rel=1e-4)
