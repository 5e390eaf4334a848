"""What every recipe's main function runs in: Hydra's composition, exit codes, one-line errors."""

import functools
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreammpc.configuration.command_line import (
    COMPARE,
    concealed,
    quoted,
    rewrite,
    unquoted,
    unreadable,
    unused_experiment,
    with_first_experiment,
)
from dreammpc.configuration.groups import offer_files, register_schemas
from dreammpc.configuration.planners import planner_name
from dreammpc.configuration.stored import stored_words
from dreammpc.interfaces import UsageError
from dreammpc.plugins.registry import unknown
from dreammpc.plugins.settings import no_setting
from dreammpc.runtime.processes import Terminated, end_with_parent
from dreammpc.runtime.threads import set_threads
from dreammpc.support import faults
from dreammpc.support.names import printable
from dreammpc.tracking.addresses import redacted, store_address
from dreammpc.training import (
    DESCRIPTION,
    check_free,
    find_resumable,
    keep_memory,
    load_checkpoint,
    release_folders,
    runs_of,
)

PACKAGE = Path(__file__).resolve().parents[1]
EXIT_USAGE, EXIT_FAULT = 2, 1


def main(name: str) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Decorator of a recipe's function: compose `NAME.yaml` of conf/ with the command line and call it.

    The function receives a plain dataclass. A user's mistake ends in one line on stderr and exit code 2, all
    else that is raised in one line and exit code 1 (see `support.faults`); an integer that the function
    returns is the exit code.
    """

    def decorate(function: Callable[[Any], Any]) -> Callable[[], None]:
        register_schemas()
        code = 0

        @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)
        @functools.wraps(function)
        def call(config: DictConfig) -> None:
            nonlocal code
            try:
                check_learning()
                offer_files()
                if address := OmegaConf.select(config, "tracking.uri"):  # of a YAML file
                    config.tracking.uri = store_address(address)
                code = function(OmegaConf.to_object(config)) or 0
            except (UsageError, OmegaConfBaseException) as error:
                fail(describe(error, name))
            except Exception as error:
                fail(faults.report(error), EXIT_FAULT)
            except SystemExit as error:
                place = faults.source_line(error)
                own = place is not None and place.frame.f_code is function.__code__  # a recipe may exit
                if own or not faults.raised_by_foreign_code(error):
                    raise
                fail(faults.report(error), EXIT_FAULT)
            finally:
                release_folders()

        def run() -> None:
            nonlocal code
            keep_memory()
            set_threads(0)  # until a recipe knows how wide its model is
            faults.keep_in(None)
            if "DREAMMPC_LAUNCHER" in os.environ:
                end_with_parent(int(os.environ["DREAMMPC_LAUNCHER"]), signal.SIGTERM)
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, instead of printing and exiting with 1
            try:
                typed = [concealed(word) for word in sys.argv[1:]]
                words = with_resumed(rewrite(typed, name), name)
                sys.argv[1:] = with_first_experiment(words) if name == "train" else words
                call()
            except (UsageError, HydraException, OmegaConfBaseException) as error:
                fail(describe(error, name))
            except Exception as error:
                fail(faults.report(error), EXIT_FAULT)
            except KeyboardInterrupt as error:
                print("; ".join(["interrupted", *getattr(error, "__notes__", [])]), file=sys.stderr)
                code = 143 if isinstance(error, Terminated) else 130
            finally:
                GlobalHydra.instance().clear()
            sys.exit(code)

        return run

    return decorate


def check_learning() -> None:
    """Raise UsageError for a set `learning=` that is none: Hydra lets it pass, as sizes may have none."""
    chosen = [word.partition("=")[2] for word in overrides() if word.startswith("learning=")]
    there = GlobalHydra.instance().config_loader().get_group_options("learning") if chosen else []
    for name in chosen:
        if name not in there:
            raise UsageError(unknown(f"learning {name!r}", name, there))


def conf_folder() -> Path:
    """The folder of Hydra's files: the package's own copy, else the checkout's."""
    shipped = PACKAGE / "conf"
    return shipped if shipped.is_dir() else PACKAGE.parent / "conf"


