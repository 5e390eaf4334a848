"""One training owns a run's folder, for as long as it lives.

    .lock        locked by the system: of two that begin at once only one gets it, and a kill frees it
    owner.json   who that is: host, process, when it began; renewed every `BEAT_S` while it runs

A network file system may lock within each machine only, or not at all. Then the second file decides: on the
same machine by whether its process is there, else by whether it is renewed. Times are the file system's own,
since the clocks of two machines need not agree.
"""

import atexit
import contextlib
import itertools
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from dreammpc.interfaces import RunError, UsageError
from dreammpc.support.atomic import from_json, write_text
from dreammpc.training.files import sweep_drafts

OWNER, LOCK = "owner.json", ".lock"
BEAT_S = 10.0
DEAD_S = 3.5 * BEAT_S
"""An owner on another machine that has not been heard of for so long is gone."""
CRASHED_S = 120.0
"""So long a file server may keep the lock of a machine that is gone (NFS 4: 90 s)."""
SETTLE_S = 2.0
"""Without locks: who is still named after this is the owner."""

log = logging.getLogger(__name__)
_owned: "dict[Path, Owner]" = {}


class Owner:
    """Makes this process the owner of `folder`, and sweeps the drafts that a killed one left there.

    Args:
        folder: of a run; there already.
        made: it and folders above, innermost first, that were made for the run.

    Raises:
        UsageError: a training that runs owns it, or its note cannot be written.
    """

    def __init__(self, folder: Path, made: Sequence[Path] = ()):
        self.folder, self.made, self.note = folder, made, folder / OWNER
        self.lost: str | None = None
        """Why this process owns the folder no more."""
        self._ended = threading.Event()
        self._me = {
            "host": platform.node(),
            "pid": os.getpid(),
            "began": time.strftime("%Y-%m-%d %H:%M:%S"),
            "machine": machine(),
            "process_began": psutil.Process().create_time(),
            "token": secrets.token_hex(8),
        }
        self._lock = FileLock(folder / LOCK, thread_local=False, fallback_to_soft=False)
        locks = self._take_lock()
        try:
            check_free(folder)
            try:
                write_text(self.note, json.dumps(self._me) + "\n")
            except OSError as error:
                raise UsageError(f"{self.note} cannot be written: {error.strerror}") from error
            if not locks:
                time.sleep(SETTLE_S)
                if not self._mine():
                    raise refusal(folder, read_owner(folder))
        except BaseException:
            self._lock.release()
            raise
        sweep_drafts(folder)
        threading.Thread(target=self._beat, name="owner of the run", daemon=True).start()

    def check(self) -> None:
        """Raise RunError if the folder was deleted or has another owner."""
        if self.lost is None and not self._mine():
            other = read_owner(self.folder)
            if other or not self.note.exists():
                reason = f"belongs to {holder(other)} now" if other else f"was deleted, or {OWNER} in it"
                self.lost = f"run folder {self.folder} {reason}: nothing more is written to it"
        if self.lost:
            raise RunError(self.lost, saveable=False)

    def release(self) -> None:
        """Own the folder no more; what was made for nothing goes."""
        self._ended.set()
        if self._me["pid"] != os.getpid():  # a fork
            return
        with contextlib.suppress(OSError):
            if self._mine():
                self.note.unlink()
                (self.folder / LOCK).unlink()
                for made in self.made:
                    made.rmdir()
        self._lock.release()

    def _take_lock(self) -> bool:
        """Whether the system locks here; see `__init__` for what it raises."""
        deadline = time.monotonic() + CRASHED_S
        while True:
            try:
                self._lock.acquire(timeout=0)
                return True
            except Timeout:
                check_free(self.folder)
                owner = read_owner(self.folder)
                near = owner is None or owner.get("machine") == machine()
                if time.monotonic() > (deadline - CRASHED_S + SETTLE_S if near else deadline):
                    raise refusal(self.folder, owner) from None
                time.sleep(0.2)
            except OSError:
                return False

    def _mine(self) -> bool:
        owner = read_owner(self.folder)
        return owner is not None and owner.get("token") == self._me["token"]

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(RunError, OSError):
                self.check()
                os.utime(self.note)


