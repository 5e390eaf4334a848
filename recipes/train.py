"""Train an agent that plans in a learned world model.

lightning run train                                        # cartpole-swingup on a laptop's CPU
lightning run train task=walker-walk planner=mppi seed=1   # see --help and --cfg job
lightning run train algorithm=bmpc eval_planner=policy,dream_mpc
"""

from dataclasses import asdict

from dreammpc.agent import Agent
from dreammpc.configuration import assembly, collectors, command_line, planners, recorded, resuming
from dreammpc.configuration.recipe import main, notes, overrides, print_from_rank_zero
from dreammpc.configuration.schemas import TrainConfig
from dreammpc.evaluation import Evaluator, finals, table
from dreammpc.support.names import file_name
from dreammpc.support.progress import Progress
from dreammpc.support.run_folder import CHECKPOINTS
from dreammpc.tracking import after_fit, finish_run, finished_if_not, make_loggers
from dreammpc.trained import initialize, loading, register
from dreammpc.training import (
    Checkpoints,
    Evaluation,
    GracefulStop,
    Monitor,
    OwnFolder,
    ProgressBar,
    check_devices,
    make_trainer,
    open_run,
    seed_everything,
    world_size,
)


@main("train")
def train(config: TrainConfig) -> int:
    check_devices(config.trainer.accelerator, config.trainer.devices, config.trainer.num_nodes)
    data = recorded.open_data(config.data, config.env.obs)
    config.folder = str(folder := open_run(config.folder, config.resume, config.task, config.seed))
    resumed = resuming.open_resume(config.resume, config) if config.resume else None
    speed, seed = assembly.set_speed(config), seed_everything(config.seed)

    # Environment, world model, planner: the agent. The algorithm says which model it trains.
    env = assembly.build_env(config.task, start := resuming.start_seed(seed, resumed), config.env)
    model = assembly.build_model(env, asdict(config.model), config.algorithm)
    if resumed:
        resuming.check_resumed(config.resume, resumed, env, model)
    begun = initialize(model, config.init) if config.init and not resumed else []
    planner = planners.build_planner(config.planner, model.action_dim)
    compared = planners.planners_for(config.evaluation.planners, {}, model.action_dim)
    evaluated = planners.eval_planners(config, planner)
    compared |= {planners.planner_name(config.planner): planner} | evaluated
    planners.check_graphable(planner, model, speed.plans)
    agent = assembly.build_agent(model, planner, config.algorithm, speed.plans)

    # Collector and replay: the feed of the Trainer. Its clock counts environment steps. Then the updates.
    need = assembly.check_replay_fits(env, agent, config, world_size())
    known, said = recorded.build_demonstrations(data, env, agent, config, seed, world_size())
    collector = collectors.build_collector(env, agent, start, config)
    place, fresh = assembly.replay_folder(config), not (config.init or config.data.updates)
    shared = world_size(), place, collector, known, fresh
    feed = assembly.build_feed(env, agent, config.steps, seed, config.algorithm, *shared)
    algorithm = assembly.build_algorithm(agent, feed, config.algorithm, speed.compile, config.seed)
    algorithm.freeze_parts(asdict(config.freeze))

    # Evaluation, checkpoints, tracking: what happens over environment steps.
    stop, progress, play = GracefulStop(feed), Progress(), config.evaluation
    played = play.episodes, play.seed, env.action_repeat, stop.requested
    evaluator = Evaluator(config.task, *played, obs=env.obs, progress=progress, options=env.options)
    to, settings = config.tracking, asdict(config)
    run_name = to.run_name or f"{config.task}-seed{config.seed}"
    params = settings | env.facts()
    loggers = make_loggers(folder, params, to.kind, to.uri, to.experiment, run_name, resumed, to.parent)
    facts = assembly.describe(config.task, model, settings, overrides(), tracking_run=loggers[-1].version)
    checkpoints = Checkpoints(folder / CHECKPOINTS, feed, facts, config.save_every)
    monitor = Monitor(feed, config.tracking.log_every)
    modes = planners.evaluation_modes(evaluated, model, speed.plans, speed.device)
    evaluation = Evaluation(feed, lambda: evaluator.compare(model, evaluated, modes), checkpoints, play.every)
    bar = ProgressBar(feed, monitor, evaluation, progress)
    asked = config.trainer
    started = asked.accelerator, asked.devices, asked.strategy, speed.precision
    callbacks = OwnFolder(), stop, monitor, evaluation, checkpoints, bar
    trainer = make_trainer(folder, callbacks, loggers, *started, asked.num_nodes, asked.timeout_s)
    print_from_rank_zero("\n".join([f"{speed}; {config.learning()}", need, *notes(), *said, *begun]))
    video = folder / f"{file_name(config.task)}.mp4"
    files = {"checkpoints": [checkpoints.last, checkpoints.best], "videos": [video]}
    with checkpoints.restored(config.resume), finished_if_not(loggers, files):
        trainer.fit(algorithm, feed.turns(speed.device), ckpt_path=config.resume, weights_only=True)
    feed.close()
    again = f"go on with {command_line.words(resume=checkpoints.last, data=config.data.path)}"
    if stop.signal is not None:
        if trainer.is_global_zero:
            with progress.during("saving"):
                finish_run(loggers, {}, feed.clock, files, "killed")
            print(f"stopped after {feed.told()}; {again}")
        trainer.strategy.barrier()  # the launcher ends all processes when the first one has gone
        return 128 + stop.signal
    if not trainer.is_global_zero:
        return 0

    # A video, and the trained agent under several planners, side by side on the same starts.
    model.to(speed.device)  # from where Lightning has moved it back
    before = evaluation.at(feed.clock)
    with after_fit(loggers, files, f"trained; {again}"):
        filmed = config.evaluation.video and evaluator.film(Agent(model, planner), video)
        rest = evaluator.compare(model, {name: one for name, one in compared.items() if name not in before})
    results = {name: one for name in compared if (one := before.get(name) or rest[name])}
    print(f"\n{env.title} after {feed.told()}:\n\n{table(results)}\n")
    print(f"video: {video}\n" * bool(filmed) + f"checkpoint: {checkpoints.last}")
    print(f"others: {loading.evaluate_command(checkpoints.last, config, 'policy,mppi,dream_mpc')}")
    with progress.during("saving"):
        where = finish_run(loggers, finals(results), feed.env_steps, files)
    print(where)
    if to.register:
        print(register(checkpoints.last, to.register, config.planner, to.uri, named=[config.algorithm.name]))
    return 0


if __name__ == "__main__":
    train()
