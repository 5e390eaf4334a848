"""The `dreammpc` command: what is there to choose from, and `dreammpc run`.

`dreammpc run` is `lightning run` for machines where another package owns the `lightning` command.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from dreammpc import __version__
from dreammpc.cli.launch import check_renderer, share_cores


def main(arguments: Sequence[str] | None = None) -> None:
    """Console script `dreammpc`.

    Args:
        arguments: the words after `dreammpc`; those of this process by default.

    Raises:
        SystemExit: after `run`, `--help`, `--version`, with 2 on an unknown command or name, 130 on Ctrl-C.
    """
    share_cores()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["run"]:  # before argparse, which would take the recipe's --help for its own
        from dreammpc.cli import launch

        launch.run(words[1:])
    parser = argparse.ArgumentParser(
        prog="dreammpc", description="Control by planning in learned world models.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dreammpc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    commands.add_parser("run", help="start a recipe: the same as `lightning run`", add_help=False)
    planners = commands.add_parser("planners", help="list the planners, or the settings of one")
    planners.add_argument("name", nargs="?", help="a planner's name, or the dotted path of its class")
    planners.set_defaults(command=print_planners)
    tasks = commands.add_parser("tasks", help="list the tasks")
    tasks.set_defaults(command=print_tasks)
    check = commands.add_parser("check-env", help="say what is wrong with an environment, before a training")
    check.add_argument("task", help="its name, such as walker-walk or gym-package:Name-v0")
    check.add_argument("--steps", type=int, default=200, metavar="N", help="random steps to play (200)")
    check.add_argument("choices", nargs="*", default=[], metavar="env.KEY=VALUE", help="as of train")
    check.set_defaults(command=later("check_env", "check_commands"))
    data = commands.add_parser("data", help="say what is in recorded data, or write them as one file")
    data.add_argument("path", help="a file, a folder, a run's folder, or a name of Minari's")
    data.add_argument("-o", "--output", metavar="FILE", help="what is learned from: .npz, .h5 or .hdf5")
    data.add_argument(
        "choices", nargs="*", default=[], metavar="data.KEY=VALUE", help="as of train; obs=both"
    )
    data.set_defaults(command=later("look", "data_commands"))
    add_agent_commands(commands)
    add_deploy_commands(commands)
    add_report_command(commands)
    add_mlflow_commands(commands)
    parsed, rest = parser.parse_known_args(words)
    options = vars(parsed)
    command = options.pop("command", parser.print_help)
    if "choices" in options and all("=" in word and not word.startswith("-") for word in rest):
        options["choices"] += rest  # argparse takes no more of them after an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if command is not parser.print_help:
            check_renderer()
        command(**options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (Exception, SystemExit) as error:
        from dreammpc.support import faults  # which imports torch
        from dreammpc.support.names import printable

        if isinstance(error, SystemExit) and not faults.raised_by_foreign_code(error):
            raise
        usage = isinstance(error, ValueError) and not faults.raised_by_foreign_code(error)
        line = str(error) if usage else faults.report(error)
        print(printable(f"error: {' '.join(line.splitlines())}"), file=sys.stderr)
        sys.exit(2 if usage else 1)


def add_agent_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands around trained agents; `dreammpc.cli.commands` is imported when one is called."""
    agents = commands.add_parser("agents", help="list the trained agents, or all that is known of one")
    agents.add_argument("name", nargs="?", help="an agent's name, or that of its task")
    agents.set_defaults(command=later("print_agents"))

    demo = commands.add_parser("demo", help="play one episode of a trained agent")
    demo.add_argument("agent", help="an agent's name, that of its task, or a checkpoint")
    demo.add_argument("choices", nargs="*", default=[], metavar="planner=NAME", help="and planner.KEY=VALUE")
    demo.add_argument("--seed", type=int, default=0, help="of the start (0)")
    demo.add_argument("--video", metavar="FILE", help="mp4 or gif; by default TASK-PLANNER.mp4 here")
    demo.add_argument("--no-video", dest="show", action="store_false", help="draw nothing")
    demo.add_argument("--device", default="auto", help="that plans: auto, cpu, cuda, cuda:N, mps (auto)")
    demo.set_defaults(command=later("demo"))

    export = commands.add_parser("export-agent", help="make a small agent of a run's checkpoint")
    export.add_argument("checkpoint", help="last.ckpt or best.ckpt in a run's folder")
    export.add_argument("-o", "--output", default="agents", metavar="DIR", help="where to put it (agents)")
    export.add_argument("--dtype", default="float16", help="float16, bfloat16 or float32")
    export.add_argument("--name", help="TASK/WORD; by default TASK/ALGORITHM-seedN")
    export.add_argument("--hardware", help="what it was trained on, where the run does not say it")
    export.add_argument("--here", action="store_true", help="it was trained here, with what is installed")
    export.add_argument("--planners", default="policy,dream_mpc", help="played and noted on its card")
    export.add_argument("--episodes", type=int, default=10, help="with each planner (10)")
    export.add_argument("--seed", type=int, default=1000, help="of the first episode's start (1000)")
    export.add_argument("--device", default="auto", help="that plays: auto, cpu, cuda, cuda:N, mps (auto)")
    export.add_argument(
        "choices",
        nargs="*",
        default=[],
        metavar="algorithm=PATH",
        help="what the file may have imported; task=NAME",
    )
    export.set_defaults(command=later("export_agent"))

    published = commands.add_parser("import-checkpoint", help="read a checkpoint of TD-MPC2 or BMPC")
    published.add_argument("file", help="a single-task checkpoint, .pt")
    published.add_argument("--task", required=True, help="which it was trained on")
    published.add_argument("-o", "--output", metavar="OUT", help="by default TASK-ALGORITHM-SIZE.ckpt here")
    published.add_argument("--size", help="refuse another size")
    published.add_argument("--seed", type=int, help="of the training, for tables")
    published.add_argument("--env-steps", type=int, help="of the training, for tables")
    published.set_defaults(command=later("import_checkpoint"))


