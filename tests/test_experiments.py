"""The named experiments of conf/experiment: all compose, and published settings are the published ones."""

import dataclasses

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dreammpc.config import AlgorithmConfig, BMPCConfig, TrainConfig, register_schemas
from dreammpc.recipe import conf_folder

NAMES = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
PUBLISHED = {"tdmpc2": AlgorithmConfig, "tdmpc2-pixels": AlgorithmConfig}
PUBLISHED |= {"bmpc": BMPCConfig, "bmpc-pixels": BMPCConfig}


def composed(experiment: str) -> TrainConfig:
    GlobalHydra.instance().clear()
    register_schemas()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}"], return_hydra_config=False)
    return OmegaConf.to_object(config)


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_composes(name):
    assert composed(name).algorithm.batch_size > 0


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_settings_are_not_those_of_the_small_default_run(name):
    """The schemas hold the papers' settings, conf/train.yaml those of the default run."""
    found = dataclasses.asdict(composed(name).algorithm)
    assert found == dataclasses.asdict(PUBLISHED[name]())
