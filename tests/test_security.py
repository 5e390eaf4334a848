"""What stands in a file stays data: nothing of it is run, imported, called up or written elsewhere."""

import copy
import csv
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from commands import refused, train
from score_rows import score_rows

from dreammpc.algorithms import TDMPC2
from dreammpc.cli import parser as cli
from dreammpc.configuration.command_line import concealed, rewrite
from dreammpc.configuration.recipe import with_resumed
from dreammpc.envs import dmcontrol
from dreammpc.envs.families import check_task
from dreammpc.evaluation.rows import read_rows, write_rows
from dreammpc.interfaces import UsageError
from dreammpc.planning import PLANNERS, Policy
from dreammpc.report import write_report
from dreammpc.support.names import file_name, printable
from dreammpc.tracking.addresses import VARIABLE, full_address, redacted, store_address
from dreammpc.tracking.delivery import Delivery, metrics_of
from dreammpc.tracking.jsonl import JSONLLogger, read_log
from dreammpc.tracking.mlflow_run import MlflowRun
from dreammpc.tracking.note import Note, read_note
from dreammpc.trained import export_agent, loading, read_card
from dreammpc.trained.compare import compare, task_of
from dreammpc.training.checkpoint_format import DESCRIPTION
from dreammpc.training.files import save_atomically

RUN = [
    *("task=gym-InvertedPendulum-v5", "steps=400", "algorithm.seed_steps=200", "algorithm.batch_size=16"),
    *("algorithm.utd=0.1", "planner=policy", "evaluation.every=1000", "evaluation.episodes=1"),
    *("evaluation.planners=[policy]", "save_every=200", "trainer.compile=false", "tracking.log_every=100"),
    *("tracking=none", "folder=run", "model.mlp_dim=16", "model.enc_dim=16", "model.latent_dim=16"),
]
LAST = Path("run/checkpoints/last.ckpt")
MARK = "EVIL_MARK"
CALL = "{_target_:evilmod.touch}"
MODULE = f"""
from pathlib import Path
from dreammpc.algorithms import TDMPC2
from dreammpc.planning import Policy

Path({MARK!r}).touch()


def touch():
    Path({MARK!r}).touch()


class Planner(Policy):
    pass


class Algorithm(TDMPC2):
    pass
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a short training, in `run`."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(folder, *RUN) == 0
    return folder


@pytest.fixture
def evil(trained, tmp_path, monkeypatch):
    """evil(change) is the checkpoint of a copy of the run, whose description `change` has been at.

    A module that leaves a mark where it is imported is on the path.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/evilmod.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    shutil.copytree(trained / "run", "run")

    def make(change) -> Path:
        content = copy.deepcopy(torch.load(LAST, weights_only=True))
        change(content[DESCRIPTION])
        save_atomically(content, LAST)
        return LAST

    yield make
    sys.modules.pop("evilmod", None)
    assert not Path(MARK).exists()
    assert {path.name for path in Path().iterdir()} <= {"run", "modules", "scores.csv"}


def settings(facts: dict, section: str, **values) -> None:
    facts["config"][section].update(values)


OVERRIDES = {
    "callback": lambda d: d["overrides"].append(f"+hydra.callbacks.x={CALL}"),
    "torch_load": lambda d: d["overrides"].append(
        "+hydra.callbacks.x={_target_:torch.load,f:x,weights_only:false}"
    ),
    "option_first": lambda d: d["overrides"].insert(0, "--experimental-rerun=evil.pickle"),
    "option_cfg": lambda d: d["overrides"].append("--cfg=job"),
    "module": lambda d: d["overrides"].append("planner=evilmod.Planner"),
    "run_dir": lambda d: d["overrides"].append("hydra.run.dir=elsewhere"),
    "uri": lambda d: d["overrides"].extend(["tracking.kind=mlflow", "tracking.uri=http://127.0.0.1:9"]),
    "no_words": lambda d: d.update(overrides=[1, None]),
}


@pytest.mark.parametrize("variant", OVERRIDES)
def test_stored_overrides_are_not_words(variant, evil):
    evil(lambda d: None)
    before = words()
    evil(OVERRIDES[variant])
    assert words() == before and "steps=400" in before


