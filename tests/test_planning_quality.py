"""How good plans are: exact optima of linear-quadratic problems, and a way around obstacles."""

import pytest
import torch
from plans import plan
from tensordict import TensorDict
from toy_models import LinearQuadratic

from dreammpc.interfaces import Outcome
from dreammpc.planning import PLANNERS, make_planner

# --- linear-quadratic problems --------------------------------------------------------------------------


class Coupled(LinearQuadratic):
    """x' = Fx + Ga with three states and two actions, r = -(|x|² + 0.1|a|²), γ = 0.95.

    The terminal value -xᵀPx is the true one (P from the discrete Riccati equation), so that J's maximizer
    starts with -Kx at every horizon.
    """

    dynamics = torch.tensor([[0.9, 0.3, 0.0], [-0.2, 0.8, 0.3], [0.0, 0.1, 1.02]])
    gains = torch.tensor([[0.4, 0.0], [0.1, 0.3], [0.0, 0.5]])
    gamma, action_cost = 0.95, 0.1

    def __init__(self):
        super().__init__(action_dim=2, mode=0.4, spread=0.3)
        f, g, gamma = self.dynamics.double(), self.gains.double(), self.gamma
        p = torch.eye(3, dtype=torch.float64)
        for _ in range(1000):
            k = torch.linalg.solve(self.action_cost * torch.eye(2) + gamma * g.T @ p @ g, gamma * g.T @ p @ f)
            p = torch.eye(3) + gamma * f.T @ p @ (f - g @ k)
        self.quadratic, self.feedback = p.float(), k.float()

    def step(self, latent, action):
        return self.latent(latent["x"] @ self.dynamics.T + action @ self.gains.T)

    def outcome(self, latent, action, next_latent):
        reward = -latent["x"].square().sum(-1) - self.action_cost * action.square().sum(-1)
        return Outcome(reward, torch.full_like(reward, self.gamma))

    def value(self, latent, action):
        return -((latent["x"] @ self.quadratic) * latent["x"]).sum(-1, keepdim=True)

    def policy(self, latent, noise):
        return (self.center + self.spread * noise).clamp(-1, 1)


def scalar() -> tuple[LinearQuadratic, TensorDict, torch.Tensor, torch.Tensor]:
    """Model, latents, the optimal first actions and returns."""
    model = LinearQuadratic(2, mode=0.4, spread=0.3)
    x = torch.tensor([[0.6, -0.4], [-0.7, 0.1], [0.0, 0.5]])
    return model, model.latent(x), -model.k * x, -model.p * x.square().sum(-1)


def coupled() -> tuple[LinearQuadratic, TensorDict, torch.Tensor, torch.Tensor]:
    model = Coupled()
    x = torch.tensor([[0.5, -0.4, 0.3], [-0.4, 0.1, -0.2], [0.3, 0.3, -0.5]])
    latent = model.latent(x)
    return model, latent, -x @ model.feedback.T, model.value(latent, x)[:, 0]


BOUNDS = [
    # name, settings, error of an action, return lost
    ("mppi", {}, 0.15, 0.02),
    ("cem", {}, 0.06, 0.003),
    ("icem", {}, 0.15, 0.02),
    ("cem_grad", {}, 0.12, 0.02),
    ("random_shooting", {"num_samples": 4096}, 0.5, 0.2),
    ("grad_mpc", {"iterations": 60}, 0.07, 0.005),
    ("grad_mpc", {"iterations": 60, "optimizer": "adam", "step_size": 0.05}, 0.1, 0.02),
    ("dream_mpc", {"iterations": 60}, 0.05, 0.002),
    ("dream_mpc", {"iterations": 60, "step_rule": "normalized", "step_size": 0.03}, 0.06, 0.01),
    ("dream_mpc", {"iterations": 15, "step_rule": "backtracking", "step_size": 1.0}, 0.05, 0.002),
    ("dream_mpc", {"iterations": 60, "clip_over": "all"}, 0.05, 0.002),
    ("dream_mpc", {"iterations": 60, "optimizer": "adam", "step_size": 0.05}, 0.1, 0.02),
    ("dream_mpc_paper", {"iterations": 60}, 0.05, 0.002),
]


@pytest.mark.parametrize("problem", [scalar, coupled])
@pytest.mark.parametrize(("name", "settings", "error", "loss"), BOUNDS)
def test_the_known_optimum_is_found_with_a_poor_policy(name, settings, error, loss, problem):
    model, latent, action, optimum = problem()
    assert 0.4 < action.abs().max() < 1
    for seed in range(4):
        result = plan(make_planner(name, 2, **settings), model, latent, seed=seed)
        assert (result.action - action).abs().max() < error
        assert (result.value <= optimum + 1e-4).all()
        assert (result.value >= optimum - loss).all()


