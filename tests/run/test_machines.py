"""Which machine this is, where the machines meet, and that they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from unrolled.errors import UserError
from unrolled.run.directory import RunDirectory
from unrolled.run.join import join, require_same
from unrolled.run.launch import environment
from unrolled.run.machines import Machine, first_host, this_machine

TWO = {"num_nodes": 2}
BY_HAND = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "NODE_RANK": "1"}
SLURM = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "2", "SLURM_NNODES": "2", "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_LOCALID": "0", "SLURMD_NODENAME": "gpu08",
}  # fmt: skip


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node7", "node7"),
        ("node[003-005,9],x1", "node003"),
        ("a,b[1-2]", "a"),
        ("rack[1-2]n[03,05]-ib,z", "rack1n03-ib"),
        ("node-[12]", "node-12"),
        ("", ""),
    ],
)
def test_the_first_of_slurms_hosts(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_one_machine_needs_no_environment() -> None:
    machine = this_machine({}, {})
    assert (machine.first, machine.count, machine.endpoint) == (True, 1, "localhost:0")
    assert machine.meeting != this_machine({"num_nodes": 1}, {}).meeting


@pytest.mark.parametrize("devices", [2, "2", [0, 1]])
def test_a_run_of_several_processes_is_one_task_of_srun(devices: object) -> None:
    with pytest.raises(UserError, match="srun started 2 tasks; --ntasks=1 is right"):
        this_machine({"devices": devices}, {"SLURM_STEP_NUM_TASKS": "2"})
    assert this_machine({"devices": devices}, {"SLURM_STEP_NUM_TASKS": "1"}).count == 1
    # In a job script, where tasks are only reserved.
    assert this_machine({"devices": devices}, {"SLURM_NTASKS": "2"}).count == 1


@pytest.mark.parametrize("devices", [1, [1], "auto", -1])
def test_several_tasks_may_be_runs_of_their_own(devices: object) -> None:
    assert this_machine({"devices": devices}, {"SLURM_STEP_NUM_TASKS": "2"}).first


def test_by_hand() -> None:
    assert this_machine(TWO, BY_HAND) == Machine(1, 2, "node1:29500", "node1:29500")
    loopback = this_machine(TWO, {**BY_HAND, "MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0"})
    assert loopback.first
    assert loopback.address == "127.0.0.1"


def test_under_slurm_the_port_is_the_steps_own_and_the_same_on_each_machine() -> None:
    second = this_machine(TWO, SLURM)
    port = 10000 + (31 * 123456 + 2) % 20000
    assert second == Machine(1, 2, f"gpu07:{port}", "slurm-123456-2", "gpu08")
    first = this_machine(TWO, {**SLURM, "SLURM_NODEID": "0", "SLURMD_NODENAME": "gpu07"})
    assert first.first
    assert (first.endpoint, first.meeting) == (second.endpoint, second.meeting)
    other = this_machine(TWO, {**SLURM, "SLURM_STEP_ID": "3"})
    assert other.endpoint != first.endpoint
    by_hand = this_machine(TWO, {**SLURM, "MASTER_ADDR": "gpu07-ib", "MASTER_PORT": "7"})
    assert (by_hand.endpoint, by_hand.number) == ("gpu07-ib:7", 1)


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({}, "set MASTER_ADDR and MASTER_PORT and NODE_RANK on each of them"),
        ({**BY_HAND, "NODE_RANK": "2"}, "NODE_RANK=2: trainer.num_nodes=2 machines have the numb"),
        ({**BY_HAND, "MASTER_PORT": "http"}, "MASTER_PORT=http: not a whole number"),
        ({**SLURM, "SLURM_NNODES": "3"}, "trainer.num_nodes=2: srun started this on 3 machines"),
        ({**SLURM, "SLURM_LOCALID": "1"}, "--ntasks-per-node=1 is right"),
    ],
)
def test_what_the_environment_does_not_say_is_asked_for(env: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        this_machine(TWO, env)


def test_lightning_takes_torchruns_word_inside_slurm_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SLURM, "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "sequences"}.items():
        monkeypatch.setenv(name, value)
    assert SLURMEnvironment.detect()
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, strategy="ddp")
    strategy: Any = trainer.strategy
    assert isinstance(strategy.cluster_environment, TorchElasticEnvironment)


def test_lightning_does_not_see_the_tasks_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    # "You set `--ntasks=2` in your SLURM bash script, but this variable is not supported".
    for name, value in {**SLURM, "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    variables = environment({})
    for name in ("SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name)
        assert name not in variables
    assert not SLURMEnvironment.detect()
    assert this_machine(TWO, variables).number == 1


def test_machines_that_composed_another_config_say_what_differs() -> None:
    there = {"seed": 0, "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "run_dir": "/a"}
    require_same(there, {**there, "run_dir": "/mounted/a"})
    with pytest.raises(UserError, match="this machine composed another config") as error:
        require_same(there, {"seed": 1, "optimizer": {"lr": 0.1}, "run_dir": "/a"})
    assert str(error.value).splitlines()[1:] == [
        "seed: 1 here, 0 there",
        "optimizer.betas: missing here, [0.9, 0.99] there",
    ]


def test_an_old_run_is_not_joined(tmp_path: Path) -> None:
    run = RunDirectory.create({"seed": 0}, tmp_path / "run", "train.py")
    run.set_status(state="finished")
    with pytest.raises(UserError, match="exists already; name another folder"):
        join({"seed": 0}, run.path)
