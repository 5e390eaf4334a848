import os

import pytest

from dreammpc.support.atomic import write_text


def test_text_takes_the_place_of_what_was(tmp_path):
    path = tmp_path / "läuft.csv"
    for text in ("erste\n", "größer\n"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["läuft.csv"]


def test_an_interruption_leaves_what_was(tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    write_text(path, "whole")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "torn")
    assert path.read_text() == "whole" and os.listdir(tmp_path) == ["scores.csv"]


def test_drafts_of_killed_processes_are_swept(tmp_path):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    names = [f".scores.csv.{pid}.tmp", f".scores.csv.{os.getppid()}.tmp", f".other.csv.{pid}.tmp"]
    for name in names:
        (tmp_path / name).write_text("torn")
    write_text(tmp_path / "scores.csv", "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "scores.csv"])  # as long as they are young
    for name in names:
        os.utime(tmp_path / name, (1, 1))
    write_text(tmp_path / "scores.csv", "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*names[1:], "scores.csv"])
