"""Play episodes of trained agents under one or several planners, on the same starts and in the same mode.

lightning run evaluate checkpoint=runs/.../checkpoints/best.ckpt planner=policy,mppi,dream_mpc episodes=10
lightning run evaluate checkpoint=... planner=mppi planner.num_samples=256 video=mppi.mp4
lightning run evaluate checkpoint=... planner=policy noise_scale=1 record=data.h5
lightning run evaluate checkpoint='runs/*/*/checkpoints/last.ckpt' planner=policy,mppi output=scores.csv
lightning run evaluate checkpoint=a.ckpt,b.ckpt,c.ckpt ensemble=true
"""

from collections import defaultdict
from dataclasses import asdict

from dreammpc.configuration.evaluate_schemas import EvaluateConfig
from dreammpc.configuration.recipe import main
from dreammpc.data.recorder import Recorder
from dreammpc.evaluation import table
from dreammpc.evaluation.film import video_path
from dreammpc.evaluation.results import collect, titled
from dreammpc.evaluation.rows import Row, as_metrics, targets, write_rows
from dreammpc.evaluation.summary import many, markdown, summarize
from dreammpc.interfaces import UsageError
from dreammpc.tracking import address, record_evaluation
from dreammpc.trained.compare import Played, compare, find_checkpoints
from dreammpc.training import open_target


@main("evaluate")
def evaluate(config: EvaluateConfig) -> None:
    checkpoints = find_checkpoints(config.checkpoint)
    seeds = config.seeds or range(config.seed, config.seed + config.episodes)
    files = targets(config.output) if config.output else []
    video = video_path(config.video) if config.video else None
    record = Recorder(config.record) if config.record else None
    for path in filter(None, [*files, video, record.path if record else None]):
        open_target(path, checkpoints)
    if config.tracking.kind == "mlflow":
        address(config.tracking.uri)

    # Every planner on every agent; what is done is saved at once.
    rows: list[Row] = []
    results: dict[str, list[Played]] = defaultdict(list)
    for played in compare(
        checkpoints,
        config.planners,
        config.settings,
        seeds=seeds,
        task=config.task,
        noise_scale=config.noise_scale,
        compile=config.compile,
        device=config.device,
        algorithm=config.trained_by,
        record=record,
        ensemble=config.ensemble,
    ):
        rows += played.rows
        results[played.checkpoint].append(played)
        for path in files:
            write_rows(rows, path)
        recorded = record.save() if record else ""
        if played.last:
            print_table(results[played.checkpoint], rows[-1])

    # Several agents: their scores together, with intervals over training seeds.
    if len(results) > 1:
        try:
            scores = collect(rows)
            print(f"{markdown(scores, summarize(scores))}\n")
        except UsageError as reason:  # last.ckpt and best.ckpt of one run, say: each has its own table above
            print(f"no table of all together: {reason}\n")

    # The last two planners side by side, or the only one, on the last agent's first start.
    if video:
        last = list(results.values())[-1][-2:]
        if last[0].evaluator.film_together({each.planner: each.agent for each in last}, video):
            names = " and ".join(each.planner for each in last)
            print(f"video of {names} with {last[0].checkpoint}: {video}")
    if recorded:
        print(recorded)
    if files:
        print(f"scores: {' and '.join(map(str, files))}")
    if config.tracking.kind == "mlflow":
        to = config.tracking
        artifacts = [*files, *([video] if video else [])]
        planners = ", ".join(dict.fromkeys(row["planner"] for row in rows))
        name = to.run_name or f"evaluate {rows[0]['task']}: {planners}"
        episodes, means = as_metrics(rows)
        there = to.uri, to.experiment, name, to.parent
        print(record_evaluation(asdict(config), episodes, means, artifacts, *there))


def print_table(results: list[Played], row: Row) -> None:
    """Print one agent's table."""
    seeds = results[0].evaluator.seeds
    whole = list(range(seeds[0], seeds[0] + len(seeds)))
    starts = f"from seed {seeds[0]}" if seeds == whole else f"from seeds {', '.join(map(str, seeds))}"
    trained = "" if row["env_steps"] is None else f" at {row['env_steps']} environment steps"
    print(
        f"{titled(row['task'], row['variant'])}, {row['checkpoint']}{trained},"
        f" {many(row['batch'], 'episode')} {starts}, {row['mode']}:\n\n"
        f"{table({each.planner: each.episodes for each in results})}\n",
        flush=True,
    )


if __name__ == "__main__":
    evaluate()