@pytest.mark.parametrize("which", [[f"resume={LAST}"], ["resume=auto", "folder=run"]])
def test_stored_overrides_reach_nothing(which, evil, capsys):
    evil(lambda d: [change(d) for change in OVERRIDES.values()])
    assert train(Path.cwd(), *which, "steps=410") == 0
    assert "MLflow" not in capsys.readouterr().out
    facts = torch.load(LAST, weights_only=True)[DESCRIPTION]
    assert facts["env_steps"] == 410
    assert facts["config"]["planner"]["name"] == "policy" and facts["config"]["tracking"]["kind"] == "none"
    assert not [word for word in facts["overrides"] if "evil" in word or "hydra" in word or word[:1] == "-"]


def test_no_file_decides_what_is_registered(evil):
    evil(lambda d: settings(d, "tracking", register="production"))
    assert not [word for word in words() if "register" in word]


STORED = {
    "planner": (lambda d: settings(d, "planner", name="evilmod.Planner"), "add planner=evilmod.Planner"),
    "target": (
        lambda d: d["config"].update(planner={"_target_": "evilmod.Planner"}),
        "add planner=evilmod.Planner",
    ),
    "arguments": (
        lambda d: settings(d, "env", kwargs={"xml_file": "/elsewhere/evil.xml"}),
        "add task=gym-InvertedPendulum-v5",
    ),
    "algorithm": (
        lambda d: settings(d, "algorithm", name="evilmod.Algorithm"),
        "add algorithm=evilmod.Algorithm",
    ),
    "eval_planner": (
        lambda d: d["config"].update(eval_planner=["policy", "evilmod.Planner"]),
        "add eval_planner=evilmod.Planner",
    ),
    "compared": (
        lambda d: settings(d, "evaluation", planners=["evilmod.Planner"]),
        "add evaluation.planners=evilmod.Planner",
    ),
    "stage": (
        lambda d: d["config"].update(
            planner={"_target_": "dreammpc.planning.Composed", "propose": {"_target_": "evilmod.Planner"}}
        ),
        "add planner.propose._target_=evilmod.Planner",
    ),
    "eval_stage": (
        lambda d: d["config"].update(eval_settings={"propose": [{"_target_": "evilmod.Planner"}]}),
        "add 'eval_planner.propose=[{_target_:",
    ),
    "task": (lambda d: d["config"].update(task="gym-evilmod:X-v0"), "add task=gym-evilmod:X-v0"),
    "group": (lambda d: settings(d, "model", name="../../../modules/x"), "model is '../../../modules/x'"),
    "planner_file": (lambda d: settings(d, "planner", name="../x"), "planner is '../x'"),
    "environment": (lambda d: settings(d, "tracking", run_name="${oc.env:HOME}"), "holds no ${…}"),
    "type": (lambda d: d["config"].update(steps="many"), "steps must be of type int, got 'many'"),
    "list": (lambda d: d["config"].update(save_every=[1, 2]), "save_every must be of type int, got [1, 2]"),
    "grammar": (
        lambda d: d["config"].update(save_every="1,2 hydra.run.dir=x"),
        "save_every must be of type int",
    ),
    "section": (lambda d: d["config"].update(trainer=3), "its settings trainer are damaged"),
    "config": (lambda d: d.update(config=[]), "is damaged: its config is a list"),
    "entry": (lambda d: d["config"].update(eval_settings={"x y": 1}), "'x y', which is no name"),
    "address": (
        lambda d: settings(d, "tracking", kind="mlflow", uri="http://127.0.0.1:9"),
        "add tracking.uri=ADDRESS",
    ),
}


@pytest.mark.parametrize("variant", STORED)
def test_stored_settings_are_values_of_our_schemas(variant, evil, monkeypatch, capsys):
    change, said = STORED[variant]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    line = refused("train", [f"resume={evil(change)}"], monkeypatch, capsys)
    assert said in line and str(LAST) in line


def test_places_are_todays(evil, capsys):
    """Folders of a file are never used; where the replay lay is said."""
    there = str(Path.cwd() / "there")
    evil(
        lambda d: d["config"].update(
            folder="else", resume=there, replay={"storage": "memmap", "folder": there}
        )
    )
    assert train(Path.cwd(), f"resume={LAST}", "steps=410") == 0
    assert "replay.folder is not taken from a file" in capsys.readouterr().err
    config = torch.load(LAST, weights_only=True)[DESCRIPTION]["config"]
    assert config["replay"] == {"storage": "memmap", "folder": None}
    assert Path(config["folder"]).resolve() == Path("run").resolve()


