"""What is asked of Vertex AI, as its CustomJob: checked by its own protocol before it is sent."""

import dataclasses
import re
from typing import Any

from dogbreed.errors import BadInput, nearest

# https://cloud.google.com/compute/docs/gpus: which machines have which accelerator, and where the
# machine's name says it, how many. `n1` takes the older ones in any number.
_ATTACHED = {"NVIDIA_TESLA_T4", "NVIDIA_TESLA_V100", "NVIDIA_TESLA_P100", "NVIDIA_TESLA_P4"}
_BUILT_IN = {
    "g2-standard": "NVIDIA_L4",
    "a2-highgpu": "NVIDIA_TESLA_A100",
    "a2-megagpu": "NVIDIA_TESLA_A100",
    "a2-ultragpu": "NVIDIA_A100_80GB",
    "a3-highgpu": "NVIDIA_H100_80GB",
    "a3-megagpu": "NVIDIA_H100_MEGA_80GB",
    "a3-ultragpu": "NVIDIA_H200_141GB",
}
_L4_OF_G2 = {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}  # by processors


@dataclasses.dataclass(frozen=True)
class Job:
    """A job on machines that are all alike.

    Args:
        name: shown in the console.
        image: of the container, whose entry point is `dogbreed`.
        args: words for it.
        env: plain variables for it: no place for a secret.
        output: `gs://…`, the run's directory.
        service_account: whose rights the container has.
        machine: Compute Engine's name of the machine.
        accelerator: Vertex AI's name of the accelerator, if any.
        accelerators: how many of them each machine has.
        nodes: machines.
        spot: whether machines may be taken back: cheaper, and the job goes on elsewhere.
        timeout: seconds after which the job is ended.
        disk_gb: size of each machine's disk.
        tensorboard: resource name of a TensorBoard instance that shows the run's logs.
        labels: of the job; for bills, and to find it.
    """

    name: str
    image: str
    args: list[str]
    env: dict[str, str]
    output: str
    service_account: str
    machine: str
    accelerator: str | None
    accelerators: int
    nodes: int
    spot: bool
    timeout: int
    disk_gb: int
    tensorboard: str | None
    labels: dict[str, str]

    def spec(self) -> dict[str, Any]:
        """The CustomJobSpec, in the form that `gcloud ai custom-jobs create --config` takes.

        Raises:
            BadInput: machine and accelerator do not go together.
        """
        self._check_machine()
        machine: dict[str, Any] = {"machineType": self.machine}
        if self.accelerator:
            machine |= {
                "acceleratorType": self.accelerator,
                "acceleratorCount": self.accelerators,
            }
        pool = {
            "machineSpec": machine,
            "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": self.disk_gb},
            "containerSpec": {
                "imageUri": self.image,
                "args": self.args,
                "env": [{"name": name, "value": value} for name, value in self.env.items()],
            },
        }
        # Pool 0 has one machine, always; the others are pool 1.
        pools = [n for n in (1, self.nodes - 1) if n]
        spec: dict[str, Any] = {
            "workerPoolSpecs": [pool | {"replicaCount": str(number)} for number in pools],
            "scheduling": {
                "timeout": f"{self.timeout}s",
                "strategy": "SPOT" if self.spot else "STANDARD",
                # One that is alone restarts alone; the others would wait for it in vain.
                "restartJobOnWorkerRestart": self.nodes > 1,
            },
            "serviceAccount": self.service_account,
            "baseOutputDirectory": {"outputUriPrefix": self.output},
        }
        if self.tensorboard:
            spec["tensorboard"] = self.tensorboard
        return spec

    def custom_job(self) -> dict[str, Any]:
        """The whole CustomJob."""
        return {"displayName": self.name, "labels": self.labels, "jobSpec": self.spec()}

    def _check_machine(self) -> None:
        family = "-".join(self.machine.split("-")[:2])
        has = _BUILT_IN.get(family)
        where = f"--machine {self.machine}"
        known = {*_ATTACHED, *_BUILT_IN.values()}
        if self.accelerator and self.accelerator not in known:
            hint = nearest(self.accelerator, known)
            raise BadInput(f"--accelerator {self.accelerator}: no such accelerator{hint}")
        if has is None and self.accelerator:
            if not self.machine.startswith("n1-") or self.accelerator not in _ATTACHED:
                fits = next(
                    (f for f, a in _BUILT_IN.items() if a == self.accelerator), "n1-standard"
                )
                raise BadInput(f"{where} takes no {self.accelerator}: that needs {fits}-…")
            if self.accelerators not in {1, 2, 4, 8}:
                raise BadInput(f"--accelerators {self.accelerators}: must be 1, 2, 4 or 8")
        if has is None:
            return
        if self.accelerator != has:
            raise BadInput(f"{where} has {has}: set --accelerator {has}")
        size = re.search(r"(\d+)g?$", self.machine)
        number = int(size[1]) if size else 0
        number = _L4_OF_G2.get(number, 0) if family == "g2-standard" else number
        if number != self.accelerators:
            raise BadInput(f"{where} has {number} of {has}: set --accelerators {number}")


def message(custom_job: dict[str, Any]) -> Any:
    """A CustomJob as the protocol's message: what the server would refuse for its form, we do.

    Args:
        custom_job: JSON's form, in camelCase.

    Raises:
        BadInput: a field or a name that the protocol has not, or its package is missing.
    """
    try:
        from google.cloud.aiplatform_v1 import CustomJob
        from google.protobuf.json_format import ParseDict, ParseError
    except ImportError as error:
        raise BadInput(f"submit needs pip install '.[cloud]' ({error})") from error
    job = CustomJob()
    try:
        ParseDict(custom_job, CustomJob.pb(job))
    except ParseError as error:
        raise BadInput(f"not a CustomJob: {' '.join(str(error).split())}") from None
    return job
