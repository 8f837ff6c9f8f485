"""The model card, in the Hugging Face Hub's format: what a model is for, and how good it is."""

import html
import re
from typing import Any

import yaml

from dogbreed import breeds, storage
from dogbreed.evaluate.caveats import INTERVALS, SAMPLE, caveats
from dogbreed.evaluate.confidence import UNCALIBRATED, in_words
from dogbreed.evaluate.figures import TITLES, scores_of, with_interval
from dogbreed.runs import Run

_LICENSE = "# license: yours to choose before you publish; mind that of the pictures\n"
_METRIC_TYPES = {
    "top1": "accuracy",
    "top5": "top_5_accuracy",
    "macro_f1": "f1",
    "log_loss": "log_loss",
    "ece": "expected_calibration_error",
}


def card(
    model: dict[str, Any], metrics: dict[str, Any], summaries: dict[str, dict[str, Any]]
) -> str:
    """The card as Markdown with metadata in front.

    Args:
        model: what model.json says.
        metrics: what metrics.json says.
        summaries: split -> what evaluation/{split}.json says; gives the scores their intervals.
    """
    scores = scores_of(metrics, summaries)
    parts = [_about(model), _use(model), _data(model), _scores(model, scores, bool(summaries))]
    parts += [_probabilities(model, summaries), _limits(model, scores), _how(model)]
    front = yaml.safe_dump(_metadata(model, scores), sort_keys=False, allow_unicode=True)
    return f"---\n{front}{_LICENSE}---\n\n" + "\n".join(parts)


def renew(run: Run) -> None:
    """Write the card of a run's package anew, from what the run's files say now.

    Nothing happens where there is no package yet.

    Raises:
        StorageError: the run's files cannot be read or written.
    """
    from dogbreed import package  # which writes cards itself
    from dogbreed.evaluate.evaluation import FOLDER

    path = run.path(package.FOLDER, package.MODEL_FILE)
    if not storage.exists(path):
        return
    urls = {split: run.path(FOLDER, f"{split}.json") for split in ("val", "test")}
    summaries = {s: storage.read_json(url) for s, url in urls.items() if storage.exists(url)}
    text = card(storage.read_json(path), run.metrics(), summaries)
    storage.write(run.path(package.FOLDER, package.CARD_FILE), text.encode())


def _metadata(model: dict[str, Any], scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    data = model["data"]
    results = [
        {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {
                "name": data["name"],
                "type": re.sub(r"[^\w.-]+", "-", data["name"]) or "dogs",
                "split": split,
                "revision": data["version"],
            },
            "metrics": [
                {"type": _METRIC_TYPES[name], "name": title, "value": round(of[name]["value"], 6)}
                for name, title in TITLES.items()
                if name in of
            ],
        }
        for split, of in scores.items()
    ]
    found: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "dogbreed"],
    }
    if (hub := model["pretraining"].removeprefix("imagenet: ")) != model["pretraining"]:
        found["base_model"] = hub
    return found | {"model-index": [{"name": model["run"], "results": results}]}


def _about(model: dict[str, Any]) -> str:
    side, data = model["preprocessing"]["size"], model["data"]
    return f"""# {_text(model["run"])}

`{model["backbone"]}` that tells {len(model["classes"])} breeds apart, fine-tuned with dogbreed.

- **Data:** {_text(data["name"])}, version `{data["version"][:12]}`
- **First weights:** {_text(model["pretraining"])}
- **Input:** {side} x {side} pixels, uint8 RGB; normalisation is part of the network
"""


def _use(model: dict[str, Any]) -> str:
    if model["data"]["name"] == SAMPLE:
        return """## Intended use

To see that the program works. The breeds are made up and the pictures are drawings: the model is of
no use on photographs.
"""
    return """## Intended use

To name the breed of a dog that a photograph shows, among the breeds below, where a wrong answer
does little harm: sorting albums, suggesting an answer to a person. Not for deciding what a dog may
do, what it is worth, or how it will behave; a photograph says nothing of descent, and mixed breeds
are not among the answers.
"""


