"""Run the first command in a terminal of 80 columns and write what it shows, as docs/first_command.md has it.

    python benchmarks/record_first_command.py --seed 1 > first_command.txt

The run goes to a fresh folder, and so does what is compiled (`--warm` keeps to the user's cache). Of a bar
that is redrawn, each phase has its first and its last line, and one in sixty between. Last come the seconds
that the command took and its CPU seconds, those of compilers included.
"""

import argparse
import contextlib
import fcntl
import os
import pty
import re
import resource
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(command: list[str], folder: str) -> str:
    """What `command` writes to its terminal when it is started in `folder`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    pieces = []
    with contextlib.suppress(OSError):  # raised at its end
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    process.wait()
    return b"".join(pieces).decode(errors="replace")


def thinned(text: str, every: int = 60) -> Iterator[str]:
    """Lines, and of those that are redrawn in place the first, the last and one in `every` of each phase."""
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", text)) if line.strip()]
    phases = [
        re.split(r":\s+\d+%|\s\[", line)[0] if re.search(r"\d+%\||\[\d\d:\d\d\]$", line) else ""
        for line in lines
    ]
    count = 0
    for number, (line, phase) in enumerate(zip(lines, phases, strict=True)):
        count = count + 1 if number and phase and phase == phases[number - 1] else 0
        last = number + 1 == len(lines) or phases[number + 1] != phase
        if not phase or count == 0 or last or count % every == 0:
            yield line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warm", action="store_true", help="what an earlier run has compiled may be used")
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    if not args.warm:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
    began = time.perf_counter()
    command = ["lightning", "run", str(ROOT / "recipes/train.py"), f"seed={args.seed}"]
    text = shown(command, folder)
    seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    for line in thinned(text):
        print(line.replace(folder, "…"))
    print(f"took {seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} CPU seconds", flush=True)
    print(f"the run lies in {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
