"""Agents played on one task and compared in a table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreammpc.agent import Agent
from dreammpc.data.recorder import Recorder
from dreammpc.envs import TaskEnv, make_env
from dreammpc.evaluation.episodes import Episodes, run_episodes
from dreammpc.evaluation.film import film
from dreammpc.support import markdown
from dreammpc.support.progress import Progress


class Evaluator:
    """Plays the same episodes with any agent: starts depend on the seed alone.

    Args:
        task: its name.
        episodes: how many, side by side.
        seed: episode i starts from seed + i.
        action_repeat: as in training; `None` takes the task family's own.
        should_stop: asked at every step; True gives up.
        seeds: the starts, one for each episode, in place of `seed`, `seed` + 1, …
        obs: what the agents observe: `state`, `pixels` or `both`.
        progress: where to show what is played; `None` shows nothing.
        options: of the task's own family, see `make_env`.
    """

    def __init__(
        self,
        task: str,
        episodes: int,
        seed: int,
        action_repeat: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        seeds: Sequence[int] | None = None,
        obs: str = "state",
        progress: Progress | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        self.task, self.episodes, self.obs = task, episodes, obs
        self.seeds = list(seeds or range(seed, seed + episodes))
        self.action_repeat, self.should_stop = action_repeat, should_stop
        self.progress = progress or Progress(shown=False)
        self.options = dict(options or {})
        self._env: TaskEnv | None = None
        self._kept: dict[str, Agent] = {}

    @property
    def env(self) -> TaskEnv:
        """The environments, made on first use."""
        if self._env is None:
            arguments = {"obs": self.obs, **self.options}
            self._env = make_env(self.task, self.episodes, self.seeds[0], self.action_repeat, **arguments)
        return self._env

    def play(self, agent, name: str = "", record: Recorder | None = None) -> Episodes | None:
        """All episodes with `agent`, shown under `name`, and recorded by `record`; `None` if interrupted."""
        with self.progress.during(f"evaluating {name}".rstrip(), self._steps(), "steps") as stepped:
            more = range(self.seeds[-1] + 1, self.seeds[-1] + 1 + self.env.num_envs - self.episodes)
            seeds, rows = [*self.seeds, *more], self.episodes
            return run_episodes(self.env, agent, seeds, None, self.should_stop, stepped, rows, record)

    def _steps(self) -> int | None:
        """Agent steps of a whole episode, if anybody is to be told."""
        return self.env.max_episode_steps if self.progress.shown else None

    def compare(
        self, model, planners: Mapping[str, Any], modes: Mapping[str, str] | None = None
    ) -> dict[str, Episodes | None]:
        """All episodes with each of the planners in `model`, acting greedily.

        Args:
            modes: how plans of some of them run, by name (see `runtime.compiling.MODES`); else as written. An
                agent that is compiled or captured is kept for the next evaluation. The first plan of each
                evaluation is not compiled, so that a resumed run evaluates like an uninterrupted one.
        """
        modes = modes or {}
        return {
            name: self.play(self._agent(name, model, planner, modes.get(name, "off")), name)
            for name, planner in planners.items()
        }

    def _agent(self, name: str, model: Any, planner: Any, mode: str) -> Agent:
        if mode == "off":
            return Agent(model, planner)
        kept = self._kept.get(name)
        if kept is None or kept.model is not model or kept.planner is not planner:
            kept = self._kept[name] = Agent(model, planner, compile=mode)
        kept.checked = False
        return kept

    def film(self, agent, path: Path) -> Episodes | None:
        """Play the first episode alone and write its video, mp4 or gif by the ending of `path`.

        Where nothing can be drawn it says why and returns `None`.
        """
        episodes = self.film_together({"": agent}, path)
        return None if episodes is None else episodes[""]

    def film_together(self, agents: Mapping[str, Any], path: Path) -> dict[str, Episodes] | None:
        """The same with several agents side by side, by name."""
        steps = self._steps()
        with self.progress.during("filming", steps and steps * len(agents), "steps") as stepped:
            rest = self.action_repeat, self.should_stop, self.obs, stepped, self.options
            return film(agents, self.task, self.seeds[0], path, *rest)

    def close(self) -> None:
        """Close the environments."""
        if self._env is not None:
            self._env.close()
            self._env = None


def finals(results: Mapping[str, Episodes]) -> dict[str, float]:
    """What a log says of the episodes at a training's end: `final/NAME`, the return, and rates of success."""
    found = {f"final/{name}": result.mean for name, result in results.items()}
    for name, result in results.items():
        found |= {f"final_{key}/{name}": rate for key, rate in result.success_rates().items()}
    return found


def table(results: Mapping[str, Episodes]) -> str:
    """One line per planner, as Markdown: return, time, and rates of success and model steps if reported."""
    policy = results["policy"].mean if "policy" in results else None
    rates = {name: result.success_rates() for name, result in results.items()}
    shown = list(dict.fromkeys(key for own in rates.values() for key in own))
    measured_on = " and ".join(dict.fromkeys(result.where for result in results.values()))
    time = f"ms/action ({measured_on})"
    head = ["planner", "return", "std", "min", "max", "against policy", time, "model steps/action"]
    head[2:2] = [key.replace("_", " ") for key in shown]
    rows = []
    for name, result in results.items():
        rows.append(
            [
                name,
                f"{result.mean:.1f}",
                *(f"{rates[name][key]:.2f}" if key in rates[name] else "" for key in shown),
                f"{result.std:.1f}",
                f"{min(result.returns):.1f}",
                f"{max(result.returns):.1f}",
                "" if policy is None else f"{result.mean - policy:+.1f}",
                f"{result.ms_per_action:.2f}",
                f"{result.diagnostics['evaluations']:.0f}" if "evaluations" in result.diagnostics else "",
            ]
        )
    return markdown.table(head, rows)
