"""What a run came from: enough to say, a year later, which code on which machine made a number."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from dreammpc import __version__

PACKAGES = (
    "torch",
    "lightning",
    "torchrl",
    "tensordict",
    "dm_control",
    "mujoco",
    "metaworld",
    "humanoid_bench",
    "gymnasium",
    "numpy",
)


def provenance_tags() -> dict[str, str]:
    """Revision, versions and machine of this process, as tags.

    Returns:
        `git.revision` and `git.dirty` ("true" or "false") if the working folder is in a git checkout;
        `version.dreammpc`, `version.python` and `version.<package>` for every package that is installed;
        `platform`, `cpu`, and `gpu` (names, with commas between) if there is any. Never raises, and imports
        no package to ask for its version.
    """
    numbers = {f"version.{name}": number for name, number in versions().items()}
    tags = {**_git(), **numbers, "platform": platform.platform(), "cpu": _cpu()}
    if gpus := _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"):
        tags["gpu"] = ", ".join(gpus.splitlines())
    return tags


def _git() -> dict[str, str]:
    revision = _output("git", "rev-parse", "HEAD")
    if not revision:
        return {}
    status = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {"git.revision": revision, "git.dirty": "true" if status else "false"}


def versions() -> dict[str, str]:
    """Of this package, Python and every one of `PACKAGES` that is installed."""
    found = {"dreammpc": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except Exception:  # broken metadata of somebody else's package is no reason to stop a training
            continue
    return found


def _cpu() -> str:
    """The CPU's model, which `platform` does not know on Linux, and the number of cores."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores"


def _output(*command: str) -> str:
    """What a command prints, or nothing if it is not there, fails or takes longer than 5 s."""
    if not shutil.which(command[0]):
        return ""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
