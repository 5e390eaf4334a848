"""The code of an agent that is an MLflow model: observations in, actions out.

MLflow copies this file into the model and runs it where that is loaded; dreammpc must be installed there.
"""

import threading
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from tensordict import TensorDict, TensorDictBase

from dreammpc.agent import Agent
from dreammpc.configuration.planners import build_planner
from dreammpc.runtime.threads import set_threads
from dreammpc.trained.loading import load_model, model_width

EPISODES = 64
"""So many episodes are remembered; of more the oldest is forgotten."""


class ServedAgent(PythonModel):  # type: ignore[misc]  # without mlflow's types
    """Plans for observations [B, O]; returns actions [B, A] within -1 and 1, float32."""

    def load_context(self, context: Any) -> None:
        """Read the agent, weights only, and build its planner."""
        settings = dict(context.model_config["planner"])
        model, facts = load_model(context.artifacts["agent"], named=context.model_config["named"])
        set_threads(model_width(facts))
        self.agent = Agent(model, build_planner(settings, model.action_dim))
        self.carries: dict[str, TensorDictBase] = {}
        self.lock = threading.Lock()

    def predict(self, context, model_input: np.ndarray, params=None) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Plan.

        Args:
            context: MLflow's.
            model_input: observations [B, O].
            params: `episode`, a name under which plans are remembered from call to call, as they are in
                training (by default each call stands alone); `seed` of the planner's noise, none by default.

        Raises:
            MlflowException: an observation is not finite.
        """
        named = params or {}
        episode, seed = str(named.get("episode", "")), int(named.get("seed", -1))
        observation = torch.as_tensor(np.asarray(model_input, dtype=np.float32))
        size = len(observation)
        if wrong := (~observation.isfinite()).nonzero().tolist():
            row, entry = wrong[0]
            raise MlflowException.invalid_parameter_value(f"observation[{entry}] of row {row} is not finite")
        with self.lock:
            carry = self.carries.pop(episode, None)
            fresh = carry is None or len(carry) != size
            carry = self.agent.initial_carry(size) if carry is None or fresh else carry
            if seed >= 0:
                torch.manual_seed(seed)
            obs = TensorDict({"observation": observation}, [size])
            plan, carry = self.agent.step(obs, carry, torch.full((size, 1), fresh))
            if episode:
                self.carries[episode] = carry
                for oldest in list(self.carries)[:-EPISODES]:
                    del self.carries[oldest]
        return plan.action.numpy()


set_model(ServedAgent())
