"""Each cell is what its paper's equations say, in float64; sizes, starts, dropout, statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equations
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unrolled.models.cells.elman import Elman
from unrolled.models.cells.mufuru import MuFuRu
from unrolled.models.cells.norm_lstm import BatchNormLSTMCell, NormLSTM
from unrolled.models.cells.peephole_lstm import PeepholeLSTM
from unrolled.models.cells.reset_before_gru import ResetBeforeGRU
from unrolled.models.recurrent import LSTM, RNN
from unrolled.models.unroll import Unroll

ALL = ("keep", "replace", "mul", "diff", "forget", "sqrt_diff", "max", "min")
KINDS: dict[str, tuple[Callable[..., Unroll], dict[str, Any], Any]] = {
    "elman sigmoid": (Elman, {}, equations.elman),
    "elman tanh": (Elman, {"transfer": "tanh"}, equations.elman),
    "elman relu": (Elman, {"transfer": "relu"}, equations.elman),
    "elman zero": (Elman, {"transfer": "tanh", "start": "zero"}, equations.elman),
    "peepholes diagonal": (PeepholeLSTM, {"peepholes": "diagonal"}, equations.peephole_lstm),
    "peepholes full": (PeepholeLSTM, {"peepholes": "full"}, equations.peephole_lstm),
    "peepholes none": (PeepholeLSTM, {"peepholes": "none"}, equations.peephole_lstm),
    "gru": (ResetBeforeGRU, {}, equations.reset_before_gru),
    "mufuru": (MuFuRu, {"operations": ALL}, equations.mufuru),
    "mufuru of three": (MuFuRu, {"operations": ("min", "keep", "diff")}, equations.mufuru),
    "mufuru of one": (MuFuRu, {"operations": ("replace",)}, equations.mufuru),
    "layer norm": (NormLSTM, {"norm": "layer"}, equations.layer_norm_lstm),
}
EXACT = {"rtol": 0.0, "atol": 1e-10}


def random_weights(module: nn.Module) -> None:
    """Every weight, gains and start states too, somewhere it makes a difference."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))


def weights(module: nn.Module) -> equations.Weights:
    return {n: p.detach().numpy() for n, p in module.named_parameters()}


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_equals_its_published_equations(kind: str) -> None:
    torch.manual_seed(1)
    make, options, formula = KINDS[kind]
    encoder = make(3, 4, **options).double()
    random_weights(encoder)
    lengths = torch.tensor([7, 1, 4, 7, 2])
    x = torch.randn(5, 8, 3, dtype=torch.float64)
    outputs, _ = encoder(x, lengths)
    for k, length in enumerate(lengths.tolist()):
        expected = formula(weights(encoder.cells[0]), x[k, :length].numpy(), options)
        expected = torch.from_numpy(np.stack(expected))
        torch.testing.assert_close(outputs[k, :length], expected, **EXACT)


@pytest.mark.parametrize("kind", [*KINDS, "batch norm", "elman learned twice"])
def test_the_gradients_of_a_cell_are_those_of_its_outputs(kind: str) -> None:
    torch.manual_seed(2)
    if kind == "batch norm":
        # The variances are of few rows: with the paper's small gain the slopes stay checkable.
        encoder: Unroll = NormLSTM(2, 3, norm="batch", gain=0.5).double()
    elif kind == "elman learned twice":
        encoder = Elman(2, 3, num_layers=2, bidirectional=True).double()
    else:
        make, options, _ = KINDS[kind]
        encoder = make(2, 3, **options).double()
    parameters = [*encoder.parameters()]
    lengths = torch.tensor([3, 2, 3])
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    like = [s.detach().requires_grad_() for s in float_leaves(encoder.start(3, x))]
    like = [torch.randn_like(s).requires_grad_() for s in like]

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        state = with_leaves(encoder.start(3, x), list(rest[: len(like)]))
        outputs, final = encoder(x, lengths, state)
        return torch.cat([outputs.flatten(), *(s.flatten() for s in float_leaves(final))])

    assert torch.autograd.gradcheck(run, (x, *like, *parameters), fast_mode=True)


