"""CSV that survives a kill, and the real W&B client offline: what it records and what it must not know."""

from __future__ import annotations

import getpass
import json
import logging
import shutil
import socket
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harmonize.errors import ConfigError, RunError
from harmonize.tracking.loggers import (
    CSVTracker,
    Tracker,
    Trackers,
    WandbTracker,
    build_tracker,
    read_metrics,
    without_home,
)
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import Results, write_results
from harmonize.tracking.workspace import build_workspace, save_workspace

SECRETS = ["Verdant Quillfeather", "Port Osmarra", "the ninth of Harrowmonth"]
API_KEY = "0123456789abcdef0123456789abcdef01234567"


def test_csv_is_long_form_and_readable(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with CSVTracker(tmp_path / "metrics.csv") as tracker:
        tracker.log({"loss/pull": 0.5, "loss/push": 0.25}, step=1)
        tracker.log({"loss/pull": 0.1, "val/forget_accuracy": 1.0, 'odd, "name"': float("nan")}, step=2)
    assert (tmp_path / "metrics.csv").stat().st_mode & 0o777 == 0o600
    assert read_metrics(tmp_path / "metrics.csv")[:3] == [
        (1, "loss/pull", 0.5),
        (1, "loss/push", 0.25),
        (2, "loss/pull", 0.1),
    ]
    wide = pandas.read_csv(tmp_path / "metrics.csv").pivot_table(index="step", columns="name", values="value")
    assert wide.loc[1, "loss/push"] == 0.25
    assert wide.loc[2, "val/forget_accuracy"] == 1.0


def test_csv_every_row_is_on_disk_at_once(tmp_path: Path) -> None:
    tracker = CSVTracker(tmp_path / "metrics.csv")
    tracker.log({"a": 1.0}, step=1)
    assert read_metrics(tmp_path / "metrics.csv") == [(1, "a", 1.0)]
    tracker.close()
    tracker.close()
    with pytest.raises(RunError, match="after it was closed"):
        tracker.log({"a": 1.0}, step=2)


def test_csv_resume_drops_later_rows_and_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n1,a,1.0\n2,a,2.0\n3,a,3.0\n4,a,4.12")
    with CSVTracker(path, resume_step=2) as tracker:
        tracker.log({"a": 30.0}, step=3)
    assert read_metrics(path) == [(1, "a", 1.0), (2, "a", 2.0), (3, "a", 30.0)]
    with CSVTracker(path):
        pass
    assert read_metrics(path) == []
    assert read_metrics(tmp_path / "none.csv") == []


def test_csv_full_disk(tmp_path: Path) -> None:
    tracker = CSVTracker(tmp_path / "metrics.csv")

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    real, tracker._file = tracker._file, Full()  # type: ignore[assignment]
    with pytest.raises(RunError, match="No space left"):
        tracker.log({"a": 1.0}, step=1)
    tracker._file = real
    tracker.close()


def test_trackers_go_together(tmp_path: Path) -> None:
    class Lines(Tracker):
        def close(self) -> list[str]:
            return ["a line"]

    with Trackers([CSVTracker(tmp_path / "a.csv"), Lines(), CSVTracker(tmp_path / "b.csv")]) as both:
        both.log({"x": 1.0}, step=0)
        both.summary({"x": Metric(1.0, 2)})
        assert both.close() == ["a line"]
    assert read_metrics(tmp_path / "a.csv") == read_metrics(tmp_path / "b.csv") == [(0, "x", 1.0)]


def settings(**wandb: Any) -> dict[str, Any]:
    return {
        "study": "my_study",
        "job": None,
        "method": {"name": "bidirectional", "objectives": {"push": {"weight": 0.5}}},
        "dataset": {"name": "sandbox", "root": str(Path.home() / "data")},
        "model": {"name_or_path": str(Path.home() / "models" / "tiny")},
        "teacher": {"instruction": "Answer as if you never knew it."},
        "logger": {"csv": True, "wandb": {"enabled": True, "mode": "offline", "tags": ["mine"]} | wandb},
    }


def records(folder: Path) -> list[Any]:
    """Every record of a finished W&B offline folder.

    The client's own process writes the file, and on a busy machine it may still do so when `finish` has returned.
    """
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60
    while True:
        found = parsed(file.read_bytes())
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, "the W&B run was never finished"
        time.sleep(0.02)


def parsed(data: bytes) -> list[Any]:
    """The records of a LevelDB log (32 KiB blocks of crc, length, type, data) of protobufs."""
    from wandb.proto import wandb_internal_pb2

    place, whole, found = 7, b"", []  # after the file's own header
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + length > len(data):
            break
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


@pytest.fixture()
def secretive(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with telling names and a key in its environment."""
    monkeypatch.setattr(socket, "gethostname", lambda: "telling-hostname")
    monkeypatch.setattr(getpass, "getuser", lambda: "telling-user")
    for name in ("USER", "LOGNAME", "WANDB_USERNAME"):
        monkeypatch.setenv(name, "telling-user")
    monkeypatch.setenv("WANDB_USER_EMAIL", "telling@user.example")
    monkeypatch.setenv("WANDB_HOST", "telling-hostname")
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    return ["telling-hostname", "telling-user", "telling@user.example", API_KEY]


def test_two_jobs_in_one_process_are_two_private_wandb_runs(
    tmp_path: Path, secretive: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [tmp_path / "job0", tmp_path / "job1"]
    lines = []
    # Both are open at once, and neither absorbs the other.
    trackers = [build_tracker(settings(), job) for job in jobs]
    for number, (job, tracker) in enumerate(zip(jobs, trackers, strict=True)):
        (job / "samples.jsonl").write_text("\n".join(SECRETS))
        print(f"the model says {SECRETS[0]}")  # console capture is off
        tracker.log({f"loss/of_job_{number}": 0.5}, step=10)
        tracker.summary({"forget_accuracy": Metric(0.25, 4), "note": SECRETS[1], "missing": Metric(None, 0)})
        lines += tracker.close()
        assert tracker.close() == []
    assert [line.split()[5:7] for line in lines] == [["wandb", "sync"]] * 2
    for number, job in enumerate(jobs):
        found = records(job)
        (run,) = [record.run for record in found if record.HasField("run")]
        assert (run.project, run.run_group, run.job_type) == ("harmonize", "my_study", "unlearn")
        assert run.display_name == job.name
        assert list(run.tags) == ["bidirectional", "sandbox", "tiny", "mine"]
        assert run.host == ""
        assert not run.HasField("git")
        sent = {item.key: item.value_json for item in run.config.update}
        assert '"weight":0.5' in sent["method"]
        assert "as if you never knew" in sent["teacher"]
        rows = [record.history for record in found if record.HasField("history")]
        logged = {item.key or "/".join(item.nested_key): item.value_json for row in rows for item in row.item}
        assert logged[f"loss/of_job_{number}"] == "0.5"
        assert logged["trainer/global_step"] == "10"
        assert not any("of_job" in key and not key.endswith(str(number)) for key in logged)
        kinds = {record.WhichOneof("record_type") for record in found}
        assert not kinds & {"stats", "output", "output_raw", "artifact", "environment"}
        text = b"".join(file.read_bytes() for file in (job / "wandb").rglob("*") if file.is_file())
        assert f"of_job_{number}".encode() in text
        for secret in [*SECRETS, *secretive]:
            assert secret.encode() not in text, secret
        (sync,) = (job / "wandb").glob("offline-run-*")
        assert str(sync) in lines[number]
        assert str(Path.home()).encode() not in (next(sync.glob("*.wandb"))).read_bytes()
    assert capsys.readouterr().out.count("\n") == 2


def test_samples_are_uploaded_only_on_request(tmp_path: Path) -> None:
    tracker = build_tracker(settings(upload_samples=True), tmp_path)
    (tmp_path / "samples.jsonl").write_text(SECRETS[0])
    tracker.close()
    saved = list(tmp_path.glob("wandb/offline-run-*/files/samples.jsonl"))
    assert [path.read_text() for path in saved] == [SECRETS[0]]
    assert any(record.HasField("files") for record in records(tmp_path))


def ended(folder: Path, **wandb: Any) -> list[Any]:
    """A run that has written its results and samples and is closed; the records of its offline file."""
    config = settings(**wandb)
    tracker = build_tracker(config, folder)
    tracker.log({"val/forget_accuracy": 0.5}, step=4)
    axes = {
        "forget_accuracy": Metric(0.25, 8, 0.0, 0.5, False),
        "asr_worst": Metric(None, 0, None, None, False),
    }
    results = Results(config, 0, axes, {"forget_accuracy": Metric(1.0, 8)}, timing={"train": 1.5})
    (folder / "config.yaml").write_text(f"root: {Path.home()}/data\n")
    write_results(folder, results)
    sample = {"example_id": "a-1", "role": "forget", "split": "test", "trained": True, "attack": "none",
              "verdict": "correct", "score": 1.0, "said": True,
              "question": SECRETS[0], "output": SECRETS[1]}  # fmt: skip
    other = sample | {"role": "neighbor", "verdict": "refused", "score": 0.0, "output": SECRETS[2]}
    (folder / "samples.jsonl").write_text(
        "".join(json.dumps(s) + "\n" for s in [*[sample] * 30, other]) + "cut sh"
    )
    tracker.summary(axes)
    assert "wandb sync" in tracker.close()[0]
    return records(folder)


def tables(folder: Path) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """The tables of an offline run by name: columns and rows."""
    found = {}
    for path in folder.glob("wandb/offline-run-*/files/media/table/*.table.json"):
        table = json.loads(path.read_text())
        found[path.name.rsplit("_", 2)[0]] = (table["columns"], table["data"])
    return found


def test_what_is_handed_over_at_the_end_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "user_data"
    monkeypatch.setenv("WANDB_DATA_DIR", str(data))
    folder = tmp_path / "job"
    found = ended(folder)
    columns, rows = tables(folder)["five_axes"]
    assert columns[:4] == ["axis", "metric", "better", "value"]
    assert rows == [["forget", "forget_accuracy", "lower", 0.25, 0.0, 0.5, 8, 1.0, None, None]]
    columns, rows = tables(folder)["samples"]
    assert columns == ["example", "role", "split", "used", "attack", "verdict", "score", "said"]
    assert len(rows) == 21  # at most 20 of each role and attack
    assert rows[-1] == ["a-1", "neighbor", "test", True, "none", "refused", 0.0, True]
    summary = {item.key or "/".join(item.nested_key): item.value_json
               for record in found if record.HasField("summary") for item in record.summary.update}  # fmt: skip
    assert summary["forget_accuracy"] == "0.25"
    assert summary["target/forget_accuracy"] == "1.0"
    assert summary["cost/train_s"] == "1.5"
    (artifact,) = [r.artifact for r in found if r.HasField("artifact") and r.artifact.type == "results"]
    sent = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    assert sent.keys() == {"config.yaml", "results.json"}
    assert all(folder in path.parents and str(Path.home()) not in path.read_text() for path in sent.values())
    assert not data.exists()  # nothing was staged outside the run folder
    text = b"".join(file.read_bytes() for file in (folder / "wandb").rglob("*") if file.is_file())
    assert not [secret for secret in SECRETS if secret.encode() in text]


def test_the_table_of_samples_has_text_only_on_request(tmp_path: Path) -> None:
    ended(tmp_path, upload_samples=True)
    columns, rows = tables(tmp_path)["samples"]
    assert columns[-4:] == ["question", "opened_with", "true_answer", "output"]
    assert [row[-4:] for row in (rows[0], rows[-1])] == [[SECRETS[0], "", "", text] for text in SECRETS[1:]]


def test_a_run_that_failed_hands_nothing_over(tmp_path: Path) -> None:
    tracker = build_tracker(settings(), tmp_path)
    write_results(tmp_path, Results({}, 0, {"forget_accuracy": Metric(0.5, 1)}))  # of an earlier run
    tracker.close()
    assert not tables(tmp_path)


def test_without_room_for_wandb_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def full(**arguments: object) -> None:
        raise OSError(28, "No space left on device")

    roomy = build_tracker(settings(), tmp_path / "roomy")
    # a disk of its own that is full, where the run has room
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=100 if Path(path).name == "wandb" else 2**40)
    )
    sync, told = roomy.close()
    assert "wandb sync" in sync and "may be cut short" in told
    monkeypatch.setattr(wandb, "init", full)
    tracker = build_tracker(settings(), tmp_path)
    tracker.log({"a": 1.0}, step=1)
    tracker.close()
    assert read_metrics(tmp_path / "metrics.csv") == [(1, "a", 1.0)]
    told = "".join(capsys.readouterr())
    assert "goes on without W&B" in " ".join(told.split())
    assert "No space left" in told
    with pytest.raises(RunError, match="No space left"):
        build_tracker(settings(mode="online"), tmp_path / "online")


def test_tensorboard_is_read_back_and_resumes(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    config = {"logger": {"csv": False, "tensorboard": True, "wandb": {"enabled": False}}}

    def events() -> list[Any]:
        found = []
        for path in sorted((tmp_path / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime):
            assert path.stat().st_mode & 0o777 == 0o600
            data, place = path.read_bytes(), 0
            while place < len(data):  # TFRecord: length, its crc, the event, its crc
                (length,) = struct.unpack_from("<Q", data, place)
                found.append(Event.FromString(data[place + 12 : place + 12 + length]))
                place += 16 + length
        return found

    tracker = build_tracker(config, tmp_path)
    tracker.log({"train/loss": 0.5}, step=3)
    tracker.summary({"forget_accuracy": Metric(0.25, 4), "missing": Metric(None, 0)})
    assert tracker.close() == []
    values = [(v.tag, v.simple_value, e.step) for e in events() for v in e.summary.value]
    assert values == [("train/loss", 0.5, 3), ("final/forget_accuracy", 0.25, 3)]
    build_tracker(config, tmp_path, resume_step=2).close()
    assert [e.step for e in events() if e.session_log.status == 1] == [
        3
    ]  # START: hides what comes from step 3 on


def test_the_workspace_lines_the_axes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = build_workspace("team/project", "my study's")
    spec = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))["section"]
    assert spec["runSets"][0]["filters"]["filters"][0]["value"] == "my study's"
    axes = spec["panelBankConfig"]["sections"][0]
    assert axes["flowConfig"]["columnsPerPage"] == 3
    drawn = [panel["config"] for panel in axes["panels"]]
    assert [config["metrics"] for config in drawn[:2]] == [
        ["val/forget_accuracy"],
        ["val/forget_heldout_accuracy"],
    ]
    assert {(c["xAxis"], c["yAxisMin"], c["yAxisMax"]) for c in drawn} == {("trainer/global_step", 0.0, 1.0)}
    with pytest.raises(ConfigError, match="expected ENTITY/PROJECT"):
        build_workspace("project", "x")
    monkeypatch.setattr(
        type(workspace), "save", lambda self: (_ for _ in ()).throw(ConnectionError("no route"))
    )
    with pytest.raises(RunError, match=r"no route.*wandb login"):
        save_workspace("team/project", "x")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(RunError, match=r"harmonize\[report\]"):
        build_workspace("team/project", "x")


def test_a_failure_still_finishes_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), build_tracker(settings(), tmp_path) as tracker:
        tracker.log({"a": 1.0}, step=1)
        raise ValueError("boom")
    assert any(record.HasField("exit") for record in records(tmp_path))


def test_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    build_tracker(settings(), tmp_path).close()
    first = (tmp_path / "wandb" / "run_id").read_text()
    build_tracker(settings(), tmp_path, resume_step=3).close()
    assert (tmp_path / "wandb" / "run_id").read_text() == first


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    for wandb in ({"mode": "disabled"}, {"enabled": False}):
        assert build_tracker(settings(**wandb), tmp_path).close() == []
    assert not (tmp_path / "wandb").exists()


def test_unknown_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mode=ofline: expected one of offline, online, disabled"):
        build_tracker(settings(mode="ofline"), tmp_path)


def test_a_dead_client_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = WandbTracker(tmp_path, {}, run_id=None)

    def gone(row: dict[str, float]) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(tracker._run, "log", gone)
    with caplog.at_level(logging.WARNING):
        tracker.log({"a": 1.0}, step=1)
        tracker.log({"a": 1.0}, step=2)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "W&B stopped taking numbers (gone); the run goes on without it."
    ]
    assert "wandb sync" in tracker.close()[0]
    assert any(record.HasField("exit") for record in records(tmp_path))


def test_wandb_that_cannot_start_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**arguments: object) -> None:
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(RunError, match=r"mode online.*wandb login.*logger\.wandb\.mode=offline"):
        WandbTracker(tmp_path, {}, mode="online")


def test_home_is_hidden() -> None:
    home = Path.home()
    assert without_home({"a": [f"{home}/x", 1, None]}) == {"a": ["~/x", 1, None]}
