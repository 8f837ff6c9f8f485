"""What has to stand beside a figure so that nobody takes it for more than it is."""

from collections.abc import Collection, Sequence

from dogbreed.breeds import SYNSETS

SAMPLE = "synthetic-breeds"  # the embedded sample's name
_MANY = 0.5  # share of the classes that are among ImageNet's breeds: likely its pictures too


def caveats(
    weights: str,
    data_name: str,
    class_names: Sequence[str],
    splits: Collection[str],
    sides: tuple[int, int] | None = None,
) -> list[str]:
    """Sentences that belong to the scores of a model.

    Args:
        weights: the first weights, as run.json and model.json name them.
        data_name: the data set's name.
        class_names: the breeds.
        splits: which of `val` and `test` were scored.
        sides: width and height that all of its pictures have, if they have the same.
    """
    synthetic = data_name == SAMPLE
    said = []
    if synthetic:
        said.append(
            "The data set is the embedded sample: drawings of made-up breeds. The figures show that"
            " the program works; they say nothing about photographs of dogs."
        )
    if weights.startswith("none"):
        said.append("First weights: random. All that the model knows comes from this data set.")
    else:
        said.append(f"First weights: {weights}.")
    known = sum(name in SYNSETS for name in class_names)
    if not weights.startswith("none") and not synthetic and known >= _MANY * len(class_names):
        said.append(
            f"{known} of the {len(class_names)} breeds are classes of ImageNet-1k. Stanford Dogs"
            " and Kaggle's Dog Breed Identification take their pictures, also those for testing,"
            " from ImageNet's training part. Weights that were pretrained on ImageNet have seen"
            " them: on new photographs expect less."
        )
    if "test" not in splits:
        said.append(
            "There is no test score yet. Validation chose the checkpoint, the calibration and the"
            " threshold of rejection, so its scores are a little too good."
        )
    elif "val" in splits:
        said.append(
            "Validation chose the checkpoint, the calibration and the threshold of rejection: quote"
            " the test scores. Each look at them that changes a decision wears them out."
        )
    if sides and not synthetic:
        said.append(
            f"All pictures have {sides[0]} x {sides[1]} pixels: they were cut or scaled before. If"
            " they were cut to the dog, do not compare with figures of full photographs, which are"
            " harder."
        )
    return said


INTERVALS = (
    "Intervals are bootstrapped over the pictures, at 95 %. They cover the choice of pictures, not"
    " that of the seed or of another data set."
)
