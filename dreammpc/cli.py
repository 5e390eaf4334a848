"""The `dreammpc` command: what is there to choose from, and `dreammpc run`.

`dreammpc run` is `lightning run` for machines where another package owns the `lightning` command.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from dreammpc import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Console script `dreammpc`.

    Args:
        arguments: the words after `dreammpc`; those of this process by default.

    Raises:
        SystemExit: after `run`, `--help`, `--version`, and with 2 on an unknown command.
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
    planners = commands.add_parser("planners", help="list the planners and their settings")
    planners.set_defaults(command=print_planners)
    tasks = commands.add_parser("tasks", help="list the tasks")
    tasks.set_defaults(command=print_tasks)
    options = parser.parse_args(words)
    if hasattr(options, "command"):
        options.command()
    else:
        parser.print_help()


def print_planners() -> None:
    """Print each registered planner: its name, its docstring's first line, its settings with defaults."""
    import dataclasses
    import inspect

    from dreammpc.planning.registry import PLANNERS

    width = max(map(len, PLANNERS), default=0)
    for name, planner in sorted(PLANNERS.items()):
        summary = (inspect.getdoc(planner) or "").partition("\n")[0]
        print(f"{name:<{width}}  {summary}")
        if dataclasses.is_dataclass(planner):
            settings = [_setting(field) for field in dataclasses.fields(planner)]
        else:
            settings = [str(parameter) for parameter in inspect.signature(planner).parameters.values()]
        for setting in settings:
            print(f"    {setting}")


def _setting(field: Any) -> str:
    """A dataclass field as its source has it: `name: type = default`."""
    import dataclasses
    import inspect

    type_name = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
    if field.default is not dataclasses.MISSING:
        return f"{field.name}: {type_name} = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name}: {type_name} = {field.default_factory()!r}"
    return f"{field.name}: {type_name}"


def print_tasks() -> None:
    """Print the name of every task that is installed, one a line."""
    from dreammpc.envs import list_tasks

    print("\n".join(list_tasks()))


if __name__ == "__main__":
    main()
