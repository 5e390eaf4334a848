"""A joint-embedding predictive model: frames become embeddings, and a predictor says the next one.

Such models (DINO-WM, arXiv 2411.04983; LeWM, arXiv 2603.19312; V-JEPA 2) know neither reward nor value: what
to plan for is the planner's `terms`, above all a goal in the space of embeddings.
Shapes: M a flat batch, T frames of history, E the shape of an embedding, A action dimension.
"""

from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.nn import functional as F

from dreammpc.interfaces import Outcome, UsageError


class JEPAModel(nn.Module):
    """Plans in a trained encoder and predictor.

    The latent is the newest embedding `z` [M, *E] and what the predictor sees: `past` with embeddings
    [M, T, *E], actions [M, T, A] and how many of them there are, `count` [M, 1]; the first ones come first.

    Args:
        encoder: frames [M, 3, S, S], scaled by `frame_mean` and `frame_std`, → embeddings [M, *E]; with
            `proprio_dim` a second argument is the observed vector [M, O].
        predictor: embeddings [M, T, *E] and scaled actions [M, T, A] → those one step on, [M, T, *E], each of
            which depends on none that comes later.
        action_dim: A. A model that predicts over several actions takes them side by side.
        embedding: E.
        history: T.
        image_size: S; frames of another size are resized.
        frame_mean, frame_std: of each channel, for frames in [0, 1].
        action_mean, action_std: the predictor is given (a - mean) / std, for a in [-1, 1].
        proprio_dim: O; 0 if frames alone are observed.
        distance: of embeddings [M, *E] to those of a goal: [M]; the mean square by default.
        policy_std: standard deviation of proposals, around zero.

    Raises:
        UsageError: observations of another shape, in one line; a number of action statistics that is not A.
    """

    rewardless = True

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        action_dim: int,
        embedding: Sequence[int],
        history: int = 3,
        image_size: int = 224,
        frame_mean: Sequence[float] = (0.485, 0.456, 0.406),
        frame_std: Sequence[float] = (0.229, 0.224, 0.225),
        action_mean: Sequence[float] | float = 0.0,
        action_std: Sequence[float] | float = 1.0,
        proprio_dim: int = 0,
        distance: Callable[[Tensor, Tensor], Tensor] | None = None,
        policy_std: float = 0.5,
    ):
        super().__init__()
        self.encoder, self.predictor = encoder, predictor
        self.action_dim, self.embedding, self.history = action_dim, tuple(embedding), history
        self.image_size, self.proprio_dim, self.policy_std = image_size, proprio_dim, policy_std
        self.distance = distance
        self.obs_keys = ("pixels", "observation") if proprio_dim else ("pixels",)
        self.frame_mean: Tensor
        self.frame_std: Tensor
        self.action_mean: Tensor
        self.action_std: Tensor
        for name, values in {"frame_mean": frame_mean, "frame_std": frame_std}.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))
        for name, given in {"action_mean": action_mean, "action_std": action_std}.items():
            numbers = torch.as_tensor(given, dtype=torch.float32)
            if numbers.ndim > 1 or numbers.numel() not in (1, action_dim):
                raise UsageError(f"{name}: expected one number or {action_dim}, got {numbers.numel()}")
            self.register_buffer(name, numbers.expand(action_dim).clone())

    def initial_belief(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """Before an episode's first frame, TensorDict [B]: zeros, and a count of 0."""
        z = torch.zeros(batch_size, self.history, *self.embedding, device=device)
        actions = torch.zeros(batch_size, self.history, self.action_dim, device=device)
        return self._latent(z[:, 0], z, actions, torch.zeros(batch_size, 1, dtype=torch.long, device=device))

    def observe(self, obs: TensorDictBase, prev_action: Tensor, belief: TensorDictBase) -> TensorDictBase:
        """The belief [B] after `pixels`, bytes [B, 3, h, w], and `observation` [B, O] where it is seen."""
        frames, seen = obs.get("pixels", None), obs.get("observation", None)
        if frames is None or frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8:
            got = "none" if frames is None else f"{frames.dtype} {list(frames.shape)}"
            raise UsageError(f"pixels: expected bytes of shape [B, 3, h, w], got {got}")
        if self.proprio_dim and (seen is None or list(seen.shape) != [*obs.batch_size, self.proprio_dim]):
            got = "none" if seen is None else str(list(seen.shape))
            raise UsageError(f"observation: expected the shape [B, {self.proprio_dim}], got {got}")
        frames, size = frames.float() / 255, (self.image_size, self.image_size)
        if frames.shape[-2:] != size:
            frames = F.interpolate(frames, size, mode="bilinear", antialias=True)
        frames = (frames - self.frame_mean) / self.frame_std
        z = self.encoder(frames, seen.float()) if self.proprio_dim else self.encoder(frames)
        return self._followed(belief["past"], prev_action, z)

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        """The predicted embedding, which then is the newest of the history."""
        past = latent["past"]
        actions = torch.where(self._newest(past["count"]).unsqueeze(-1), action.unsqueeze(1), past["actions"])
        predicted = self.predictor(past["z"], (actions - self.action_mean) / self.action_std)
        place = (past["count"] - 1).clamp(min=0).view(-1, *[1] * (predicted.ndim - 1))
        z = predicted.gather(1, place.expand(-1, 1, *predicted.shape[2:])).squeeze(1)
        return self._followed(past, action, z)

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        """No reward, and no end: zeros and ones [M]."""
        zeros = torch.zeros_like(action[:, 0])
        return Outcome(zeros, zeros + 1)

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        """The model has no value: zeros [M, 1]."""
        return torch.zeros_like(action[:, :1])

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """The model has no policy: clamped noise [M, A]."""
        return (self.policy_std * noise).clamp(-1, 1)

    def goal_distance(self, latents: TensorDictBase, goals: TensorDictBase) -> Tensor:
        """Distance [...] of the newest embeddings to those of goals, both [...]."""
        shape = latents.batch_size
        if self.distance is not None:
            z, goal = (x["z"].reshape(-1, *self.embedding) for x in (latents, goals))
            return self.distance(z, goal).view(shape)
        square: Tensor = (latents["z"] - goals["z"]).square()
        return square.flatten(len(shape)).mean(-1)

    def _newest(self, count: Tensor) -> Tensor:
        """Which place of the history holds the newest frame, [M, T]."""
        return torch.arange(self.history, device=count.device) == (count - 1).clamp(min=0)

    def _followed(self, past: TensorDictBase, action: Tensor, z: Tensor) -> TensorDictBase:
        """The latent after `action` [M, A] has led to `z` [M, *E]."""
        wide = [-1, self.history, *[1] * len(self.embedding)]
        newest, full = self._newest(past["count"]).unsqueeze(-1), past["count"] == self.history
        actions = torch.where(newest, action.unsqueeze(1), past["actions"])
        actions = torch.where(full.unsqueeze(-1), actions.roll(-1, 1), actions)
        frames = torch.where(full.view(-1, *[1] * (z.ndim)), past["z"].roll(-1, 1), past["z"])
        count = (past["count"] + 1).clamp(max=self.history)
        frames = torch.where(self._newest(count).view(wide), z.unsqueeze(1), frames)
        return self._latent(z, frames, actions, count)

    @staticmethod
    def _latent(z: Tensor, frames: Tensor, actions: Tensor, count: Tensor) -> TensorDictBase:
        past = {"z": frames, "actions": actions, "count": count}
        return TensorDict({"z": z, "past": past}, z.shape[:1], device=z.device)
