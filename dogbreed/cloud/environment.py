"""What Vertex AI tells a container, as words of `fit` and as variables that torch understands.

The variables are listed in
https://cloud.google.com/vertex-ai/docs/training/code-requirements#environment-variables
"""

import dataclasses
import inspect
import json
import re
from collections.abc import MutableMapping, Sequence

from dogbreed.errors import BadInput

_OWN = {"config", "name", "print_config", "resume", "run_root", "seed_everything"}  # of fit itself


@dataclasses.dataclass(frozen=True)
class Node:
    """One machine of a job.

    Args:
        rank: its number, from 0.
        nodes: how many there are.
        address: of the first one.
        port: on which that one listens.
    """

    rank: int
    nodes: int
    address: str
    port: int


def node(cluster_spec: str) -> Node:
    """This machine's place in the job.

    Pool 0 has the first machine, pool 1 all others; further pools train nothing.

    Args:
        cluster_spec: JSON, as Vertex AI writes it into `CLUSTER_SPEC`.

    Raises:
        BadInput: it is something else.
    """
    try:
        spec = json.loads(cluster_spec)
        pools = [spec["cluster"].get(f"workerpool{k}", []) for k in (0, 1)]
        pool, index = (
            ("workerpool0", "workerpool1").index(spec["task"]["type"]),
            spec["task"]["index"],
        )
        address, _, port = pools[0][0].rpartition(":")
        rank = len(pools[0]) * pool + int(index)
        found = Node(rank, len(pools[0]) + len(pools[1]), address.strip("[]"), int(port))
        if rank >= found.nodes or len(pools[0]) != 1:
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise BadInput(f"$CLUSTER_SPEC: not what Vertex AI writes: {cluster_spec[:200]}") from None
    return found


def run_directory(argv: Sequence[str], env: MutableMapping[str, str]) -> tuple[str, str] | None:
    """Root and name of the run that a job writes: what lies above `AIP_MODEL_DIR`.

    The run keeps its model, checkpoints and logs under the names that Vertex AI has for them.

    Args:
        argv: words after `fit`; if they say themselves where the run goes, they win.
        env: the container's variables.

    Raises:
        BadInput: the variable is not what Vertex AI writes.
    """
    said = {word.partition("=")[0] for word in argv}
    model = env.get("AIP_MODEL_DIR", "").rstrip("/")
    if not model or said & {"--run_root", "--name"}:
        return None
    base, _, last = model.rpartition("/")
    root, _, name = base.rpartition("/")
    if last != "model" or not name or root.endswith("/"):
        raise BadInput(f"$AIP_MODEL_DIR {model}: expected gs://BUCKET/…/NAME/model/")
    return root, name


def adopt(argv: Sequence[str], env: MutableMapping[str, str]) -> list[str]:
    """Words of `fit` for this machine of the job, which both start it and start it again.

    Args:
        argv: words after `fit`, as the job has them.
        env: the container's variables; those that torch reads are set or dropped.

    Raises:
        BadInput: a variable or a trial's parameter is not to be understood.
    """
    words = list(argv)
    if "CLOUD_ML_TRIAL_ID" in env:
        words = [_parameter(word) for word in words]
    if "CLUSTER_SPEC" in env:
        here = node(env["CLUSTER_SPEC"])
        words += ["--trainer.num_nodes", str(here.nodes)]
        if "LOCAL_RANK" not in env:  # else Lightning has set them
            for misleading in ("RANK", "WORLD_SIZE"):  # of machines, where torch means processes
                env.pop(misleading, None)
            env["NODE_RANK"] = str(here.rank)
            if here.nodes > 1:
                env["MASTER_ADDR"], env["MASTER_PORT"] = here.address, str(here.port)
    if place := run_directory(argv, env):
        words += ["--run_root", place[0], "--name", place[1]]
        if not any(word.partition("=")[0] == "--resume" for word in argv):
            words += ["--resume", "auto"]
    return words


def _parameter(word: str) -> str:
    """`--lr=0.01` of a tuning trial as an option of fit: `--model.lr=0.01`.

    A parameter is named as the option, with `__` for a dot if need be, or by its last part.
    """
    found = re.fullmatch(r"--(\w+)=(.*)", word, re.DOTALL)
    if not found or found[1] in _OWN:
        return word
    name, value = found.groups()
    # A discrete parameter is a float, also where it counts something.
    value = value.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", value) else value
    if "__" in name:
        return f"--{name.replace('__', '.')}={value}"
    from lightning.pytorch import Trainer  # fit loads them anyway

    from dogbreed.data.datamodule import DogDataModule
    from dogbreed.model.module import DogModule

    groups = {"model": DogModule, "data": DogDataModule, "trainer": Trainer}
    having = [g for g, of in groups.items() if name in inspect.signature(of).parameters]
    if len(having) != 1:
        which = f"is in {' and '.join(having)}" if having else "is no option of fit"
        raise BadInput(f"parameter {name!r}: {which}; name it in full, such as model__lr")
    return f"--{having[0]}.{name}={value}"