def test_texts_are_texts(evil):
    """Whatever letters a stored text holds, it arrives as that text."""
    odd = "a'b\\', \"c\" {d: [e]} = f#g \\${x}\n--cfg=job\\"
    evil(lambda d: settings(d, "tracking", run_name=odd.replace("${", "$ {")))
    assert train(Path.cwd(), f"resume={LAST}", "steps=410") == 0
    found = torch.load(LAST, weights_only=True)[DESCRIPTION]["config"]["tracking"]["run_name"]
    assert found == odd.replace("${", "$ {")


def words(*now: str) -> list[str]:
    """The settings that a run goes on with, in Hydra's words, without quotes, `resume` and `folder`."""
    found = with_resumed(rewrite([f"resume={LAST}", *now], "train"), "train")
    return [word.replace("'", "") for word in found if not word.startswith(("resume=", "folder="))]


def test_a_dotted_path_that_todays_words_name_is_used_with_its_settings(evil):
    mine = {"name": "test_security.Mine", "gain": 2.0}
    evil(lambda d: d["config"].update(planner=mine, eval_planner=["test_security.Mine"]))
    with pytest.raises(UsageError, match=r"add planner=test_security.Mine$"):
        words()
    found = words("planner=test_security.Mine")
    assert "planner.gain=2.0" in found and "eval_planner=[test_security.Mine]" in found


def test_a_new_experiment_is_given_now_and_the_old_one_is_not(evil):
    def change(facts):
        facts["overrides"].append("experiment=walker-walk")
        facts["config"]["save_every"] = 77
        settings(facts, "algorithm", lr=0.5)

    evil(change)
    assert {"save_every=77", "algorithm.lr=0.5"} <= set(words("experiment=walker-walk"))
    now = words("experiment=bmpc")
    assert not [word for word in now if word.startswith(("save_every=", "algorithm.lr=", "model."))]
    assert "trainer.compile=false" in now


FILES = {
    "evaluate": lambda *more: ["evaluate", f"checkpoint={LAST}", "planner=policy", "episodes=1", *more],
    "demo": lambda *more: ["demo", str(LAST), "planner=policy", "--no-video", *more],
    "export": lambda *more: ["export-agent", str(LAST), "--planners=policy", "-o", "run/a", *more],
}


def said(command: list[str], monkeypatch, capsys) -> str:
    """The one line with which a command is refused."""
    if command[0] == "evaluate":
        return refused("evaluate", command[1:], monkeypatch, capsys)
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("command", FILES)
def test_a_file_alone_has_nothing_imported(command, evil, monkeypatch, capsys):
    evil(lambda d: settings(d, "algorithm", name="evilmod.Algorithm"))
    assert "add algorithm=evilmod.Algorithm" in said(FILES[command](), monkeypatch, capsys)
    evil(lambda d: (settings(d, "algorithm", name="tdmpc2"), d.update(task="gym-evilmod:X-v0")))
    assert "add task=gym-evilmod:X-v0" in said(FILES[command](), monkeypatch, capsys)
    line = said(FILES[command]("task=gym-evilmod:X-v0"), monkeypatch, capsys)  # asked for
    assert "'gym-evilmod:X-v0'" in line
    Path(MARK).unlink()


def test_python_names_an_algorithm_too(evil):
    evil(lambda d: settings(d, "algorithm", name="test_security.Own"))
    for call in (loading.load_agent, lambda path: next(compare(str(path), "policy", seeds=[1]))):
        with pytest.raises(UsageError, match=r"add algorithm=test_security.Own$"):
            call(LAST)
    assert loading.load_agent(LAST, "policy", algorithm="test_security.Own").model.obs_dim == 4


def test_what_installed_packages_offer_may_stand_in_a_file(monkeypatch):
    from importlib.metadata import EntryPoint

    points = (EntryPoint("best", "plug.planners:Best", "dreammpc.planners"), EntryPoint("x", "plug", "x"))
    monkeypatch.setattr("dreammpc.plugins.registry.installed", lambda group: points)
    monkeypatch.setattr("dreammpc.envs.families.installed", lambda group: points)
    for name in ("mppi", "best", "plug.planners.Best", "dreammpc.planning.MPPI"):
        PLANNERS.check_stored(name, "file", (), "planner=…")
    with pytest.raises(UsageError, match="if you trust it, add planner=…"):
        PLANNERS.check_stored("plug.other.Best", "file", (), "planner=…")
    check_task("gym-plug:X-v0", "file")
    check_task("gym-Hopper-v5", "file")
    with pytest.raises(UsageError, match="add task=gym-plugs:X-v0"):
        check_task("gym-plugs:X-v0", "file")


