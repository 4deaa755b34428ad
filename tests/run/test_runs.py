"""Runs as a user starts them: what they write, and that it is the same whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import forked
import pytest
import torch
import yaml
from commands import ROOT, SMALL, result, rows, unrolled

pytestmark = pytest.mark.process


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    content = torch.load(checkpoint, weights_only=True)
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


def test_a_run_directory_holds_what_the_readme_says(bitcount_run: Path) -> None:
    names = {p.name for p in bitcount_run.iterdir() if not p.name.startswith(".")}
    assert names >= {
        "config.yaml", "command.txt", "environment.json", "status.json", "metrics.csv",
        "metrics.json", "checkpoints", "predictions", "plots", "wandb", "train.log",
    }  # fmt: skip
    checkpoints = {p.name for p in (bitcount_run / "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert (bitcount_run / "plots" / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"
    status = json.loads((bitcount_run / "status.json").read_text())
    assert (status["state"], status["steps"], status["error"]) == ("finished", 12, None)
    assert status["created"] <= status["started"] <= status["first_step"] <= status["finished"]
    assert json.loads((bitcount_run / "environment.json").read_text())["processes"] == 1
    assert "task=bitcount" in (bitcount_run / "command.txt").read_text()


def test_the_table_at_the_end_shows_ours_between_trivial_and_best(bitcount_run: Path) -> None:
    shown = (bitcount_run.parent / "stdout.txt").read_text()
    scores = result(bitcount_run)
    row = next(line for line in shown.splitlines() if "test/mistakes" in line)
    cells = [cell.strip() for cell in row.split("│")]
    mistakes = scores["test/mistakes"]
    expected = [f"{int(mistakes['trivial']):,}", f"{int(mistakes['value']):,}", "0"]
    assert cells[1:5] == ["test/mistakes ↓", *expected]
    assert "12 steps, 2,617 parameters" in shown
    assert scores["test/sequences"]["value"] == 2**9 - 200 - 50


def test_metrics_csv_has_the_asked_steps_and_no_other(bitcount_run: Path) -> None:
    logged = [
        (int(r["step"]), [k for k, v in r.items() if v and "/" in k]) for r in rows(bitcount_run)
    ]
    assert [step for step, names in logged if "train/loss" in names] == [3, 6, 9, 12]
    assert [step for step, names in logged if "val/error" in names] == [4, 8, 12]
    assert [step for step, names in logged if "test/error" in names] == [12]


def test_wandb_has_one_offline_run_with_the_same_values(bitcount_run: Path) -> None:
    (folder,) = (bitcount_run / "wandb").glob("offline-run-*")
    kept = json.loads((bitcount_run / "wandb" / "run.json").read_text())
    assert folder.name.endswith(f"-{kept['id']}")
    assert [p.suffix for p in folder.glob("run-*.wandb")] == [".wandb"]


@pytest.mark.parametrize("name", ["bitcount_run", "purchase_run"])
def test_evaluate_gives_the_numbers_of_metrics_json_also_where_the_run_was_moved(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Path = request.getfixturevalue(name)
    moved = tmp_path / "another" / "name"
    shutil.copytree(run, moved)
    done = unrolled("evaluate", "name", "--output", "scores.json", cwd=moved.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads((moved.parent / "scores.json").read_text()) == result(run)
    assert done.stderr == ""


def test_predictions_for_the_test_strings_are_those_of_the_run(
    bitcount_run: Path, tmp_path: Path
) -> None:
    from unrolled.run.directory import RunDirectory
    from unrolled.run.loading import load_run

    run = RunDirectory(bitcount_run)
    _, data, _ = load_run(run.config(), run, run.best_checkpoint())
    bits = data.source("test").bits  # type: ignore[attr-defined]
    strings = ["".join(map(str, row)) for row in bits.tolist()]
    (tmp_path / "test.csv").write_text("bits\n" + "\n".join(strings) + "\n")
    shutil.copytree(bitcount_run, tmp_path / "moved")
    for output in ("out.parquet", "out.csv"):
        done = unrolled("predict", "moved", "--input", "test.csv", "--output", output, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"262 predictions in {output}\n"
    saved = duckdb.sql(
        f"SELECT prediction, expectation FROM '{bitcount_run}/predictions/test.parquet'"
    ).fetchall()
    assert (
        duckdb.sql(f"SELECT prediction, expectation FROM '{tmp_path}/out.parquet'").fetchall()
        == saved
    )
    written = duckdb.sql(
        f"SELECT prediction, bits FROM read_csv('{tmp_path}/out.csv', all_varchar=true)"
    ).fetchall()
    assert written == [(str(p), b) for (p, _), b in zip(saved, strings, strict=True)]
    done = unrolled("predict", "moved", "--sequence", strings[0], cwd=tmp_path)
    prediction, expectation = saved[0]
    shown = dict(line.split(": ") for line in done.stdout.splitlines())
    assert (shown["bits"], int(shown["prediction"])) == (strings[0], prediction)
    assert float(shown["expectation"]) == pytest.approx(expectation, abs=1e-5)


def test_prediction_refuses_what_does_not_fit_and_writes_nothing(
    bitcount_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("bits\n010\n")
    cases = [
        ("in.csv", "out.csv", "column 'bits', row 1: '010' is not a string of 9 bits"),
        ("missing.csv", "out.csv", "missing.csv: no such file"),
        ("in.csv", "out.xls", "out.xls: a file named *.xls can't be written; use .arrow, .csv"),
        ("in.csv", "in.csv", "in.csv: is read; name another file to write to"),
    ]
    for source, output, message in cases:
        done = unrolled(
            "predict", str(bitcount_run), "--input", source, "--output", output, cwd=tmp_path
        )
        assert done.returncode == 2
        assert message in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]


def test_checkpoints_are_tensors_and_plain_data(bitcount_run: Path) -> None:
    for name in ("best", "last"):
        content = torch.load(bitcount_run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["unrolled"]["task"] == "unrolled.tasks.bitcount.Bitcount"
        assert not any(str(bitcount_run) in str(v) for v in content["callbacks"].values())


def test_the_same_command_gives_the_same_weights(bitcount_run: Path, tmp_path: Path) -> None:
    done = unrolled("train", *SMALL, "run_dir=again", "logger=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "again") == result(bitcount_run)
    first, again = (
        weights(run / "checkpoints" / "last.ckpt") for run in (bitcount_run, tmp_path / "again")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_multirun_with_a_failing_job_finishes_the_others_and_tells(tmp_path: Path) -> None:
    done = unrolled(
        "train", "-m", *SMALL, "logger=none", "model.hidden_size=8,-1", "seed=1,2",
        "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    states = {
        int(p.parent.name): json.loads(p.read_text())["state"]
        for p in (tmp_path / "sweep").glob("*/status.json")
    }
    assert states == {0: "finished", 1: "finished", 2: "failed", 3: "failed"}
    assert "2 of 4 runs finished" in done.stdout
    assert done.stderr.count("model.hidden_size: -1 does not fit: it must be greater than 0") == 2
    assert "Traceback" not in done.stderr
    configs = [
        yaml.safe_load((tmp_path / "sweep" / str(i) / "config.yaml").read_text()) for i in (0, 1)
    ]
    assert [c["seed"] for c in configs] == [1, 2]


def test_a_launcher_that_runs_jobs_in_other_processes_has_them_in_the_summary(
    tmp_path: Path,
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="of the extra launchers")
    done = unrolled(
        "train", "-m", *SMALL, "logger=none", "test=false", "seed=1,-x", "hydra.sweep.dir=sweep",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 of 2 runs finished" in done.stdout
    table = [line.split("│")[1:4] for line in done.stdout.splitlines() if line.startswith("│ ")]
    rows = [[cell.strip() for cell in row] for row in table if row[0].strip()]
    assert rows == [["0", "seed=1", "finished"], ["1", "seed=-x", "failed"]]
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}


def killed_after(steps: int, run: Path, typed: list[str]) -> None:
    """Start a run and kill it when its last checkpoint has `steps` steps or more."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unrolled.cli", "train", *typed, f"run_dir={run.name}"],
        cwd=run.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = (run / "metrics.csv").read_text().splitlines() if (
            run / "metrics.csv").exists() else []  # fmt: skip
        if len(lines) > 1 and int(lines[-1].split(",")[0]) >= steps:
            break
        time.sleep(0.02)
    worker = json.loads((run / "status.json").read_text())["process"]
    os.kill(worker, signal.SIGKILL)
    assert process.wait(60) == 1


