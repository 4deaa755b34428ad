"""The ledger: every trial once, whatever dies; no trial is computed here."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from unrolled.errors import UserError
from unrolled.sweep import ledger as ledger_module
from unrolled.sweep.ledger import MOST_DEATHS, Claim, Ledger
from unrolled.sweep.points import STARTUP, text_of
from unrolled.sweep.space import Sweep, Values
from unrolled.sweep.storage import open_storage
from unrolled.sweep.study import WorkerError

PARAMETERS: dict[str, Any] = {
    "task": {"value": "bitcount"},
    "lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
    "size": {"distribution": "q_uniform", "min": 16, "max": 64, "q": 16},
    "model": {"values": ["lstm", "gru"]},
}


def sweep(method: str = "random", parameters: Any = PARAMETERS, **metric: Any) -> Sweep:
    content = {
        "program": "train.py",
        "method": method,
        "metric": {"name": "val/loss", **metric},
        "parameters": parameters,
    }
    return Sweep(Path("x.yaml"), content)


def identify(values: Values) -> str:
    return hashlib.sha256(text_of(values).encode()).hexdigest()[:10]


def ledger(folder: Path, space: Sweep | None = None, trials: int = 12, **options: Any) -> Ledger:
    return Ledger(folder, space or sweep(), identify, trials, **options)


def score(values: Values) -> float:
    return abs(float(values.get("lr", 0)) - 0.02) + float(values.get("size", 0)) / 100


def test_workers_that_die_leave_trials_that_others_take_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By chance one trial can have so many deaths.
    monkeypatch.setattr(ledger_module, "MOST_DEATHS", 99)
    finished: list[str] = []

    def work(seed: int) -> None:
        # Each worker has a ledger of its own, as each process has.
        rng, own = random.Random(seed), ledger(tmp_path, trials=20)
        while not own.is_over():
            claim = own.claim()
            if claim is None:
                continue
            if rng.random() < 0.4:
                # Killed: the kernel takes the lease back, the ledger is told nothing.
                claim.release()
                own = ledger(tmp_path, trials=20)
                continue
            finished.append(claim.trial.id)
            if len(finished) % 5 == 0:
                own.fail(claim.trial, "out of memory")
            else:
                own.finish(claim.trial, score(claim.trial.values), [3.0, 2.0])
            claim.release()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work, seed) for seed in range(3)]:
            done.result()
    trials = ledger(tmp_path, trials=20).trials()
    assert len(trials) == 20
    assert Counter(finished) == Counter(trial.id for trial in trials)
    assert {trial.state for trial in trials} == {"finished", "failed"}
    assert all(trial.error == "out of memory" for trial in trials if trial.state == "failed")


def test_which_points_are_tried_does_not_depend_on_what_died(tmp_path: Path) -> None:
    whole = ledger(tmp_path / "whole")
    while claim := whole.claim():
        whole.finish(claim.trial, 1.0, [])
    other = ledger(tmp_path / "killed")
    while claim := other.claim():
        other.finish(claim.trial, 1.0, [])
        # A process that is killed between Optuna's entries leaves a trial without values.
        other.study.ask()
        other = ledger(tmp_path / "killed")
    assert [t.values for t in other.trials()] == [t.values for t in whole.trials()]


def test_a_trial_that_somebody_works_on_is_left_to_him(tmp_path: Path) -> None:
    one, other = ledger(tmp_path, trials=1), ledger(tmp_path, trials=1)
    claim = one.claim()
    assert claim is not None
    assert other.claim() is None
    assert not other.is_over()
    claim.release()
    again = other.claim()
    assert again is not None
    assert again.trial.id == claim.trial.id
    other.prune(again.trial, [3.0, 2.0])
    assert other.is_over()
    assert [(t.state, t.value) for t in one.trials()] == [("pruned", 2.0)]


def test_a_run_without_its_worker_is_left_alone_until_it_ends(tmp_path: Path) -> None:
    from unrolled.run.directory import RunDirectory

    one = ledger(tmp_path, trials=1)
    claim = one.claim()
    assert claim is not None
    claim.release()
    run = RunDirectory(tmp_path / claim.trial.id)
    run.path.mkdir()
    with run.locked():
        assert one.claim() is None
    assert one.claim() is not None


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_a_finite_space_is_tried_whole_and_no_point_twice(method: str, tmp_path: Path) -> None:
    space = sweep(method, {"size": {"min": 1, "max": 4}, "model": {"values": ["a", "b", "c"]}})
    book = ledger(tmp_path, space, trials=99)
    while claim := book.claim():
        book.finish(claim.trial, score(claim.trial.values), [])
        claim.release()
    points = {(t.values["size"], t.values["model"]) for t in book.trials()}
    assert points == {(size, model) for size in range(1, 5) for model in "abc"}
    assert len(book.trials()) == 12
    assert book.is_over()
    # Another process knows it, too.
    assert ledger(tmp_path, space, trials=99).claim() is None


def test_two_points_of_one_config_are_one_trial(tmp_path: Path) -> None:
    space = sweep("grid", {"size": {"values": [1, 1.5, 2]}})
    book = Ledger(tmp_path, space, lambda values: f"size-{int(values['size'])}", 9)
    while claim := book.claim():
        book.finish(claim.trial, 1.0, [])
    assert [t.id for t in book.trials()] == ["size-1", "size-2"]


def test_bayes_learns_and_is_the_same_again(tmp_path: Path) -> None:
    def values(name: str) -> list[Values]:
        book = ledger(tmp_path / name, sweep("bayes"), trials=STARTUP + 30, seed=3)
        while claim := book.claim():
            book.finish(claim.trial, score(claim.trial.values), [])
        return [trial.values for trial in book.trials()]

    found = values("one")
    # At random a sixth of the points has the smallest size, 3 or 4 of 20.
    assert sum(v["size"] == 16 for v in found[-20:]) >= 9
    assert values("two") == found


def test_a_stopped_trial_has_no_value_on_the_part_that_is_only_judged_at_the_end(
    tmp_path: Path,
) -> None:
    space = sweep("bayes", {"size": {"min": 0.0, "max": 1.0}}, name="hpo_val/loss")
    book = ledger(tmp_path, space, trials=STARTUP + 30, seed=1)
    while claim := book.claim():
        size = claim.trial.values["size"]
        if size > 0.5:
            # On the other scale they look better than all that are finished.
            book.prune(claim.trial, [-100.0, -200.0])
        else:
            book.finish(claim.trial, abs(size - 0.2), [5.0, 4.0])
    trials = book.trials()
    stopped = [trial for trial in trials if trial.state == "pruned"]
    assert {(t.value, t.watched) for t in stopped} == {(None, -200.0)}
    assert {t.watched for t in trials if t.state == "finished"} == {4.0}
    best = book.study.best_trial
    assert (
        best.number == min((t for t in trials if t.value is not None), key=lambda t: t.value).number
    )
    # The sampler keeps away from them: at random half of the points would be there.
    assert sum(trial.values["size"] > 0.5 for trial in trials[-20:]) <= 5


def test_a_value_that_reaches_the_target_ends_the_search(tmp_path: Path) -> None:
    book = ledger(tmp_path, sweep(goal="maximize", target=0.9))
    for value in (0.5, 0.95):
        claim = book.claim()
        assert claim is not None
        book.finish(claim.trial, value, [])
    assert book.claim() is None
    assert book.is_over()


def test_a_point_that_can_not_be_composed_is_recorded_and_the_next_one_taken(
    tmp_path: Path,
) -> None:
    def half(values: Values) -> str:
        if values["model"] == "gru":
            raise UserError("model=gru: no such model")
        return identify(values)

    book = Ledger(tmp_path, sweep("grid", {"model": {"values": ["gru", "lstm"]}}), half, 9)
    claim = book.claim()
    assert claim is not None
    assert claim.trial.values == {"model": "lstm"}
    assert [(t.state, t.error) for t in book.trials()] == [
        ("failed", "model=gru: no such model"),
        ("running", None),
    ]


def test_half_a_line_of_the_journal_is_taken_back(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    claim = book.claim()
    assert claim is not None
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    # By one who goes on writing as by one who has just come.
    book.finish(claim.trial, 0.5, [])
    assert [(t.id, t.value) for t in book.trials()] == [(claim.trial.id, 0.5)]
    assert [(t.id, t.value) for t in ledger(tmp_path).trials()] == [(claim.trial.id, 0.5)]


def test_any_storage_of_optuna_will_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sweep.db"
    book = ledger(tmp_path, trials=2, storage=url)
    while claim := book.claim():
        book.finish(claim.trial, 1.0, [1.5, 1.0])
    assert [t.state for t in ledger(tmp_path, trials=2, storage=url).trials()] == ["finished"] * 2
    assert not (tmp_path / "journal.log").exists()
    with pytest.raises(UserError, match="has the trials of another space"):
        ledger(tmp_path, sweep("bayes"), storage=url)
    with pytest.raises(UserError, match=r"--storage nonsense://me:\*\*\*@x: "):
        open_storage(tmp_path, "nonsense://me:secret@x")


def test_who_works_on_the_same_sweep_has_to_share_its_folder(tmp_path: Path) -> None:
    # Two machines with one database, each with a folder of its own.
    url = f"sqlite:///{tmp_path}/sweep.db"
    here, elsewhere = tmp_path / "here" / "tiny", tmp_path / "elsewhere" / "tiny"
    one = ledger(here, storage=url)
    assert one.claim() is not None
    with pytest.raises(UserError, match=f"the trials of 'tiny' are in .*:{here}, which is not"):
        ledger(elsewhere, storage=url)
    # Another mount of the same folder is no other one.
    mount = tmp_path / "mount"
    mount.symlink_to(here.parent)
    assert len(ledger(mount / "tiny", storage=url).trials()) == 1


def test_a_sweep_whose_folder_was_renamed_has_its_trials(tmp_path: Path) -> None:
    before = ledger(tmp_path / "before")
    for _ in range(2):
        claim = before.claim()
        assert claim is not None
        before.finish(claim.trial, 1.0, [])
        claim.release()
    tried = [trial.values for trial in before.trials()]
    after = ledger((tmp_path / "before").rename(tmp_path / "after"))
    assert [trial.values for trial in after.trials()] == tried
    claim = after.claim()
    assert claim is not None
    assert claim.trial.values not in tried


def test_two_machines_that_begin_at_once_do_not_both_work(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sweep.db"
    one = ledger(tmp_path / "here" / "tiny", storage=url)
    one.study.set_user_attr("folder", {"id": "written later", "where": "host:/elsewhere"})
    with pytest.raises(WorkerError, match="are in host:/elsewhere"):
        one.claim()
    assert one.trials() == []


def test_the_end_of_a_trial_that_is_over_changes_nothing(tmp_path: Path) -> None:
    one = ledger(tmp_path, trials=1)
    claim = one.claim()
    assert claim is not None
    ledger(tmp_path, trials=1).finish(claim.trial, 0.5, [0.5])
    one.finish(claim.trial, 0.7, [0.9, 0.7])
    one.prune(claim.trial, [0.9, 0.7])
    one.fail(claim.trial, "out of memory")
    one.put_back(claim)
    assert [(t.state, t.value, t.error) for t in one.trials()] == [("finished", 0.5, None)]


def take_up(book: Ledger) -> Claim:
    claim = book.claim()
    assert claim is not None
    return claim


def test_a_trial_that_takes_its_workers_with_it_is_not_taken_up_for_ever(tmp_path: Path) -> None:
    book = ledger(tmp_path, trials=2)
    first = take_up(book)
    for _ in range(MOST_DEATHS - 1):
        # Killed: the kernel takes the lease back, the ledger is told nothing.
        first.release()
        first = take_up(book)
        assert first.trial.number == 0
    first.release()
    assert take_up(book).trial.number == 1
    failed = book.trials()[0]
    assert failed.state == "failed"
    assert str(failed.error).startswith(f"{MOST_DEATHS} processes in a row were killed")


def test_a_trial_that_is_put_back_or_comes_further_has_not_taken_its_worker(tmp_path: Path) -> None:
    book = ledger(tmp_path, trials=1)
    checkpoint = tmp_path / take_up(book).trial.id / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    book = ledger(tmp_path, trials=1)
    for number in range(3 * MOST_DEATHS):
        claim = take_up(book)
        if number < MOST_DEATHS:
            book.put_back(claim)
            continue
        checkpoint.write_text("")
        os.utime(checkpoint, (number, number))
        claim.release()
    assert [t.state for t in book.trials()] == ["running"]


def test_failed_trials_run_again_with_their_values_and_from_their_start(tmp_path: Path) -> None:
    def work(book: Ledger, fails: bool) -> None:
        while claim := book.claim():
            (tmp_path / claim.trial.id).mkdir()
            if fails and claim.trial.number % 2:
                book.fail(claim.trial, "no space left")
            else:
                book.finish(claim.trial, 1.0, [])
            claim.release()

    book = ledger(tmp_path, sweep("bayes"), trials=4)
    work(book, fails=True)
    before = book.trials()
    assert [t.state for t in before] == ["finished", "failed"] * 2
    assert [t.id for t in book.retry_failed()] == [before[1].id, before[3].id]
    # What they left is kept, apart.
    assert not (tmp_path / before[1].id).exists()
    assert (tmp_path / "failed" / f"{before[1].id}-1").is_dir()
    assert not book.is_over()
    work(book, fails=False)
    after = book.trials()
    assert [t.state for t in after] == ["finished"] * 4
    assert {t.id: t.values for t in after} == {t.id: t.values for t in before}
    assert book.retry_failed() == []
    # The points that follow are those that would have followed without a failure.
    whole = ledger(tmp_path / "whole", sweep("bayes"), trials=6)
    while claim := whole.claim():
        whole.finish(claim.trial, 1.0, [])
    more = ledger(tmp_path, sweep("bayes"), trials=6)
    work(more, fails=False)
    assert {t.id for t in more.trials()} == {t.id for t in whole.trials()}


def test_a_point_that_can_be_composed_now_has_the_id_of_its_config(tmp_path: Path) -> None:
    space = sweep("grid", {"size": {"values": [1, 1.5, 2]}})
    possible = False

    def size(values: Values) -> str:
        if not possible:
            raise UserError("no such size")
        return f"size-{int(values['size'])}"

    book = Ledger(tmp_path, space, size, 9)
    assert book.claim() is None
    assert [t.state for t in book.trials()] == ["failed"] * 3
    possible = True
    assert len(book.retry_failed()) == 3
    # 1 and 1.5 are one config.
    assert [(t.id, t.state) for t in book.trials()] == [
        ("size-1", "running"),
        ("size-2", "running"),
    ]
    while claim := book.claim():
        book.finish(claim.trial, 1.0, [])
    assert book.is_over()
    assert len(book.trials()) == 2


def test_a_worker_that_could_compose_no_trial_leaves_the_ledger_as_it_is(tmp_path: Path) -> None:
    def nowhere(values: Values) -> str:
        raise WorkerError("--config-dir nope: no such folder")

    with pytest.raises(WorkerError, match="nope"):
        Ledger(tmp_path, sweep(), nowhere, 2).claim()
    book = ledger(tmp_path, trials=2)
    assert book.trials() == []
    whole = ledger(tmp_path / "whole", trials=1)
    assert take_up(book).trial.values == take_up(whole).trial.values


def test_the_time_of_a_trial_is_that_in_which_somebody_worked_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "time", lambda: clock)
    book = ledger(tmp_path, trials=1)
    claim = take_up(book)
    clock += 30
    book.put_back(claim)
    # A night.
    clock += 36_000
    claim = take_up(book)
    assert claim.trial.seconds == 30
    log = tmp_path / claim.trial.id / "train.log"
    log.parent.mkdir()
    log.write_text("")
    os.utime(log, (clock + 12, clock + 12))
    assert [(t.state, t.seconds) for t in book.looked_at()] == [("running", 30)]
    # Killed after its last sign of life; another night.
    claim.release()
    clock += 36_000
    assert [(t.state, t.seconds) for t in book.looked_at()] == [("waiting", 42)]
    claim = take_up(book)
    clock += 5
    assert [t.seconds for t in book.trials()] == [47]