@pytest.mark.parametrize(
    "kwargs", [{"xml_file": "/etc/x.xml"}, {"goal": [1.0, {"at": "http://127.0.0.1:9"}]}]
)
def test_texts_for_an_environment_come_from_a_file_only_if_its_task_is_named_today(kwargs):
    check_task("gym-Ant-v5", "file", kwargs={"healthy_reward": 0.5, "range": [0.2, 1.0], "frames": None})
    check_task("gym-Ant-v5", "file", {"gym-Ant-v5"}, kwargs)
    with pytest.raises(UsageError, match="add task=gym-Ant-v5"):
        check_task("gym-Ant-v5", "file", kwargs=kwargs)
    assert loading.confirmations("gym-Ant-v5", "tdmpc2", kwargs) == ["task=gym-Ant-v5"]
    facts = {"task": "gym-Ant-v5", "config": {"env": {"kwargs": kwargs}}}
    assert task_of("file", facts, ["gym-Ant-v5"]) == "gym-Ant-v5"
    with pytest.raises(UsageError, match="was meant for task gym-Ant-v5 and not for gym-Hopper-v5"):
        task_of("file", facts, ["gym-Hopper-v5"])


# --- passwords and tokens -------------------------------------------------------------------------------

SECRET = "http://bob:PASSWORD@127.0.0.1:9/x?token=TOKEN&y=1"
STARRED = "http://bob:***@127.0.0.1:9/x?token=***&y=***"


@pytest.fixture
def addresses(monkeypatch):
    """Those that a test keeps are gone after it."""
    monkeypatch.setenv(VARIABLE, "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SECRET, STARRED),
        (f"at '{SECRET}' or http://host:5000/", f"at '{STARRED}' or http://host:5000/"),
        ("https://TOKEN@host/x", "https://***@host/x"),
        ("http://me:with/slash@and@host/x", "http://me:***@host/x"),
        ("url: /x?token=TOKEN/api/2.0", "url: /x?token=***"),
        ("postgresql://me:p@host/db?password=p", "postgresql://me:***@host/db?password=***"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("seed=1 and a?", "seed=1 and a?"),
    ],
)
def test_what_may_be_secret_is_starred(text, shown):
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize("word", [SECRET, f"'{SECRET}'"])
def test_only_who_calls_an_address_up_has_it_whole(word, addresses):
    assert concealed(f"tracking.uri={word}") == f"tracking.uri='{STARRED}'"
    assert full_address(STARRED) == SECRET and full_address("http://other/") == "http://other/"
    assert concealed("tracking.uri=null") == "tracking.uri=null" and concealed("seed=1") == "seed=1"
    store_address("http://me:other@host/")
    assert full_address("http://me:***@host/") == "http://me:other@host/" and full_address(STARRED) == SECRET


@pytest.fixture
def called(monkeypatch):
    """The addresses that MLflow was asked at; none of them answers."""
    found = []

    def refuse(run):
        found.append(run._uri)
        raise ConnectionError(f"nobody at {run._uri}")

    monkeypatch.setattr("dreammpc.tracking.mlflow_run.MlflowRun._connect", refuse)
    monkeypatch.setattr("dreammpc.tracking.follower.GATHER_S", 0.01)
    return found


def test_a_password_is_in_no_file_of_a_run_and_in_no_line(tmp_path, addresses, called, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    more = [word for word in RUN if word != "tracking=none"]
    assert train(tmp_path, *more, f"tracking.uri={SECRET}") == 0
    out, err = capfd.readouterr()
    assert called and set(called) == {SECRET}
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert tmp_path / "run/mlflow.json" in written and tmp_path / LAST in written
    for text in ("PASSWORD", "TOKEN"):
        assert text not in out + err
        assert not [path for path, content in written.items() if text.encode() in content]
    assert STARRED in out and STARRED in (tmp_path / "run/params.json").read_text()
    monkeypatch.chdir(tmp_path)
    line = refused("train", [f"resume={LAST}"], monkeypatch, capfd)
    assert "add tracking.uri=ADDRESS" in line and "bob" not in line


def test_a_password_in_a_file_of_settings_is_starred_too(tmp_path, addresses, called):
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\ntracking: {{kind: mlflow, uri: '{SECRET}'}}\n"
    (tmp_path / "experiment/mine.yaml").write_text(text)
    more = [word for word in RUN if word != "tracking=none"]
    assert train(tmp_path, *more, "steps=250", "--config-dir", str(tmp_path), "experiment=mine") == 0
    assert set(called) == {SECRET}
    assert b"PASSWORD" not in b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())


