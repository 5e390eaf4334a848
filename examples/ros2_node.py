"""An exported agent as a ROS 2 node: `observation` in, `action` out, at a fixed rate.

    python examples/ros2_node.py --ros-args -p file:=walker-aoti.pt2 -p hz:=50.0 -p ahead:=1

It has not been run on ROS 2, only with a stand-in of `rclpy` in the tests. Both topics are Float32MultiArray:
the observation in the order that the file's description gives, the action within -1 and 1.
"""

import signal
import sys
import threading
import time

import numpy as np

try:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions
    from std_msgs.msg import Float32MultiArray
except ImportError as error:
    sys.exit(f"error: {error}; this example needs ROS 2: source its setup.bash first")

from dreammpc.deploy import ControlLoop, ExportedAgent, TooSlow
from dreammpc.interfaces import UsageError


class Planner(Node):
    """Keeps the newest observation; the loop reads it."""

    def __init__(self) -> None:
        super().__init__("dreammpc")
        settings = {"file": "agent.pt2", "hz": 50.0, "ahead": 0, "max_rate": 20.0, "watchdog": 0.5}
        for name, value in settings.items():
            settings[name] = self.declare_parameter(name, value).value
        self.agent = ExportedAgent(settings.pop("file"))
        self.seen, self.received, self.first = np.zeros(0), 0.0, threading.Event()
        self.actions = self.create_publisher(Float32MultiArray, "action", 1)
        self.create_subscription(Float32MultiArray, "observation", self.receive, 1)
        self.loop = ControlLoop(self.agent, self.newest, self.send, stop=self.rest, **settings)

    def receive(self, message: Float32MultiArray) -> None:
        self.seen, self.received = np.array(message.data, np.float32), time.monotonic()
        self.first.set()

    def newest(self) -> np.ndarray:
        """The newest observation, unless it is older than the watchdog waits."""
        age = time.monotonic() - self.received
        if age > self.loop.watchdog:
            raise TooSlow(f"no observation came for {age:.2f} s")
        return self.seen

    def send(self, action: np.ndarray) -> None:
        self.actions.publish(Float32MultiArray(data=action.tolist()))

    def rest(self) -> None:
        """What brings this machine to rest; here an action of zeros."""
        self.send(np.zeros(self.agent.action_dim))

    def run(self) -> None:
        """From the first observation until a signal comes, or ROS ends."""
        while rclpy.ok() and not self.first.wait(0.1):
            pass
        if self.first.is_set():
            self.agent(self.seen)  # a first call is slow
            self.agent.reset()
            try:
                self.loop.run(sys.maxsize, until=lambda: not rclpy.ok())
            finally:
                self.get_logger().info(str(self.loop.report()))


def main() -> None:
    # rclpy's own handlers end ROS first, and no action could be published after that.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    receiving = SingleThreadedExecutor()
    try:
        node = Planner()
        receiving.add_node(node)
        threading.Thread(target=receiving.spin, daemon=True).start()
        node.run()
    except (UsageError, TooSlow, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        receiving.shutdown()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
