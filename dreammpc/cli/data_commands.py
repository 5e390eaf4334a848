"""What `dreammpc data` does; imported when it is called."""

import glob
import shlex
from collections.abc import Sequence

from dreammpc.configuration.recipe import compose
from dreammpc.configuration.recorded import open_data
from dreammpc.data.recorder import amount, check_target, write_episodes
from dreammpc.interfaces import UsageError
from dreammpc.support.names import printable
from dreammpc.training import open_target


def look(path: str, output: str | None, choices: Sequence[str]) -> None:
    """Say what is in recorded data and what is left out, and write what is left to a file, if one is named.

    Args:
        path: as `data=` of `train`.
        output: a file that ends in .npz, .h5 or .hdf5.
        choices: words of `train`: `data.KEY=VALUE`, `obs=both`.

    Raises:
        UsageError: the data cannot be read, or a word is none of these.
    """
    for word in choices:
        if not word.startswith(("data.", "obs=")):
            raise UsageError(f"{word}: expected data.KEY=VALUE, or obs=state, pixels or both")
    target = check_target(output) if output else None
    config = compose("train", [f"data={path}", *choices])
    data = open_data(config.data, config.env.obs)
    assert data is not None
    target = open_target(target, [path, *glob.glob(path)]) if target else None
    for line in data.said():
        print(printable(line))
    if target:
        known = {key: data.source.facts.get(key) for key in ("task", "action_repeat")}
        bounds = {"action_low": -1.0, "action_high": 1.0}
        episodes, transitions = write_episodes(target, data.pieces(), {**known, **bounds})
        print(f"{target}: {amount(transitions, episodes)}")
        print(printable(f"learn from it: lightning run train {shlex.quote(f'data={target}')}"))
