"""The `lightning` command: start a recipe in one process or in many.

    lightning run RECIPE [trainer flags] [key=value ...]

Trainer flags become Hydra overrides of the recipe, so that `--cfg job` shows them and a run records them.
One process replaces this one; several are started by torch's elastic agent (`torchrun.py`).
Standard library only: a recipe starts as fast as with `python recipe.py`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dreammpc import __version__
from dreammpc.cli import interrupt

HELP = """\
usage: lightning run RECIPE [options] [key=value ...]

Starts a recipe of dreammpc. RECIPE is a name ({recipes}) or a path to a .py file.

options, before or after the recipe:
  --devices N        processes on this machine, one device each
  --accelerator X    auto, cpu, cuda, cuda:N
  --strategy S       how the processes train together
  --precision P      32, bf16-mixed, ...
  --num-nodes N      machines that take part; start the same command on each, with
  --node-rank R        its number, from 0
  --main-address A     the address of machine 0
  --main-port P        a free port there (29400)

All else goes to the recipe:
  lightning run train task=walker-walk planner=mppi seed=1
  lightning run train --devices 2 task=walker-walk
  lightning run train --cfg job      its configuration
  lightning run train --help         its own help

Other commands (lightning login, ...) go to lightning-sdk where it is installed."""

# These the Trainer must know too: they reach the recipe as overrides of its `trainer` group.
TRAINER_FLAGS = {
    "--devices": "devices",
    "--accelerator": "accelerator",
    "--strategy": "strategy",
    "--precision": "precision",
    "--num-nodes": "num_nodes",
}
RENDEZVOUS_FLAGS = {
    "--node-rank": "node_rank",
    "--main-address": "main_address",
    "--main-port": "main_port",
}
FLAGS = TRAINER_FLAGS | RENDEZVOUS_FLAGS

RENDERERS = ("", "egl", "osmesa", "glfw")
SWITCHES = ("disable", "disabled", "off", "false", "0", "enable", "enabled", "on", "true", "1")
"""What MuJoCo and dm_control both know as MUJOCO_GL; with anything else their import fails."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Console script `lightning`.

    Args:
        arguments: the words after `lightning`; those of this process by default.

    Raises:
        SystemExit: always, unless the recipe replaces this process. 2 for a user's mistake, told in one line.
    """
    share_cores()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _print_help()
    if words[0] == "--version":
        print(f"dreammpc {__version__}")
        sys.exit(0)
    if words[0] == "run":
        run(words[1:])
    forward(words)


def run(arguments: Sequence[str]) -> NoReturn:
    """Start the recipe that `arguments` name (the words after `lightning run`); see `main` for the exits."""
    flags, rest = parse_flags(arguments)
    if rest[:1] == ["model"] and len(rest) > 1:  # the spelling of Lightning 2.2 to 2.5: `lightning run model`
        rest = rest[1:]
    if not rest or rest[0] in ("-h", "--help"):
        _print_help()
    if rest[0].startswith("-"):
        fail(f"expected a recipe before {rest[0]}: lightning run RECIPE {rest[0]} ...")
    devices = whole_number(flags, "devices", least=1, default=1)
    nodes = whole_number(flags, "num_nodes", least=1, default=1)
    recipe = find_recipe(rest[0])
    overrides = [f"trainer.{name}={flags[name]}" for name in TRAINER_FLAGS.values() if name in flags]
    command = [str(recipe), *insert_overrides(rest[1:], overrides)]
    check_devices(devices, flags.get("accelerator", "auto"))
    check_renderer()
    os.environ[interrupt.STARTING] = "1"
    if sys.stderr.isatty():
        print(f"{recipe.stem}: starting", file=sys.stderr)  # torch and Lightning take seconds to import
    if devices == nodes == 1:
        replace_process([sys.executable, *command])
    if {"-m", "--multirun"} & set(command):
        fail("--multirun runs one job after another in one process: leave --devices and --num-nodes out")
    rendezvous = rendezvous_arguments(flags, nodes)

    from dreammpc.cli import torchrun

    sys.exit(torchrun.run([*rendezvous, f"--nproc-per-node={devices}", *command]))


def share_cores() -> None:
    """Have the threads of OpenMP sleep while they wait, before torch is imported.

    Threads that spin take the cores of whatever else runs: beside other work a plan of two threads was three
    times as slow with them.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def check_renderer() -> None:
    """Fail if MUJOCO_GL names no way to draw that the simulators know."""
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen not in RENDERERS + SWITCHES:
        fail(f"MUJOCO_GL is {chosen!r}; expected egl, osmesa or glfw (or disable, or leave it unset)")