def float_leaves(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state] if state.is_floating_point() else []
    return [leaf for part in state for leaf in float_leaves(part)]


def with_leaves(state: Any, leaves: list[Tensor]) -> Any:
    """The same state with other values."""
    if isinstance(state, Tensor):
        return leaves.pop(0) if state.is_floating_point() else state
    return tuple(with_leaves(part, leaves) for part in state)


def test_the_lstm_without_peepholes_is_torchs() -> None:
    torch.manual_seed(3)
    ours = PeepholeLSTM(3, 4, num_layers=2, bidirectional=True, peepholes="none").double()
    torchs = LSTM(3, 4, num_layers=2, bidirectional=True).double()
    copy_to_torch(ours, torchs.layer)
    x, lengths = torch.randn(4, 6, 3, dtype=torch.float64), torch.tensor([6, 2, 5, 1])
    one, (h, c) = ours(x, lengths)
    other, (h_torch, c_torch) = torchs(x, lengths)
    for a, b in ((one, other), (h, h_torch), (c, c_torch)):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("transfer", ["tanh", "relu"])
def test_the_elman_network_with_a_zero_start_is_torchs(transfer: Any) -> None:
    torch.manual_seed(3)
    ours = Elman(3, 4, 2, bidirectional=True, transfer=transfer, start="zero").double()
    torchs = RNN(3, 4, 2, bidirectional=True, nonlinearity=transfer).double()
    copy_to_torch(ours, torchs.layer)
    x, lengths = torch.randn(4, 6, 3, dtype=torch.float64), torch.tensor([6, 2, 5, 1])
    for a, b in zip(ours(x, lengths), torchs(x, lengths), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def copy_to_torch(ours: Unroll, layer: nn.RNNBase) -> None:
    names = [f"_l{k}{d}" for k in range(2) for d in ("", "_reverse")]
    with torch.no_grad():
        for cell, name in zip(ours.cells, names, strict=True):
            w = dict(cell.named_parameters())
            hidden = "hidden" if "hidden.weight" in w else "feedback"
            getattr(layer, f"weight_ih{name}").copy_(w["input.weight"])
            getattr(layer, f"weight_hh{name}").copy_(w[f"{hidden}.weight"])
            getattr(layer, f"bias_ih{name}").copy_(w["input.bias"])
            getattr(layer, f"bias_hh{name}").zero_()


def test_parameters_are_as_many_as_in_the_tutorials() -> None:
    assert count(PeepholeLSTM(256, 256)) == 526_080
    seed_0 = nn.Linear(10, 256), PeepholeLSTM(256, 256, num_layers=2), nn.Linear(256, 3)
    assert count(*seed_0) == 1_055_747
    assert count(Elman(1, 26, transfer="tanh", start="zero"), nn.Linear(26, 1)) == 755
    assert count(PeepholeLSTM(1, 16, peepholes="full"), nn.Linear(16, 1)) == 2_049


def test_weights_start_as_asked_for() -> None:
    torch.manual_seed(4)
    cell = PeepholeLSTM(9, 100, peepholes="full", init_range=0.02).cells[0]
    for name, parameter in cell.named_parameters():
        assert 0.019 < float(parameter.detach().abs().max()) <= 0.02, name
    cell = PeepholeLSTM(9, 100, forget_bias=2.0).cells[0]
    bounds = {"input.weight": 1 / 3, "hidden.weight": 0.1, "peephole": 0.1}
    for name, bound in bounds.items():
        largest = float(dict(cell.named_parameters())[name].detach().abs().max())
        assert 0.95 * bound < largest <= bound, name
    assert torch.equal(cell.input.bias[100:200], torch.full((100,), 2.0))
    assert float(cell.input.bias[:100].detach().abs().max()) <= 1 / 3
    full = PeepholeLSTM(9, 5, peepholes="full", forget_bias=2.0).cells[0]
    total = full.project(torch.zeros(1, 9))
    assert isinstance(total, Tensor)
    assert torch.equal(total[0, 5:10], torch.full((5,), 2.0))


def watch(cell: Any, inputs: list[Tensor], masks: list[Tensor]) -> None:
    """Keep what the cell projects, and the mask in its state at each step."""
    project, forward = cell.project, cell.forward

    def see_inputs(x: Tensor) -> Any:
        inputs.append(x)
        return project(x)

    def see_state(x: Tensor, state: Any) -> Any:
        masks.append(state[-1])
        return forward(x, state)

    cell.project, cell.forward = see_inputs, see_state


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_variational_dropout_holds_one_mask_a_sequence(kind: str) -> None:
    torch.manual_seed(5)
    make = PeepholeLSTM if kind == "lstm" else ResetBeforeGRU
    encoder = make(40, 50, variational_dropout=0.4).double()
    cell = encoder.cells[0]
    inputs: list[Tensor] = []
    hidden: list[Tensor] = []
    watch(cell, inputs, hidden)
    lengths = torch.tensor([6, 6, 4, 6])
    x = torch.ones(4, 6, 40, dtype=torch.float64)
    first, state = encoder(x, lengths)
    assert all(s.shape == (1, 4, 50) for s in float_leaves(state))
    # Rows in order of steps, the longest sequences first: 4 rows for 4 steps, then 3.
    steps = inputs[0].split([4, 4, 4, 4, 3, 3])
    for step, mask in zip(steps, hidden, strict=True):
        assert torch.equal(step, steps[0][: len(step)])
        assert torch.equal(mask, hidden[0][: len(mask)])
    for mask in (steps[0], hidden[0]):
        assert set(mask.unique().tolist()) == {0.0, 1 / 0.6}
        assert 0.3 < float((mask == 0).double().mean()) < 0.5
        assert len({tuple(row.tolist()) for row in mask}) == 4
    again, _ = encoder(x, lengths)
    assert not torch.equal(first, again)
    encoder.eval()
    assert torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])


