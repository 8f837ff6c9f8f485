"""validate and test: score a run's checkpoint on a split."""

import contextlib
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dogbreed import package, storage
from dogbreed.engine import open_engine
from dogbreed.errors import BadInput
from dogbreed.evaluate.card import renew
from dogbreed.evaluate.evaluation import FOLDER, details, sentence, values_of
from dogbreed.evaluate.robustness import FILE as CORRUPTIONS_FILE
from dogbreed.evaluate.robustness import PICTURES, robustness, table
from dogbreed.memory import keep_freed_memory
from dogbreed.model.metrics import Answered
from dogbreed.resuming import load_checkpoint, option, saved_config
from dogbreed.runs import Run, newest
from dogbreed.trainer_cli import RUN_ROOT, DogCLI
from dogbreed.training import quiet


def validate(argv: Sequence[str]) -> int:
    """Score split val; returns the exit status."""
    return _score("validate", "val", list(argv))


def test(argv: Sequence[str]) -> int:
    """Score split test; returns the exit status."""
    return _score("test", "test", list(argv))


def _score(verb: str, split: str, argv: list[str]) -> int:
    quiet()
    if {"-h", "--help"} & set(argv):
        DogCLI(verb, argv)
    given, root = option(argv, "run"), option(argv, "run_root") or RUN_ROOT
    run = Run(storage.normal(given)) if given else newest(root, holding="checkpoints/best.ckpt")
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(saved_config(run))
        if as_json := option(argv, "json") not in {None, "false"}:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        trained = yaml.safe_load(Path(saved[1]).read_text())
        here = ["--trainer.logger=false", "--trainer.num_nodes=1"]  # wherever it was trained
        cli = DogCLI(verb, [*saved, *here, *_valued(argv)], run)
        _load_weights(cli, run)
        if cli.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        evaluate = cli.trainer.validate if verb == "validate" else cli.trainer.test
        evaluate(cli.model, cli.datamodule, verbose=False)
        if not cli.trainer.is_global_zero:
            return 0
        report = _recorded(cli, run, split, trained)
        if cli.config.corruptions:
            _made_worse(cli, run, split)
    if as_json:
        print(json.dumps(report))
    return 0


def _load_weights(cli: DogCLI, run: Run) -> None:
    """Fill the model with the checkpoint that was asked for. Raises BadInput if it does not fit."""
    url = cli.config.checkpoint
    if url in {"best", "last"}:
        url = run.checkpoint(url)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "score.ckpt"
        storage.download(url, path)
        state = load_checkpoint(path, url)
    cli.model.on_load_checkpoint(state)
    try:
        cli.model.load_state_dict(state["state_dict"])
    except RuntimeError:
        raise BadInput(f"{url}: of another model than {cli.model.backbone}") from None


def _recorded(cli: DogCLI, run: Run, split: str, trained: dict[str, Any]) -> dict[str, Any]:
    """Write and say what was found; returns the report.

    Figures of other pictures, seen in another way, or of another checkpoint stand under `others`,
    never as if they were the run's own.
    """
    data, checkpoint, own = cli.datamodule, cli.config.checkpoint, trained["data"]
    here = _way(checkpoint, data.eval_size, data.crop, cli.model.network.flip)
    size, flip = own.get("eval_size") or own["image_size"], trained["model"].get("flip", False)
    usual = _way("best", size, own["crop"], flip)
    pictures = f"{data.manifest.name}@{data.manifest.version[:12]}"
    limit = cli.trainer.limit_val_batches if split == "val" else cli.trainer.limit_test_batches
    all_of_its = data.manifest.version == run.read()["data"]["version"] and limit == 1
    is_own = all_of_its and here == usual
    calibration = _calibration(run) | {"fitted_on": is_own and split == "val"}
    answered: Answered = cli.model.answered[split]
    evaluation = answered.evaluation(data, **calibration)
    about = data.seen() | {"checkpoint": checkpoint}
    if is_own:
        folder = run.path(FOLDER)
        report = evaluation.write(folder, split, about)
        run.record(**{split: values_of(report)})
        renew(run)
    else:
        place = pictures if here == usual else f"{pictures}, {here}"
        folder = run.path(FOLDER, "others", re.sub(r"[^\w.@,-]+", "-", place))
        report = evaluation.write(folder, split, about)
        others, key = run.metrics().get("others", {}), f"{pictures}, {here}"
        others[key] = others.get(key, {}) | {split: values_of(report)}
        run.record(others=others)
    print(f"{split} of {data.manifest.name}: {sentence(report)}")
    print(details(report))
    print(f"{storage.join(folder, split)}.json; first weights: {cli.model.weights_used}")
    return report


def _made_worse(cli: DogCLI, run: Run, split: str) -> None:
    """Measure the run's package on pictures made worse; written beside its evaluation.

    Raises:
        BadInput: there is no package yet, or these are other pictures than the run's.
    """
    data, answered = cli.datamodule, cli.model.answered[split]
    if data.manifest.version != run.read()["data"]["version"] or cli.config.checkpoint != "best":
        raise BadInput("--corruptions: of the run's own data and its best checkpoint alone")
    source = package.read(run.path(package.FOLDER))
    places = data.manifest.ranges(data.manifest.take(answered.rows))
    engine = open_engine(source, "torch", str(cli.trainer.strategy.root_device))
    found = {"split": split} | robustness(
        source, engine, places, answered.labels, cli.config.corruptions
    )
    storage.write_json(run.path(FOLDER, CORRUPTIONS_FILE), found)
    print(table(found))


def _way(checkpoint: str, size: int, crop: float, flip: bool) -> str:
    """How pictures were looked at, and by what, in words."""
    return f"{checkpoint}, {size} px, crop {crop:g}" + (", flip" if flip else "")


def _calibration(run: Run) -> dict[str, Any]:
    """Calibration and rejection of the run's package, if it has one yet."""
    if not storage.exists(run.path(package.FOLDER, package.MODEL_FILE)):
        return {}
    model = package.read(run.path(package.FOLDER))
    return {"calibration": model.calibration, "rejection": model.rejection}


def _valued(argv: list[str]) -> list[str]:
    """With the values that `--json` and `--corruptions` have alone; jsonargparse wants one."""
    alone = {"--json": "--json=true", "--corruptions": f"--corruptions={PICTURES}"}
    return [
        word if after.isdigit() else alone.get(word, word)
        for word, after in itertools.pairwise([*argv, ""])
    ]
