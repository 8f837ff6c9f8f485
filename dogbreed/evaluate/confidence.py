"""From logits to probabilities that mean what they say. Needs numpy alone, as engines do."""

import dataclasses
import math

import numpy as np

from dogbreed.errors import BadInput

AHEAD = 1e-3  # of the runner-up that the answer stays at least: it never is another


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Corrects logits, first all of them alike, then that of the answer.

    A network can be off by more than a temperature mends: too sure of its surest answers, and not
    sure enough of those in the middle.

    Args:
        temperature: that logits are divided by (Guo et al. 2017).
        slope: of the answer's log-odds (Platt 1999): they become slope times themselves, and
        offset: so much more.

    Raises:
        BadInput: one of them is not finite, or temperature or slope not above 0.
    """

    temperature: float = 1.0
    slope: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """See that they can be used."""
        for name, value in dataclasses.asdict(self).items():
            if not math.isfinite(value) or (value <= 0 and name != "offset"):
                limits = "finite" if name == "offset" else "finite and above 0"
                raise BadInput(f"{name} {value}: must be {limits}")

    @property
    def platt(self) -> dict[str, float]:
        """Slope and offset alone, as they are written down."""
        return {"slope": self.slope, "offset": self.offset}

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Logits of which the softmax is to be believed: float, (n, classes), as those given."""
        scaled: np.ndarray = logits / logits.dtype.type(self.temperature)
        if (self.slope, self.offset) != (1.0, 0.0):
            answer, top, rest, runner_up = log_odds(scaled)
            moved = rest + self.slope * (top - rest) + self.offset
            scaled[np.arange(len(scaled)), answer] = np.maximum(moved, runner_up + AHEAD)
        return scaled


UNCALIBRATED = Calibration()


def log_odds(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the answers' log-odds are made of, for float (n, classes) with two classes at least.

    Returns:
        Of each row the answer, int, its logit, the log of the sum of the others' exponentials, and
        the highest logit of the others. The log-odds are the second minus the third.
    """
    n = np.arange(len(logits))
    answer = logits.argmax(1)
    others = logits.copy()
    others[n, answer] = -np.inf
    runner_up = others.max(1)
    rest = runner_up + np.log(np.exp(others - runner_up[:, None]).sum(1))
    return answer, logits[n, answer], rest, runner_up


def in_words(platt: dict[str, float]) -> str:
    """What `Calibration.platt` does to log-odds, such as `times 0.84 plus 0.32`."""
    slope, offset = platt["slope"], platt["offset"]
    return f"times {slope:.2f} {'minus' if offset < 0 else 'plus'} {abs(offset):.2f}"