def test_a_killed_run_goes_on_bit_for_bit_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    typed = [
        "task=bitcount", "data.length=11", "data.train_size=500", "data.batch_size=60",
        "model.num_layers=2", "model.dropout=0.3", "trainer=cpu", "trainer.max_steps=400",
        "trainer.log_every_n_steps=7", "logger=none",
    ]  # fmt: skip
    assert forked.work_on(forked.create(typed, tmp_path / "whole")) == [0]
    killed_after(100, tmp_path / "killed", typed)
    status = json.loads((tmp_path / "killed" / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["error"].endswith("its process ended by signal 9")
    assert int(rows(tmp_path / "killed")[-1]["step"]) < 400
    done = unrolled("train", "resume=killed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed" / "metrics.csv").read_text() == (
        tmp_path / "whole" / "metrics.csv"
    ).read_text()
    assert result(tmp_path / "killed") == result(tmp_path / "whole")
    for name in ("best.ckpt", "last.ckpt"):
        first, second = (
            torch.load(tmp_path / run / "checkpoints" / name, weights_only=True)
            for run in ("whole", "killed")
        )
        for key, value in first["state_dict"].items():
            assert torch.equal(value, second["state_dict"][key]), (name, key)
        assert first["global_step"] == second["global_step"]


def test_a_limit_within_an_epoch_is_followed_by_a_validation(tmp_path: Path) -> None:
    assert forked.work_on(forked.create([*SMALL, "trainer.max_steps=6"], tmp_path / "run")) == [0]
    validated = [int(row["step"]) for row in rows(tmp_path / "run") if row["val/loss"]]
    assert validated == [4, 6]
    losses = [float(row["val/loss"]) for row in rows(tmp_path / "run") if row["val/loss"]]
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == (6 if losses[1] < losses[0] else 4)


def test_evaluate_never_draws_its_test_from_the_training_data(
    bitcount_run: Path, purchase_run: Path
) -> None:
    for run, typed in ((bitcount_run, "data.seed=5"), (purchase_run, "data.source.seed=3")):
        done = unrolled("evaluate", str(run), typed, cwd=run.parent)
        assert done.returncode == 2
        assert f"{typed.partition('=')[0]}: the run's own; evaluate can change" in done.stderr


def test_a_log_that_has_changed_is_neither_resumed_nor_tested(tmp_path: Path) -> None:
    lines = [f"{s},{t},{'abc'[(s + t) % 3]},{int(s % 3 == 0)}" for s in range(90) for t in range(3)]
    (tmp_path / "log.csv").write_text("session,time,page,label\n" + "\n".join(lines) + "\n")
    source = (
        "+data.source={_target_: unrolled.data.log.EventLog, path: log.csv, sequence: session, "
        "order: time, time: time, categorical: [page], label: label}"
    )
    typed = ["task=purchase_intent", "~data.source", source, "trainer=cpu", "logger=none",
             "scheduler=constant", "trainer.max_steps=3", "run_dir=run"]  # fmt: skip
    done = unrolled("train", *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "log.csv").open("a") as file:
        file.write("99,1,a,0\n")
    for command in (["evaluate", "run"], ["train", "resume=run", "trainer.max_steps=6"]):
        if command[0] == "train":
            status = json.loads((tmp_path / "run" / "status.json").read_text())
            (tmp_path / "run" / "status.json").write_text(
                json.dumps({**status, "state": "interrupted"})
            )
        done = unrolled(*command, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "the log has changed since the run began" in done.stderr
    assert (tmp_path / "run" / "metrics.json").exists()


def test_resuming_a_finished_run_shows_its_result(bitcount_run: Path, tmp_path: Path) -> None:
    shutil.copytree(bitcount_run, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    done = unrolled("train", "resume=run", cwd=tmp_path)
    assert done.returncode == 0
    assert "run is finished; its result:" in done.stdout
    assert "test/error" in done.stdout
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("mode", ["fast", "overfit", "profile"])
def test_debug_modes(mode: str, tmp_path: Path) -> None:
    small = [a for a in SMALL if "max_steps" not in a and "batch_size" not in a]
    done = unrolled("train", *small, f"debug={mode}", "run_dir=run", "logger=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["steps"] == {"fast": 1, "overfit": 500, "profile": 200}[mode]
    if mode == "overfit":
        losses = [float(r["train/loss"]) for r in rows(tmp_path / "run") if r["train/loss"]]
        assert losses[-1] < 0.02 < losses[0]
    if mode == "profile":
        assert "run_training_batch" in (tmp_path / "run" / "fit-profile.txt").read_text()


def test_help_is_complete_and_imports_no_torch(tmp_path: Path) -> None:
    for command in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["predict", "--help"],
                    ["check", "--help"], ["prepare", "--help"]):  # fmt: skip
        code = (
            "import sys, unrolled.cli\n"
            f"sys.argv = ['unrolled', *{command!r}]\n"
            "try: unrolled.cli.main()\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "heavy = {'torch', 'lightning', 'wandb', 'duckdb', 'torchmetrics'}\n"
            "loaded = heavy & set(sys.modules)\n"
            "assert not loaded, loaded"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, (command, done.stderr)
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--help"],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert "task: adding, bitcount, copy" in done.stdout
    assert "model: elman, gru, linear_recurrent, " in done.stdout
    assert not list(tmp_path.iterdir())


def test_check_imports_no_torch_and_prints_the_whole_config(tmp_path: Path) -> None:
    done = unrolled("check", "task=bitcount", "model=gru", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["model"]["_target_"] == "unrolled.models.recurrent.GRU"
    done = unrolled("check", "task=bitcount", "model.x=1", "sed=2", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert not list(tmp_path.iterdir())
