"""Kills a tiny training, fills its disk, damages its files, and compares its end with an undisturbed one's.

    python tests/faults/harness.py --kills 50 --terms 10

Since a resumed run repeats the uninterrupted one to the bit, one comparison at the end of a chain of faults
(weights, optimizers, replay, random streams, log) shows any loss. Each run is a fork of this process, which
has imported everything. Needs Linux; a full and a read-only disk are tried where tmpfs may be mounted.
"""

import argparse
import contextlib
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.tiny import Training, digest
from lightning.pytorch import Callback

from dreammpc.interfaces import RunError, UsageError
from dreammpc.training import DESCRIPTION, find_resumable, load_checkpoint
from dreammpc.training import files as training_files

SAVE_EVERY = 200
CAPACITY = 350
"""Rows of the replay: it overwrites its oldest ones after 700 environment steps."""
POLICY = {"name": "policy"}


class Shared(Callback):
    """Tells the parent, in shared memory, that the training has begun and how far it is."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16)
        self.feed = None

    @property
    def steps(self) -> int:
        return struct.unpack("qq", self.memory[:])[1]

    @property
    def begun(self) -> bool:
        return struct.unpack("qq", self.memory[:])[0] == 1

    def tell(self) -> None:
        self.memory[:] = struct.pack("qq", 1, self.feed.env_steps)

    def on_train_start(self, *args) -> None:
        self.tell()

    def on_train_batch_end(self, *args) -> None:
        self.tell()


@dataclass
class Chain:
    """Runs of one training in one folder, one after the other."""

    folder: Path
    algorithm: str = "tdmpc2"
    steps: int = 2000
    planner: dict = field(default_factory=lambda: POLICY)

    def start(self, prepare: Callable[[Training], None] = lambda run: None) -> tuple[int, Shared]:
        """Fork a process that begins or goes on; `prepare` is called in it before it trains."""
        shared = Shared()
        log_path = self.log
        pid = os.fork()
        if pid:
            return pid, shared
        code = 99
        with open(log_path, "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                code = self._train(shared, prepare)
            except (RunError, UsageError, OSError) as error:
                print(f"error: {error}", flush=True)
                code = 1
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)

    def _train(self, shared: Shared, prepare: Callable[[Training], None]) -> int:
        resume, said = find_resumable([self.folder])
        print("\n".join(said))
        more = (shared,)
        run = Training(
            self.folder,
            self.algorithm,
            self.steps,
            SAVE_EVERY,
            resume=resume,
            planner=self.planner,
            more=more,
            capacity=CAPACITY,
        )
        shared.feed = run.feed
        prepare(run)
        run.run()
        if run.stop.requested():
            return 128 + run.stop.signal
        self.folder.with_suffix(".digest").write_text(digest(run))
        return 0

    @property
    def log(self) -> Path:
        """Not in the folder: an open file keeps a disk from becoming read-only."""
        return Path(tempfile.gettempdir()) / f"faults-{os.getpid()}.log"

    def finish(self) -> str:
        """Run to the end without a fault; the digest of all there is."""
        pid, _ = self.start()
        code = wait(pid)
        assert code == 0, f"exit code {code}: {self.said}"
        return self.folder.with_suffix(".digest").read_text()

    @property
    def said(self) -> str:
        return self.log.read_text().strip()

    @property
    def saved(self) -> int:
        """Environment steps of the newest checkpoint that is whole; 0 without any."""
        path, _ = find_resumable([self.folder])
        return load_checkpoint(path)[DESCRIPTION]["env_steps"] if path else 0


def await_steps(pid: int, shared: Shared, steps: float) -> None:
    """Until the training of the process has come so far."""
    while not shared.begun or shared.steps < steps:
        time.sleep(0.002)
        assert Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z", "it ended by itself"


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dies_within_a_save(number: int, after: bool) -> Callable[[Training], None]:
    """Kill -9 by its own hand at the `number`th operation on files from now on, before or after it."""

    def prepare(run: Training) -> None:
        left = number

        def counted(function):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if left == 0 and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*args, **kwargs)
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for name in ("replace", "fsync", "link"):
            setattr(training_files.os, name, counted(getattr(os, name)))
        training_files.write_summed = torn(training_files.write_summed, counted)

    return prepare


def torn(write, counted):
    """`write_summed` in two halves, with operations to die at between them."""

    def call(data, file):
        file.write(data[: len(data) // 2])
        file.flush()
        counted(lambda: None)()
        file.seek(0)
        write(data, file)

    return call


def kills(chain: Chain, count: int, terms: int, chance: random.Random) -> dict[str, list[int]]:
    """Kill the training `count` times, half of them within a save, and stop it `terms` times with SIGTERM.

    Returns:
        By the fault, what each cost: environment steps that have to be taken again.
    """
    faults = ["kill -9 within a save"] * (count // 2) + ["kill -9 at a random moment"] * (count - count // 2)
    faults += ["SIGTERM"] * terms
    chance.shuffle(faults)
    lost: dict[str, list[int]] = {name: [] for name in faults}
    for fault in faults:
        before = chain.saved
        within = fault == "kill -9 within a save"
        prepare = (
            dies_within_a_save(chance.randint(1, 14), chance.random() < 0.5) if within else lambda run: None
        )
        pid, shared = chain.start(prepare)
        if not within:
            await_steps(pid, shared, 1)
            await_steps(pid, shared, shared.steps + chance.randint(1, 2 * SAVE_EVERY))
            time.sleep(chance.random() * 0.05)
            os.kill(pid, signal.SIGTERM if fault == "SIGTERM" else signal.SIGKILL)
        code, reached = wait(pid), shared.steps
        assert code == (143 if fault == "SIGTERM" else -9), f"{fault}: exit code {code}: {chain.said}"
        saved = chain.saved
        cost = reached - saved
        assert saved >= before, f"{fault}: a checkpoint of {before} steps was lost, {saved} is left"
        assert cost <= (0 if fault == "SIGTERM" else SAVE_EVERY), f"{fault}: {cost} steps lost"
        lost[fault].append(max(cost, 0))
        print(f"{chain.algorithm} {fault}: reached {reached}, saved {saved}", flush=True)
    return lost


def corrupt(chain: Chain, how: str, chance: random.Random) -> None:
    """Damage what the newest checkpoint consists of, and nothing that the one before needs."""
    folder = chain.folder / "checkpoints"
    path = folder / "last.ckpt"
    shares = [
        load_checkpoint(folder / f"{n}.ckpt")[DESCRIPTION]["resume"]["ranks"][0] for n in ("last", "previous")
    ]
    if "replay" in how:
        names = [{s[2] for s in share["segments"]} | {share["mutable"]} for share in shares]
        path = folder / "replay/rank0" / sorted(filter(None, names[0] - names[1]))[-1]
    data = bytearray(path.read_bytes())
    if how.startswith("flipped"):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how.startswith("cut"):
        del data[chance.randrange(len(data)) :]
    path.write_bytes(data)
    if how.startswith("deleted"):
        path.unlink()


CORRUPTIONS = [
    f"{how} {what}" for what in ("checkpoint", "replay file") for how in ("flipped", "cut", "deleted")
]


def corruptions(chain: Chain, chance: random.Random) -> dict[str, list[int]]:
    """Damage the newest checkpoint in each way; the one before must be found, and said to be."""
    lost = {}
    for how in CORRUPTIONS:
        saved = chain.saved
        pid, shared = chain.start()
        await_steps(pid, shared, (saved // SAVE_EVERY + 2.5) * SAVE_EVERY)
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        reached = chain.saved
        corrupt(chain, how, chance)
        path, said = find_resumable([chain.folder])
        assert path is not None and path.name == "previous.ckpt", f"{how}: {path}"
        assert len(said) == (how != "deleted checkpoint"), f"{how}: {said}"
        lost[f"{how} of the newest checkpoint"] = [reached - chain.saved]
        print(f"{how}: {reached} → {chain.saved}", flush=True)
    return lost


def no_room(chain: Chain, disk: Path, chance: random.Random) -> dict[str, list[int]]:
    """A disk that is full but for some kilobytes, and one that becomes read-only, at the second save."""
    lost = {}
    for fault, room in [("disk full", 0), ("disk full", 6), ("disk full", 60), ("read-only folder", None)]:

        def prepare(run: Training, room=room) -> None:
            save, count = run.checkpoints.save, 0

            def failing(trainer):
                nonlocal count
                count += 1
                if count == 2 and room is None:
                    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
                elif count == 2:
                    fill(disk, room)
                save(trainer)

            run.checkpoints.save = failing

        pid, shared = chain.start(prepare)
        code, reached = wait(pid), shared.steps
        line = [text for text in chain.said.splitlines() if text.startswith("error:")]
        assert code == 1 and len(line) == 1 and "Traceback" not in chain.said, (
            f"{fault}: {code}: {chain.said}"
        )
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        (disk / "filler").unlink(missing_ok=True)
        cost = reached - chain.saved
        assert 0 <= cost <= SAVE_EVERY, f"{fault}: {cost}"
        lost.setdefault(fault, []).append(cost)
        print(f"{fault} ({room} kB left): {line[0]}", flush=True)
    return lost


def fill(disk: Path, room: int) -> None:
    """Fill a disk but for `room` kilobytes."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with (disk / "filler").open("r+b") as file:
        file.truncate(max(0, (disk / "filler").stat().st_size - room * 1024))


