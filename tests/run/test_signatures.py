"""Signatures read from source equal the signatures of the imported classes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_object

from unrolled.errors import UserError
from unrolled.run.signatures import REQUIRED, read_signature

TARGETS = [
    "lightning.Trainer",
    "torch.optim.Adam",
    "torch.optim.SGD",
    "torch.optim.lr_scheduler.OneCycleLR",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "unrolled.models.recurrent.LSTM",
    "unrolled.models.head.ClassificationHead",
    "unrolled.data.log.EventLog",
    "unrolled.synthetic.shop.ShopLog",
    "unrolled.synthetic.bitcount.BitcountData",
    "unrolled.tasks.bitcount.Bitcount",
    "unrolled.run.experiment.Experiment",
    "unrolled.run.wandb_logger.wandb_logger",
]


@pytest.mark.parametrize("target", TARGETS)
def test_names_and_defaults_are_those_of_the_imported_object(target: str) -> None:
    read = read_signature(target)
    real = inspect.signature(get_object(target)).parameters
    plain = {n: p for n, p in real.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    assert list(read.parameters) == list(plain)
    assert read.accepts_any == any(p.kind is p.VAR_KEYWORD for p in real.values())
    for name, parameter in plain.items():
        default = read.parameters[name].default
        if parameter.default is inspect.Parameter.empty:
            assert default is REQUIRED
        elif default is not ...:
            assert default == parameter.default


def test_reading_imports_neither_torch_nor_the_class() -> None:
    code = (
        "import sys; from unrolled.run.signatures import read_signature\n"
        f"for t in {TARGETS!r}: read_signature(t)\n"
        "print(sorted(m for m in ('torch', 'lightning', 'unrolled.models.recurrent') "
        "if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_class_without_an_init_has_that_of_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_for_signatures.py").write_text(
        "from unrolled.models.recurrent import LSTM\nclass Mine(LSTM):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    read = read_signature("mine_for_signatures.Mine")
    assert "hidden_size" in read.parameters


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("unrolled.models.recurrent.LSTN", "has no 'LSTN'; did you mean 'LSTM'?"),
        ("unrolled.model.recurrent.LSTM", "unrolled has no 'model'"),
        ("nowhere.at.All", "there is no module 'nowhere.at'"),
    ],
)
def test_what_does_not_exist_is_named(target: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_signature(target)
    assert message in str(error.value)
