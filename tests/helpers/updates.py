"""Batches, draws and algorithms for tests of losses and of what an update changes."""

from dataclasses import dataclass, field

import torch
from tensordict import TensorDict
from toy_models import random_bmpc, random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.algorithms import BMPC, TDMPC2, bmpc, tdmpc2
from dreammpc.interfaces import Plan
from dreammpc.planning import make_planner, warm_start

B, H, A, K = 4, 3, 2, 3


def make_batch(terminated=()) -> TensorDict:
    """[B, H] transitions; `terminated` lists the (b, t) that end."""
    torch.manual_seed(3)
    ends = torch.zeros(B, H, 1, dtype=torch.bool)
    for b, t in terminated:
        ends[b, t] = True
    after = {"observation": torch.randn(B, H, 5), "reward": torch.randn(B, H, 1), "terminated": ends}
    action = torch.rand(B, H, A) * 2 - 1
    return TensorDict({"observation": torch.randn(B, H, 5), "action": action, "next": after}, [B, H])


def make_draws(dropout: bool = True, target_heads=(0, 2), policy_heads=(1, 2)) -> tdmpc2.UpdateNoise:
    torch.manual_seed(4)
    mask = torch.randint(0, 2, (K, H * B, 32)) / 0.5
    return tdmpc2.UpdateNoise(
        target_noise=torch.randn(H * B, A),
        target_heads=torch.tensor(target_heads),
        dropout=mask if dropout else None,
        policy_noise=torch.randn((H + 1) * B, A),
        policy_heads=torch.tensor(policy_heads),
    )


def cross_entropy(model, logits, target) -> torch.Tensor:
    return -(model.two_hot.encode(target) * logits.log_softmax(-1)).sum()


LOSSES = ("consistency", "reward", "value", "termination")


def assert_losses(found, sums, rollouts, targets, episodic: bool) -> None:
    """What `model_loss` gave is what loops summed up: by term, in total, latents [H+1, B, D] and targets."""
    loss, zs, metrics = found
    assert ("loss/termination" in metrics) == episodic
    for name in LOSSES if episodic else LOSSES[:-1]:
        torch.testing.assert_close(metrics[f"loss/{name}"], sums[name], rtol=1e-4, atol=1e-5)
    total = 20 * sums["consistency"] + 0.1 * sums["reward"] + 0.1 * sums["value"] + sums["termination"]
    torch.testing.assert_close(loss.detach(), total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(zs, rollouts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["value/target"], torch.stack(targets).mean(), rtol=1e-4, atol=1e-5)
    assert not zs.requires_grad


def heads_say(heads, bins) -> None:
    """Make head k decode to symexp of bin number bins[k], whatever its input: bin 50 is 0, 55 is symlog 1."""
    with torch.no_grad():
        heads.weights[-1].zero_()
        heads.biases[-1].zero_()
        for k, index in enumerate(bins):
            heads.biases[-1][k, 0, index] = 100.0


def has_gradient(module) -> bool:
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def slices(terminated=()):
    """`make_batch` with observations that follow one another, as the replay's windows do."""
    batch = make_batch(terminated)
    batch["observation"][:, 1:] = batch["next", "observation"][:, :-1]
    return batch


def bmpc_draws(dropout: bool = True, target_heads=(0, 2)) -> bmpc.UpdateNoise:
    torch.manual_seed(4)
    mask = torch.randint(0, 2, (K, H * B, 32)) / 0.5
    return bmpc.UpdateNoise(torch.randn(H * B, A), torch.tensor(target_heads), mask if dropout else None)


def make_tdmpc2(**settings) -> TDMPC2:
    """With stand-ins for what Lightning's Trainer gives; `steps` notes the gradient norm of every step."""
    model = random_tdmpc2(episodic=True)
    algorithm = TDMPC2(Agent(model, make_planner("policy", A)), **settings)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.manual_backward = lambda loss: loss.backward()
    algorithm.steps = []
    for optimizer in optimizers:

        def note(optimizer, args, kwargs):
            grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
            algorithm.steps.append(torch.cat([g.flatten() for g in grads]).norm().item())

        optimizer.register_step_pre_hook(note)
    return algorithm


CALLS: list[dict] = []


@dataclass(frozen=True)
class Oracle:
    """Says mean 0.5, std 0.25 and the latent's first number as value; notes in CALLS what it was asked."""

    action_dim: int = A
    horizon: int = 5
    std: float = 0.25
    evaluations: float = 1.0
    settings: dict = field(default_factory=dict, compare=False)

    def initial_state(self, batch_size, device=None):
        return warm_start.initial(batch_size, device, mean=(self.horizon, self.action_dim))

    def plan(self, imagination, latent, state):
        size, device = latent.shape[0], latent["z"].device
        wide = imagination.model.policy(latent, torch.ones(size, A, device=device))
        spread = wide - imagination.mode(latent)
        CALLS.append({"size": size, "horizon": self.horizon, "state": state.clone(), "spread": spread})
        sequence = torch.full((size, self.horizon, A), 0.5, device=device)
        report = TensorDict({"evaluations": torch.full((size,), self.evaluations, device=device)}, [size])
        std = torch.full_like(sequence, self.std)
        return Plan(
            sequence[:, 0] + 0.1, sequence, std, latent["z"][:, 0], warm_start.following(state), report
        )


def make_bmpc(planner=None, **settings) -> BMPC:
    """With stand-ins for what Lightning's Trainer gives."""
    agent = Agent(random_bmpc(episodic=True), planner or Oracle(), 1.0, record=True)
    algorithm = BMPC(agent, **settings)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.manual_backward = lambda loss: loss.backward()
    CALLS.clear()
    return algorithm


def make_bmpc_batch() -> TensorDict:
    batch = slices(terminated=[(1, 2)])
    torch.manual_seed(5)
    expert = {
        "mean": torch.rand(B, H, A) - 0.5,
        "std": torch.rand(B, H, A) + 0.5,
        "value": torch.zeros(B, H, 1),
    }
    batch["expert"] = TensorDict(expert, [B, H])
    batch["index"] = torch.arange(B * H).view(B, H)
    batch["frame"] = batch["index"] + 2**32
    return batch
