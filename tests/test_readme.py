"""The README: its Python, its figures, and the package's public names."""

import re
import subprocess
import sys
from pathlib import Path

from plans import plan
from toy_models import LinearQuadratic, random_latent

import dreammpc
from dreammpc.planning import make_planner

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_plays_a_packaged_agent(capsys, monkeypatch):
    monkeypatch.setattr("dreammpc.envs.dmcontrol.CONTROL_STEPS", 20)
    (code,) = (
        block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if "make_env" in block
    )
    exec(code, {"__name__": "readme"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["policy", "dream_mpc"]


def test_the_planners_of_the_readme_take_the_steps_that_it_says():
    said, model = {}, LinearQuadratic(2)
    for names, steps in re.findall(r"^\| (`[a-z_`, ]+`) \| .* \| ([\d, ]+) \|$", PAGE, re.M):
        said |= dict(zip(re.findall(r"`(\w+)`", names), steps.split(", "), strict=True))
    assert said.keys() >= {"policy", "dream_mpc", "mppi", "icem"}
    for name, steps in said.items():
        taken = plan(make_planner(name, 2), model, random_latent(model, 2)).diagnostics["evaluations"][0]
        assert taken == int(steps.replace(",", "")), name


def test_public_names_are_there_and_imported_when_asked_for():
    for name in dreammpc.__all__:
        assert getattr(dreammpc, name) is not None, name
    code = "import sys, dreammpc; dir(dreammpc); sys.exit(3 if 'torch' in sys.modules else 0)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=600).returncode == 0


def test_an_unknown_name_is_no_attribute():
    assert not hasattr(dreammpc, "load_agents")
