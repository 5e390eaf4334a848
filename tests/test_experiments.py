"""The named experiments of conf/experiment: all compose, and published settings are the published ones."""

import dataclasses

import pytest

from dreammpc.configuration.command_line import unused_experiment, with_first_experiment
from dreammpc.configuration.recipe import compose, conf_folder
from dreammpc.configuration.schemas import AlgorithmConfig, BMPCConfig
from dreammpc.models import SIZES

NAMES = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
PUBLISHED = {"tdmpc2": AlgorithmConfig(), "tdmpc2-pixels": AlgorithmConfig()}
PUBLISHED |= {"bmpc": BMPCConfig(), "bmpc-pixels": BMPCConfig()}


def composed(*words: str) -> dict:
    return dataclasses.asdict(compose("train", [*words, "folder=x"]))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_composes_and_changes_something(name):
    assert composed(f"experiment={name}") != composed()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_settings_are_not_those_of_the_small_default_run(name):
    """The schemas hold the papers' settings, conf/learning/nano.yaml those of the default run."""
    assert compose("train", [f"experiment={name}"]).algorithm == PUBLISHED[name]


LAPTOP = {"batch_size": 128, "lr": 1e-3, "target_rate": 0.03}
"""What nano learns with: docs/history.md has its curves."""


@pytest.mark.parametrize("algorithm", ["tdmpc2", "bmpc"])
@pytest.mark.parametrize("size", sorted(SIZES))
def test_settings_follow_the_size(size, algorithm):
    """Nano has the laptop's, and every other size the published ones."""
    config = compose("train", [f"model={size}", f"algorithm={algorithm}"])
    expected = PUBLISHED[algorithm]
    if size == "nano":
        expected = dataclasses.replace(expected, **LAPTOP)
    assert config.algorithm == expected
    assert f"{algorithm} with model {size}: lr {expected.lr:g}, batch {expected.batch_size}, target rate" in (
        config.learning()
    )


def test_settings_of_the_size_give_way_to_an_experiment_and_to_the_command_line():
    assert compose("train", ["experiment=cartpole-pixels"]).algorithm.batch_size == 32
    assert compose("train", ["algorithm.lr=1e-4"]).algorithm.lr == 1e-4
    assert compose("train", ["model=5M", "learning=nano"]).algorithm.target_rate == 0.03


def test_train_by_itself_is_the_first_experiment():
    words = with_first_experiment(["seed=2"])
    assert composed(*words) == composed("experiment=cartpole-swingup", "seed=2") != composed("seed=2")
    assert composed(*words)["env"]["action_repeat"] == 4


@pytest.mark.parametrize(
    "word",
    [
        "task=cartpole-swingup",
        "experiment=tdmpc2",
        "model=5M",
        "algorithm=bmpc",
        "planner=policy",
        "resume=x",
        "+experiment=bmpc",
    ],
)
def test_who_chooses_what_is_learned_gets_no_experiment_beside_it(word):
    assert with_first_experiment([word, "seed=2"]) == [word, "seed=2"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["planner=mppi"], "planner"),
        (["seed=2", "algorithm=bmpc"], "algorithm"),
        (["model=5M", "planner=mppi"], "model"),
        (["learning=nano"], "learning"),
        (["env.obs=pixels"], "obs"),
        (["data.path=x"], "data"),
    ],
)
def test_it_is_said_that_the_experiment_is_not_used(words, key):
    (line,) = unused_experiment(words)
    assert line == (
        f"experiment=cartpole-swingup is not used, as {key}= is given; add it to keep its settings"
    )
    assert not unused_experiment([*words, "experiment=cartpole-swingup"])
    assert not unused_experiment([*words, "task=walker-walk"])
    assert not unused_experiment(["seed=2", "planner.horizon=2"])