def test_variational_dropout_is_that_of_the_gates_inputs() -> None:
    torch.manual_seed(6)
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    for make, names in (
        (PeepholeLSTM, ("hidden.weight",)),
        (ResetBeforeGRU, ("gates.weight", "value.weight")),
    ):
        encoder = make(3, 4, variational_dropout=0.5).double()
        plain = make(3, 4).double()
        plain.load_state_dict(encoder.state_dict())
        cell = encoder.cells[0]
        seen: list[Tensor] = []
        masks: list[Tensor] = []
        watch(cell, seen, masks)
        outputs, _ = encoder(x, torch.tensor([5]))
        # The same as zeroing (and scaling) columns of the matrices that read h.
        with torch.no_grad():
            for name in names:
                parameter = dict(plain.cells[0].named_parameters())[name]
                parameter.mul_(masks[0][0])
        expected, _ = plain(seen[0].unsqueeze(0), torch.tensor([5]))
        torch.testing.assert_close(outputs, expected, **EXACT)


def batch_norm(sizes: tuple[int, ...] = (3, 4), **options: Any) -> NormLSTM:
    encoder = NormLSTM(*sizes, norm="batch", **options).double()
    random_weights(encoder)
    return encoder


def test_batch_normalisation_equals_its_equations_over_unfinished_sequences() -> None:
    torch.manual_seed(7)
    encoder = batch_norm()
    cell = encoder.cells[0]
    assert isinstance(cell, BatchNormLSTMCell)
    lengths = [5, 2, 5, 3, 4]
    x = torch.randn(5, 9, 3, dtype=torch.float64)
    for k, length in enumerate(lengths):
        x[k, length:] = math.nan
    outputs, _ = encoder(x, torch.tensor(lengths))
    batch = [x[k, :length].numpy() for k, length in enumerate(lengths)]
    expected, statistics = equations.batch_norm_lstm(weights(cell), batch)
    for k, length in enumerate(lengths):
        values = torch.from_numpy(np.stack(expected[k]))
        torch.testing.assert_close(outputs[k, :length], values, rtol=0.0, atol=1e-10)
    for t, (mean, variance) in enumerate(statistics):
        expected_mean = 0.1 * torch.from_numpy(mean)
        expected_variance = 0.9 + 0.1 * torch.from_numpy(variance)
        torch.testing.assert_close(cell.running_mean[t], expected_mean, **EXACT)
        torch.testing.assert_close(cell.running_variance[t], expected_variance, **EXACT)
    # No sequence has a sixth step.
    assert torch.equal(cell.running_mean[5:], torch.zeros_like(cell.running_mean[5:]))
    assert torch.equal(cell.running_variance[5:], torch.ones_like(cell.running_variance[5:]))