def parse_flags(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take our flags, `--name value` or `--name=value`, out of `arguments`.

    Not argparse: it would guess which words belong to the recipe's own options (`--cfg job`).

    Returns:
        Flag values by their trainer name, and all other words in their order.
    """
    flags: dict[str, str] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        spelled, equals, value = word.partition("=")
        flag = spelled.replace("_", "-")
        if flag not in FLAGS:
            rest.append(word)
            continue
        if not equals:
            value = next(words, "")
        if not value:
            fail(f"{flag} needs a value")
        flags[FLAGS[flag]] = value
    return flags, rest


def insert_overrides(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Put `overrides` behind the recipe's own, so that ours win.

    Hydra reads its overrides as one unbroken group: behind `a=1 --cfg job` a further one is an error.
    """
    own = [i for i, word in enumerate(arguments) if "=" in word and not word.startswith("-")]
    options = [i for i, word in enumerate(arguments) if word.startswith("-")]
    place = own[-1] + 1 if own else options[0] if options else len(arguments)
    return [*arguments[:place], *overrides, *arguments[place:]]


def recipe_folders() -> list[Path]:
    """Where recipes may lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return [package / "recipes", package.parent / "recipes"]


def list_recipes() -> list[str]:
    """Names that `lightning run NAME` finds."""
    files = (file for folder in recipe_folders() for file in folder.glob("[!_]*.py"))
    return sorted({file.stem for file in files})


def find_recipe(name: str) -> Path:
    """The file of a recipe, given a path to a .py file or a bare name; exits with 2 where there is none."""
    if name.endswith(".py"):
        candidates = [Path(name)]
    else:
        candidates = [folder / f"{name}.py" for folder in recipe_folders()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    fail(f"no recipe {name!r}; there are {', '.join(list_recipes()) or 'none'}; or give a path to a .py file")


def whole_number(flags: dict[str, str], name: str, least: int, default: int) -> int:
    """A flag as an int >= `least`; exits with 2 on anything else."""
    value = flags.get(name, str(default))
    if not (value.isascii() and value.isdigit() and int(value) >= least):
        fail(f"--{name.replace('_', '-')} expects a whole number from {least}, got {value!r}")
    return int(value)


def check_devices(devices: int, accelerator: str) -> None:
    """Exit with 2 if this machine has fewer devices than asked for.

    What else is wrong with a device, its name included, the recipe says (`dreammpc.runtime.devices`).
    """
    gpus_asked = accelerator in ("gpu", "cuda")
    # torch takes seconds to import: one process pays for it only to be told that there is no GPU.
    if devices == 1 and (not gpus_asked or any(Path("/dev").glob("nvidia[0-9]*"))):
        return
    if accelerator == "cpu":
        found, kind = os.cpu_count() or 1, "CPU cores"
    elif gpus_asked or accelerator == "auto":
        found, kind = count_gpus(), "GPUs"
        if not found and not gpus_asked:
            found, kind = os.cpu_count() or 1, "CPU cores"
    else:
        return
    if devices > found:
        fail(f"--devices {devices}: this machine has {found} {kind}")


def count_gpus() -> int:
    """GPUs that torch can use here."""
    import torch

    return torch.cuda.device_count()


def rendezvous_arguments(flags: dict[str, str], nodes: int) -> list[str]:
    """How the processes find each other, in torchrun's words; exits with 2 if a flag is missing."""
    if nodes == 1:
        return ["--standalone"]  # a free port, so that two trainings fit on one machine
    for name in ("node_rank", "main_address"):
        if name not in flags:
            fail(f"--num-nodes {nodes} needs --{name.replace('_', '-')}")
    rank = whole_number(flags, "node_rank", least=0, default=0)
    if rank >= nodes:
        fail(f"--node-rank {rank}: the nodes are numbered 0 to {nodes - 1}")
    port = whole_number(flags, "main_port", least=1, default=29400)
    return [
        f"--nnodes={nodes}",
        f"--node-rank={rank}",
        f"--master-addr={flags['main_address']}",
        f"--master-port={port}",
    ]


def replace_process(command: list[str]) -> NoReturn:
    """Become `command`: the same process id, so signals and exit codes need no passing on."""
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(command[0], command)
    import subprocess

    sys.exit(subprocess.run(command).returncode)


def forward(words: list[str]) -> NoReturn:
    """Hand any other command to lightning-sdk, whose `lightning` this one stands before."""
    from importlib import metadata

    try:
        scripts = metadata.distribution("lightning-sdk").entry_points
    except metadata.PackageNotFoundError:
        scripts = metadata.EntryPoints()
    for script in scripts.select(group="console_scripts", name="lightning"):
        sys.argv = ["lightning", *words]
        sys.exit(script.load()())
    fail(f"unknown command {words[0]!r}; there are: run, --help, --version (lightning-sdk is not installed)")


def fail(message: str) -> NoReturn:
    """End with one line on stderr and exit code 2."""
    print(f"lightning: {message}", file=sys.stderr)
    sys.exit(2)


def _print_help() -> NoReturn:
    print(HELP.format(recipes=", ".join(list_recipes()) or "none found"))
    sys.exit(0)


if __name__ == "__main__":
    main()
