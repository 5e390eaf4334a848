"""Ensembles that mbrl-lib trained (its GaussianMLP) as models to plan in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dreammpc.interfaces import UsageError
from dreammpc.models.probabilistic import ProbabilisticEnsemble
from dreammpc.models.saved import load_saved, shape_of, weights_of
from dreammpc.nn import GaussianEnsemble

LAYOUT = "mbrl-lib's GaussianMLP"


def load_pets(
    path: str | Path,
    action_dim: int,
    reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    activation: Callable[[Tensor], Tensor] = F.silu,
    **settings: Any,
) -> ProbabilisticEnsemble:
    """The ensemble in a `model.pth` of mbrl-lib's GaussianMLP, with its elite members alone.

    Args:
        path: the file, or the folder that it is in.
        action_dim: A.
        reward: the function, where it was not learned.
        activation: of the hidden layers; the file does not say it.
        settings: of `ProbabilisticEnsemble`; the file has no `input_mean` and `input_std`.

    Raises:
        UsageError: no such file, or one of another layout.
    """
    file = Path(path) / "model.pth" if Path(path).is_dir() else Path(path)
    saved = load_saved(file)
    weights = weights_of(saved)
    shape_of(weights, "mean_and_logvar.weight", file, LAYOUT)
    for name in ("min_logvar", "max_logvar"):
        shape_of(weights, name, file, LAYOUT)
    count = sum(key.startswith("hidden_layers.") and key.endswith(".weight") for key in weights)
    layers = [*(f"hidden_layers.{i}.0" for i in range(count)), "mean_and_logvar"]
    members = len(weights["mean_and_logvar.weight"])
    chosen = saved.get("elite_models") if isinstance(saved, dict) else None
    try:
        elite = list(range(members)) if chosen is None else [int(each) for each in chosen]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{file}: elite_models are no list of numbers") from error
    if not elite or not set(elite) <= set(range(members)):
        raise UsageError(f"{file}: elite_models {elite} are not all of the {members} members")
    for name in (f"{layer}.{part}" for layer in layers for part in ("weight", "bias")):
        shape_of(weights, name, file, LAYOUT)
    matrices, biases = (
        [weights[f"{layer}.{part}"][elite] for layer in layers] for part in ("weight", "bias")
    )
    bounds = torch.cat([weights["min_logvar"], weights["max_logvar"]])
    networks = GaussianEnsemble(matrices, biases, bounds, activation)
    settings = {"particles": 4 * networks.members, **settings}
    state_dim = networks.in_features - action_dim
    return ProbabilisticEnsemble(networks, state_dim, action_dim, reward, **settings).eval()
