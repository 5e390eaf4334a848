"""Small models for the tests: a linear-quadratic problem of known optimum, a broken one, a random TD-MPC2."""

import torch
from tensordict import TensorDict

from dreammpc.interfaces import Outcome
from dreammpc.models import BMPCModel, LatentModel, TDMPC2Model

GAMMA = 0.95
DECAY, GAIN = 0.9, 0.5
ACTION_COST = 0.1


def riccati() -> tuple[float, float]:
    """P and feedback k of x' = 0.9x + 0.5a, r = -(x² + 0.1a²), γ = 0.95: V*(x) = -P·x², a* = -k·x."""
    p = 1.0
    for _ in range(500):
        cross, curvature = GAMMA * DECAY * GAIN * p, ACTION_COST + GAMMA * GAIN**2 * p
        p = 1 + GAMMA * DECAY**2 * p - cross**2 / curvature
    return p, GAMMA * DECAY * GAIN * p / (ACTION_COST + GAMMA * GAIN**2 * p)


class LinearQuadratic:
    """A independent scalar problems; the policy is poor: `mode` whatever the state, plus `spread`·noise.

    The terminal value is the true one, so J's maximizer starts with -k·x at every horizon. One head.
    """

    def __init__(self, action_dim: int = 2, mode: float = 0.0, spread: float = 0.3):
        self.action_dim, self.spread, self.center = action_dim, spread, mode
        self.p, self.k = riccati()

    def latent(self, x):
        return TensorDict({"x": x}, [x.shape[0]], device=x.device)

    def step(self, latent, action):
        return self.latent(DECAY * latent["x"] + GAIN * action)

    def outcome(self, latent, action, next_latent):
        reward = -(latent["x"].square() + ACTION_COST * action.square()).sum(-1)
        return Outcome(reward, torch.full_like(reward, GAMMA))

    def value(self, latent, action):
        return -self.p * latent["x"].square().sum(-1, keepdim=True)

    def policy(self, latent, noise):
        return (self.center + self.spread * noise + 0 * latent["x"]).clamp(-1, 1)


class Ensemble(LinearQuadratic):
    """Three heads that disagree where x or a is large, and a discount that depends on the next latent."""

    def outcome(self, latent, action, next_latent):
        reward = (latent["x"] - 0.5 * action.square()).sum(-1)
        return Outcome(reward, 0.9 * torch.sigmoid(next_latent["x"].sum(-1) + 2))

    def value(self, latent, action):
        total = latent["x"].sum(-1)
        return torch.stack([total + k * (total * action.sum(-1) + k) for k in range(3)], -1)


class Broken(LinearQuadratic):
    """NaN in `part`: everywhere, or only where the first action (policy: the noise) is positive."""

    def __init__(self, part: str, everywhere: bool, spread: float = 0.3):
        super().__init__(spread=spread)
        self.part, self.everywhere = part, everywhere

    def _break(self, part, x, like):
        if part != self.part:
            return x
        hit = torch.ones_like(like[..., 0]) if self.everywhere else (like[..., 0] > 0).to(x.dtype)
        hit = hit.bool().view(hit.shape + (1,) * (x.ndim - hit.ndim))
        return torch.where(hit, torch.nan, x)

    def step(self, latent, action):
        return self.latent(self._break("latent", super().step(latent, action)["x"], action))

    def outcome(self, latent, action, next_latent):
        reward, discount = super().outcome(latent, action, next_latent)
        return Outcome(self._break("reward", reward, action), discount)

    def value(self, latent, action):
        return self._break("value", super().value(latent, action), latent["x"])

    def policy(self, latent, noise):
        return self._break("policy", super().policy(latent, noise), noise)


def random_tdmpc2(action_dim: int = 2, seed: int = 0, **settings) -> TDMPC2Model:
    """A tiny TD-MPC2 model, 5 observations, whose last layers are not zero, so that J differs."""
    return randomized(TDMPC2Model, action_dim, seed, **settings)


def random_bmpc(action_dim: int = 2, seed: int = 0, **settings) -> BMPCModel:
    """A tiny BMPC model like `random_tdmpc2`."""
    return randomized(BMPCModel, action_dim, seed, **settings)


def randomized(cls, action_dim: int, seed: int, **settings):
    torch.manual_seed(seed)
    sizes = {"enc_dim": 16, "mlp_dim": 32, "latent_dim": 16, "num_heads": 3, "num_enc_layers": 2}
    model = cls(5, action_dim, **(sizes | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def actor_says(model, mean: float, raw_log_std: float) -> None:
    """Make the actor's output constant."""
    last = model.actor.linears[-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([mean, mean, raw_log_std, raw_log_std]))


def random_latent(model, size: int, seed: int = 1) -> TensorDict:
    """A TensorDict [size] of latents of `model`."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, LatentModel):
        obs = torch.randn(size, model.obs_dim, generator=generator)
        with torch.no_grad():
            return model.observe(TensorDict({"observation": obs}, [size]), None, None)
    return model.latent(torch.rand(size, model.action_dim, generator=generator) * 1.2 - 0.6)