def check_all() -> None:
    """Raise RunError if a folder of this process is known to be its own no more."""
    for owner in _owned.values():
        if owner.lost:
            owner.check()


def own(folder: Path, made: Sequence[Path] = ()) -> None:
    """Be the owner of `folder` until `release_folders`, or the end of this process, however that comes.

    Args:
        folder, made: see `Owner`.

    Raises:
        UsageError: a training that runs owns it.
    """
    folder = folder.resolve()
    if folder not in _owned:
        _owned[folder] = Owner(folder, made)


@contextlib.contextmanager
def ended(folder: Path) -> Iterator[None]:
    """Own the folder of a run that has ended meanwhile.

    Raises:
        UsageError: a training that runs owns it, or it cannot be written.
    """
    other = read_owner(folder)
    if other is not None and alive(folder, other):
        raise UsageError(
            f"{folder} is in training, in {holder(other)}, which sends its log: wait for its end"
        )
    owner = Owner(folder)
    try:
        yield
    finally:
        owner.release()


def check_owned(path: Path) -> None:
    """Raise RunError if `path` lies in a folder that was this process's and is no more."""
    for folder, owner in _owned.items():
        if path.resolve().is_relative_to(folder):
            owner.check()


@atexit.register
def release_folders() -> None:
    """Own no folder any more."""
    while _owned:
        _owned.popitem()[1].release()


def check_free(folder: Path) -> None:
    """Raise UsageError if a training that runs owns `folder`."""
    owner = read_owner(folder)
    if owner is not None and folder.resolve() not in _owned and alive(folder, owner):
        raise refusal(folder, owner)


def refusal(folder: Path, owner: dict[str, Any] | None) -> UsageError:
    """What a second training is told."""
    who = f"the training of {holder(owner)}" if owner else "another training"
    return UsageError(
        f"run folder {folder} belongs to {who}, which runs: wait for its end, stop it, or choose another"
        " with folder="
    )


def holder(owner: dict[str, Any]) -> str:
    """The process that has a folder, in words."""
    return f"process {owner['pid']} on {owner['host']} (since {owner['began']})"


def read_owner(folder: Path) -> dict[str, Any] | None:
    """What `owner.json` says, or None where there is none that can be read."""
    try:
        owner = from_json((folder / OWNER).read_text(encoding="utf-8"))
        texts = {key: _inert(owner[key]) for key in ("host", "began")}
        return {**owner, **texts, "pid": int(owner["pid"])}
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return None


def _inert(text: object) -> str:
    """What a line may say of a file: no line breaks, no commands to a terminal, no more than a name."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:80])


def alive(folder: Path, owner: dict[str, Any]) -> bool:
    """Whether an owner runs. On another machine it is watched, for `DEAD_S` at most."""
    if owner.get("machine") == machine():
        try:
            process = psutil.Process(owner["pid"])
            gone = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)  # its parent has not looked
            return not gone and abs(process.create_time() - owner["process_began"]) < 1
        except (psutil.Error, LookupError, TypeError, ValueError, OverflowError):
            return False
    first = beat(folder)
    for look in itertools.count():
        if first is None or clock(folder) - first > DEAD_S:
            return False
        if look == 0:
            log.warning("%s: %s may run; watched for %.0f s", folder, holder(owner), DEAD_S)
        time.sleep(BEAT_S / 10)
        if beat(folder) not in (first, None):
            return True
    raise AssertionError("unreachable")


def beat(folder: Path) -> float | None:
    """When the owner was last heard of. The file is opened, for a client of NFS asks its server then."""
    try:
        with (folder / OWNER).open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return None


def clock(folder: Path) -> float:
    """The time by which the file system of `folder` stamps its files."""
    probe = folder / f".clock-{secrets.token_hex(4)}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def machine() -> str:
    """A word for where process ids mean the same: a machine since it was started, and in it a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{platform.node()}-{psutil.boot_time():.0f}"