def test_batch_normalisation_takes_the_running_statistics_of_the_step_in_evaluation() -> None:
    torch.manual_seed(8)
    encoder = batch_norm(max_steps=3)
    cell = encoder.cells[0]
    assert isinstance(cell, BatchNormLSTMCell)
    with torch.no_grad():
        cell.running_mean.normal_()
        cell.running_variance.uniform_(0.5, 2.0)
    encoder.eval()
    w = weights(cell)
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    outputs, _ = encoder(x, torch.tensor([5]))
    h, c = np.zeros(4), np.zeros(4)
    for t in range(5):
        slot = min(t, 2)
        mean = np.split(cell.running_mean[slot].numpy(), [16, 32])
        deviation = np.split(np.sqrt(cell.running_variance[slot].numpy() + 1e-5), [16, 32])
        a = (w["input.weight"] @ x[0, t].numpy() - mean[0]) / deviation[0]
        b = (w["hidden.weight"] @ h - mean[1]) / deviation[1]
        i, f, g, o = np.split(w["gain_input"] * a + w["gain_hidden"] * b + w["bias"], 4)
        c = equations.sigmoid(f) * c + equations.sigmoid(i) * np.tanh(g)
        normal = w["gain_cell"] * (c - mean[2]) / deviation[2] + w["shift_cell"]
        h = equations.sigmoid(o) * np.tanh(normal)
        torch.testing.assert_close(outputs[0, t], torch.from_numpy(h), **EXACT)


def test_a_single_sequence_leaves_the_running_statistics_alone() -> None:
    encoder = batch_norm()
    before = [b.clone() for b in encoder.buffers()]
    x = torch.randn(1, 4, 3, dtype=torch.float64)
    training, _ = encoder(x, torch.tensor([4]))
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.buffers(), strict=True))
    encoder.eval()
    assert torch.equal(training, encoder(x, torch.tensor([4]))[0])


def test_the_gains_start_at_the_papers_values() -> None:
    for norm, value in (("layer", 1.0), ("batch", 0.1)):
        cell = NormLSTM(3, 4, norm=norm).cells[0]  # type: ignore[arg-type]
        for name in ("gain_input", "gain_hidden", "gain_cell"):
            gain = dict(cell.named_parameters())[name]
            assert torch.equal(gain, torch.full_like(gain, value))


def test_equal_state_and_value_give_mufuru_a_finite_gradient() -> None:
    encoder = MuFuRu(2, 3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    # h = v = 0 at every step, where the slope of the square root is infinite.
    outputs, _ = encoder(torch.zeros(1, 3, 2), torch.tensor([3]))
    outputs.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in encoder.parameters())


def test_operations_of_mufuru_are_named_once() -> None:
    with pytest.raises(ValueError, match=r"^operations: name at least one, and none twice$"):
        MuFuRu(2, 3, operations=("keep", "keep"))


def test_gradients_of_mufurus_gradients_are_right() -> None:
    torch.manual_seed(9)
    encoder = MuFuRu(2, 2).double()
    x = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([2, 1])
    assert torch.autograd.gradgradcheck(lambda x: encoder(x, lengths)[0], (x,))
