"""What is asked of Vertex AI for a job."""

from typing import Any

import pytest

from dogbreed.cloud.spec import Job, message
from dogbreed.errors import BadInput


def job(**changed: Any) -> Job:
    """Make a job on one machine without an accelerator."""
    values: dict[str, Any] = {
        "name": "exp1",
        "image": "us-central1-docker.pkg.dev/dogs/dogbreed/train:latest",
        "args": ["fit"],
        "env": {"NAME": "value"},
        "output": "gs://dogs-dogbreed/runs/exp1",
        "service_account": "train@dogs.iam.gserviceaccount.com",
        "machine": "e2-standard-8",
        "accelerator": None,
        "accelerators": 1,
        "nodes": 1,
        "spot": False,
        "timeout": 7200,
        "disk_gb": 100,
        "tensorboard": None,
        "labels": {"run": "exp1"},
    }
    return Job(**values | changed)


def gpu(machine: str, accelerator: str, accelerators: int = 1) -> Job:
    return job(machine=machine, accelerator=accelerator, accelerators=accelerators)


def test_one_machine_is_a_pool_of_one_that_the_protocol_knows() -> None:
    asked = message(job().custom_job())
    (pool,) = asked.job_spec.worker_pool_specs
    assert pool.replica_count == 1
    assert pool.machine_spec.machine_type == "e2-standard-8"
    assert not pool.machine_spec.accelerator_count
    assert list(pool.container_spec.args) == ["fit"]
    assert asked.job_spec.scheduling.timeout.total_seconds() == 7200
    assert asked.job_spec.scheduling.strategy.name == "STANDARD"
    assert not asked.job_spec.scheduling.restart_job_on_worker_restart
    assert asked.job_spec.base_output_directory.output_uri_prefix == "gs://dogs-dogbreed/runs/exp1"
    assert dict(asked.labels) == {"run": "exp1"}


def test_of_several_machines_the_first_has_a_pool_of_its_own_and_all_start_again_together() -> None:
    asked = message(job(nodes=3, spot=True).custom_job()).job_spec
    assert [pool.replica_count for pool in asked.worker_pool_specs] == [1, 2]
    first, others = asked.worker_pool_specs
    assert first.container_spec == others.container_spec
    assert asked.scheduling.strategy.name == "SPOT"
    assert asked.scheduling.restart_job_on_worker_restart


def test_a_gpu_and_a_tensorboard_are_asked_for() -> None:
    board = "projects/1/locations/us-central1/tensorboards/2"
    asked = job(
        machine="g2-standard-48", accelerator="NVIDIA_L4", accelerators=4, tensorboard=board
    )
    spec = message(asked.custom_job()).job_spec
    machine = spec.worker_pool_specs[0].machine_spec
    assert (machine.accelerator_type.name, machine.accelerator_count) == ("NVIDIA_L4", 4)
    assert spec.tensorboard == board


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (gpu("e2-standard-8", "NVIDIA_L4"), "takes no NVIDIA_L4: that needs g2-standard-"),
        (gpu("e2-standard-8", "NVIDIA_TESLA_T4"), "takes no NVIDIA_TESLA_T4: that needs n1-"),
        (gpu("n1-standard-8", "NVIDIA_TESLA_T4", 3), "--accelerators 3: must be 1, 2, 4 or 8"),
        (gpu("g2-standard-8", "NVIDIA_TESLA_T4"), "has NVIDIA_L4: set --accelerator NVIDIA_L4"),
        (gpu("g2-standard-48", "NVIDIA_L4"), "has 4 of NVIDIA_L4: set --accelerators 4"),
        (gpu("a2-highgpu-2g", "NVIDIA_TESLA_A100"), "set --accelerators 2"),
        (job(machine="g2-standard-8"), "has NVIDIA_L4: set --accelerator NVIDIA_L4"),
    ],
)
def test_machines_and_accelerators_that_do_not_go_together_are_refused(
    asked: Job, told: str
) -> None:
    with pytest.raises(BadInput, match=told):
        asked.spec()


@pytest.mark.parametrize(
    "asked",
    [
        gpu("n1-standard-8", "NVIDIA_TESLA_T4", 2),
        gpu("g2-standard-12", "NVIDIA_L4"),
        gpu("a2-ultragpu-4g", "NVIDIA_A100_80GB", 4),
        gpu("a3-highgpu-8g", "NVIDIA_H100_80GB", 8),
    ],
)
def test_those_that_do_are_taken(asked: Job) -> None:
    message(asked.custom_job())


def test_a_field_that_the_protocol_has_not_is_refused() -> None:
    asked = job().custom_job()
    asked["jobSpec"]["scheduling"]["timeOut"] = "7200s"
    with pytest.raises(BadInput, match="timeOut"):
        message(asked)


def test_an_unknown_accelerator_is_named_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="NVIDIA_L44: no such accelerator, did you mean 'NVIDIA_L4'"):
        gpu("n1-standard-8", "NVIDIA_L44").spec()
