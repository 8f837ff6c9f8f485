"""The command line: what it lists, what it loads for that, and what it says to a wrong word."""

import os
import subprocess
import sys

import pytest

from dogbreed import __version__
from dogbreed.cli import VERBS, main

OPTIONS = {
    "prepare": ["--source", "--out", "--path", "--name", "--splits", "--seed", "--per_class"],
    "fit": [
        *("--config", "--seed_everything", "--run_root", "--name", "--resume"),
        *("--model.backbone", "--model.weights", "--model.freeze", "--model.lr"),
        *("--data.root", "--data.batch_size", "--data.augment.flip", "--data.on_bad_image"),
        *("--trainer.max_epochs", "--trainer.precision", "--checkpoints.monitor"),
    ],
    "validate": ["--run", "--run_root", "--json", "--checkpoint", "--data.root"],
    "test": ["--run", "--run_root", "--json", "--checkpoint", "--data.root"],
    "predict": [
        *("--images", "--run", "--run_root", "--model", "--data", "--split", "--out"),
        *("--batch_size", "--device"),
    ],
    "report": ["--out", "--split", "--sort", "--filter", "--best"],
    "submit": ["--job", "--nodes", "--spot", "--dry_run", "--machine", "--timeout", "--follow"],
}


def status(*words: str) -> int:
    """Run a command whose parser may end the process by itself; its exit status."""
    try:
        return main(words)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_verbs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0] == "usage: dogbreed VERB [OPTIONS]"
    for verb in OPTIONS:
        assert [line for line in lines if line.startswith(f"  {verb} ")]
    assert set(VERBS) >= set(OPTIONS)


def test_help_loads_nothing_heavy_and_the_module_can_be_run() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['dogbreed', '--help']\n"
        "try:\n"
        "    runpy.run_module('dogbreed', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as ended:\n"
        "    print('status', ended.code)\n"
        "print('loaded', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    help_text, status_line, loaded = ended.stdout.rstrip("\n").rsplit("\n", 2)
    assert status_line == "status 0"
    assert help_text.startswith("usage: dogbreed VERB [OPTIONS]")
    modules = set(loaded.split()[1:])
    assert "dogbreed" in modules
    heavy = {"torch", "lightning", "timm", "numpy", "PIL", "fsspec", "gcsfs", "jsonargparse"}
    assert modules.isdisjoint(heavy)


@pytest.mark.parametrize("verb", OPTIONS)
def test_a_verbs_help_names_its_options_with_words(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(verb, "--help") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"usage: dogbreed {verb} ")
    listed = said.out.replace(",", " ").split()
    assert [option for option in OPTIONS[verb] if option not in listed] == []


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_what_is_not_for_people_is_not_in_the_help(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(verb, "--help") == 0
    said = capsys.readouterr().out
    assert "ckpt_path" not in said
    assert "--model.class_names" not in said.split("Linked arguments")[0]
    assert ("--resume" in said) == (verb == "fit")


def test_one_who_reads_no_further_is_no_error() -> None:
    for unbuffered in ("", "1"):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "dogbreed", "--version"]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False
        )
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (141, b"")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("word", "guess"),
    [
        ("fitt", ", did you mean 'fit'?"),
        ("predct", ", did you mean 'predict'?"),
        ("preparre", ", did you mean 'prepare'?"),
        ("qqqqq", ""),
        ("--versoin", ""),
    ],
)
def test_an_unknown_verb_is_one_line_with_the_nearest(
    word: str, guess: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (f"dogbreed {word}: error: no verb {word!r}{guess}; see dogbreed --help\n")


def test_without_arguments_it_takes_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dogbreed", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("words", [["--images", "x", "--imag", "y"], ["--dat", "z"]])
def test_an_abbreviated_option_is_an_unknown_one(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *words]) == 2
    assert "unknown option" in capsys.readouterr().err
