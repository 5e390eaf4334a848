"""The settings of algorithms: the schema, the LightningModule's constructor and the losses agree."""

import dataclasses
import inspect

import pytest

from dreammpc.algorithms import algorithm_class
from dreammpc.algorithms.latent_algorithm import LatentAlgorithm
from dreammpc.algorithms.update_settings import UpdateSettings
from dreammpc.configuration.evaluate_schemas import EvaluateConfig
from dreammpc.configuration.schemas import ALGORITHM_GROUP, AlgorithmConfig
from dreammpc.interfaces import UsageError

NOT_OF_THE_UPDATE = {
    "name": "chooses the class",
    "utd": "the feed's",
    "batch_size": "the feed's",
    "horizon": "the feed's",
    "seed_steps": "the feed's",
    "capacity": "the replay's",
    "discount": "the model's",
    "episodic": "the model's",
    "noise_scale": "the agent's",
    "noise_correlation": "the agent's",
}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    bases = [base for base in algorithm_class(name).__mro__ if issubclass(base, LatentAlgorithm)]
    return {key: value for base in bases for key, value in inspect.signature(base).parameters.items()}


@pytest.mark.parametrize("name", ALGORITHM_GROUP)
def test_every_setting_reaches_the_algorithm_with_the_same_default(name):
    """Those of all updates are inherited; an algorithm's own stand in its constructor, too."""
    of_updates = {field.name for field in dataclasses.fields(UpdateSettings)}
    own = {
        field.name: field.default
        for field in dataclasses.fields(ALGORITHM_GROUP[name]["algorithm"])
        if field.name not in of_updates
    }
    taken = parameters(name)
    assert set(own) - set(taken) == set(NOT_OF_THE_UPDATE)
    assert {key: taken[key].default for key in own if key in taken} == {
        key: own[key] for key in own if key in taken
    }


def test_every_coefficient_is_a_setting():
    settings = UpdateSettings(consistency_coef=7.0, rho=0.25)
    assert None not in settings.coefficients
    assert (settings.coefficients.consistency, settings.coefficients.rho) == (7.0, 0.25)


INF = float("inf")


@pytest.mark.parametrize(
    ("cls", "name", "value", "said"),
    [
        (UpdateSettings, "target_reduction", "most", "one of .*got 'most'"),
        *[(UpdateSettings, name, INF, "at least 0 and finite, got inf") for name in ("lr", "reward_coef")],
        *[(UpdateSettings, "entropy_coef", value, "at least 0 and finite") for value in (-1.0, float("nan"))],
        *[
            (UpdateSettings, name, 5.0, "from 0 to 1, got 5.0")
            for name in ("rho", "target_rate", "scale_rate")
        ],
        *[(UpdateSettings, "dropout", value, "at least 0 and below 1, got") for value in (1.0, 2.0)],
        *[(AlgorithmConfig, name, INF, "at least 0 and finite, got inf") for name in ("utd", "noise_scale")],
        (AlgorithmConfig, "discount", 1.5, "from 0 to 1, got 1.5"),
        (EvaluateConfig, "noise_scale", INF, "at least 0 and finite, got inf"),
    ],
)
def test_settings_are_checked_without_a_recipe(cls, name, value, said):
    more = {"checkpoint": ["a.ckpt"]} if cls is EvaluateConfig else {}
    with pytest.raises(UsageError, match=rf"{name} must be {said}"):
        cls(**more, **{name: value})


def test_no_bound_of_gradients_is_a_setting():
    assert UpdateSettings(clip=INF).clip == INF
