"""What docs/deploy.md shows around an exported file: the C++ program, built and run, and the ROS 2 node."""

import runpy
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from commands import ROOT

from dreammpc.cli import parser as cli
from dreammpc.deploy.check import Record
from dreammpc.deploy.exported import ExportedAgent

AGENT = "cartpole-swingup"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """examples/cpp, built against the wheel's libtorch; skipped where there is no CMake or compiler."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    build = tmp_path_factory.mktemp("build")
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    for words in (["-S", str(ROOT / "examples/cpp"), "-B", str(build), prefix], ["--build", str(build)]):
        done = subprocess.run(["cmake", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "plan_loop"


@pytest.mark.slow
def test_cpp_acts_as_python(program, tmp_path):
    path, steps = tmp_path / "agent.pt2", 50
    words = ["--format", "aoti", "-o", str(path), "--steps", str(steps), "--ahead", "1"]
    cli.main(["export", AGENT, *words, "planner.horizon=1", "planner.num_candidates=2"])
    record = Record.of(ExportedAgent(path).description["record"])
    text = "\n".join(" ".join(f"{x:.9g}" for x in row) for row in record.observations["observation"])
    run = [str(program), str(path), str(steps), "100", str(record.seed)]
    done = subprocess.run(run, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    torch.manual_seed(record.seed)
    file = ExportedAgent(path)
    expected = np.stack([file(seen)[0] for seen in record.observations["observation"]])
    assert (found == expected).all() and f"{steps} steps, " in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [(["none.pt2", "1", "0", "0"], "file none.pt2"), ([], "expected"), (["a", "x", "0", "0"], "expected")],
)
def test_cpp_refuses_in_one_line(program, words, told, tmp_path):
    done = subprocess.run([str(program), *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


class Node:
    """As much of rclpy's as the example needs; `declare_parameter` gives what the test wants."""

    parameters = types.MappingProxyType({})

    def __init__(self, name):
        self.sent, self.said = [], []

    def declare_parameter(self, name, value):
        return types.SimpleNamespace(value=self.parameters.get(name, value))

    def create_publisher(self, kind, topic, depth):
        assert topic == "action"
        return types.SimpleNamespace(publish=lambda message: self.sent.append(message.data))

    def create_subscription(self, kind, topic, callback, depth):
        assert topic == "observation"
        self.callback = callback

    def get_logger(self):
        return types.SimpleNamespace(info=self.said.append, error=self.said.append)


def test_ros_node_with_a_stand_in(tmp_path, monkeypatch, capsys):
    """It plans for what it received, and brings the machine to rest in the end."""
    path, nodes = tmp_path / "agent.pt2", []
    cli.main(["export", AGENT, "--planner", "policy", "-o", str(path), "--steps", "2"])

    class Executor:
        def add_node(self, node):
            nodes.append(node)

        def spin(self):
            nodes[0].callback(Message(data=[0.5, 1.0, 0.0, 0.0, 0.0]))

        def shutdown(self):
            pass

    class Message:
        def __init__(self, data):
            self.data = data

    stand_ins = {
        "rclpy": {"init": lambda: None, "try_shutdown": lambda: None, "ok": lambda: not enough()},
        "rclpy.executors": {"SingleThreadedExecutor": Executor},
        "rclpy.node": {"Node": Node},
        "std_msgs": {},
        "std_msgs.msg": {"Float32MultiArray": Message},
    }

    def enough():
        return bool(nodes) and len(nodes[0].sent) >= 3

    for name, content in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        vars(sys.modules[name]).update(content)
    monkeypatch.setattr(Node, "parameters", {"file": str(path), "max_rate": 1e6, "watchdog": 60.0})
    runpy.run_path(str(ROOT / "examples/ros2_node.py"), run_name="__main__")
    expected, _ = ExportedAgent(path)([0.5, 1.0, 0.0, 0.0, 0.0])
    *actions, last = nodes[0].sent
    assert all(sent == pytest.approx(expected.tolist()) for sent in actions) and last == [0.0]
    assert "jitter_ms median" in nodes[0].said[-1]
