"""An agent and its planner as a model that MLflow registers and serves."""

import logging
import shlex
import tempfile
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreammpc import __version__
from dreammpc.configuration.command_line import words as command_words
from dreammpc.configuration.planners import build_planner, planner_name
from dreammpc.evaluation.results import default_settings
from dreammpc.evaluation.rows import plain_value
from dreammpc.interfaces import RunError, UsageError
from dreammpc.tracking.addresses import full_address, store_address
from dreammpc.tracking.follower import one_line
from dreammpc.tracking.loggers import address, check_model_name
from dreammpc.tracking.mlflow_run import MlflowRun
from dreammpc.tracking.note import RUNNING, Note, read_note
from dreammpc.trained.export import rounded, without_traces
from dreammpc.trained.library import locate
from dreammpc.trained.loading import load_model
from dreammpc.trained.mlflow_download import WEIGHTS
from dreammpc.training.checkpoint_format import DESCRIPTION, load_checkpoint
from dreammpc.training.files import save_atomically


def register(
    checkpoint: str | Path,
    name: str,
    planner: Mapping[str, Any],
    uri: str | None = None,
    experiment: str = "dreammpc",
    named: Collection[str] = (),
) -> str:
    """Make an agent a version of a registered model; say in one line which, and how it is served.

    The model is an artifact of the agent's run at MLflow, or of a new run if that has none there.

    Args:
        checkpoint: a file, or an agent's name.
        name: of the registered model, which is made if missing.
        planner: plain settings, with its name.
        uri: MLflow's address; None takes MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder.
        experiment: of a new run.
        named: dotted paths of algorithms that the file may have imported (docs/security.md).

    Raises:
        UsageError: MLflow is not installed; see `save_model`; a name that MLflow does not take.
        RunError: MLflow could not be reached; nothing is registered.
    """
    if find_spec("mlflow") is None:
        raise UsageError("to register a model needs MLflow, which is not installed here")
    check_model_name(name, "name")
    to, path = store_address(address(uri, key="--uri")), locate(checkpoint)
    note = read_note(path.resolve().parent.parent)
    if note is None or note.uri != to or note.run is None:
        note = Note(to, experiment, name, status="FINISHED")
    run = MlflowRun(full_address(to), note.experiment, note.run_name, note.token, note.run)
    with tempfile.TemporaryDirectory() as draft:
        model = Path(draft) / "model"
        algorithm = save_model(path, model, planner, named)
        try:
            version = run.register(model, name)
            if note.status not in (None, RUNNING):
                run.write_status(note.status)
        except Exception as error:
            later = register_command(path, name, planner, None if uri is None else to, algorithm)
            raise RunError(f"MLflow at {to} can't be written ({one_line(error)}): later, {later}") from error
    here = f"models:/{name}/{version}"
    return f"{here} of run {run.run_id} at {to}; serve it: mlflow models serve -m {here} --env-manager local"


def register_command(
    checkpoint: Path, name: str, planner: Mapping[str, Any], uri: str | None, algorithm: str
) -> str:
    """What one types to register an agent with a planner's settings, as far as they are not its defaults.

    An `algorithm` that is a dotted path is named, too (see `register`).
    """
    kind, dotted = planner_name(dict(planner)), algorithm if "." in algorithm else None
    usual = {"name": kind, "_target_": kind, **default_settings(kind)}
    own = plain_value(dict(planner), names=True).items()
    changed = {f"planner.{key}": value for key, value in own if usual.get(key) != value}
    chosen = command_words(planner=kind, **changed, algorithm=dotted)
    to = [] if uri is None else ["--uri", uri]
    return f"{shlex.join(['dreammpc', 'register', str(checkpoint), name, *to])} {chosen}"


def save_model(
    checkpoint: Path, folder: Path, planner: Mapping[str, Any], named: Collection[str] = ()
) -> str:
    """Make `folder`, an MLflow model of an agent and its planner; return the name of its algorithm.

    Args:
        checkpoint: its weights go along without what only training needs.
        folder: not there yet.
        planner: plain settings, with its name.
        named: see `register`.

    Raises:
        UsageError: see `load_model`; an agent that sees pixels; an unknown planner or setting.
    """
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model as save
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    model, facts = load_model(checkpoint, named=named)
    if model.obs != "state":
        raise UsageError(f"checkpoint {checkpoint} sees {model.obs}: an MLflow model takes states only")
    build_planner(dict(planner), model.action_dim)
    seen, done = (
        TensorSpec(np.dtype(np.float32), (-1, size)) for size in (facts["obs_dim"], model.action_dim)
    )
    params = ParamSchema([ParamSpec("episode", "string", ""), ParamSpec("seed", "long", -1)])
    weights = rounded(load_checkpoint(checkpoint)["state_dict"], torch.float32, checkpoint)
    with tempfile.TemporaryDirectory() as draft:
        path = Path(draft) / Path(WEIGHTS).name
        save_atomically({"state_dict": weights, DESCRIPTION: without_traces(facts)}, path)
        logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
        save(
            folder,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"agent": str(path)},
            signature=ModelSignature(Schema([seen]), Schema([done]), params),
            input_example=np.zeros((1, facts["obs_dim"]), np.float32),
            pip_requirements=[f"dreammpc=={__version__}"],
            model_config={"planner": dict(planner), "named": list(named)},
            metadata={"task": facts["task"], "dreammpc": __version__},
        )
    algorithm: str = facts["config"]["algorithm"]["name"]
    return algorithm
