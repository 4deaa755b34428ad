"""The generated shop: how fast it is drawn, what can be known of it, and what models find out.

    python benchmarks/shop.py [--sessions 300000] [--models]

Prints events per CPU-second of the generator, the seconds to compute the best possible scores, and
those scores. With --models also what a recurrent network reaches and what a network does that takes
the same events without their order (each event by itself, then the mean), for both questions.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from unrolled.data.batch import NO_TARGET, SequenceBatch
from unrolled.data.events import EventData
from unrolled.data.store import JaggedSequences, Target
from unrolled.models.embedding import EventEmbedding
from unrolled.models.readout import padding_mask
from unrolled.models.recurrent import GRU, LSTM
from unrolled.synthetic.shop import ShopLog


@dataclass(frozen=True)
class Training:
    """How a question is learned."""

    encoder: type[nn.Module]
    hidden: int
    embedding: int | Literal["auto"]
    batch: int
    epochs: int
    lr: float


TRAININGS: dict[Target, Training] = {
    # The label depends on no item: narrow embeddings keep their noise small.
    "label": Training(LSTM, 64, 4, 128, 2, 0.006),
    "next_item": Training(GRU, 96, "auto", 256, 3, 0.006),
}


class OrderFree(nn.Module):
    """Each event by itself, then the mean of all events so far, then a layer on top."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.event = nn.Sequential(nn.Linear(input_size, hidden_size), nn.ReLU())
        self.bag = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU())

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        """`[batch, time, input]` to `[batch, time, hidden]`."""
        count = torch.arange(1, x.shape[1] + 1).unsqueeze(1)
        return self.bag(self.event(x).cumsum(1) / count), None


class Network(nn.Module):
    """Embedding, encoder and one linear map; outputs of the steps that are asked, `[item, out]`."""

    def __init__(self, data: EventData, encoder: type[nn.Module], training: Training) -> None:
        super().__init__()
        schema = data.schema
        self.label = data.target == "label"
        self.embedding = EventEmbedding(schema, training.embedding)
        self.encoder = encoder(self.embedding.output_size, training.hidden)
        assert schema.num_classes is not None
        self.head = nn.Linear(training.hidden, schema.num_classes)

    def forward(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        encoded, _ = self.encoder(self.embedding(batch.features), batch.lengths)
        if self.label:
            last = encoded[torch.arange(len(batch)), batch.lengths - 1]
            return self.head(last), batch.targets
        real = ~padding_mask(batch.lengths, encoded.shape[1], encoded.device)
        asked = real & (batch.targets != NO_TARGET)
        return self.head(encoded[asked]), batch.targets[asked]


def batches(source: JaggedSequences, size: int, seed: int) -> Iterator[SequenceBatch]:
    """Sequences of similar length together, in random order."""
    random = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(source), generator=random).split(50 * size)
    order = [b for part in some for b in part[source.lengths[part].argsort()].split(size)]
    for index in torch.randperm(len(order), generator=random).tolist():
        yield source.gather(order[index])


def train(data: EventData, encoder: type[nn.Module], training: Training) -> Network:
    """One-cycle Adam on cross-entropy."""
    torch.manual_seed(0)
    network, source = Network(data, encoder, training), data.source("train")
    optimizer = torch.optim.Adam(network.parameters(), training.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.lr, total_steps=training.epochs * -(-len(source) // training.batch)
    )
    for epoch in range(training.epochs):
        for batch in batches(source, training.batch, epoch):
            loss = F.cross_entropy(*network(batch))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def test(network: Network, data: EventData) -> dict[str, float]:
    """AUROC, or recall and MRR among the first 20 (conservative ties), on the test split."""
    source = data.source("test")
    scored = [network(source.gather(part)) for part in source.lengths.argsort().split(512)]
    if network.label:
        outputs, targets = (torch.cat(part) for part in zip(*scored, strict=True))
        return {"auroc": float(binary_auroc((outputs[:, 1] - outputs[:, 0]).double(), targets))}
    ranks = torch.cat([(o >= o.gather(1, t[:, None])).sum(1) for o, t in scored])
    hit = ranks <= 20
    return {"recall@20": float(hit.double().mean()), "mrr@20": float((hit / ranks).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=300_000)
    parser.add_argument("--models", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    shop = ShopLog(sessions=arguments.sessions)
    start = time.process_time()
    events = shop.generate().num_rows
    seconds = time.process_time() - start
    print(f"drawn: {events:,} events in {seconds:.2f} CPU s, {events / seconds:,.0f} a second")
    with tempfile.TemporaryDirectory() as folder:
        for target in TRAININGS:
            data = EventData(shop, Path(folder), target=target)
            data.setup()
            start = time.process_time()
            best = data.best_possible()
            seconds = time.process_time() - start
            shown = ("auroc", "average_precision", "log_loss", "recall@20", "mrr@20")
            scores = [f"{n} {best[f'test/{n}']:.4f}" for n in shown if f"test/{n}" in best]
            print(f"{target}, best possible ({seconds:.1f} CPU s): {', '.join(scores)}")
            if not arguments.models:
                continue
            training = TRAININGS[target]
            for encoder in (training.encoder, OrderFree):
                start = time.process_time()
                network = train(data, encoder, training)
                seconds = time.process_time() - start
                found = test(network, data)
                scores = [f"{n} {v:.4f} ({v / best[f'test/{n}']:.3f})" for n, v in found.items()]
                print(f"  {encoder.__name__:9} {', '.join(scores)}, {seconds:.0f} CPU s")


if __name__ == "__main__":
    main()
