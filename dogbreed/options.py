"""Options of fit that are neither the trainer's, the model's nor the data's.

Classes, for their signatures and docstrings are the flags and their help.
"""

from typing import Literal


class CheckpointOptions:
    """When to save.

    Args:
        monitor: the score that says which checkpoint is best.
        mode: whether its `min` or `max` is best.
        every_n_train_steps: also save that often within an epoch; 0: after validations only.
    """

    def __init__(
        self,
        monitor: Literal[
            "val/top1", "val/top5", "val/log_loss", "val/macro_f1", "val/loss"
        ] = "val/top1",
        mode: Literal["min", "max"] = "max",
        every_n_train_steps: int = 0,
    ) -> None: ...


class AveragingOptions:
    """A moving average of the weights, which is what is scored, saved as best, and shipped.

    Args:
        decay: what the average keeps in each step of the optimiser, so that it is over about
            1 / (1 - decay) steps; 0: none.
    """

    def __init__(self, decay: float = 0.0) -> None: ...


class StoppingOptions:
    """When to stop early.

    Args:
        patience: end after so many validations in which `checkpoints.monitor` has not got better;
            0: never. The rate's schedule does not know of it.
    """

    def __init__(self, patience: int = 0) -> None: ...
