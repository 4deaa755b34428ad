"""Recurrent attention: patches by hand, unbiased gradients, and what it must learn to look at."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from unrolled.models.head import BinaryHead
from unrolled.models.readout import Attention, Last, Max, Mean
from unrolled.models.recurrent_attention import RecurrentAttention, take_glimpse

IMAGE = torch.arange(1.0, 17.0).view(1, 4, 4)


def tiny(**arguments: float) -> RecurrentAttention:
    return RecurrentAttention(4, 5, glimpse_size=2, patch_size=4, place_size=3, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ((0.0, 0.0), [[6.0, 7.0], [10.0, 11.0]]),
        # A pixel is half a unit: one up and one right.
        ((-0.5, 0.5), [[3.0, 4.0], [7.0, 8.0]]),
        # Half a pixel down and right: the means of four neighbours.
        ((0.25, 0.25), [[8.5, 9.5], [12.5, 13.5]]),
        # At the corner three quarters of the patch lie outside.
        ((-1.0, -1.0), [[0.0, 0.0], [0.0, 1.0]]),
        ((1.0, -1.0), [[0.0, 13.0], [0.0, 0.0]]),
    ],
)
def test_a_glimpse_shows_the_pixels_around_its_location(
    location: tuple[float, float], expected: list[list[float]]
) -> None:
    patch = take_glimpse(IMAGE, torch.tensor([location]), 2, 1, 2)
    torch.testing.assert_close(patch, torch.tensor([[expected]]))


def test_a_coarser_scale_averages_a_wider_square() -> None:
    patches = take_glimpse(IMAGE, torch.zeros(1, 2), 2, 3, 2)
    assert patches[0, 0].tolist() == [[6.0, 7.0], [10.0, 11.0]]
    assert patches[0, 1].tolist() == [[3.5, 5.5], [11.5, 13.5]]
    # Eight pixels a side, of which the image fills the middle four.
    assert patches[0, 2].tolist() == [[14 / 16, 22 / 16], [46 / 16, 54 / 16]]


def test_an_image_that_is_not_square_keeps_its_pixels() -> None:
    image = torch.arange(12.0).view(1, 2, 6)
    patch = take_glimpse(image, torch.tensor([[0.0, 2 / 3]]), 2, 1, 2)
    torch.testing.assert_close(patch, torch.tensor([[[[4.0, 5.0], [10.0, 11.0]]]]))


def test_each_image_of_a_batch_is_looked_at_in_its_own_place() -> None:
    images = torch.cat([IMAGE, 100 * IMAGE])
    patches = take_glimpse(images, torch.tensor([[0.0, 0.0], [-0.5, 0.5]]), 2, 1, 2)
    torch.testing.assert_close(patches[0, 0], torch.tensor([[6.0, 7.0], [10.0, 11.0]]))
    torch.testing.assert_close(patches[1, 0], torch.tensor([[300.0, 400.0], [700.0, 800.0]]))


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    # The reward is linear in the one location that is drawn, a . l, so that its expectation is
    # a . mean, and its gradient known for every parameter that leads to the mean.
    torch.manual_seed(0)
    draws, direction = 20000, torch.tensor([0.7, -0.3], dtype=torch.float64)
    encoder = tiny(num_glimpses=2, location_std=0.1).double()
    # A baseline changes the variance and not the expectation.
    encoder.baseline.bias.data.fill_(0.05)
    images = torch.randn(1, 4, 4, dtype=torch.float64)
    names = ["where.weight", "where.bias", "core.bias_ih", "join.weight", "read_patch.weight"]
    parameters = [dict(encoder.named_parameters())[name] for name in names]

    means = []
    hook = encoder.where.register_forward_hook(lambda *call: means.append(call[2].tanh()))
    encoder(images, torch.tensor([4]))
    hook.remove()
    expected = torch.autograd.grad(-(means[0] @ direction).sum(), parameters)

    # In 40 parts, whose spread tells how far the mean of all may be off.
    parts: list[list[Tensor]] = []
    for _ in range(40):
        encoder(images.expand(draws // 40, -1, -1), torch.full((draws // 40,), 4))
        assert encoder.locations is not None
        reward = encoder.locations[:, 1] @ direction
        loss = encoder.reinforce_loss(reward).mean()
        parts.append(list(torch.autograd.grad(loss, parameters)))
    for name, exact, found in zip(names, expected, zip(*parts, strict=True), strict=True):
        stacked = torch.stack(found)
        error = (stacked.mean(0) - exact).norm() / exact.norm()
        spread = stacked.std(0).norm() / math.sqrt(40) / exact.norm()
        assert float(error) < 3 * float(spread) + 1e-12, name
        assert float(error) < 0.05, name


def test_the_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    encoder = tiny(num_glimpses=3, location_std=0.2).double()
    encoder.baseline.bias.data.fill_(0.25)
    means: list[Tensor] = []
    encoder.where.register_forward_hook(lambda *call: means.append(call[2].tanh().detach()))
    encoder(torch.randn(4, 4, 4, dtype=torch.float64), torch.full((4,), 4))
    assert encoder.locations is not None
    reward = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    found = encoder.reinforce_loss(reward)
    for i in range(4):
        value = (float(reward[i]) - 0.25) ** 2
        for glimpse in (1, 2):
            for axis in (0, 1):
                far = float(encoder.locations[i, glimpse, axis] - means[glimpse - 1][i, axis])
                density = math.exp(-0.5 * (far / 0.2) ** 2) / (0.2 * math.sqrt(2 * math.pi))
                value -= math.log(density) * (float(reward[i]) - 0.25)
        assert float(found[i].detach()) == pytest.approx(value, rel=1e-9)


def test_only_the_reward_teaches_the_baseline_and_it_teaches_nothing_else() -> None:
    torch.manual_seed(0)
    encoder = tiny(num_glimpses=3)
    outputs, _ = encoder(torch.randn(6, 4, 4), torch.full((6,), 4))
    outputs.sum().backward(retain_graph=True)
    assert encoder.baseline.weight.grad is None
    # What is looked at has a gradient, where to look has none but by the reward.
    assert encoder.where.weight.grad is None
    assert encoder.read_patch.weight.grad is not None
    encoder.zero_grad()
    # With the baseline right there is nothing to learn.
    encoder.reinforce_loss(torch.zeros(6)).sum().backward()
    assert all(p.grad is None or torch.count_nonzero(p.grad) == 0 for p in encoder.parameters())
    encoder(torch.randn(6, 4, 4), torch.full((6,), 4))
    encoder.reinforce_loss(torch.ones(6)).sum().backward()
    assert encoder.baseline.bias.grad is not None
    assert encoder.baseline.bias.grad.tolist() == pytest.approx([-12.0])
    assert torch.count_nonzero(encoder.where.weight.grad) > 0
    # With locations that do not depend on the state only the baseline does: its error stops there.
    encoder.zero_grad()
    encoder.where.weight.data.zero_()
    encoder.baseline.weight.data.fill_(1.0)
    encoder(torch.randn(6, 4, 4), torch.full((6,), 4))
    encoder.reinforce_loss(torch.ones(6)).sum().backward()
    assert torch.count_nonzero(encoder.baseline.weight.grad) > 0
    assert encoder.core.weight_ih.grad is None or not bool(encoder.core.weight_ih.grad.any())


def test_evaluation_looks_at_the_mean_and_training_around_it() -> None:
    torch.manual_seed(0)
    encoder, images, lengths = tiny(num_glimpses=4), torch.randn(500, 4, 4), torch.full((500,), 4)
    images = images[:1].expand(500, -1, -1)
    encoder(images, lengths)
    assert encoder.locations is not None
    drawn = encoder.locations
    assert torch.count_nonzero(drawn[:, 0]) == 0
    assert drawn[:, 1].std(0).tolist() == pytest.approx([0.11, 0.11], rel=0.15)
    encoder.eval()
    first = encoder(images, lengths)[0]
    assert torch.equal(first, encoder(images, lengths)[0])
    assert bool((encoder.locations == encoder.locations[:1]).all())
    mean = encoder.locations[0, 1]
    assert drawn[:, 1].mean(0).tolist() == pytest.approx(mean.tolist(), abs=0.03)


@pytest.mark.parametrize("readout", [Last, Mean, Max, Attention])
def test_every_read_out_gives_the_state_after_the_last_glimpse(readout: type) -> None:
    torch.manual_seed(0)
    encoder = tiny()
    lengths = torch.full((3,), 4)
    padded = torch.cat([torch.randn(3, 4, 4), torch.full((3, 2, 4), torch.nan)], 1)
    outputs, state = encoder(padded, lengths)
    assert outputs.shape == (3, 6, encoder.output_size)
    assert torch.count_nonzero(outputs[:, 4:]) == 0
    vectors = readout(encoder.output_size)(outputs, lengths)
    torch.testing.assert_close(vectors, state[0])


def test_what_it_can_not_do_is_refused() -> None:
    encoder = tiny()
    with pytest.raises(ValueError, match=r"images of one height, not of 3 to 4 rows$"):
        encoder(torch.zeros(2, 4, 4), torch.tensor([4, 3]))
    _, state = encoder(torch.zeros(2, 4, 4), torch.tensor([4, 4]))
    with pytest.raises(ValueError, match=r"it takes no state$"):
        encoder(torch.zeros(2, 4, 4), torch.tensor([4, 4]), state)
    with pytest.raises(ValueError, match=r"can't go step by step"):
        encoder.step(torch.zeros(2, 4))
    encoder.reinforce_loss(torch.zeros(2))
    message = r"^reinforce_loss needs a forward pass in training mode before it$"
    with pytest.raises(RuntimeError, match=message):
        encoder.reinforce_loss(torch.zeros(2))
    encoder.eval()(torch.zeros(2, 4, 4), torch.tensor([4, 4]))
    with pytest.raises(RuntimeError, match=message):
        encoder.reinforce_loss(torch.zeros(2))


def test_one_glimpse_has_nothing_to_choose() -> None:
    encoder = tiny(num_glimpses=1)
    encoder(torch.zeros(2, 4, 4), torch.tensor([4, 4]))
    assert encoder.reinforce_loss(torch.ones(2)).tolist() == [0.0, 0.0]


def test_it_learns_to_look_where_the_answer_is() -> None:
    # One bright or dark pixel block at the right edge, out of the first glimpse's sight.
    torch.manual_seed(0)
    encoder = RecurrentAttention(
        12, 16, glimpse_size=4, num_glimpses=2, location_std=0.3, patch_size=16, place_size=8
    )
    head = BinaryHead(16)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    lengths = torch.full((64,), 12)

    def images() -> tuple[Tensor, Tensor]:
        targets = torch.randint(2, (64,))
        x = torch.zeros(64, 12, 12)
        x[:, 4:8, 9:] = (2.0 * targets - 1).view(64, 1, 1)
        return x, targets

    for _ in range(150):
        x, targets = images()
        outputs = head(encoder(x, lengths)[0][:, 0])
        reward = (head.predict(outputs) == targets).float()
        loss = (head.loss(outputs, targets) + encoder.reinforce_loss(reward)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encoder.eval()
    x, targets = images()
    predicted = head.predict(head(encoder(x, lengths)[0][:, 0]))
    assert bool((predicted == targets).all())
    assert encoder.locations is not None
    assert float(encoder.locations[0, 1, 1]) > 0.2


def test_an_encoder_can_be_copied_between_a_pass_and_the_next() -> None:
    encoder = tiny()
    encoder(torch.zeros(2, 4, 4), torch.tensor([4, 4]))
    encoder.reinforce_loss(torch.zeros(2))
    copied = copy.deepcopy(encoder)
    assert torch.equal(copied.where.weight, encoder.where.weight)
