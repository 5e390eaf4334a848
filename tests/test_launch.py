"""The launcher: what reaches the recipe, what comes back, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from dreammpc.cli import launch
from dreammpc.cli import parser as cli

ROOT = Path(launch.__file__).resolve().parents[2]

# Writes what it was started with to seen-RANK.json, then does what its first argument says.
RECIPE = """
import json, os, signal, sys, time
rank = os.environ.get("RANK", "0")
seen = {"argv": sys.argv[1:], "pid": os.getpid(), "world": os.environ.get("WORLD_SIZE")}
def stop(number, frame):
    open(f"stopped-{rank}", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
with open(f"draft-{rank}", "w") as file:
    json.dump(seen, file)
os.replace(f"draft-{rank}", f"seen-{rank}.json")
what = sys.argv[1] if len(sys.argv) > 1 else ""
if what.startswith("exit=") and rank == os.environ.get("FAILING_RANK", rank):
    sys.exit(int(what[5:]))
if what == "wait=1" or what.startswith("exit=") and "FAILING_RANK" in os.environ:
    time.sleep(300)
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe file in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.py"
    file.write_text(RECIPE)
    return file


def start(*words: str, **environment: str) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "dreammpc.cli.launch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment,
    )


def finish(*words: str, **environment: str) -> tuple[int, str, str]:
    process = start(*words, **environment)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def seen(rank: int = 0) -> dict:
    return json.loads(Path(f"seen-{rank}.json").read_text())


def wait_for(*files: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not all(Path(file).exists() for file in files):
        assert time.monotonic() < deadline, f"{files} did not appear in {seconds} s"
        time.sleep(0.02)


def refusal(capsys, *words: str) -> str:
    """The one line that refuses `lightning WORDS`."""
    with pytest.raises(SystemExit) as stop:
        launch.main(words)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("lightning: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "words",
    [
        ["tiny.py", "--devices", "1", "--precision=32", "a=1", "--cfg", "job"],
        ["--devices=1", "--precision", "32", "tiny.py", "a=1", "--cfg", "job"],
        ["model", "tiny.py", "a=1", "--cfg", "job", "--devices=1", "--precision=32"],
    ],
)
def test_flags_become_overrides_where_hydra_takes_them(recipe, words):
    assert finish("run", *words)[0] == 0
    assert seen()["argv"] == ["a=1", "trainer.devices=1", "trainer.precision=32", "--cfg", "job"]


def test_overrides_stay_one_group():
    assert launch.insert_overrides([], ["x=1"]) == ["x=1"]
    assert launch.insert_overrides(["--cfg", "job"], ["x=1"]) == ["x=1", "--cfg", "job"]
    assert launch.insert_overrides(["--cfg", "job", "a=2"], ["x=1"]) == ["--cfg", "job", "a=2", "x=1"]
    assert launch.insert_overrides(["a=2", "-m", "--b=3"], ["x=1"]) == ["a=2", "x=1", "-m", "--b=3"]


def test_the_recipe_replaces_the_launcher(recipe):
    process = start("run", "tiny.py", "--help", "-m")
    process.communicate(timeout=600)
    assert seen() == {"argv": ["--help", "-m"], "pid": process.pid, "world": None}


@pytest.mark.parametrize("code", [0, 2, 3])
def test_exit_codes_pass(recipe, code):
    assert finish("run", "tiny.py", f"exit={code}")[0] == code


def test_sigterm_reaches_the_recipe(recipe):
    process = start("run", "tiny.py", "wait=1")
    wait_for("seen-0.json")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 143
    assert Path("stopped-0").exists()


def test_an_interrupt_while_a_recipe_imports_is_one_word(recipe):
    lines = [
        "import os, signal, dreammpc",
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it",
        "os.kill(os.getpid(), signal.SIGINT)",
        "import torch",
    ]
    recipe.write_text("\n".join(lines))
    assert finish("run", "tiny.py") == (130, "", "interrupted\n")


def test_packaged_names_prefer_the_package(tmp_path, monkeypatch):
    inside, beside = tmp_path / "package" / "recipes", tmp_path / "recipes"
    for folder, names in ((inside, ["train"]), (beside, ["train", "evaluate", "_shared"])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.py").touch()
    monkeypatch.setattr(launch, "__file__", str(tmp_path / "package" / "cli" / "launch.py"))
    assert launch.find_recipe("train") == inside / "train.py"
    assert launch.find_recipe("evaluate") == beside / "evaluate.py"
    assert launch.list_recipes() == ["evaluate", "train"]


def test_an_unknown_recipe_names_those_there_are(capsys, monkeypatch):
    monkeypatch.setattr(launch, "list_recipes", lambda: ["evaluate", "train"])
    assert "'trian'; there are evaluate, train" in refusal(capsys, "run", "trian")
    assert "'no/such.py'; there are evaluate, train" in refusal(capsys, "run", "no/such.py", "a=1")
    assert "before --cfg" in refusal(capsys, "run", "--cfg", "job", "train")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--devices", "0"], "--devices expects a whole number from 1, got '0'"),
        (["--devices=x"], "--devices expects a whole number from 1, got 'x'"),
        (["--devices"], "--devices needs a value"),
        (["--devices=100000", "--accelerator=cpu"], f"this machine has {os.cpu_count()} CPU cores"),
        (["--devices=2", "-m"], "--multirun"),
        (["--num-nodes=2"], "needs --node-rank"),
        (["--num-nodes=2", "--node-rank=0"], "needs --main-address"),
        (["--num-nodes=2", "--node-rank=2", "--main-address=host"], "numbered 0 to 1"),
        (["--num_nodes=2", "--node-rank=0", "--main-address=host", "--main-port=x"], "--main-port expects"),
    ],
)
def test_bad_flags_are_refused_in_one_line(recipe, capsys, monkeypatch, flags, reason):
    monkeypatch.setattr(launch, "check_devices", launch.check_devices if "100000" in str(flags) else print)
    assert reason in refusal(capsys, "run", "tiny.py", *flags)