# --- the replay's files ---------------------------------------------------------------------------------


def ends_with(capsys, *words: str) -> str:
    """The last line of a training that exits with 2."""
    assert train(Path.cwd(), *words) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def share(facts: dict) -> dict:
    return facts["resume"]["ranks"][0]


SHARES = {
    "above": lambda s: s.update(segments=[[0, 400, "../../../../secret.pt"]]),
    "absolute": lambda s: s.update(segments=[[0, 400, "/secret.pt"]]),
    "inside": lambda s: s.update(segments=[[0, 400, "rows-0-400/../../x.pt"]]),
    "line": lambda s: s.update(segments=[[0, 400, "rows-0-400.pt\n"]]),
    "mutable": lambda s: s.update(mutable="../mutable-1.pt"),
    "types": lambda s: s.update(segments=[["0", "400", 3]]),
    "none": lambda s: s.update(segments=None),
}


@pytest.mark.parametrize("variant", SHARES)
def test_names_of_replay_files_lead_nowhere_else(variant, evil, capsys):
    evil(lambda d: SHARES[variant](share(d)))
    line = ends_with(capsys, f"resume={LAST}")
    assert f"checkpoint {LAST} is damaged: its list of replay files is none" in line


def test_a_replay_file_copied_over_another_is_noticed(evil, capsys):
    evil(lambda d: None)
    folder = LAST.parent / "replay/rank0"
    first, second = sorted(folder.glob("rows-*.pt"))
    assert torch.load(first)["action"].shape == torch.load(second)["action"].shape
    shutil.copy(first, second)
    line = ends_with(capsys, f"resume={LAST}", "steps=410")
    assert f"{second.name} is not the one that was saved with this checkpoint" in line
    assert train(Path.cwd(), "resume=auto", "folder=run", "steps=410") == 0  # from the one before
    assert f"{second.name} is missing or damaged" in capsys.readouterr().err


def test_a_replay_without_checksums_is_read_as_before(evil):
    evil(lambda d: share(d).pop("sums"))
    assert train(Path.cwd(), f"resume={LAST}", "steps=410") == 0
    saved = share(torch.load(LAST, weights_only=True)[DESCRIPTION])
    assert set(saved["sums"]) == {name for _, _, name in saved["segments"]}


def test_rows_that_are_fewer_than_the_checkpoint_says_are_noticed(evil, capsys):
    evil(lambda d: (share(d).pop("sums"), share(d)["segments"][0].__setitem__(1, 190)))
    assert "is not the one that was saved" in ends_with(capsys, f"resume={LAST}")


# --- scores, reports, cards, logs, spools ---------------------------------------------------------------

DEEP = "[" * 100_000


def scored(**columns) -> dict:
    (row,) = score_rows(["walker-walk"], ["policy"], [1], episodes=1)
    return {**row, **columns}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@x", "\t=1", "\r=1", "'=1", "''", "'plain", "-1"])
