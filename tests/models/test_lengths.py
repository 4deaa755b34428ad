"""One contract for the lengths of a batch, kept by every encoder."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from parts import ENCODERS, INPUT, make_encoder
from torch import Tensor

from unrolled.errors import UserError
from unrolled.models.lengths import check_lengths, check_packed_lengths

RANGE = "lengths must lie in 1 .. 4, the steps of the batch; "
SHAPE = (
    "lengths must be int64 on the CPU, one for each of the 3 sequences (at least one); these are "
)
WRONG: dict[str, tuple[Tensor, str]] = {
    "zero": (torch.tensor([4, 0, 0]), RANGE + "2 of 3 do not, first 0 in row 1"),
    "negative": (torch.tensor([4, 2, -1]), RANGE + "1 of 3 do not, first -1 in row 2"),
    "too long": (torch.tensor([5, 4, 4]), RANGE + "1 of 3 do not, first 5 in row 0"),
    "too few": (torch.tensor([4, 4]), SHAPE + "[2] int64 on cpu"),
    "too many": (torch.tensor([4, 4, 4, 4]), SHAPE + "[4] int64 on cpu"),
    "of two dimensions": (torch.tensor([[4], [4], [4]]), SHAPE + "[3, 1] int64 on cpu"),
    "of another type": (torch.tensor([4, 4, 4], dtype=torch.int32), SHAPE + "[3] int32 on cpu"),
    "real numbers": (torch.tensor([4.0, 4.0, 4.0]), SHAPE + "[3] float32 on cpu"),
    "elsewhere": (torch.tensor([4, 4, 4], device="meta"), SHAPE + "[3] int64 on meta"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_refuses_lengths_outside_the_contract(name: str) -> None:
    encoder = make_encoder(name)
    for lengths, message in WRONG.values():
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            encoder(torch.randn(3, 4, INPUT), lengths)
    with pytest.raises(ValueError, match=r"^lengths must be int64 .* each of the 0 sequences"):
        encoder(torch.randn(0, 4, INPUT), torch.tensor([], dtype=torch.int64))
    outputs, _ = encoder(torch.randn(3, 4, INPUT), torch.tensor([4, 4, 4]))
    assert outputs.shape == (3, 4, encoder.output_size)


@pytest.mark.parametrize("name", [n for n in ENCODERS if hasattr(make_encoder(n), "packed")])
def test_every_encoder_of_packed_steps_refuses_lengths_that_do_not_fit_them(name: str) -> None:
    encoder: Any = make_encoder(name)
    x = torch.randn(6, INPUT)
    for lengths, total in ((torch.tensor([3, 2]), 5), (torch.tensor([2, 4]), 6)):
        with pytest.raises(ValueError, match=f"must fall and add up to their 6 steps.*to {total}$"):
            encoder.packed(x, lengths)
    with pytest.raises(ValueError, match=r"1 of 3 do not, first 0 in row 2$"):
        encoder.packed(x, torch.tensor([4, 2, 0]))
    assert encoder.packed(x, torch.tensor([4, 2]))[0].shape == (6, encoder.output_size)


def test_good_lengths_give_their_bounds() -> None:
    assert check_lengths(torch.tensor([3, 1, 2]), 3, 5) == (1, 3)
    assert check_packed_lengths(torch.tensor([3, 3, 1]), 7) == 3


def test_an_error_of_lengths_is_no_mistake_of_the_config() -> None:
    with pytest.raises(ValueError, match=r"^lengths must lie in 1 \.\. 1") as error:
        check_lengths(torch.tensor([0]), 1, 1)
    assert not isinstance(error.value, UserError)