def test_an_unknown_renderer_is_refused_before_the_recipe(recipe):
    code, out, err = finish("run", "tiny.py", MUJOCO_GL="EGL")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "MUJOCO_GL is 'EGL'; expected egl, osmesa or glfw" in err
    assert not list(recipe.parent.glob("seen-*"))
    assert finish("run", "tiny.py", MUJOCO_GL="disable")[0] == 0


def test_devices_are_counted_by_accelerator(capsys, monkeypatch):
    monkeypatch.setattr(launch, "count_gpus", lambda: 4)
    launch.check_devices(4, "gpu")
    launch.check_devices(4, "auto")
    launch.check_devices(100, "tpu")
    for accelerator in ("gpu", "cuda", "auto"):
        with pytest.raises(SystemExit):
            launch.check_devices(5, accelerator)
        assert "has 4 GPUs" in capsys.readouterr().err
    monkeypatch.setattr(launch, "count_gpus", lambda: 0)
    launch.check_devices(os.cpu_count() or 1, "auto")
    with pytest.raises(SystemExit):
        launch.check_devices(2, "gpu")


def test_other_commands_go_to_lightning_sdk(capsys, monkeypatch, tmp_path):
    assert "unknown command 'login'; there are: run" in refusal(capsys, "login")

    (tmp_path / "fake_sdk.py").write_text("import sys\ndef main():\n    print(sys.argv)\n    return 5\n")
    scripts = metadata.EntryPoints([metadata.EntryPoint("lightning", "fake_sdk:main", "console_scripts")])

    class FakeDistribution:
        entry_points = scripts

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(metadata, "distribution", {"lightning-sdk": FakeDistribution}.__getitem__)
    with pytest.raises(SystemExit) as stop:
        launch.main(["login", "--key", "k"])
    assert stop.value.code == 5
    assert capsys.readouterr().out == "['lightning', 'login', '--key', 'k']\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["run"], ["run", "--help"], ["run", "--devices=2", "-h"]])
def test_help(capsys, words):
    with pytest.raises(SystemExit) as stop:
        launch.main(words)
    assert stop.value.code == 0
    assert "usage: lightning run RECIPE" in capsys.readouterr().out


def test_nothing_heavy_is_imported(recipe):
    code = "import sys; from dreammpc.cli import launch, parser; print({'torch', 'hydra'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert answer.stdout == "set()\n", answer.stderr


two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")


@two_cores
def test_two_processes(recipe):
    code, _, err = finish("run", "tiny.py", "--devices=2", "--accelerator=cpu", "a=1", "--cfg", "job")
    assert code == 0, err
    for rank in range(2):
        assert seen(rank)["world"] == "2"
        assert seen(rank)["argv"] == ["a=1", "trainer.devices=2", "trainer.accelerator=cpu", "--cfg", "job"]


@two_cores
def test_the_first_failure_of_two_is_passed_on(recipe):
    code, _, err = finish("run", "tiny.py", "exit=2", "--devices=2", "--accelerator=cpu", FAILING_RANK="1")
    assert code == 2
    assert err.count("\n") == 1 and "process 1 " in err and "code 2" in err


@two_cores
def test_sigterm_reaches_both_processes(recipe):
    process = start("run", "tiny.py", "wait=1", "--devices=2", "--accelerator=cpu")
    wait_for("seen-0.json", "seen-1.json")
    pids = [seen(rank)["pid"] for rank in range(2)]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 143
    assert Path("stopped-0").exists() and Path("stopped-1").exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_dreammpc_run_is_lightning_run(recipe, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(launch, "run", started.append)
    with pytest.raises(SystemExit):  # the stand-in returns, unlike the real one
        cli.main(["run", "tiny.py", "--help"])
    assert started == [["tiny.py", "--help"]]


def test_dreammpc_version_and_unknown_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out.startswith("dreammpc ")
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan"])
    assert stop.value.code == 2


def test_dreammpc_planners_lists_settings(capsys):
    registry = pytest.importorskip("dreammpc.planning.factory")
    cli.main(["planners"])
    listed = capsys.readouterr().out
    assert registry.PLANNERS
    for name in registry.PLANNERS:
        assert any(line.startswith(f"{name} ") for line in listed.splitlines())


def test_dreammpc_tasks(capsys):
    envs = pytest.importorskip("dreammpc.envs")
    if not hasattr(envs, "list_tasks"):
        pytest.skip("no list_tasks")
    cli.main(["tasks"])
    assert "walker-walk" in capsys.readouterr().out.split()
