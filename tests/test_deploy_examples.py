"""What docs/deploy.md shows around an exported file: the C++ program, built and run, and the ROS 2 node."""

import os
import runpy
import select
import shutil
import signal
import subprocess
import sys
import time
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
    [
        (["none.pt2", "1", "0", "0"], "file none.pt2"),
        ([], "expected"),
        (["a", "x", "0", "0"], "expected"),
        (["a", "1", "nan", "0"], "expected"),
        (["a", "1", "0", "-1"], "expected"),
    ],
)
def test_cpp_refuses_in_one_line(program, words, told, tmp_path):
    done = subprocess.run([str(program), *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_cpp_refuses_what_is_no_number_and_acts_at_once(program, tmp_path):
    path = tmp_path / "agent.pt2"
    cli.main(["export", AGENT, "--planner", "policy", "--format", "aoti", "-o", str(path), "--steps", "2"])
    for text in ("0.5 1 nan 0 0\n", "0.5 1 0 0 0\n0.5 x 0 0 0\n"):
        done = subprocess.run(
            [str(program), str(path), "3", "0", "0"], input=text, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        step, entry = (1, 3) if "nan" in text else (2, 2)
        assert done.stderr == f"error: step {step}: the observation's entry {entry} is no finite number\n"
    words = [str(program), str(path), "2", "0.01", "0"]  # the second step begins after 100 s
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        running.stdin.write("0.5 1 0 0 0\n")
        running.stdin.flush()
        came = select.select([running.stdout], [], [], 60)[0]
        running.kill()
    assert came


class Node:
    """As much of rclpy's as the example needs; `declare_parameter` gives what the test wants."""

    parameters = types.MappingProxyType({})

    def __init__(self, name):
        self.sent, self.said = [], []

    def declare_parameter(self, name, value):
        return types.SimpleNamespace(value=self.parameters.get(name, value))

    def create_publisher(self, kind, topic, depth):
        assert topic == "action"
        return types.SimpleNamespace(publish=self.publish)

    def create_subscription(self, kind, topic, callback, depth):
        assert topic == "observation"
        self.callback = callback

    def get_logger(self):
        return types.SimpleNamespace(info=self.said.append, error=self.said.append)


class Message:
    def __init__(self, data):
        self.data = data


@pytest.fixture
def ros(tmp_path, monkeypatch):
    """A stand-in of rclpy, in which nothing can be published once the context is shut down."""
    path = tmp_path / "agent.pt2"
    cli.main(["export", AGENT, "--planner", "policy", "-o", str(path), "--steps", "2"])
    state = types.SimpleNamespace(path=path, nodes=[], up=True, after=lambda node: None, every=0.01)

    class Executor:
        def add_node(self, node):
            state.nodes.append(node)

        def spin(self):
            node = state.nodes[0]
            while state.up and state.every is not None:
                node.callback(Message(data=[0.5, 1.0, 0.0, 0.0, 0.0]))
                time.sleep(state.every)

        def shutdown(self):
            pass

    def publish(self, message):
        assert state.up, "publisher's context is invalid"
        self.sent.append(message.data)
        state.after(self)
        state.up = len(self.sent) < 1000  # not for ever, whatever goes wrong

    def shut_down():
        state.up = False

    stand_ins = {
        "rclpy": {
            "init": lambda signal_handler_options: None,
            "try_shutdown": shut_down,
            "ok": lambda: state.up,
        },
        "rclpy.executors": {"SingleThreadedExecutor": Executor},
        "rclpy.node": {"Node": Node},
        "rclpy.signals": {"SignalHandlerOptions": types.SimpleNamespace(NO=0)},
        "std_msgs": {},
        "std_msgs.msg": {"Float32MultiArray": Message},
    }
    for name, content in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        vars(sys.modules[name]).update(content)
    monkeypatch.setattr(Node, "publish", publish, raising=False)
    monkeypatch.setattr(Node, "parameters", {"file": str(path), "max_rate": 1e6, "watchdog": 60.0})
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
    yield state
    for number, handler in before.items():
        signal.signal(number, handler)


def run_node():
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "examples/ros2_node.py"), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ros_node_with_a_stand_in_sends_zeros_when_it_is_ended(ros, number, code):
    """It plans for what it received, and brings the machine to rest before ROS ends."""
    ros.after = lambda node: os.kill(os.getpid(), number) if len(node.sent) == 3 else None
    assert run_node() == code
    expected, _ = ExportedAgent(ros.path)([0.5, 1.0, 0.0, 0.0, 0.0])
    *actions, last = ros.nodes[0].sent
    assert len(actions) == 3 and last == [0.0] and not ros.up
    assert all(sent == pytest.approx(expected.tolist()) for sent in actions)
    assert "jitter_ms median" in ros.nodes[0].said[-1]


def test_ros_node_stops_where_observations_do(ros, monkeypatch):
    monkeypatch.setattr(Node, "parameters", {**Node.parameters, "watchdog": 0.2})

    def stop_after_three(node):
        ros.every = ros.every if len(node.sent) < 3 else None

    ros.after = stop_after_three
    assert run_node().startswith("error: no observation came for 0.2")
    assert ros.nodes[0].sent[-1] == [0.0]


def test_ros_node_says_what_is_missing(ros, monkeypatch):
    monkeypatch.setattr(Node, "parameters", {"file": "none.pt2"})
    assert "none.pt2" in run_node() and not ros.up
    monkeypatch.setitem(sys.modules, "rclpy", None)
    assert "this example needs ROS 2: source its setup.bash first" in run_node()