def add_deploy_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What runs an agent elsewhere; `dreammpc.cli.deploy_commands` is imported when one is called."""
    export = commands.add_parser("export", help="make one file of an agent and its planner, to run elsewhere")
    export.add_argument("agent", help="an agent's name, that of its task, or a checkpoint")
    export.add_argument("--planner", metavar="NAME", help="dream_mpc by default")
    export.add_argument("--format", dest="kind", default="pt2", help="pt2, aoti, onnx or policy-onnx (pt2)")
    export.add_argument("-o", "--output", metavar="FILE", help="by default TASK-PLANNER.pt2 or .onnx here")
    export.add_argument("--ahead", type=int, default=0, help="pending actions that it can plan for (0)")
    export.add_argument("--seed", type=int, default=0, help="of the episode that is compared (0)")
    export.add_argument("--steps", type=int, metavar="N", help="compare N steps of it; by default all")
    export.add_argument(
        "choices", nargs="*", default=[], metavar="planner.KEY=VALUE", help="settings of the planner"
    )
    export.set_defaults(command=later("export", "deploy_commands"))
    verify = commands.add_parser("verify", help="play the episode that an exported file holds again")
    verify.add_argument("file", help="of dreammpc export")
    verify.set_defaults(command=later("verify", "deploy_commands"))
    loop = commands.add_parser("loop", help="run an exported file at a fixed rate in the simulator")
    loop.add_argument("file", help="of dreammpc export")
    loop.add_argument("--task", help="that is simulated; by default the file's own")
    loop.add_argument("--hz", type=float, default=50.0, help="actions a second (50)")
    loop.add_argument("--seconds", type=float, default=10.0, help="how long (10)")
    loop.add_argument("--ahead", type=int, default=0, help="ticks that a plan is made ahead (0)")
    loop.add_argument(
        "--on-miss", default="plan", help="what acts without a plan: plan, policy or hold (plan)"
    )
    loop.add_argument("--policy", metavar="FILE", help="an exported policy, for --on-miss policy")
    loop.add_argument("--max-rate", type=float, metavar="R", help="largest change of an action per second")
    loop.add_argument(
        "--watchdog", type=float, help="seconds without a plan; 0 is never (0.5, or two periods)"
    )
    loop.add_argument("--latency", type=float, metavar="MS", help="of an episode on a simulated clock")
    loop.add_argument("--seed", type=int, default=0, help="of the start and the planner's noise (0)")
    loop.add_argument("--log", metavar="FILE", help="a CSV file with every tick")
    loop.set_defaults(command=later("loop", "deploy_commands"))


def add_report_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`dreammpc report`; its room is imported when it is called."""
    report = commands.add_parser("report", help="make a page of runs and scores, or tables of scores")
    report.add_argument("paths", nargs="+", metavar="PATH", help="run folder, scores (.csv, .json) or video")
    report.add_argument("-o", "--output", default="report.html", help="a page (.html) or tables (.md)")
    report.add_argument("--reference", metavar="FILE", help="published learning curves, JSON")
    report.add_argument("--title", default="Planning in learned world models", help="of the page")
    report.set_defaults(command=make_report)


