"""Models, replays and algorithms that see pictures."""

import torch
from tensordict import TensorDict

from dreammpc.agent import EXPERT_KEYS, Agent
from dreammpc.algorithms import BMPC, TDMPC2
from dreammpc.data import Replay
from dreammpc.models import BMPCModel, TDMPC2Model
from dreammpc.planning import make_planner

A, O = 2, 5
B, H = 8, 3
SMALL = {"enc_dim": 16, "mlp_dim": 16, "latent_dim": 16, "num_heads": 2}
CLASSES = [TDMPC2Model, BMPCModel]


def frames(*shape, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (*shape, 64, 64), generator=generator, dtype=torch.uint8)


def observation(size: int, obs: str, seed: int = 0) -> TensorDict:
    content = {"pixels": frames(size, 3, seed=seed)}
    if obs == "both":
        generator = torch.Generator().manual_seed(seed)
        content["observation"] = torch.randn(size, O, generator=generator)
    return TensorDict(content, [size])


def make_model(cls=TDMPC2Model, obs="pixels", **more):
    torch.manual_seed(0)
    return cls(O if obs == "both" else 0, A, obs=obs, **{**SMALL, **more})


def make_replay(obs: str = "pixels", plans: bool = False) -> Replay:
    """One long episode in which a frame is as bright as the reward that follows it, whatever is done."""
    generator = torch.Generator().manual_seed(1)
    reward = torch.rand(1, 81, 1, generator=generator)
    pixels = (reward * 255).to(torch.uint8)[..., None, None].expand(1, 81, 3, 64, 64)
    state = torch.randn(1, 81, 5, generator=generator)
    seen = {"pixels": pixels, "observation": state}
    content = {key: value[:, :-1] for key, value in seen.items()}
    content["action"] = torch.rand(1, 80, A, generator=generator) * 2 - 1
    content["is_init"] = torch.arange(80).view(1, 80, 1) == 0
    after = {key: value[:, 1:] for key, value in seen.items()}
    content["next"] = {
        **after,
        "reward": reward[:, :-1],
        "terminated": torch.zeros(1, 80, 1, dtype=torch.bool),
    }
    if plans:
        zeros = torch.zeros(1, 80, A)
        content["expert"] = {"mean": zeros, "std": zeros + 1, "value": zeros[..., :1]}
    model = make_model(obs=obs)
    replay = Replay(80, 1, H, B, 0, EXPERT_KEYS if plans else (), obs_keys=model.obs_keys)
    replay.extend(TensorDict(content, [1, 80]))
    return replay


def make_algorithm(cls, obs="pixels", **settings):
    planner, bmpc = make_planner("dream_mpc", A), cls is BMPCModel
    agent = Agent(make_model(cls, obs), planner, 1.0, record=bmpc)
    algorithm = (BMPC if bmpc else TDMPC2)(agent, **settings)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.manual_backward = lambda loss: loss.backward()
    return algorithm
