"""Recurrent attention: look at a few small patches of an image, and learn where to look.

Where to look is drawn at random while training and learned by REINFORCE: the model has to be told
the reward of what it has seen. A training step adds `reinforce_loss` to the loss of the head:

    loss = head.loss(outputs, targets)
    reward = (head.predict(outputs) == targets).float()
    loss = loss + model.encoder.reinforce_loss(reward)

B batch, G glimpses, H hidden size.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.lengths import check_lengths


def take_glimpse(
    images_BRC: Tensor, locations_B2: Tensor, size: int, num_scales: int, scale: int
) -> Tensor:
    """Square patches around a location, each scale wider and coarser than the one before.

    The patch of scale k covers `size * scale**k` pixels a side, averaged down to `size`. Pixels
    past the image's edges are zero, a location between pixels mixes their values.

    Args:
        images_BRC: `[batch, rows, columns]`.
        locations_B2: `[batch, 2]`, row and column of the patches' centre; -1 is the upper and
            left edge of the image, 1 the lower and right one.
        size: Rows and columns of a patch.
        num_scales: Number of patches.
        scale: From each patch to the next.

    Returns:
        `[batch, num_scales, size, size]`.
    """
    rows, columns = images_BRC.shape[1:]
    patches = []
    for k in range(num_scales):
        factor = scale**k
        width = size * factor
        pixels = torch.arange(width, device=images_BRC.device, dtype=images_BRC.dtype)
        offsets = pixels - (width - 1) / 2
        # An image's side is 2 long, so a pixel is 2 / rows high.
        down = locations_B2[:, :1] + offsets * 2 / rows
        right = locations_B2[:, 1:] + offsets * 2 / columns
        grid = torch.stack(
            [
                right.unsqueeze(1).expand(-1, width, -1),
                down.unsqueeze(2).expand(-1, -1, width),
            ],
            -1,
        )
        patch = F.grid_sample(images_BRC.unsqueeze(1), grid, align_corners=False)
        patches.append(F.avg_pool2d(patch, factor) if factor > 1 else patch)
    return torch.cat(patches, 1)


class RecurrentAttention(nn.Module):
    """The recurrent attention model (Mnih et al. 2014) as an encoder of images, row by row.

    A sequence is an image, its steps are the rows. The outputs are the state after the last
    glimpse, the same at every row, so that any read-out gives it to the head: there is no output
    that belongs to a row. It reads the whole image before its first output (not causal), starts
    anew with each image, and does not go step by step.

    The first glimpse is at the centre. Where the next one is, the state says: a normal
    distribution around `tanh(Linear(h))`; training draws from it, evaluation takes its mean. A
    draw outside the image counts as one at the edge.

    Args:
        input_size: Columns of the image.
        hidden_size: Units of the recurrent core.
        glimpse_size: Rows and columns of a patch.
        num_scales: Patches of one glimpse.
        scale: Each patch covers a square this many times wider than the one before.
        num_glimpses: Glimpses at an image.
        location_std: Standard deviation of the locations in training, where an image's side is 2.
        patch_size: Units of the layer that reads the patches.
        place_size: Units of the layer that reads the location.
    """

    causal = False

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 256,
        glimpse_size: PositiveInt = 8,
        num_scales: PositiveInt = 1,
        scale: PositiveInt = 2,
        num_glimpses: PositiveInt = 7,
        location_std: PositiveFloat = 0.11,
        patch_size: PositiveInt = 128,
        place_size: PositiveInt = 128,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = hidden_size
        self.glimpse_size = glimpse_size
        self.num_scales = num_scales
        self.scale = scale
        self.num_glimpses = num_glimpses
        self.location_std = location_std
        self.read_patch = nn.Linear(num_scales * glimpse_size**2, patch_size)
        self.read_place = nn.Linear(2, place_size)
        self.join = nn.Linear(patch_size + place_size, hidden_size)
        self.core = nn.RNNCell(hidden_size, hidden_size, nonlinearity="relu")
        self.where = nn.Linear(hidden_size, 2)
        self.baseline = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.baseline.weight)
        nn.init.zeros_(self.baseline.bias)
        self.locations: Tensor | None = None
        """Where the last images were looked at, `[batch, glimpse, 2]`, row and column."""
        self._drawn: tuple[list[Tensor], list[Tensor]] | None = None

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Look at whole images.

        Args:
            x_BTI: `[batch, rows, columns]`.
            lengths: `[batch]`, rows of each image, all equal.
            state: None; there is nothing to go on with.

        Returns:
            `[batch, rows, hidden]`, the last state at each row, and that state,
            `[1, batch, hidden]`.

        Raises:
            ValueError: When the images differ in height, or a state is given.
        """
        shortest, rows = check_lengths(lengths, *x_BTI.shape[:2])
        if shortest != rows:
            raise ValueError(
                f"recurrent attention takes images of one height, not of {shortest} to {rows} rows"
            )
        if state is not None:
            raise ValueError("recurrent attention starts anew with each image: it takes no state")
        images = x_BTI[:, :rows]
        h_BH = images.new_zeros(len(images), self.output_size)
        location = images.new_zeros(len(images), 2)
        locations, log_densities, baselines = [location], [], []
        for glimpse in range(self.num_glimpses):
            if glimpse:
                mean = self.where(h_BH).tanh()
                drawn = self._draw(mean)
                location = drawn.clamp(-1, 1)
                locations.append(location)
                log_densities.append(self._log_density(drawn, mean))
                # The baseline learns from the reward alone and changes nothing else.
                baselines.append(self.baseline(h_BH.detach()).squeeze(-1))
            h_BH = self.core(self._read(images, location), h_BH)
        self.locations = torch.stack(locations, 1)
        self._drawn = (log_densities, baselines) if self.training else None
        outputs = h_BH.unsqueeze(1).expand(-1, rows, -1)
        outputs = F.pad(outputs, (0, 0, 0, x_BTI.shape[1] - rows))
        return outputs, h_BH.unsqueeze(0)

    def step(self, x_BI: Tensor, state: Any = None) -> NoReturn:
        """There are no single steps.

        Raises:
            ValueError: Always.
        """
        raise ValueError("recurrent attention can't go step by step: it looks at whole images")

    def reinforce_loss(self, reward_B: Tensor) -> Tensor:
        """What teaches where to look, for the images of the last forward pass in training.

            - sum over glimpses of log pi(location) * (reward - baseline)
            + mean over glimpses of (reward - baseline)^2

        The gradient of the first line, in expectation that of minus the reward, reaches the
        locations and through the state all that led to them; that of the second the baseline
        only, a linear function of the state before the glimpse. Both have weight 1; to weigh the
        reward against the loss of the head, multiply the result.

        Args:
            reward_B: `[batch]`, for example 1 where the prediction is right, else 0.

        Returns:
            `[batch]`, not reduced. It can be asked for once after each pass.

        Raises:
            RuntimeError: When there was no pass in training mode since the last call.
        """
        if self._drawn is None:
            raise RuntimeError("reinforce_loss needs a forward pass in training mode before it")
        (log_densities, baselines), self._drawn = self._drawn, None
        if not log_densities:
            return torch.zeros_like(reward_B)
        advantage = reward_B.detach().unsqueeze(1) - torch.stack(baselines, 1)
        choices = torch.stack(log_densities, 1) * advantage.detach()
        loss: Tensor = advantage.square().mean(1) - choices.sum(1)
        return loss

    def _read(self, images: Tensor, location: Tensor) -> Tensor:
        patches = take_glimpse(images, location, self.glimpse_size, self.num_scales, self.scale)
        seen = self.read_patch(patches.flatten(1)).relu()
        place = self.read_place(location).relu()
        joined: Tensor = self.join(torch.cat([seen, place], -1)).relu()
        return joined

    def _draw(self, mean: Tensor) -> Tensor:
        # Without a gradient: a location is a choice, and choices learn from the reward.
        if not self.training:
            return mean.detach()
        return (mean + self.location_std * torch.randn_like(mean)).detach()

    def _log_density(self, drawn: Tensor, mean: Tensor) -> Tensor:
        """Of a normal distribution, `[batch]`."""
        distance = (drawn - mean) / self.location_std
        constant = math.log(self.location_std * math.sqrt(2 * math.pi))
        return (-0.5 * distance.square() - constant).sum(-1)