def add_mlflow_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands that write to MLflow; `dreammpc.cli.mlflow_commands` is imported when one is called."""
    where = "MLflow's address; MLFLOW_TRACKING_URI or ./mlflow.db by default"
    sync = commands.add_parser("sync", help="send what is left of runs to MLflow, when they have ended")
    sync.add_argument("paths", nargs="+", metavar="RUN", help="a run's folder, or a sweep's")
    sync.add_argument("--uri", help=where)
    sync.set_defaults(command=later("sync", "mlflow_commands"))

    register = commands.add_parser("register", help="make an agent a version of a model at MLflow")
    register.add_argument("agent", help="a checkpoint, an agent's name, or that of its task")
    register.add_argument("name", help="of the model")
    register.add_argument(
        "choices", nargs="*", default=[], metavar="planner=NAME", help="and planner.KEY=VALUE"
    )
    register.add_argument("--uri", help=where)
    register.add_argument("--experiment", default="dreammpc", help="of a run that is made (dreammpc)")
    register.set_defaults(command=later("register", "mlflow_commands"))


def make_report(output: str, **options: Any) -> None:
    """Write a report and say where."""
    from dreammpc.report import write_report

    write_report(output=output, **options)
    print(f"report: {output}")


def later(name: str, module: str = "commands") -> Callable[..., None]:
    """The function `name` of a module of this room, imported when it is called."""

    def call(**options: Any) -> None:
        getattr(import_module(f"dreammpc.cli.{module}"), name)(**options)

    return call


def print_planners(name: str | None = None) -> None:
    """Print every planner with its summary; or of one, each setting with its type, default and meaning.

    Args:
        name: of a planner, or the dotted path of its class.

    Raises:
        UsageError: there is no such planner, or it cannot be imported.
    """
    from dreammpc.interfaces import UsageError
    from dreammpc.planning.factory import PLANNERS, planner_class, planner_settings
    from dreammpc.plugins.registry import place
    from dreammpc.plugins.settings import summary

    if name is None:
        width = max(map(len, PLANNERS), default=0)
        for each in PLANNERS:
            try:
                text = summary(planner_class(each))
            except UsageError as error:  # a package that does not work must not hide the others
                text = f"unusable: {error}"
            origin = PLANNERS.origin(each)
            print(f"{each:<{width}}  {text}" + ("" if origin == "built in" else f" [{origin}]"))
        print("\nSettings of one: dreammpc planners NAME")
        return
    cls = planner_class(name)
    print(f"{name}: {summary(cls)}\n{PLANNERS.origin(name)}: {place(cls)}\n")
    for setting in planner_settings(name):
        print(setting)
        if setting.doc:
            print(textwrap.fill(setting.doc, 100, initial_indent="    ", subsequent_indent="    "))


def print_tasks() -> None:
    """Print the name of every task that is installed, one a line; on stderr how to install the others."""
    from dreammpc.envs import list_tasks, not_installed

    print("\n".join(list_tasks()))
    for line in not_installed():
        print(line, file=sys.stderr)