def test_texts_in_csv_are_nothing_to_compute_and_are_read_as_they_were(text, tmp_path):
    row = scored(task=text, checkpoint=text, machine=text)
    write_rows([row], tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r") and not is_number(cell)]
    (read,) = read_rows(tmp_path / "x.csv")
    assert {read["task"], read["checkpoint"], read["machine"]} == {text.replace("\r", " ")}


def is_number(text: str) -> bool:
    try:
        return bool(float(text)) or True
    except ValueError:
        return False


def test_negative_numbers_stay_numbers_in_csv(tmp_path):
    write_rows([scored(**{"return": -3.5})], tmp_path / "x.csv")
    assert ",-3.5," in (tmp_path / "x.csv").read_text() and read_rows(tmp_path / "x.csv")[0]["return"] == -3.5


def test_a_report_holds_no_tags_pictures_or_links_of_its_inputs(tmp_path):
    bad = "<script>x</script>![a](http://127.0.0.1:9) [b](javascript:x)|`c`\n# d"
    write_rows([scored(task=bad, planner=bad, algorithm=bad)], tmp_path / "x.json")
    for name in ("x.md", "x.html"):
        write_report([tmp_path / "x.json"], tmp_path / name)
        text = (tmp_path / name).read_text()
        assert "<script>x" not in text and "<img" not in text
    text = (tmp_path / "x.md").read_text()
    assert (
        "&lt;script&gt;" in text
        and "\n# d" not in text
        and "](http" not in text
        and "](java" not in text
        and "|`" not in text
    )


def damaged(tmp_path: Path, name: str, text: str) -> list[str]:
    """The words of `dreammpc report` for a folder with that text in place of a good file."""
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    params = {
        "task": "x-y",
        "seed": 1,
        "planner": {"name": "policy"},
        "algorithm": {"name": "tdmpc2"},
        "model": {},
    }
    files = {
        "params.json": json.dumps(params),
        "metrics.jsonl": '{"env_steps": 1, "wall_s": 1, "eval/return": 1}\n',
        "scores.json": json.dumps({"format": 1, "rows": [scored()]}),
        "reference.json": "{}",
    }
    for key, content in {**files, name: text}.items():
        (run / key).write_text(content)
    return ["report", str(run), str(run / "scores.json"), "--reference", str(run / "reference.json")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, DEEP) for name in ("params.json", "scores.json", "reference.json")),
        ("metrics.jsonl", DEEP + "\n"),
        ("params.json", '{"task": "x", "seed": "1", "planner": {}, "algorithm": {"name": "a"}, "model": {}}'),
        ("params.json", '{"task": 3, "planner": {}, "algorithm": {"name": "a"}, "model": {}}'),
        ("metrics.jsonl", '{"env_steps": 1, "eval/return": ' + "9" * 400 + "}\n"),
        ("scores.json", '{"format": 1, "rows": [{"task": Infinity}]}'),
    ],
)
def test_what_a_report_cannot_read_is_one_line_with_its_name(name, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = said(damaged(tmp_path, name, text), monkeypatch, capsys)
    assert name in line or "run is damaged" in line
    assert len(line) < 500


def test_a_number_that_is_infinite_is_no_whole_number(tmp_path):
    text = json.dumps({"format": 1, "rows": [scored(env_steps=math.inf)]})
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match="env_steps must be a int, got inf"):
        read_rows(tmp_path / "x.json")


def test_a_run_is_not_written_to_where_its_name_would_lead(evil, monkeypatch, capsys):
    path = evil(lambda d: None)
    task = "gym-InvertedPendulum-v5"
    for name in ("../../x", f"{task}/../../x", f"{task}/..", f"../{task}/x", f"{task}/a/b"):
        assert "expected gym-InvertedPendulum-v5/ and a word" in said(
            ["export-agent", str(path), "--name", name, "-o", "run/a"], monkeypatch, capsys
        )
    evil(lambda d: (d.update(task=".."), settings(d, "algorithm", name="tdmpc2")))
    exported = export_agent(path, "run/a")
    assert exported.resolve().is_relative_to(Path("run/a").resolve())
    assert file_name("../../x") == "--..-x" or "/" not in file_name("../../x")


def test_a_card_tells_of_no_words_that_are_not_settings(evil):
    evil(lambda d: [change(d) for change in list(OVERRIDES.values())[:-1]])
    card = json.loads(export_agent(LAST, "run/a").with_suffix(".json").read_text())
    assert "hydra" not in card["command"] and "--" not in card["command"] and "steps=400" in card["command"]


def test_lines_of_a_log_are_numbers_by_name(tmp_path):
    lines = [
        "3",
        "[]",
        '{"env_steps": 1, "x": NaN}',
        '{"env_steps": 1, "x": 1' + "0" * 400 + "}",
        '{"env_steps": "x"}',
        '{"env_steps": 2, "final/x": "y"}',
        DEEP,
        '{"env_steps": null}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"env_steps": 4, "wall_s": 1, "a": null}']))
    assert read_log(tmp_path / "metrics.jsonl") == [{"env_steps": 4, "wall_s": 1, "a": None}]
    JSONLLogger(tmp_path, resume_step=10)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


NOTES = {
    "uri": 3,
    "experiment": ["x"],
    "run_name": {},
    "run": "../x",
    "token": "' or 'a' = 'a",
    "offset": -1,
    "artifacts": {"x.mp4": "../../x"},
    "status": "x",
    "reported": [],
    "more": 1,
}


