"""What a person can do wrong: each is one line that says so, exit status 2, and nothing written."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.data import prepare, sample
from dogbreed.data.manifest import Manifest
from dogbreed.model.backbone import Network
from dogbreed.runs import Run
from tests.doubles.gcs import FakeGCS
from tests.test_training import fit_words

Files = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where things lie that the words of a command speak of."""

    data: str  # a good data set
    photos: str  # the folder that it was prepared from
    runs: str  # holds the finished run `run`
    here: str  # an empty folder, which has to stay empty


@pytest.fixture(scope="module")
def finished(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a folder with a finished run in it; for reading only."""
    runs = str(tmp_path_factory.mktemp("runs"))
    assert main(fit_words(tiny_dataset, runs, "run", "--trainer.max_epochs", "1")) == 0
    return runs


@pytest.fixture
def place(tiny_dataset: str, tiny_folder: Path, finished: str, tmp_path: Path) -> Place:
    (tmp_path / "here").mkdir()
    return Place(tiny_dataset, str(tiny_folder), finished, str(tmp_path / "here"))


def files(folder: str | Path) -> Files:
    """All files below a folder, and when each was last changed."""
    return {str(p): p.stat().st_mtime_ns for p in Path(folder).rglob("*")}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that cannot succeed; what it says, which is one line and nothing more."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    start = f"dogbreed {words[0]}: error: "
    assert said.err.startswith(start)
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    return said.err.removeprefix(start).rstrip("\n")


def fit(place: Place, *more: str) -> list[str]:
    return fit_words(place.data, place.here, "new", *more)


def run(place: Place, verb: str, *more: str) -> list[str]:
    return [verb, "--run", f"{place.runs}/run", *more]


WRONG: dict[str, tuple[Callable[[Place], list[str]], str]] = {
    "option typo": (
        lambda p: fit(p, "--data.batch_sise", "3"),
        "unknown option 'data.batch_sise', did you mean 'data.batch_size'?",
    ),
    "short option typo": (lambda p: fit(p, "--nam", "x"), "'nam', did you mean 'name'?"),
    "trainer option typo": (
        lambda p: fit(p, "--trainer.max_epoch", "3"),
        "'trainer.max_epoch', did you mean 'trainer.max_epochs'?",
    ),
    "nested option typo": (
        lambda p: fit(p, "--data.augment.flipp", "0"),
        "'data.augment.flipp', did you mean 'data.augment.flip'?",
    ),
    "option typo of predict": (lambda p: run(p, "predict", "--imges", "x"), "mean 'images'?"),
    "option typo of prepare": (lambda p: ["prepare", "--soruce", "x"], "mean 'source'?"),
    "option typo of test": (
        lambda p: run(p, "test", "--data.rot", "x"),
        "did you mean 'data.root'?",
    ),
    "a word too many": (lambda p: fit(p, "extra"), "unknown option 'extra'"),
    "no value": (lambda p: fit(p, "--name"), "--name: expected one argument"),
    "wrong type": (lambda p: fit(p, "--data.batch_size", "three"), '"data.batch_size": Expected'),
    "wrong choice": (lambda p: fit(p, "--model.freeze", "all"), "one of none, backbone"),
    "wrong choice of predict": (
        lambda p: run(p, "predict", "--data", p.data, "--split", "tset"),
        "'train', 'val', 'test', 'unlabelled'",
    ),
    "classes by hand": (lambda p: fit(p, "--model.class_names", "[a]"), "data.class_names"),
    "missing config": (lambda p: fit(p, "--config", f"{p.here}/x.yaml"), "x.yaml"),
    "name in use": (
        lambda p: fit_words(p.data, p.runs, "run"),
        "/run: there is a run of this name; choose another --name, or go on with --resume last",
    ),
    "unknown backbone": (
        lambda p: fit(p, "--model.backbone", "test_efficientnett"),
        "timm has no model 'test_efficientnett', did you mean 'test_efficientnet'?",
    ),
    "no data set": (lambda p: fit(p, "--data.root", p.photos), "no data set here (dataset.json"),
    "resumed, but never begun": (lambda p: fit(p, "--resume", "last"), "/new: no run here"),
    "checkpoint that is not there": (
        lambda p: fit(p, "--resume", "nowhere.ckpt"),
        "--resume nowhere.ckpt: no such checkpoint",
    ),
    "test of a missing run": (
        lambda p: ["test", "--run", f"{p.here}/none"],
        "/none: no run here (run.json is missing)",
    ),
    "no runs at all": (
        lambda p: ["test", "--run_root", p.here],
        "no runs here; begin one with `dogbreed fit`, or name one with --run",
    ),
    "checkpoint of test that is not there": (
        lambda p: run(p, "test", "--checkpoint", f"{p.here}/x.ckpt"),
        "x.ckpt: no such file",
    ),
    "predict without pictures": (
        lambda p: run(p, "predict"),
        "either --images PATH-or-URL or --data DATA-SET",
    ),
    "predict with both": (
        lambda p: run(p, "predict", "--images", p.photos, "--data", p.data),
        "either --images PATH-or-URL or --data DATA-SET",
    ),
    "predict on a folder without pictures": (
        lambda p: run(p, "predict", "--images", f"{p.runs}/run/checkpoints"),
        "/checkpoints: no pictures (.jpeg, .jpg, .png, .webp) here",
    ),
    "predict on nothing": (
        lambda p: run(p, "predict", "--images", f"{p.here}/none"),
        "/none: no such folder or bucket",
    ),
    "predict with a missing run": (
        lambda p: ["predict", "--run", f"{p.here}/none", "--data", p.data],
        "no model package here; `dogbreed fit` writes it when it ends",
    ),
    "predict on a split that is not there": (
        lambda p: run(p, "predict", "--data", p.data, "--split", "unlabelled"),
        "no pictures in split 'unlabelled'; there are: train, val, test",
    ),
    "prepare without a place": (
        lambda p: ["prepare", "--source", "folder", "--path", p.photos],
        "--out is missing",
    ),
    "prepare without a source": (lambda p: ["prepare", "--out", p.here], "source"),
    "prepare of a folder without pictures": (
        lambda p: f"prepare --source folder --path {p.runs}/run/model --out {p.here}/x".split(),
        "in folders named after breeds",
    ),
    "prepare with wrong shares": (
        lambda p: [
            *f"prepare --source folder --path {p.photos} --out {p.here}/x".split(),
            *("--splits", "0.5,0.6"),
        ],
        "say three numbers",
    ),
    "no such bucket": (
        lambda p: fit(p, "--data.root", "gs://no-such-bucket/dogs"),
        "gs://no-such-bucket/dogs: no data set here",
    ),
    "runs in a bucket that is not there": (
        lambda p: fit(p, "--run_root", "gs://no-such-bucket/runs"),
        "gs://no-such-bucket/runs/new/config.yaml: no such file or bucket",
    ),
    "prepare from a bucket that is not there": (
        lambda p: f"prepare --source folder --path gs://no-such-bucket --out {p.here}/x".split(),
        "gs://no-such-bucket: no such file or bucket",
    ),
    "unknown protocol": (lambda p: fit(p, "--data.root", "ftpp://x/y"), "ftpp"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_one_line_and_nothing_is_written(
    wrong: str, place: Place, gcs: FakeGCS, capsys: pytest.CaptureFixture[str]
) -> None:
    words, says = WRONG[wrong]
    before = [files(folder) for folder in (place.data, place.runs, place.photos)]
    assert says in refused(words(place), capsys)
    assert files(place.here) == {}
    assert [files(folder) for folder in (place.data, place.runs, place.photos)] == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model:\n  bakbone: x\n", "'model.bakbone', did you mean 'model.backbone'?"),
        ("data:\n  augment:\n    flop: 0\n", "'data.augment.flop', did you mean"),
        ("trainer:\n  max_epoch: 3\n", "'trainer.max_epoch', did you mean 'trainer.max_epochs'?"),
        ("modle:\n  lr: 0.1\n", "unknown option 'modle"),
        ("data:\n  batch_size: many\n", "data.batch_size"),
        ("data: [3\n", "Problems parsing config"),
    ],
)
def test_a_config_with_an_error_is_one_line_that_names_it(
    text: str, says: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert says in refused(fit(place, "--config", str(tmp_path / "config.yaml")), capsys)
    assert files(place.here) == {}


@pytest.mark.parametrize(
    "words",
    [
        "fit --data.root {bucket}/dogs --run_root {here}",
        "prepare --source folder --path {bucket} --out {here}/data",
        "prepare --source folder --path {photos} --out {bucket}/data",
        "test --run {bucket}/runs/run",
        "test --run_root {bucket}/runs",
        "predict --run {runs}/run --images {bucket}/photos",
        "predict --run {bucket}/run --data {data}",
    ],
)
def test_a_bucket_that_may_not_be_used_is_named_with_the_reason(
    words: str, place: Place, bucket: str, gcs: FakeGCS, capsys: pytest.CaptureFixture[str]
) -> None:
    gcs.faults.forbidden.add(bucket.removeprefix("gs://"))
    filled = words.format(bucket=bucket, **dataclasses.asdict(place)).split()
    error = refused(filled, capsys)
    assert error.startswith(bucket)
    assert "access denied" in error
    assert files(place.here) == {}


@pytest.mark.parametrize("verb", ["fit", "predict"])
def test_a_data_set_of_a_newer_version_is_not_guessed_at(
    verb: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = str(tmp_path / "newer")
    storage.write_json(
        f"{newer}/dataset.json", storage.read_json(f"{place.data}/dataset.json") | {"schema": 3}
    )
    words = fit(place, "--data.root", newer)
    error = refused(words if verb == "fit" else run(place, "predict", "--data", newer), capsys)
    assert error == (
        f"{newer}: the manifest has schema 3, this dogbreed reads up to 2; upgrade dogbreed"
    )
    assert files(place.here) == {}


def test_breeds_that_the_run_does_not_know_are_named(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, breed in enumerate(("synthetic_flopears", "whippet")):
        shutil.copytree(f"{place.photos}/{sample.BREEDS[number]}", tmp_path / f"dogs/{breed}")
    other, before = str(tmp_path / "other"), files(place.runs)
    prepare.prepare("folder", other, str(tmp_path / "dogs"))
    error = refused(run(place, "test", "--data.root", other), capsys)
    assert error.startswith(f"{other}: 2 of its breeds are unknown to the model:")
    assert "'synthetic_flopears', did you mean 'synthetic_flopear'?" in error
    assert files(place.runs) == before


def failed(words: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a fit whose fault shows only once it has begun; what it says, on the terminal as in it.

    The run that was begun says that it failed and why, and holds nothing but that and its config.
    """
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    error = lines[0].removeprefix("dogbreed fit: error: ")
    about = run.read()
    assert (about["state"], about["reason"]) == ("failed", error)
    assert {name for name, _ in storage.find(run.url)} == {"run.json", "config.yaml"}
    return error


def test_data_without_split_val_cannot_be_fitted(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "data")
    prepare.prepare("folder", data, place.photos, splits="0.5,0,0.5")
    error = refused(fit(place, "--data.root", data), capsys)
    assert error == f"{data}: no pictures in split 'val'; there are: train, test"
    assert files(place.here) == {}


def test_data_without_split_test_cannot_be_tested(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "data")
    prepare.prepare("folder", data, place.photos, splits="0.5,0.5,0")
    assert main(fit_words(data, str(tmp_path), "run", "--trainer.max_epochs", "1")) == 0
    before = files(tmp_path / "run")
    error = refused(["test", "--run", f"{tmp_path}/run"], capsys)
    assert error == f"{data}: no pictures in split 'test'; there are: train, val"
    assert files(tmp_path / "run") == before


def test_weights_of_another_model_are_not_loaded(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "resnet.safetensors"
    save_file(Network("test_resnet", 4).body.state_dict(), file)
    error = refused(fit(place, "--model.weights", str(file)), capsys)
    assert error.startswith(f"--model.weights {file}: weights of another model: ")
    assert files(place.here) == {}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--trainer.accelerator", "abacus", "--trainer: "),
        ("--model.weights", "imagnet", "did you mean 'imagenet'?"),
        ("--model.backbone", "test_efficientne", "did you mean 'test_efficientnet'?"),
        ("--model.backbone", "dla34", "one linear layer"),
        ("--model.backbone", "vit_tiny_patch16_224", "takes 224 pixels only"),
        ("--data.batch_size", "0", "--data.batch_size 0: must be at least 1"),
        ("--data.workers", "-1", "must be at least 0"),
        ("--data.augment.scale", "0", "--data.augment: out of range"),
        ("--checkpoints.monitor", "val/f1", "val/macro_f1"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    option: str, value: str, said: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(fit(place, option, value), capsys)
    assert files(place.here) == {}


def test_a_picture_that_cannot_be_read_ends_the_fit_and_is_named(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, name = damaged(place.data, tmp_path)
    words = fit(place, "--data.root", data)
    error = failed(words, Run(f"{place.here}/new"), capsys)
    assert error.startswith(f"{data}: picture {name}: ")
    assert error.endswith("prepare the data again, or pass --data.on_bad_image skip")


def test_a_picture_that_a_worker_cannot_read_is_one_line_too(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, name = damaged(place.data, tmp_path)
    words = fit(place, "--data.root", data, "--data.workers", "1")
    error = failed(words, Run(f"{place.here}/new"), capsys)
    assert error.startswith(f"{data}: picture {name}: ")


def damaged(data: str, tmp_path: Path) -> tuple[str, str]:
    """Copy a data set and cut one of its training pictures; its place and the picture's id."""
    copy = tmp_path / "damaged"
    shutil.copytree(data, copy)
    manifest = Manifest.open(str(copy))
    name = manifest.take(manifest.rows_of("train")[:1])[0]["id"]
    picture = copy / "pictures" / name
    picture.write_bytes(picture.read_bytes()[:-7])
    return str(copy), name


def test_json_of_a_test_that_fails_is_nothing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words = run(place, "test", "--json", "--data.root", f"{place.here}/none")
    assert "no data set here" in refused(words, capsys)


def test_a_damaged_run_json_is_named(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps({"name": "run"})[:-3])
    error = refused(["test", "--run", f"{tmp_path}/run"], capsys)
    assert error.startswith(f"{tmp_path}/run/run.json: not valid JSON")
