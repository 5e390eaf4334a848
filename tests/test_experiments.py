"""The named experiments of conf/experiment: all compose, and published settings are the published ones."""

import pytest

from dreammpc.config import AlgorithmConfig, BMPCConfig
from dreammpc.recipe import compose, conf_folder

NAMES = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
PUBLISHED = {"tdmpc2": AlgorithmConfig(), "tdmpc2-pixels": AlgorithmConfig()}
PUBLISHED |= {"bmpc": BMPCConfig(), "bmpc-pixels": BMPCConfig()}


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_composes_and_changes_something(name):
    assert compose("train", [f"experiment={name}", "folder=x"]) != compose("train", ["folder=x"])


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_settings_are_not_those_of_the_small_default_run(name):
    """The schemas hold the papers' settings, conf/train.yaml those of the default run."""
    assert compose("train", [f"experiment={name}"]).algorithm == PUBLISHED[name]
