"""What a run leaves on disk: lines of JSON, where it came from, videos."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreammpc import tracking
from dreammpc.configuration.schemas import TrackingConfig
from dreammpc.interfaces import RunError, UsageError


def lines(folder: Path) -> list[dict]:
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


# JSON lines


def test_jsonl_writes_one_line_a_call(tmp_path):
    logger = tracking.JSONLLogger(tmp_path / "run")
    logger.log_metrics({"loss": torch.tensor(0.5), "return": 3}, step=1000)
    logger.log_metrics({"loss": math.nan, "high": math.inf, "low": -math.inf}, step=2000)
    first, second = lines(tmp_path / "run")
    assert first.pop("wall_s") >= 0
    assert first == {"env_steps": 1000, "loss": 0.5, "return": 3.0}
    assert (second["loss"], second["high"], second["low"]) == (None, None, None)
    assert second["nonfinite"] == {"loss": "nan", "high": "inf", "low": "-inf"}


def test_jsonl_rewinds_on_resume(tmp_path):
    logger = tracking.JSONLLogger(tmp_path)
    for step in (1000, 2000, 3000):
        logger.log_metrics({"loss": step}, step=step)
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text().replace('"wall_s": 0', '"wall_s": 70') + '{"env_steps": 4000, "wal')
    resumed = tracking.JSONLLogger(tmp_path, resume_step=2000)
    assert [line["env_steps"] for line in lines(tmp_path)] == [1000, 2000]
    resumed.log_metrics({"loss": 0}, step=3000)
    assert [line["env_steps"] for line in lines(tmp_path)] == [1000, 2000, 3000]
    assert lines(tmp_path)[-1]["wall_s"] >= 70
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    tracking.JSONLLogger(tmp_path).log_metrics(
        {"loss": 0}, step=500
    )  # a new run, after one without a checkpoint
    assert [line["env_steps"] for line in lines(tmp_path)] == [500] and lines(tmp_path)[0]["wall_s"] < 70


def test_a_run_that_goes_on_has_one_last_comparison(tmp_path):
    for resume_step, end in ((None, 1000), (1000, 1000), (1000, 2000)):
        logger = tracking.JSONLLogger(tmp_path, resume_step)
        if end != resume_step:
            logger.log_metrics({"loss": 1.0, "eval/return": 2.0}, step=end)
        logger.log_metrics({"final/policy": 2.0, "final_success/policy": 1.0}, step=end)
        ends = [line["env_steps"] for line in lines(tmp_path) if "final/policy" in line]
        assert ends == [end] and "final/policy" in lines(tmp_path)[-1]
    assert [line["env_steps"] for line in lines(tmp_path) if "eval/return" in line] == [1000, 2000]
    tracking.JSONLLogger(tmp_path, math.inf)  # of a sweep, whose starts may each have their own
    assert "final/policy" in lines(tmp_path)[-1]


def test_jsonl_keeps_params(tmp_path):
    tracking.JSONLLogger(tmp_path).log_hyperparams({"planner": {"horizon": 3}, "folder": Path("x")})
    assert json.loads((tmp_path / "params.json").read_text()) == {"planner": {"horizon": 3}, "folder": "x"}


# Provenance and videos


def test_provenance_is_flat_text():
    tags = tracking.provenance_tags()
    assert {"version.python", "version.torch", "version.dreammpc", "platform", "cpu"} <= tags.keys()
    assert all(isinstance(value, str) and value for value in tags.values())


def test_provenance_knows_the_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "git.revision" not in tracking.provenance_tags()
    (tmp_path / "file").write_text("1")
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    tags = tracking.provenance_tags()
    assert len(tags["git.revision"]) == 40 and tags["git.dirty"] == "false"
    (tmp_path / "file").write_text("2")
    assert tracking.provenance_tags()["git.dirty"] == "true"


@pytest.fixture
def frames():
    """Ten frames of odd size that get brighter."""
    brightness = np.arange(10, dtype=np.uint8)[:, None, None, None] * 20
    return np.broadcast_to(brightness, (10, 33, 51, 3)).copy()


def test_a_video_that_ffmpeg_leaves_unfinished_replaces_nothing(tmp_path, monkeypatch):
    (tmp_path / "x.mp4").write_bytes(b"before")
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    for found in (lambda path: (2, 0.1), fail):
        monkeypatch.setattr("imageio_ffmpeg.count_frames_and_secs", found)
        with pytest.raises(OSError, match="unfinished: is the disk full"):
            tracking.write_video(tmp_path / "x.mp4", frames, fps=25)
        assert (tmp_path / "x.mp4").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def fail(path):
    raise RuntimeError("Could not load meta information")


def test_a_video_reads_back(tmp_path, frames):
    import imageio.v3

    path = tmp_path / "videos" / "episode.mp4"
    tracking.write_video(path, frames, fps=25)
    video = imageio.v3.imread(path, plugin="FFMPEG")
    assert video.shape == (10, 34, 52, 3)
    assert np.abs(video[:, :33, :51].astype(int) - frames).max() < 12
    meta = imageio.v3.immeta(path, plugin="FFMPEG")
    assert meta["fps"] == 25 and meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p")
    assert [file.name for file in path.parent.iterdir()] == ["episode.mp4"]


def test_a_gif_reads_back(tmp_path, frames):
    from PIL import Image

    path = tmp_path / "episode.gif"
    tracking.write_gif(path, torch.from_numpy(frames), fps=20, width=25)
    with Image.open(path) as image:
        assert (image.n_frames, image.size, image.info["duration"]) == (10, (25, 16), 50)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((4, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
@pytest.mark.parametrize("write", [tracking.write_video, tracking.write_gif])
def test_wrong_frames_are_refused(tmp_path, wrong, write):
    with pytest.raises(ValueError, match=r"frames must be uint8 \[T, H, W, 3\], got"):
        write(tmp_path / "x.mp4", wrong, fps=25)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "htp://user:secret@x",
            "MLflow has no addresses htp:…; there are: http, https, .*, and paths",
        ),
        ("localhost:5000", "MLflow has no addresses localhost:…"),
        ("http:/x", "expected http://HOST:PORT"),
        ("http://x:port", "expected http://HOST:PORT"),
        *[(fine, None) for fine in ("http://u:p@h:5000/a", "sqlite:///a.db", "mysql+pymysql://u@h/d")],
        *[(fine, None) for fine in ("databricks", "runs/ml", "C:/runs", "file:///a", "databricks://p")],
    ],
)
def test_an_address_that_mlflow_does_not_know(uri, said, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    asked = [
        ("tracking.uri", lambda: TrackingConfig(uri=uri)),
        ("tracking.uri", lambda: tracking.address(uri)),
        ("MLFLOW_TRACKING_URI", lambda: tracking.address(None)),
    ]
    for key, ask in asked:
        if said is None:
            ask()
            continue
        with pytest.raises(UsageError, match=f"{key}: {said}") as caught:
            ask()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "file:///tmp/mlruns"])
def test_a_folder_is_refused_where_mlflow_writes_none(uri, monkeypatch):
    allowed = SimpleNamespace(name="ALLOWED", get=lambda: False)
    monkeypatch.setattr("mlflow.environment_variables.MLFLOW_ALLOW_FILE_STORE", allowed, raising=False)
    line = f"tracking.uri={uri}: this version of MLflow writes no folders; choose sqlite:///mlflow.db, or set"
    with pytest.raises(UsageError, match=f"{re.escape(line)} ALLOWED=true"):
        tracking.address(uri)
    monkeypatch.delattr("mlflow.environment_variables.MLFLOW_ALLOW_FILE_STORE")  # of older versions
    assert tracking.address(uri) == uri


def test_a_log_whose_folder_was_deleted_ends_the_run(tmp_path):
    folder = tmp_path / "run"
    logger = tracking.JSONLLogger(folder)
    logger.log_metrics({"loss": 1.0}, step=1)
    shutil.rmtree(folder)
    with pytest.raises(RunError, match=rf"run folder {folder} was deleted") as caught:
        logger.log_metrics({"loss": 1.0}, step=2)
    assert not caught.value.saveable and not folder.exists()
