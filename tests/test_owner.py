"""One owner for the folder of a run: who is refused, what frees a folder, what a training notices."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import time

import pytest

from dreammpc.interfaces import RunError, UsageError
from dreammpc.training import owner, resume
from dreammpc.training.owner import LOCK, OWNER, Owner, check_free, read_owner, release_folders


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in {"SETTLE_S": 0.1, "CRASHED_S": 0.3, "BEAT_S": 0.05, "DEAD_S": 0.3}.items():
        monkeypatch.setattr(owner, name, seconds)
    yield
    release_folders()


@pytest.fixture
def holder(tmp_path):
    """The process id of one that owns the folder and has children, one forked and one started."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            Owner(tmp_path)
            if os.fork() == 0:
                time.sleep(120)
                os._exit(0)
            started = subprocess.Popen(["sleep", "120"], close_fds=False)
            os.write(tell, str(started.pid).encode())
            time.sleep(120)
        finally:
            os._exit(1)
    child = int(os.read(ready, 20))
    yield pid
    for number in (pid, child):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    os.close(ready), os.close(tell)


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path, holder):
    for attempt in (Owner, check_free):
        with pytest.raises(UsageError, match=rf"process {holder} on .* which runs: wait .* folder="):
            attempt(tmp_path)
    (tmp_path / ".params.json.12.tmp").touch()
    killed(holder)  # its children live on
    check_free(tmp_path)
    mine = Owner(tmp_path)
    assert read_owner(tmp_path)["pid"] == os.getpid()
    assert not list(tmp_path.glob("*.tmp"))
    mine.release()
    assert not list(tmp_path.iterdir())


def test_one_that_is_killed_and_not_yet_buried_by_its_parent_owns_nothing(tmp_path, holder):
    os.kill(holder, signal.SIGKILL)
    os.waitid(os.P_PID, holder, os.WEXITED | os.WNOWAIT)  # a zombie, as in a container without an init
    check_free(tmp_path)
    Owner(tmp_path).release()
    os.waitpid(holder, 0)


@pytest.mark.parametrize(
    "harm",
    [
        "{",
        "[]",
        '"x"',
        b"\xff\xfe",
        {"pid": -5},
        {"pid": 10**30},
        {"pid": 1e999},
        {"pid": float("nan")},
        {"process_began": 10**400},
        {"process_began": "then"},
    ],
)
def test_a_note_that_makes_no_sense_holds_nobody_up(tmp_path, harm):
    elsewhere(tmp_path)
    if isinstance(harm, dict):
        note = {**read_owner(tmp_path), "machine": owner.machine(), "pid": os.getpid(), **harm}
        (tmp_path / OWNER).write_text(json.dumps(note))
    else:
        (tmp_path / OWNER).write_bytes(harm if isinstance(harm, bytes) else harm.encode())
    check_free(tmp_path)
    Owner(tmp_path).release()
    assert not (tmp_path / OWNER).exists()


def test_what_a_note_says_stays_one_line(tmp_path):
    elsewhere(tmp_path)
    note = {**read_owner(tmp_path), "host": "there\nerror: \x1b[2J" + 500 * "x"}
    (tmp_path / OWNER).write_text(json.dumps(note))
    text = str(owner.refusal(tmp_path, read_owner(tmp_path)))
    assert text.isprintable() and len(text) < 400 and "process 7 on there?error: ?[2J" in text


def test_a_note_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / OWNER).mkdir()
    with pytest.raises(UsageError, match=rf"^.*{OWNER} cannot be written: Is a directory$"):
        Owner(tmp_path)


def test_a_folder_without_a_note_is_refused_by_its_lock(tmp_path, holder):
    (tmp_path / OWNER).unlink()
    with pytest.raises(UsageError, match="belongs to another training, which runs"):
        Owner(tmp_path)


def elsewhere(folder) -> None:
    """A note as another machine leaves it, which locks nothing here."""
    note = {
        "host": "there",
        "pid": 7,
        "began": "then",
        "machine": "other",
        "process_began": 1.0,
        "token": "x",
    }
    (folder / OWNER).write_text(json.dumps(note))


