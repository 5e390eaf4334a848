"""The `dreammpc` command: what is there to choose from, and `dreammpc run`.

`dreammpc run` is `lightning run` for machines where another package owns the `lightning` command.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence

from dreammpc import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Console script `dreammpc`.

    Args:
        arguments: the words after `dreammpc`; those of this process by default.

    Raises:
        SystemExit: after `run`, `--help`, `--version`, and with 2 on an unknown command or name.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["run"]:  # before argparse, which would take the recipe's --help for its own
        from dreammpc import launch

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
    options = vars(parser.parse_args(words))
    command = options.pop("command", parser.print_help)
    try:
        command(**options)
    except ValueError as error:  # a UsageError; its module imports torch
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def print_planners(name: str | None = None) -> None:
    """Print every planner with its summary; or of one, each setting with its type, default and meaning.

    Args:
        name: of a planner, or the dotted path of its class.

    Raises:
        UsageError: there is no such planner, or it cannot be imported.
    """
    from dreammpc.interfaces import UsageError
    from dreammpc.planning.registry import PLANNERS, planner_class, planner_settings
    from dreammpc.registry import place
    from dreammpc.settings import summary

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
    """Print the name of every task that is installed, one a line."""
    from dreammpc.envs import list_tasks

    print("\n".join(list_tasks()))


if __name__ == "__main__":
    main()
