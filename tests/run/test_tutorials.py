"""The tutorials as experiments: their sizes, optimisers and schedules."""

from __future__ import annotations

import pytest

from unrolled.run.compose import compose
from unrolled.run.experiment import Experiment
from unrolled.run.overrides import read_command_line


@pytest.mark.parametrize(
    ("name", "parameters", "batches", "sgd"),
    [
        ("seed0_memorize", 1_055_747, 20, 0.05),
        ("seed1_rnn", 755, 7_000, 0.02),
        ("seed1_lstm", 2_049, 4_375, 0.2),
        ("seed1_lstm_variable", 2_049, 8_750, 0.1),
        ("seed2_cosine", 722_101, 25, 0.0001),
        ("seed2_simple", 250, 20, 0.1),
        ("seed3_bitcount", 3_021, 10, None),
    ],
)
def test_the_model_has_the_tutorials_parameters_and_updates(
    name: str, parameters: int, batches: int, sgd: float | None
) -> None:
    config = compose(read_command_line([f"experiment={name}"])).config
    experiment = Experiment(**config)
    data = experiment.build_data()
    task = experiment.build_task(data)
    assert sum(p.numel() for p in task.parameters() if p.requires_grad) == parameters
    assert len(data.train_dataloader()) == batches
    optimizer = config["optimizer"]
    kind = "torch.optim.Adam" if sgd is None else "torch.optim.SGD"
    assert (optimizer["_target_"], optimizer["lr"]) == (kind, sgd or 0.001)
    assert config["scheduler"] in (None, {})
    assert config["trainer"]["gradient_clip_val"] is None