@pytest.mark.parametrize("key", NOTES)
def test_a_note_of_deliveries_that_is_none_is_passed_over(key, tmp_path):
    Note("http://x", run="abc", artifacts={"x.mp4": "videos", "y": None}).save(tmp_path)
    note = json.loads((tmp_path / "mlflow.json").read_text())
    assert read_note(tmp_path).run == "abc"
    (tmp_path / "mlflow.json").write_text(json.dumps(note | {key: NOTES[key]}))
    assert read_note(tmp_path) is None
    (tmp_path / "mlflow.json").write_text(DEEP)
    assert read_note(tmp_path) is None


def test_a_note_of_deliveries_sends_no_file_of_elsewhere(tmp_path, monkeypatch, caplog):
    sent = []
    for name in ("connect", "write_tags", "write_params", "write_metrics", "write_status"):
        monkeypatch.setattr(MlflowRun, name, lambda run, *rest: "0a")
    monkeypatch.setattr(MlflowRun, "write_artifact", lambda run, path, place: sent.append(path.name))
    run = tmp_path / "run"
    run.mkdir()
    for name in ("secret", "run/fine"):
        (tmp_path / name).touch()
    (run / "link").symlink_to(tmp_path / "secret")
    wanted = ("../secret", str(tmp_path / "secret"), "link", "x/../../secret", "fine")
    Note("http://x", artifacts=dict.fromkeys(wanted, "videos")).save(run)
    Delivery(run, read_note(run), "http://x").send()
    assert sent == ["fine"] and caplog.text.count("lies outside of") == 4


@pytest.mark.parametrize(
    "line",
    [
        '{"env_steps": 1e300, "a": 1}',
        '{"wall_s": -1e300, "a": 1}',
        '{"a": null, "nonfinite": {"a": "1e9"}}',
        '{"a": null, "nonfinite": {"a": []}}',
        '{"a": null, "nonfinite": 3}',
        "3",
        DEEP,
    ],
)
def test_a_line_of_other_things_is_no_metric(line):
    with pytest.raises(ValueError):
        metrics_of(line, 0.0)


def test_the_id_of_a_run_is_an_id(monkeypatch):
    for text in ("../x", "a/b", "", "x" * 300, 3):
        assert MlflowRun("sqlite:///x", "e", None, "token", text).run_id is None
    assert MlflowRun("sqlite:///x", "e", None, "token", "0a-b_c").run_id == "0a-b_c"
    assert (
        MlflowRun("sqlite:////x/m.db", "..", None, "token")._artifact_location() == "file:///x/mlartifacts/_"
    )


def test_a_deep_card_is_damaged(tmp_path):
    (tmp_path / "x.json").write_text(DEEP)
    with pytest.raises(UsageError, match="is missing or damaged"):
        read_card(tmp_path / "x.ckpt")


STATES = {
    "no replay": lambda s: s.pop("replay"),
    "replay": lambda s: s["replay"].update(generator="x"),
    "feed": lambda s: s.update(feed={}),
    "counters": lambda s: s["feed"].update(finished=3),
    "random": lambda s: s["random"].update(python=[1, 2, 3]),
}


@pytest.mark.parametrize("variant", STATES)
def test_a_state_that_is_not_ours_is_one_line_and_nothing_is_saved_over_it(variant, evil, capsys):
    evil(lambda d: STATES[variant](share(d)))
    before = LAST.read_bytes()
    assert f"{LAST} is damaged or of another run: its state cannot be restored" in ends_with(
        capsys, f"resume={LAST}", "steps=410"
    )
    assert LAST.read_bytes() == before


def weight(content: dict) -> str:
    return next(key for key in content["state_dict"] if key.endswith("linears.0.weight"))


def moments(content: dict) -> dict:
    return next(iter(content["optimizer_states"][0]["state"].values()))


RESTORED = {
    "shape": lambda c: c["state_dict"].update({weight(c): torch.zeros(3, 3)}),
    "no weight": lambda c: c["state_dict"].pop(weight(c)),
    "loops": lambda c: c.update(loops={"fit_loop": 3}),
    "callbacks": lambda c: c["callbacks"].update(Checkpoints={"x": 1}),
    "no optimizers": lambda c: c.pop("optimizer_states"),
    "rate": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr="x"),
    # What follows ended the process: a fused step reads as much as the weight has, wherever that lies.
    "moments": lambda c: moments(c).update(exp_avg=torch.zeros(1, 7)),
    "one moment": lambda c: moments(c).update(exp_avg=torch.tensor(0.0)),
    "no memory": lambda c: moments(c).update(exp_avg=torch.zeros(1).expand(moments(c)["exp_avg"].shape)),
}


