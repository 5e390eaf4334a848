"""Several world models as one: each sees and imagines for itself; rewards, values and policies join.

Letters: see `dreammpc.interfaces`; S members.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from dreammpc.interfaces import MEMORY, Outcome, UsageError
from dreammpc.runtime.devices import tensor_device


class EnsembleModel(nn.Module):
    """World models of one task, such as an agent's training seeds, as one world model.

    The latent has an entry for each member, its own latent. Rewards and discounts are means over members;
    value heads stand side by side, so that their spread is also what members disagree about. Candidate n of a
    proposal is a rollout of member n mod S, its policy in its own model. Actions are never averaged, as seeds
    may reach the same return in different ways: a single action is one member's.

    Args:
        members: world models with the same actions and the same observations, of any sizes and classes.

    Raises:
        UsageError: no members, one that is no `nn.Module`, or members whose actions or observations differ.
    """

    def __init__(self, members: Sequence[Any]):
        super().__init__()
        others = [type(member).__name__ for member in members if not isinstance(member, nn.Module)]
        if others:
            raise UsageError(f"EnsembleModel: expected world models that are nn.Module, got {others[0]}")
        self.members: Any = nn.ModuleList(members)
        self.num_policies = len(members)
        if not members:
            raise UsageError("EnsembleModel: expected at least one model, got none")
        for name in ("action_dim", "obs_dim", "obs", "channels"):
            found = [getattr(member, name, None) for member in members]
            if len(set(found)) > 1:
                raise UsageError(f"EnsembleModel: its models differ in {name}: {', '.join(map(str, found))}")
        first: Any = members[0]
        self.action_dim: int = first.action_dim
        self.obs_dim, self.obs = getattr(first, "obs_dim", None), getattr(first, "obs", "state")
        self.obs_keys: tuple[str, ...] = getattr(first, "obs_keys", ("observation",))

    def initial_belief(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """The members' beliefs, TensorDict [B]."""
        return joined([member.initial_belief(batch_size, device) for member in self.members])

    def observe(self, obs: TensorDictBase, prev_action: Tensor, belief: TensorDictBase) -> TensorDictBase:
        """Each member's belief [B] after seeing `obs` [B]."""
        beliefs = []
        for key, member in enumerate(self.members):
            own = belief[str(key)]
            if MEMORY in belief:
                own = own.copy().set(MEMORY, belief[MEMORY, str(key)])
            beliefs.append(member.observe(obs, prev_action, own))
        return joined(beliefs)

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        """Each member's next latent."""
        return joined([member.step(own, action) for member, own in self.proposers(latent)])

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        """Mean reward and discount over members: both [M]."""
        pairs = zip(self.proposers(latent), self.proposers(next_latent), strict=True)
        found = [member.outcome(own, action, after) for (member, own), (_, after) in pairs]
        rewards, discounts = zip(*found, strict=True)
        return Outcome(torch.stack(rewards).mean(0), torch.stack(discounts).mean(0))

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        """All members' heads: [M, ΣK]."""
        return torch.cat([member.value(own, action) for member, own in self.proposers(latent)], -1)

    def state_value(self, latent: TensorDictBase) -> Tensor:
        """Every member's heads at its own policy's action, which the heads of others do not know: [M, ΣK]."""
        return torch.cat([member.value(own, mode(member, own)) for member, own in self.proposers(latent)], -1)

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """The action [M, A] of the member whose noise-free action is nearest to those of all others."""
        parts = self.proposers(latent)
        modes = torch.stack([mode(member, own) for member, own in parts], 1)
        distance = (modes.unsqueeze(1) - modes.unsqueeze(2)).square().sum(-1)  # [M, S, S]
        chosen = distance.sqrt().sum(-1).argmin(-1)
        actions = torch.stack([member.policy(own, noise) for member, own in parts], 1)
        return actions.gather(1, chosen.view(-1, 1, 1).expand(-1, 1, self.action_dim)).squeeze(1)

    def proposers(self, latent: TensorDictBase) -> list[tuple[Any, TensorDictBase]]:
        """Every member with its own latent; `Imagination.propose` takes rollouts of each in turn."""
        return [(member, latent[str(key)]) for key, member in enumerate(self.members)]


def mode(member: Any, latent: TensorDictBase) -> Tensor:
    """A member's noise-free action [M, A]."""
    noise = torch.zeros(latent.shape[0], member.action_dim, device=tensor_device(latent))
    action: Tensor = member.policy(latent, noise)
    return action


def joined(parts: Sequence[TensorDictBase]) -> TensorDictBase:
    """Members' latents or beliefs [M] as one; what only the next `observe` reads stands apart."""
    names = {str(key): part for key, part in enumerate(parts)}
    content: dict[str, Any] = {name: part.exclude(MEMORY) for name, part in names.items()}
    memory = {name: part[MEMORY] for name, part in names.items() if MEMORY in part}
    if memory:
        content[MEMORY] = TensorDict(memory, parts[0].batch_size)
    return TensorDict(content, parts[0].batch_size, device=parts[0].device)
