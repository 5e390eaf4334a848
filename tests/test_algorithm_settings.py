"""The settings of algorithms: the schema, the LightningModule's constructor and the losses agree."""

import dataclasses
import inspect

import pytest

from dreammpc.algorithms import algorithm_class
from dreammpc.algorithms.latent_algorithm import LatentAlgorithm
from dreammpc.algorithms.losses import Coefficients
from dreammpc.configuration.schemas import ALGORITHM_GROUP

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
    return {
        key: value for base in reversed(bases) for key, value in inspect.signature(base).parameters.items()
    }


@pytest.mark.parametrize("name", ALGORITHM_GROUP)
def test_every_setting_reaches_the_algorithm_with_the_same_default(name):
    settings = {field.name: field for field in dataclasses.fields(ALGORITHM_GROUP[name]["algorithm"])}
    taken = parameters(name)
    assert set(settings) - set(taken) == set(NOT_OF_THE_UPDATE)
    differ = {
        key: (settings[key].default, taken[key].default)
        for key in set(settings) & set(taken)
        if settings[key].default != taken[key].default
    }
    assert not differ


def test_every_coefficient_is_a_setting():
    named = {key.removesuffix("_coef") for key in parameters("tdmpc2")}
    assert set(Coefficients._fields) <= named