def test_an_owner_on_another_machine_lives_while_it_is_heard_of(tmp_path, monkeypatch):
    elsewhere(tmp_path)
    seen = iter(range(100))

    def heard(folder):
        return owner.clock(folder) + 0.001 * next(seen)

    with monkeypatch.context() as patch:
        patch.setattr(owner, "beat", heard)
        with pytest.raises(UsageError, match=r"process 7 on there .since then., which runs"):
            Owner(tmp_path)
    Owner(tmp_path).release()  # watched in vain
    elsewhere(tmp_path)
    os.utime(tmp_path / OWNER, (1, 1))
    monkeypatch.setattr(owner, "DEAD_S", 3600.0)
    Owner(tmp_path).release()  # not heard of for long: taken at once


def test_an_owner_is_heard_of(tmp_path):
    mine = Owner(tmp_path)
    os.utime(tmp_path / OWNER, (1, 1))
    deadline = time.monotonic() + 300
    while owner.beat(tmp_path) == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert owner.beat(tmp_path) > 1
    mine.release()


def test_a_number_that_another_process_has_now_owns_nothing(tmp_path):
    elsewhere(tmp_path)
    note = {**read_owner(tmp_path), "machine": owner.machine(), "pid": os.getpid()}
    (tmp_path / OWNER).write_text(json.dumps(note))
    Owner(tmp_path).release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_nothing_locks_the_note_decides(tmp_path, monkeypatch, number):
    def none(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", none)
    Owner(tmp_path)._ended.set()
    with pytest.raises(UsageError, match=f"process {os.getpid()} on"):
        Owner(tmp_path)
    (tmp_path / OWNER).unlink()
    write = owner.write_text

    def both_at_once(path, text):
        write(path, text)
        elsewhere(tmp_path)

    monkeypatch.setattr(owner, "write_text", both_at_once)
    with pytest.raises(UsageError, match="process 7 on there"):
        Owner(tmp_path)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], "was deleted"),
        (lambda folder: (folder / OWNER).unlink(), rf"was deleted, or {OWNER} in it"),
        (elsewhere, "belongs to process 7 on there .since then. now"),
    ],
)
def test_a_training_notices_that_its_folder_is_its_own_no_more(tmp_path, harm, said):
    mine = tmp_path / "run"
    mine.mkdir()
    owner.own(mine)
    owner.check_owned(mine / "checkpoints")
    harm(mine)
    with pytest.raises(RunError, match=said) as caught:
        owner.check_owned(mine / "checkpoints")
    assert not caught.value.saveable
    with pytest.raises(RunError, match=said):
        owner.check_all()
    release_folders()
    assert not (mine / OWNER).exists() or read_owner(mine)["host"] == "there"


def test_an_owner_that_cannot_be_read_for_a_moment_is_not_lost(tmp_path, monkeypatch):
    owner.own(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "read_owner", lambda folder: None)  # such as a server that does not answer
        owner.check_owned(tmp_path)
    owner.check_owned(tmp_path)


def test_folders_without_a_name_are_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Stopped(resume.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(resume, "datetime", Stopped)
    made = [resume.open_run(None, None, "gym-package:Name-v0", 3) for _ in range(3)]
    assert [path.name for path in made] == [f"seed3-20260102-030405{end}" for end in ("", "-2", "-3")]
    assert {path.parent.relative_to(tmp_path).as_posix() for path in made} == {"runs/gym-package-Name-v0"}

    old = tmp_path / "runs/gym-package:Name-v0/seed3-earlier"
    old.mkdir(parents=True)
    assert {path.resolve() for path in resume.runs_of("gym-package:Name-v0")} == {old, *made}


def test_what_was_made_for_nothing_goes(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    folder = resume.open_run(there / "a/b", None)
    assert (folder / OWNER).exists() and (folder / LOCK).exists()
    release_folders()
    assert not list(there.iterdir())
