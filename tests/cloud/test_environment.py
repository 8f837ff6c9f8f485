"""What Vertex AI's variables become: words of fit, and variables of torch."""

import json

import pytest

from dogbreed.cloud.environment import Node, adopt, node
from dogbreed.errors import BadInput

TWO = {"workerpool0": ["first-host:2222"], "workerpool1": ["second-host:2222"]}
THREE = {"workerpool0": ["first-host:2222"], "workerpool1": ["b:2222", "c:2222"]}


def cluster(pools: dict[str, list[str]], pool: int, index: int) -> str:
    task = {"type": f"workerpool{pool}", "index": index, "trial": ""}
    return json.dumps({"cluster": pools, "environment": "cloud", "task": task})


@pytest.mark.parametrize(
    ("pools", "pool", "index", "rank", "nodes"),
    [
        ({"workerpool0": ["first-host:2222"]}, 0, 0, 0, 1),
        (TWO, 0, 0, 0, 2),
        (TWO, 1, 0, 1, 2),
        (THREE, 1, 1, 2, 3),
    ],
)
def test_the_cluster_says_which_machine_this_is(
    pools: dict[str, list[str]], pool: int, index: int, rank: int, nodes: int
) -> None:
    assert node(cluster(pools, pool, index)) == Node(rank, nodes, "first-host", 2222)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "[]",
        "{}",
        '{"cluster": {}, "task": {"type": "workerpool0", "index": 0}}',
        cluster({"workerpool0": ["no port"]}, 0, 0),
        cluster(TWO, 2, 0),
        cluster(TWO, 1, 1),
        cluster({"workerpool0": ["a:1", "b:1"]}, 0, 1),
    ],
)
def test_what_is_no_cluster_is_one_line(spec: str) -> None:
    with pytest.raises(BadInput, match=r"CLUSTER_SPEC.*not what Vertex AI writes") as told:
        node(spec)
    assert "\n" not in str(told.value)


def test_a_second_machine_finds_the_first_and_forgets_what_misleads_torch() -> None:
    env = {"CLUSTER_SPEC": cluster(TWO, 1, 0), "RANK": "1", "WORLD_SIZE": "2", "OTHER": "kept"}
    assert adopt(["--config", "x.yaml"], env)[2:] == ["--trainer.num_nodes", "2"]
    del env["CLUSTER_SPEC"]
    assert env == {
        "NODE_RANK": "1",
        "MASTER_ADDR": "first-host",
        "MASTER_PORT": "2222",
        "OTHER": "kept",
    }


def test_processes_that_lightning_starts_on_a_machine_keep_its_variables() -> None:
    env = {"CLUSTER_SPEC": cluster(TWO, 0, 0), "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    before = dict(env)
    assert adopt([], env) == ["--trainer.num_nodes", "2"]
    assert env == before


def test_a_machine_alone_is_told_of_no_other() -> None:
    env = {"CLUSTER_SPEC": cluster({"workerpool0": ["a:2222"]}, 0, 0)}
    assert adopt([], env) == ["--trainer.num_nodes", "1"]
    assert "MASTER_ADDR" not in env


def test_the_run_lies_where_the_model_is_asked_for_and_goes_on_there() -> None:
    env = {"AIP_MODEL_DIR": "gs://dogs/runs/first/model/"}
    where = ["--run_root", "gs://dogs/runs", "--name", "first"]
    assert adopt(["--config", "x.yaml"], env) == [
        *("--config", "x.yaml"),
        *where,
        *("--resume", "auto"),
    ]
    assert adopt(["--resume=best"], env) == ["--resume=best", *where]


@pytest.mark.parametrize("words", [["--name", "mine"], ["--run_root=gs://other/runs"]])
def test_who_says_where_the_run_goes_is_heard(words: list[str]) -> None:
    assert adopt(words, {"AIP_MODEL_DIR": "gs://dogs/runs/first/model/"}) == words


@pytest.mark.parametrize("model", ["gs://dogs/runs/first/", "gs://dogs/model/", "gs://model/"])
def test_a_model_directory_without_a_run_around_it_is_an_error(model: str) -> None:
    with pytest.raises(BadInput, match=r"AIP_MODEL_DIR gs://.*: expected gs://BUCKET/…/NAME/model"):
        adopt([], {"AIP_MODEL_DIR": model})


def test_parameters_of_a_trial_become_options() -> None:
    env = {"CLOUD_ML_TRIAL_ID": "3"}
    words = ["--config", "x.yaml", "--lr=0.01", "--batch_size=32.0", "--max_epochs=4"]
    words += ["--model.weight_decay=0.1", "--data__augment__scale=1.0", "--seed_everything=7"]
    assert adopt(words, env)[2:] == [
        *("--model.lr=0.01", "--data.batch_size=32", "--trainer.max_epochs=4"),
        *("--model.weight_decay=0.1", "--data.augment.scale=1", "--seed_everything=7"),
    ]
    assert adopt(["--lr=0.01"], {}) == ["--lr=0.01"]  # of a user: a mistake, for fit to say so


def test_a_parameter_that_is_no_option_is_named() -> None:
    with pytest.raises(BadInput, match="parameter 'lrr': is no option of fit; name it in full"):
        adopt(["--lrr=0.01"], {"CLOUD_ML_TRIAL_ID": "3"})