def compose(name: str, words: list[str], beside: Sequence[str] = ()) -> Any:
    """The configuration of a recipe for the words of a command line, as its dataclass.

    Of an unknown key it is said that there are those of `beside` too.

    Raises:
        UsageError: what the recipe itself would refuse.
    """
    register_schemas()
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return OmegaConf.to_object(hydra.compose(name, rewrite(words, name)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(describe(error, name, beside)) from error
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = running


def with_resumed(arguments: list[str], recipe: str) -> list[str]:
    """With `resume=PATH`, words for the settings of the run that goes on, before those given now, which win.

    `resume=auto` is first replaced by what it finds, or left out.
    """
    words = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    options = [argument for argument in arguments if argument not in words]
    given = {word.partition("=")[0].lstrip("+~"): word for word in words}
    if "resume" not in given:
        return arguments
    path = unquoted(given["resume"].partition("=")[2])
    if path == "auto":
        words.remove(given["resume"])
        found = newest_checkpoint(words, options, recipe)
        if found is None:
            return [*options, *words]
        path = str(found)
        words.append(f"resume={quoted(path)}")

    def make(some: list[str]) -> Any:
        return OmegaConf.to_container(composed(recipe, some, options))

    stored, said = stored_words(load_checkpoint(path)[DESCRIPTION], f"checkpoint {path}", words, make)
    if "folder" not in given:
        stored.append(f"folder={quoted(str(Path(path).parent.parent))}")
    for line in said:
        print_from_rank_zero(line)
    return [*options, *stored, *words]


def newest_checkpoint(words: list[str], options: list[str], recipe: str) -> Path | None:
    """What `resume=auto` means: see `TrainConfig`.

    Raises:
        UsageError: several runs are asked for, or all checkpoints are damaged.
    """
    if {"-m", "--multirun"} & set(options):
        raise UsageError("resume=auto goes on with one run and does not go with -m")
    given = dict(word.split("=", 1) for word in words)
    which = [word for word in words if word.partition("=")[0] in ("task", "seed", "folder", "experiment")]
    config = composed(recipe, which, options)
    folders, expected = [Path(config.folder)] if "folder" in given else [], {}
    if "folder" in given and os.environ.get("RANK", "0") == "0":
        check_free(folders[0])
    if "folder" not in given:
        folders = runs_of(config.task)
        expected = {"task": config.task} | ({"seed": config.seed} if "seed" in given else {})
    path, said = find_resumable(folders, **expected)
    print_from_rank_zero(
        "\n".join([*said, f"resume=auto: {path or 'nothing to go on with, a new run begins'}"])
    )
    return path


def composed(recipe: str, words: list[str], options: Sequence[str] = ()) -> DictConfig:
    """What Hydra makes of some `words`, with the folder of files that `options` name."""
    folders = [
        option.partition("=")[2] or following
        for option, following in itertools.pairwise([*options, ""])
        if option.partition("=")[0] in ("--config-dir", "-cd")
    ]
    files = [f"hydra.searchpath=[{quoted('file://' + os.path.abspath(folder))}]" for folder in folders[:1]]
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return hydra.compose(recipe, [*files, *words])
    finally:
        GlobalHydra.instance().clear()


def overrides() -> list[str]:
    """The command line of the running recipe, as Hydra understood it, without `resume`."""
    return [text for text in HydraConfig.get().overrides.task if not text.startswith("resume=")]


def notes() -> list[str]:
    """What is to be said of the command line of a running training."""
    return unused_experiment(HydraConfig.get().overrides.task)


def print_from_rank_zero(text: str) -> None:
    """Print to stderr; of several processes only rank 0 speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(redacted(text)), file=sys.stderr)


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Say what went wrong in one line and exit. Of a fault every process tells: it may have it alone."""
    rank = os.environ.get("RANK", "0")
    if code == EXIT_FAULT and rank != "0":
        print(printable(redacted(f"error: rank {rank}: {message}")), file=sys.stderr)
    print_from_rank_zero(f"error: {' '.join(message.splitlines())}")
    sys.exit(code)


def describe(error: BaseException, recipe: str, beside: Sequence[str] = ()) -> str:
    """One line of an error: what is wrong, what was expected, what exists."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return unknown(f"{group} '{choice}'", choice, list(error.options))
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    text = " ".join(line.strip() for line in str(error).splitlines() if not _internal(line))
    if text.startswith("Could not override"):
        key = text.split("'")[1]
        config = composed(recipe, groups_chosen() if recipe == "train" else [])
        section, _, name = key.rpartition(".")
        if section == "planner" and recipe == "train" and not beside:
            known = {str(setting) for setting in config.planner} - {"name"}
            return no_setting(f"planner {planner_name(config.planner)!r}", name, known)
        return unknown(f"key {key!r}", key, list(dict.fromkeys([*beside, *keys_beside(key, config, recipe)])))
    if missing := re.search(r"missing mandatory value: (\w+)", text):
        return f"{missing[1]}= is needed: lightning run {recipe} {missing[1]}=… (see --help)"
    if error.__cause__ is not None and isinstance(error, HydraException):
        cause = " ".join(line.strip() for line in str(error.__cause__).splitlines() if not _internal(line))
        text = text.removeprefix("Error merging override ") + f": {cause}"
    if bare := re.search(r"field '([\w.]+)' is not Optional", text):
        return f"{bare[1]} must not be null; leave it out for its default"
    return text or type(error).__name__


def groups_chosen() -> list[str]:
    """The words of the command line that choose what else there is to set."""
    groups = ("planner", "model", "algorithm", "experiment")
    return [word for word in sys.argv[1:] if word.partition("=")[0] in groups]


def keys_beside(key: str, config: DictConfig, recipe: str) -> list[str]:
    """The keys of a recipe's `config` in the section where `key` was looked for."""
    section = key.rpartition(".")[0]
    while section and not isinstance(OmegaConf.select(config, section), DictConfig):
        section = section.rpartition(".")[0]  # it may be the section that does not exist
    node = OmegaConf.select(config, section) if section else config
    # As users spell them, see `rewrite`.
    spelt = {"planners": "planner", "trained_by": "algorithm"} if recipe in COMPARE else {}
    return [f"{section}.{name!s}" if section else spelt.get(str(name), str(name)) for name in node]


def _internal(line: str) -> bool:
    return not line.strip() or line.strip().startswith(
        ("full_key:", "object_type=", "reference_type=", "Config search")
    )