def test_every_planner_has_a_bound():
    assert {name for name, *_ in BOUNDS} == set(PLANNERS) - {"policy"}


# --- a double integrator with obstacles -----------------------------------------------------------------


class Obstacles:
    """A point in the plane, x = (position, velocity), a = its acceleration; γ = 1.

    It is to come to rest at the origin. A step costs distance² + 0.1·speed² + 0.01·a², and up to 30 within
    an obstacle (a bump of standard deviation 0.2). The terminal value knows of no obstacle, and the policy of
    nothing: it pushes to the right, with noise.
    """

    action_dim = 2
    seconds, force = 0.2, 2.0
    centers = torch.tensor([[-1.0, 0.1], [-0.6, -0.6], [-1.5, 0.9]])

    def latent(self, x):
        return TensorDict({"x": x}, [x.shape[0]])

    def step(self, latent, action):
        position, velocity = latent["x"].chunk(2, -1)
        velocity = velocity + self.seconds * self.force * action
        return self.latent(torch.cat([position + self.seconds * velocity, velocity], -1))

    def outcome(self, latent, action, next_latent):
        position, velocity = next_latent["x"].chunk(2, -1)
        cost = position.square().sum(-1) + 0.1 * velocity.square().sum(-1) + 0.01 * action.square().sum(-1)
        distance = (position.unsqueeze(1) - self.centers).square().sum(-1)
        cost = cost + 30 * torch.exp(-distance / (2 * 0.2**2)).sum(-1)
        return Outcome(-cost, torch.ones_like(cost))

    def value(self, latent, action):
        position, velocity = latent["x"].chunk(2, -1)
        ahead = (position + 0.5 * velocity).square().sum(-1, keepdim=True)
        return -5 * ahead - 0.5 * velocity.square().sum(-1, keepdim=True)

    def policy(self, latent, noise):
        return (torch.tensor([0.5, 0.0]) + 0.3 * noise).clamp(-1, 1)


STARTS = torch.tensor(
    [[-2.0, 0.2, 0.0, 0.0], [-2.0, -0.3, 0.0, 0.0], [-1.8, 0.5, 0.5, 0.0], [-2.0, 0.1, 1.0, 0.0]]
)
SEEDS = 8


def first_plan(name: str, **settings) -> tuple[float, float]:
    """J of an episode's first plan, mean over starts and seeds, and model steps per plan."""
    model, planner = Obstacles(), make_planner(name, 2, horizon=10, **settings)
    latent = model.latent(STARTS.repeat(SEEDS, 1))
    result = plan(planner, model, latent)
    return result.value.mean().item(), result.diagnostics["evaluations"][0].item()


def episode(name: str, steps: int = 25, **settings) -> float:
    """The return of whole episodes, each step planned anew, mean over starts and three seeds."""
    settings = {} if name == "policy" else {"horizon": 10, **settings}
    model, planner = Obstacles(), make_planner(name, 2, **settings)
    latent, state, total = model.latent(STARTS.repeat(3, 1)), None, 0.0
    for t in range(steps):
        result = plan(planner, model, latent, state, seed=t)
        after = model.step(latent, result.action)
        total += model.outcome(latent, result.action, after).reward.mean().item()
        latent, state = after, result.state
    return total


CLIMB = {"iterations": 20, "optimizer": "adam", "step_rule": "fixed", "step_size": 0.1}


def test_a_first_plan_around_obstacles():
    """Gradients find in a fifth of CEM's model steps (a twenty-fifth from a poor policy) better plans."""
    (cem, cem_steps), (same, _) = (
        first_plan("cem"),
        first_plan("cem", num_samples=128, num_elites=8, iterations=3),
    )
    hybrid, hybrid_steps = first_plan("cem_grad")
    climbed, climb_steps = first_plan("dream_mpc", **CLIMB)
    assert hybrid > same + 3  # the same refits, without gradients after them
    assert hybrid > cem + 1 and hybrid_steps < cem_steps / 5
    assert climbed > cem + 2 and climb_steps < cem_steps / 25


def test_one_gradient_step_does_not_mend_a_poor_policy():
    assert first_plan("dream_mpc")[0] < first_plan("cem")[0] - 10


def test_an_episode_around_obstacles():
    cem, hybrid, climbed = episode("cem"), episode("cem_grad"), episode("dream_mpc", **CLIMB)
    assert hybrid > cem
    assert climbed > cem - 3  # on a par
    assert episode("policy") < 10 * cem
