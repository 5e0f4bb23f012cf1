"""A small transformer on the source of Python's library, byte by byte; minimizes the perplexity.

    python -m search.run --study studies/examples/language_model.py

A training of its own in PyTorch: gradient accumulation, warm-up, dropout, clipping. An epoch is 200
steps, not a pass over the text.
"""

import math
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn

from search.study import Metrics, Run, Study

BYTES = 256
CONTEXT = 64
"""Number of bytes that the model sees."""
SEQUENCES = 8
"""Sequences of a forward pass; a step accumulates the gradients of several."""
STEPS = 200
"""Steps of an epoch."""
WARMUP = 100
"""Steps in which the learning rate rises from 0."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    width: Annotated[int, CategoricalDistribution((32, 64, 96))]
    layers: Annotated[int, IntDistribution(1, 3)]
    dropout: Annotated[float, FloatDistribution(0.0, 0.3)]
    lr: Annotated[float, FloatDistribution(3e-4, 1e-2, log=True)]
    weight_decay: Annotated[float, FloatDistribution(1e-3, 0.3, log=True)]
    accumulate: Annotated[int, IntDistribution(1, 4)]
    """Forward passes of a step."""


@cache
def text() -> tuple[Tensor, Tensor]:
    """Return the training and the held-out bytes: one file in ten is held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts = (
        [f.read_bytes() for f in files if f not in files[::10]],
        map(Path.read_bytes, files[::10]),
    )
    train, held_out = (torch.frombuffer(bytearray(b"".join(p)), dtype=torch.uint8) for p in parts)
    return train, held_out[: 64 * CONTEXT * SEQUENCES]


class Transformer(nn.Module):
    """Map bytes (n, length) to logits of the next bytes (n, length, 256)."""

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        width = choices.width
        self.bytes = nn.Embedding(BYTES, width)
        self.places = nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, choices.dropout, F.gelu, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, choices.layers, enable_nested_tensor=False)
        self.logits = nn.Linear(width, BYTES)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device)
        hidden = self.bytes(x) + self.places.weight[:length]
        logits: Tensor = self.logits(self.layers(hidden, mask, is_causal=True))
        return logits


class LanguageModel:
    def __init__(self, run: Run[Choices]) -> None:
        self.run = run
        torch.manual_seed(run.seed)
        self.model = Transformer(run.choices).to(run.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=run.choices.lr, weight_decay=run.choices.weight_decay
        )
        self.train, self.held_out = (part.to(run.device) for part in text())

    def fit(self, after: int = 0) -> Iterator[Metrics]:
        for epoch in range(after, self.run.epochs):
            self.model.train()
            losses = []
            for step in range(STEPS):
                rate = min((epoch * STEPS + step + 1) / WARMUP, 1.0)
                self.optimizer.param_groups[0]["lr"] = self.run.choices.lr * rate
                losses.append(self.step())
                self.run.after_batch(step + 1)
            yield {
                "train_perplexity": math.exp(torch.stack(losses).mean().item()),
                "valid_perplexity": math.exp(self.evaluate()),
            }

    def step(self) -> Tensor:
        """Train one step, and return its mean loss per byte, in nats."""
        total = torch.zeros((), device=self.run.device)
        for _ in range(self.run.choices.accumulate):
            starts = torch.randint(len(self.train) - CONTEXT - 1, (SEQUENCES,))  # seeded
            batch = torch.stack([self.train[s : s + CONTEXT + 1] for s in starts.tolist()]).long()
            loss = self.loss(batch) / self.run.choices.accumulate
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def loss(self, batch: Tensor) -> Tensor:
        """Return the mean loss over sequences (n, length + 1)."""
        logits = self.model(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    @torch.inference_mode()
    def evaluate(self) -> float:
        self.model.eval()
        rows = self.held_out[: len(self.held_out) // CONTEXT * CONTEXT].view(-1, CONTEXT).long()
        return float(torch.stack([self.loss(part) for part in rows.split(64)]).mean())

    def state_dict(self) -> Mapping[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


study = Study(
    name="language_model",
    choices=Choices,
    train=LanguageModel,
    metric="valid_perplexity",
    direction="minimize",
    trials=30,
    epochs=8,
)