def _data(model: dict[str, Any]) -> str:
    data = model["data"]
    names = ", ".join(_text(breeds.title(entry["name"])) for entry in model["classes"])
    return f"""## Training data

{_text(data["name"])}, version `{data["version"]}` (a SHA-256 over pictures, labels and splits). The
{len(model["classes"])} breeds:

{names}.
"""


def _scores(model: dict[str, Any], scores: dict[str, dict[str, Any]], intervals: bool) -> str:
    if not scores:
        return "## Scores\n\nNot measured.\n"
    splits = list(scores)
    name = _text(model["data"]["name"]).replace("|", r"\|")
    lines = ["| | " + " | ".join(f"{split} of {name}" for split in splits) + " |"]
    lines.append("|---|" + "---|" * len(splits))
    lines.append("| pictures | " + " | ".join(f"{scores[s]['n'] or 0:,}" for s in splits) + " |")
    for key, title in TITLES.items():
        shown = [with_interval(scores[s][key]) if key in scores[s] else "-" for s in splits]
        lines.append(f"| {title} | " + " | ".join(shown) + " |")
    return "## Scores\n\n" + "\n".join(lines) + ("\n\n" + INTERVALS if intervals else "") + "\n"


def _probabilities(model: dict[str, Any], summaries: dict[str, dict[str, Any]]) -> str:
    temperature = model.get("temperature", 1.0)
    platt = model.get("platt", UNCALIBRATED.platt)
    said = [
        f"Logits are divided by a temperature of {temperature:.4g}, and the log-odds of the answer"
        f" are taken {in_words(platt)}; both were fitted on validation."
    ]
    for split, summary in summaries.items():
        of = summary["scores"]
        if {"ece", "ece_uncalibrated"} <= of.keys():
            said.append(
                f"ECE on {split} is {of['ece']['value']:.4f}, without them"
                f" {of['ece_uncalibrated']['value']:.4f}."
            )
    rejection = model.get("rejection")
    if rejection:
        rule = (
            f"A picture whose rejection score ({rejection['score'].replace('_', ' ')}) lies above"
            f" {rejection['threshold']:.4g} is marked as none of the breeds; the threshold keeps"
            f" {rejection.get('keeps', 0.95):.0%} of the validation pictures."
        )
    else:
        rule = "The model rejects nothing: it names a breed for any picture, dog or not."
    return f"## Probabilities and rejection\n\n{' '.join(said)}\n\n{rule}\n"


def _limits(model: dict[str, Any], scores: dict[str, dict[str, Any]]) -> str:
    said = caveats(
        model["pretraining"],
        model["data"]["name"],
        [entry["name"] for entry in model["classes"]],
        scores,
    )
    said.append(
        "Figures hold for pictures like those of the data set. Puppies, groomed or mixed dogs,"
        " several dogs in a picture, and breeds that are not listed are answered worse, or wrongly."
    )
    return "## Limits\n\n" + "\n".join(f"- {_text(line)}" for line in said) + "\n"


def _how(model: dict[str, Any]) -> str:
    return """## How to use it

`model.json` and `weights.safetensors` (timm's names) lie beside this card.

```
dogbreed predict --model FOLDER --images PHOTOGRAPHS
```

```python
from dogbreed import images, package
from dogbreed.engine import TorchEngine

source = package.read("FOLDER")
seen = source.model["preprocessing"]
with open("dog.jpg", "rb") as file:
    picture = images.picture(
        file.read(), seen["size"], lambda w, h: images.centre_box(w, h, seen["crop"])
    )
answers = TorchEngine(source).answer(picture[None])
print(source.class_names[answers.probabilities[0].argmax()], answers.probabilities.max())
```
"""


def _text(value: str) -> str:
    """As it stands within a line of Markdown: no markup of its own."""
    return re.sub(r"([*_`\[\]#])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))