@pytest.mark.parametrize("variant", RESTORED)
def test_what_lightning_restores_is_checked_too(variant, evil, capsys):
    evil(lambda d: None)
    content = torch.load(LAST, weights_only=True)
    RESTORED[variant](content)
    save_atomically(content, LAST)
    before = LAST.read_bytes()
    line = ends_with(capsys, f"resume={LAST}", "steps=410")
    assert f"{LAST} is damaged or of another run: its state cannot be restored" in line
    assert LAST.read_bytes() == before


def nested(depth: int) -> list:
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


def laughs() -> list:
    found = [1]
    for _ in range(40):
        found = [found, found]
    return found


def loop() -> list:
    found: list = []
    found.append(found)
    return found


DAMAGED = {
    "deep": (lambda d: d["config"].update(eval_settings={"a": nested(100)}), "nested too deeply"),
    "loop": (lambda d: d["config"].update(eval_settings={"a": loop()}), "nested too deeply"),
    "bomb": (lambda d: settings(d, "evaluation", planners=laughs()), "too many entries"),
    "state": (lambda d: share(d)["feed"].update(x=laughs()), "too many entries"),
    "tensor": (lambda d: d.update(format=torch.zeros(2)), "holds a Tensor, not plain data"),
    "versions": (lambda d: d.update(versions=3), "its versions is a int"),
    "steps": (lambda d: d["config"].pop("steps"), "lacks config.steps"),
    "clock": (lambda d: d.update(env_steps=None), "lacks env_steps"),
}


@pytest.mark.parametrize("variant", DAMAGED)
@pytest.mark.parametrize("which", [[f"resume={LAST}"], ["resume=auto", "folder=run"]])
def test_a_description_is_plain_and_whole(variant, which, evil, capsys):
    """And it is small: lists in a pickle may stand in one another many times over, or in themselves."""
    change, said = DAMAGED[variant]
    evil(change)
    (LAST.parent / "previous.ckpt").unlink()
    assert said in ends_with(capsys, *which)


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "checkpoints/replay", "errors.log"])
def test_a_link_in_a_run_leads_nowhere_else(name, evil, capsys, tmp_path_factory):
    evil(lambda d: None)
    there, path = tmp_path_factory.mktemp("else") / "x", Path("run") / name
    if path.is_dir():
        shutil.move(path, there)
    else:
        path.unlink(missing_ok=True)
        there.write_text("mine")
    path.symlink_to(there)
    assert f"{name} in it is a link to {there}" in ends_with(capsys, f"resume={LAST}", "steps=410")
    assert there.is_dir() or there.read_text() == "mine"


def test_nothing_of_a_file_steers_a_terminal(evil, monkeypatch, capsys):
    assert printable("a\x1b[2J\u202e\ud800é\nb") == "a\\x1b[2J\\u202e\\ud800é\nb"
    evil(lambda d: settings(d, "algorithm", name="evilmod.\x1b]0;X\n"))
    for command in FILES:
        line = said(FILES[command](), monkeypatch, capsys)
        assert "evilmod.\\x1b]0;X" in line and "\x1b" not in line
    evil(lambda d: settings(d, "algorithm", name="tdmpc2"))
    agent = export_agent(LAST, "run/a")
    card = json.loads(agent.with_suffix(".json").read_text())
    row = {"planner": "\x1b[2J", "return": 1.0, "episodes": 1, "dtype": "\x1b"}
    card |= {"model": "\x1b[2J", "command": "\x1b[2J\ud800", "evaluations": [row]}
    agent.with_suffix(".json").write_text(json.dumps(card))
    monkeypatch.setenv("DREAMMPC_AGENTS", "run/a")
    for words in (["agents"], ["agents", card["name"]]):
        cli.main(words)
        assert "\x1b" not in capsys.readouterr().out


def test_a_state_writes_no_other_array_of_the_simulator():
    env = dmcontrol.make("cartpole-swingup", action_repeat=2, render=False)
    env.reset(seed=1)
    model, state = env._env.physics.model.ptr, env.get_state()
    parents = model.body_parentid.copy()
    state["mujoco"]["model"]["body_parentid"] = torch.full((len(parents),), 99)
    env.set_state(state)
    assert (model.body_parentid == parents).all()


# Named by tests above by their dotted paths.


@dataclass(frozen=True)
class Mine(Policy):
    gain: float = 1.0


class Own(TDMPC2):
    pass
