import os

import pytest

from dreammpc.atomic import write_text


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
