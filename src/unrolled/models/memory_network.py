"""An end-to-end memory network: several looks, one after the other, at the steps so far.

B batch, T time, S columns kept from before, H hidden size.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.models.causal import align, real_columns, with_padding, without_padding

State = tuple[Tensor, Tensor]
"""The memory, `[embeddings, B, S, H]`, and which columns of it are real, `[1, B, S]`."""


def by_column(scores_BTR: Tensor) -> Tensor:
    """From scores by age to scores by column.

    The last step stands in the last column, so that step t sees column j at the age
    `columns - time + t - j`. With the ages in falling order each row is the next one shifted by
    one: writing a column of zeros before them and reading in rows shorter by one does it at once
    (Dai et al. 2019, appendix B). What it brings into columns that lie after step t has no meaning.

    Args:
        scores_BTR: `[batch, time, age]`, the oldest first, as many ages as columns.

    Returns:
        `[batch, time, column]`.
    """
    batch, time, columns = scores_BTR.shape
    return F.pad(scores_BTR, (1, 0)).flatten(1)[:, time:].view(batch, time, columns)


def by_age(weights_BTS: Tensor) -> Tensor:
    """The way back from `by_column`, for weights that are zero in columns after step t."""
    batch, time, columns = weights_BTS.shape
    return F.pad(weights_BTS.flatten(1), (time, 0)).view(batch, time, columns + 1)[..., 1:]


class MemoryNetwork(nn.Module):
    """End-to-end memory network (Sukhbaatar et al. 2015) with a question at each step.

    The question at step t is that step, the memory all steps up to it, the newest at age 0:

        u = B x_t;  m_i = A x_i + T_A(t - i);  c_i = C x_i + T_C(t - i)
        p = softmax_i(u . m_i);  o = sum_i p_i c_i;  u = u + o (adjacent) or H u + o (layer-wise)

    once for each hop; the output is the last u.

    Args:
        input_size: Channels of the input.
        hidden_size: Channels of question and memory.
        num_hops: Looks at the memory.
        memory_size: How many steps the memory holds, the newest ones; the paper's had 50 sentences
            and 100 words.
        tying: Which matrices the hops share: with `adjacent` what one hop gives is what the next
            one looks at (A of hop k + 1 is C of hop k, and B is A of the first); with `layer_wise`
            all hops are the same, with a linear map H of the question between them.
    """

    causal = True

    def __init__(
        self,
        input_size: PositiveInt,
        hidden_size: PositiveInt = 64,
        num_hops: PositiveInt = 3,
        memory_size: PositiveInt = 100,
        tying: Literal["adjacent", "layer_wise"] = "adjacent",
    ) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.num_hops = num_hops
        self.memory_size = memory_size
        embeddings = num_hops + 1 if tying == "adjacent" else 2
        # All embeddings of a step in one product: A of hop k is number k, C is number k + 1.
        self.embed = nn.Linear(input_size, embeddings * hidden_size, bias=False)
        self.ages = nn.Parameter(torch.empty(embeddings, memory_size, hidden_size))
        nn.init.normal_(self.ages, std=0.1)
        layer_wise = tying == "layer_wise"
        self.question = nn.Linear(input_size, hidden_size, bias=False) if layer_wise else None
        self.between = nn.Linear(hidden_size, hidden_size, bias=False) if layer_wise else None

    def forward(
        self, x_BTI: Tensor, lengths: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Encode whole sequences.

        Args:
            x_BTI: `[batch, time, input]`.
            lengths: `[batch]`, int64, on the CPU, 1 .. time.
            state: The memory to go on with; empty by default.

        Returns:
            `[batch, time, hidden]` and the memory after the last real step.
        """
        x = without_padding(x_BTI, lengths)
        time = x.shape[1]
        embedded = self.embed(x).unflatten(-1, (-1, self.output_size))
        memory = embedded.permute(2, 0, 1, 3)
        u_BTH = memory[0] if self.question is None else self.question(x)
        earlier = None if state is None else state[1]
        if state is not None:
            memory = torch.cat([state[0], memory], 2)
        hidden_from = self._hidden_from(earlier, time, memory.shape[2], x.device)
        ages = self._ages(memory.shape[2])
        for hop in range(self.num_hops):
            k = hop if self.between is None else 0
            scores = u_BTH @ memory[k].transpose(1, 2) + by_column(u_BTH @ ages[k].T)
            weights = scores.masked_fill(hidden_from, -torch.inf).softmax(-1)
            found = weights @ memory[k + 1] + by_age(weights) @ ages[k + 1]
            u_BTH = (u_BTH if self.between is None else self.between(u_BTH)) + found
        real = real_columns(earlier, lengths, time, x.device)
        return with_padding(u_BTH, lengths, x_BTI.shape[1]), self._keep(memory, real, lengths, time)

    def step(self, x_BI: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: `[batch, input]` to `[batch, hidden]` and the new state."""
        ones = torch.ones(len(x_BI), dtype=torch.int64)
        outputs, new = self(x_BI.unsqueeze(1), ones, state)
        return outputs.squeeze(1), new

    def _hidden_from(
        self, earlier: Tensor | None, time: int, columns: int, device: torch.device
    ) -> Tensor:
        """True where a step may not look: at later steps, too old ones, and what is not real."""
        steps = torch.arange(columns - time, columns, device=device).unsqueeze(1)
        age = steps - torch.arange(columns, device=device)
        hidden = ((age < 0) | (age >= self.memory_size)).unsqueeze(0)
        if earlier is None:
            return hidden
        return hidden | F.pad(~earlier[0], (0, time)).unsqueeze(1)

    def _ages(self, columns: int) -> Tensor:
        """The encodings of the ages, `[embeddings, column, hidden]`, the oldest first."""
        ages = self.ages[:, :columns]
        # Steps too old for the memory are hidden; they only need a row here.
        return F.pad(ages, (0, 0, 0, columns - ages.shape[1])).flip(1)

    def _keep(self, memory: Tensor, real: Tensor, lengths: Tensor, time: int) -> State:
        """The newest columns of each sequence; the next step makes the memory full."""
        size = min(self.memory_size - 1, memory.shape[2])
        if int(lengths.min()) < time:
            (memory,), real = align((memory,), real, memory.shape[2])
        first = memory.shape[2] - size
        return memory[:, :, first:], real[..., first:]