def no_number(chain: Chain) -> dict[str, list[int]]:
    """A simulator that returns NaN: a checkpoint, one line, and the run can go on."""

    def prepare(run: Training) -> None:
        env, steps = run.feed.collector.env.base_env.envs[0], 0
        step = env.step

        def failing(action):
            nonlocal steps
            steps += 1
            observation, *rest = step(action)
            return (observation * float("nan") if steps == 250 else observation, *rest)

        env.step = failing

    pid, shared = chain.start(prepare)
    code = wait(pid)
    assert code == 1 and "observation[0] is not finite" in chain.said, f"{code}: {chain.said}"
    cost = max(shared.steps - chain.saved, 0)  # steps are told after an update, and it may have come further
    chain.finish()
    assert "fresh episodes start" in chain.said
    return {"NaN from the environment": [cost]}


@contextlib.contextmanager
def small_disk(megabytes: int):
    """A file system of that size, or None where none may be mounted."""
    place = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    mounted = shutil.which("mount") and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=False)
        shutil.rmtree(place, ignore_errors=True)


def table(results: list[tuple[str, str, list[int], str]]) -> str:
    rows = [
        "| fault | algorithm | times | steps to repeat, mean | most | outcome |",
        "|---|---|---:|---:|---:|---|",
    ]
    for fault, algorithm, lost, outcome in results:
        mean = sum(lost) / len(lost)
        rows.append(f"| {fault} | {algorithm} | {len(lost)} | {mean:.0f} | {max(lost)} | {outcome} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--algorithms", nargs="+", default=["tdmpc2", "bmpc"], choices=["tdmpc2", "bmpc"])
    parser.add_argument("--kills-only", action="store_true", help="leave disks, damage and NaN out")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    results: list[tuple[str, str, list[int], str]] = []

    def add(chain: Chain, lost: dict[str, list[int]], equal: bool | None) -> None:
        print(f"{chain.algorithm}: the end is that of an undisturbed run: {equal}", flush=True)
        outcome = "goes on" if equal is None else "same bits at the end" if equal else "DIFFERENT at the end"
        results.extend((fault, chain.algorithm, costs, outcome) for fault, costs in sorted(lost.items()))

    with tempfile.TemporaryDirectory() as name, small_disk(3) as disk:
        place = Path(name)
        plans = {
            "tdmpc2": POLICY,
            "bmpc": {"name": "mppi", "num_samples": 4, "num_elites": 2, "num_policy": 0, "iterations": 1},
        }
        for number, algorithm in enumerate(options.algorithms):
            share = slice(number, None, len(options.algorithms))
            count, terms = len(range(options.kills)[share]), len(range(options.terms)[share])
            steps = SAVE_EVERY * 10 * (count + terms + 1)  # more than the faults let it reach
            chain = Chain(place / f"{algorithm}-killed", algorithm, steps, plans[algorithm])
            lost = kills(chain, count, terms, chance)
            chain.steps = (chain.saved // SAVE_EVERY + 2) * SAVE_EVERY
            whole = Chain(place / f"{algorithm}-whole", algorithm, chain.steps, plans[algorithm])
            add(chain, lost, chain.finish() == whole.finish())
        if not options.kills_only:
            steps = 20 * SAVE_EVERY
            reference = Chain(place / "whole", steps=steps).finish()
            chain = Chain(place / "damaged", steps=steps)
            add(chain, corruptions(chain, chance), chain.finish() == reference)
            if disk is not None:
                chain = Chain(disk / "full", steps=steps)
                add(chain, no_room(chain, disk, chance), chain.finish() == reference)
            chain = Chain(place / "nan", steps=1000)
            add(chain, no_number(chain), None)
    print(f"\nCheckpoints every {SAVE_EVERY} environment steps, seed {options.seed}:\n\n{table(results)}")
    sys.exit(any("DIFFERENT" in row[3] for row in results))


if __name__ == "__main__":
    main()
