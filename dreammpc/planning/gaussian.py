"""A Gaussian over action sequences: drawing from it and fitting it to elites."""

import math

import torch
from torch import Tensor


def sample(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """Sequences [B, N, H, A] within [-1, 1] for `mean`, `std` [B, H, A] and standard-normal `noise`."""
    return (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(-1, 1)


def coloured(noise: Tensor, beta: float) -> Tensor:
    """White `noise` [B, N, H, A] made smooth in time: a power spectrum of 1/f^β, variance one, period H.

    iCEM (Pinneri et al. 2020, arXiv 2008.06389, §3.1). β = 0 leaves it white; the constant part has the power
    of the slowest wave. The filter is the symmetric root of a circulant covariance, so no FFT is needed.
    """
    horizon = noise.shape[-2]
    if beta == 0 or horizon == 1:
        return noise
    power = [max(min(k, horizon - k), 1) ** -beta for k in range(horizon)]
    scale = math.sqrt(sum(power) / horizon)
    turn = 2 * math.pi / horizon
    taps = [
        sum(math.sqrt(p) * math.cos(turn * k * lag) for k, p in enumerate(power)) / (horizon * scale)
        for lag in range(horizon)
    ]
    step = torch.arange(horizon, device=noise.device)
    lag, matrix = (step[:, None] - step) % horizon, noise.new_zeros(horizon, horizon)
    for k, tap in enumerate(taps):  # on the device: a tensor of Python numbers would be a copy from the host
        matrix = torch.where(lag == k, tap, matrix)
    return (matrix[..., None] * noise.unsqueeze(-3)).sum(-2)  # no matmul: autocast would round it


def elite_weights(objective: Tensor, temperature: float) -> Tensor:
    """exp(temperature·(J - max J)) normalised over the elites, [B, E]; -inf weighs nothing.

    The maximum is subtracted first, so no J overflows. If no elite is finite, all weigh the same; at
    temperature 0 all that are finite do.
    """
    finite, best = objective.isfinite(), objective.amax(1, keepdim=True)
    weights = torch.exp(temperature * torch.where(finite, objective - best, 0.0))
    weights = torch.where(finite | ~best.isfinite(), weights, 0.0)
    return weights / weights.sum(1, keepdim=True)


def refit(elites: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation [B, H, A] of `elites` [B, E, H, A] under `weights` [B, E]."""
    weights = weights[..., None, None]
    mean = (weights * elites).sum(1)
    variance = (weights * (elites - mean.unsqueeze(1)).square()).sum(1)
    return mean, variance.sqrt()
