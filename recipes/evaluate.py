"""Play episodes of a trained agent under one or several planners, on the same starts.

lightning run evaluate checkpoint=runs/.../checkpoints/best.ckpt planner=policy,mppi,dream_mpc episodes=10
lightning run evaluate checkpoint=... planner=mppi planner.num_samples=256 video=mppi.mp4
"""

import json
from dataclasses import asdict
from pathlib import Path

from dreammpc import assembly
from dreammpc.agent import Agent
from dreammpc.config import EvaluateConfig
from dreammpc.evaluation import Evaluator, table
from dreammpc.recipe import main
from dreammpc.training import open_folder


@main("evaluate")
def evaluate(config: EvaluateConfig) -> None:
    model, facts = assembly.load_model(config.checkpoint)
    task = config.task or facts["task"]
    agents = {}
    for name in config.planners:
        settings = assembly.settings_for(name, config.settings, config.planners)
        planner = assembly.build_planner({"name": name, **settings}, model.action_dim)
        agents[name] = Agent(model, planner, config.noise_scale, config.compile)

    env = facts["config"]["env"]
    assembly.check_spaces(config.checkpoint, facts, assembly.build_env(task, 0, 1, env["action_repeat"]))
    evaluator = Evaluator(task, config.episodes, config.seed, env["action_repeat"])
    results = {name: evaluator.play(agent) for name, agent in agents.items()}
    mode = "greedy" if config.noise_scale == 0 else f"noise scale {config.noise_scale}"
    print(
        f"{task}, {config.checkpoint} at {facts['env_steps']} environment steps,"
        f" {config.episodes} episodes from seed {config.seed}, {mode}:\n\n{table(results)}"
    )

    if config.video:
        name = config.planners[-1]
        open_folder(Path(config.video).parent)
        if evaluator.film(agents[name], Path(config.video)):
            print(f"\nvideo of {name}: {config.video}")
    if config.output:
        open_folder(Path(config.output).parent)
        content = {
            "task": task,
            "checkpoint": str(config.checkpoint),
            "env_steps": facts["env_steps"],
            "seed": config.seed,
            "noise_scale": config.noise_scale,
            "planners": {
                name: {key: value for key, value in asdict(result).items() if key != "frames"}
                for name, result in results.items()
            },
        }
        Path(config.output).write_text(json.dumps(content, indent=1))
        print(f"\nscores: {config.output}")


if __name__ == "__main__":
    evaluate()
