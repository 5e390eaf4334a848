"""observe → plan → action, as a TorchRL policy. Owns the carry and its masked reset.

The carry is a TensorDict [B] with `belief`, `prev_action` and `plan`; it travels in the environment's
TensorDict under `_carry` and is reset, by the mask `is_init`, here and nowhere else.
"""

from collections.abc import Callable

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs.transforms import TensorDictPrimer

from dreammpc.interfaces import Plan, Planner, WorldModel
from dreammpc.planning.imagination import Imagination


class Agent(TensorDictModuleBase):
    """A world model with a planner, acting for B environments at once.

    Args:
        model: the world model.
        planner: a planner for the model's action dimension.
        noise_scale: of exploration noise; 0 acts greedily.
        compile: compile observing and planning with `torch.compile`.

    Raises:
        ValueError: the planner's action dimension differs from the model's.
    """

    in_keys = ("observation", "is_init", "_carry")
    out_keys = ("action", ("next", "_carry"))

    def __init__(self, model: WorldModel, planner: Planner, noise_scale: float = 0.0, compile: bool = False):
        super().__init__()
        planned = getattr(planner, "action_dim", model.action_dim)
        if planned != model.action_dim:
            raise ValueError(f"the planner has action_dim {planned}, the model {model.action_dim}")
        self.model, self.planner, self.noise_scale = model, planner, noise_scale
        self.random = False
        """Act uniformly at random (the seed phase); the carry is still written."""
        self._act: Callable = torch.compile(act) if compile else act

    def initial_carry(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """The carry before an episode's first step, TensorDict [B]."""
        return TensorDict(
            {
                "belief": self.model.initial_belief(batch_size, device),
                "prev_action": torch.zeros(batch_size, self.model.action_dim, device=device),
                "plan": self.planner.initial_state(batch_size, device),
            },
            [batch_size],
            device=device,
        )

    @torch.no_grad()
    def step(
        self, obs: TensorDictBase, carry: TensorDictBase, is_init: Tensor
    ) -> tuple[Plan, TensorDictBase]:
        """Plan for `obs` [B]; rows with `is_init` [B, 1] start from a fresh carry.

        Returns:
            The plan and the next carry.
        """
        fresh = self.initial_carry(obs.shape[0], is_init.device)
        carry = torch.where(is_init.squeeze(-1), fresh, carry)
        return self._act(self.model, self.planner, obs, carry, self.noise_scale)

    @torch.no_grad()
    def forward(self, td: TensorDictBase) -> TensorDictBase:
        """Write `action` and the next carry into `td` [B] (what a TorchRL collector calls)."""
        if self.random:
            action = torch.rand(td.shape[0], self.model.action_dim, device=td.device) * 2 - 1
            carry = self.initial_carry(td.shape[0], td.device)
            carry["prev_action"] = action
        else:
            plan, carry = self.step(td.select("observation"), td["_carry"], td["is_init"])
            action = plan.action
        td["action"] = action
        td["next", "_carry"] = carry
        return td

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives an environment [B] the carry."""
        return TensorDictPrimer({"_carry": as_spec(self.initial_carry(1)[0])}, expand_specs=True)


def act(
    model: WorldModel, planner: Planner, obs: TensorDictBase, carry: TensorDictBase, noise_scale: float
) -> tuple[Plan, TensorDictBase]:
    """Observe and plan: a function of its arguments alone."""
    latent = model.observe(obs, carry["prev_action"], carry["belief"])
    plan = planner.plan(Imagination(model), latent, carry["plan"], noise_scale)
    content = {"belief": latent, "prev_action": plan.action, "plan": plan.state}
    return plan, TensorDict(content, carry.batch_size, device=carry.device)


def as_spec(example: TensorDictBase) -> Composite:
    """The unbounded TorchRL spec of a TensorDict without batch dimensions."""
    content = {
        key: as_spec(value)
        if isinstance(value, TensorDictBase)
        else Unbounded(shape=value.shape, dtype=value.dtype)
        for key, value in example.items()
    }
    return Composite(content)
