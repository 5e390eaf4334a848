"""The notebooks of docs/notebooks run, in short form, and are kept with what they print."""

import json
import sys
import types
from pathlib import Path

import pytest

from dreammpc.planning import PLANNERS

FOLDER = Path(__file__).parent.parent / "docs/notebooks"
SHORT = {
    "simulator": {"STEPS": 3, "SAMPLES": 64},
    "compare": {"EPISODES": 2, "PLANNERS": {"policy": {}, "dream_mpc": {}}},
    "planner": {"EPISODES": 1},
}
"""What stands in place of the cell of parameters."""


def code_cells(name: str) -> list[dict]:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_all_notebooks_are_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_runs(name, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.setattr("dreammpc.envs.dmcontrol.CONTROL_STEPS", 20)
    monkeypatch.setattr(PLANNERS, "_things", dict(PLANNERS._things))  # what it registers is gone afterwards
    module = types.ModuleType(f"notebook_{name}")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    replaced = 0
    for cell in code_cells(name):
        if "parameters" in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), module.__dict__)
            assert set(SHORT[name]) <= set(vars(module))
            vars(module).update(SHORT[name])
            replaced += 1
        else:
            exec("".join(cell["source"]), module.__dict__)
    assert replaced == 1
    told = capsys.readouterr().out
    words = {
        "simulator": ["mppi:", "cem_grad:", "after 3 steps"],
        "compare": ["dream_mpc", "against the bare policy"],
        "planner": ["best_of keeps the contract", "Careless: Careless.plan: latent", "best_of, N = 256"],
    }
    assert not [word for word in words[name] if word not in told]


@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_is_kept_as_it_ran(name):
    """Cells that print have their output, in the order of the page."""
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        source = "".join(cell["source"])
        assert bool(cell["outputs"]) == ("print(" in source or source.rstrip().endswith("\nfigure"))
