"""Signatures read from source equal the signatures of the imported classes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hydra.utils import get_object
from pydantic import TypeAdapter, ValidationError

from unrolled.errors import UserError
from unrolled.run.signatures import REQUIRED, _visit, read_signature

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


def _own_module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    "annotation",
    [
        "touch()",
        "[touch() for _ in (1,)]",
        "dict[touch(), int]",
        "Literal[touch()]",
        "Annotated[int, touch()]",
        "Annotated[int, Field(gt=touch())]",
        "int | touch()",
        "(lambda: touch())()",
        "touch().x",
    ],
)
def test_an_annotation_that_would_run_code_says_nothing_about_a_value(
    annotation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from typing import Annotated, Literal\nfrom pydantic import Field\n"
        f"def touch(): open({str(tmp_path / 'TOUCHED')!r}, 'w')\n"
        f"class Mine:\n    def __init__(self, x: {annotation} = touch()) -> None: ...\n"
    )
    _own_module(tmp_path, monkeypatch, "mine_that_runs", source)
    _visit.cache_clear()
    read = read_signature("mine_that_runs.Mine").parameters["x"]
    assert read.annotation is Any
    assert read.default is ...
    assert not (tmp_path / "TOUCHED").exists()


def test_types_are_read_as_python_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from collections.abc import Mapping, Sequence\nfrom pathlib import Path\n"
        "from typing import Annotated, Any, Literal, Optional\n"
        "from pydantic import Field, PositiveInt\n"
        "Share = Annotated[float, Field(ge=0, lt=1)]\n"
        "class Mine:\n    def __init__(self, a: int | None, b: Optional[Sequence[str]],\n"
        "        c: Literal['x', -1, None], d: Mapping[str, dict[str, Any]], e: PositiveInt,\n"
        "        f: Share, g: 'list[Path] | bool', h: tuple[int, ...]) -> None: ...\n"
    )
    _own_module(tmp_path, monkeypatch, "mine_with_types", source)
    read = read_signature("mine_with_types.Mine").parameters
    real = get_type_hints(get_object("mine_with_types.Mine").__init__, include_extras=True)
    assert [read[n].annotation for n in "abcdegh"] == [real[n] for n in "abcdegh"]
    share = TypeAdapter(read["f"].annotation)
    assert share.validate_python(0.5) == 0.5
    with pytest.raises(ValidationError, match="less than 1"):
        share.validate_python(1.0)


def test_options_of_a_subclass_are_those_of_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import torch\nfrom unrolled.models.recurrent import LSTM\n"
        "class Mine(LSTM):\n"
        "    def __init__(self, input_size: int, gain: float = 1.0, **options: object): ...\n"
        "class Next(Mine):\n    def __init__(self, **options: object): ...\n"
        "class Torch(torch.nn.LSTM):\n    def __init__(self, **options: object): ...\n"
    )
    _own_module(tmp_path, monkeypatch, "mine_with_options", source)
    lstm = read_signature("unrolled.models.recurrent.LSTM").parameters
    mine = read_signature("mine_with_options.Mine")
    assert set(mine.parameters) == {*lstm, "gain"}
    assert not mine.accepts_any
    assert mine.parameters["hidden_size"].annotation == lstm["hidden_size"].annotation
    # The class may give it itself: what the base does without it is the base's.
    assert mine.parameters["hidden_size"].default is ...
    following = read_signature("mine_with_options.Next")
    assert set(following.parameters) == set(mine.parameters)
    assert not following.accepts_any
    assert read_signature("mine_with_options.Torch").accepts_any
