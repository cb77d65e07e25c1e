"""Exact zeros in a loop by Hugging Face Accelerate.

    python examples/trainers/accelerate_loop.py
    python examples/trainers/accelerate_loop.py --batch-size 64 --epochs 50

`l1torch.Proximal` goes around the optimizer before `accelerator.prepare` sees it, and
the scheduler around `Proximal`; nothing else changes. `accelerator.save_state(folder)`
and `load_state(folder)` keep the strength too.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import l1torch
from digits import (
    CLASSES,
    EPOCHS,
    FEATURES,
    LEARNING_RATE,
    START,
    STRENGTH,
    arguments,
    batches,
)


class Training(NamedTuple):
    """What one training consists of, as `accelerator.prepare` gives it back."""

    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: Any
    loader: DataLoader
    scheduler: Any


def prepare(
    epochs: int, batch_size: int | None = None, accumulate: int = 1
) -> Training:
    """Make the model and what trains it; `accumulate` batches make one step."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    pairs = [tuple(map(torch.tensor, pair)) for pair in batches(batch_size)]
    # They are batches already: a data set of samples would take batch_size=... here.
    loader = DataLoader(pairs, batch_size=None)
    model = torch.nn.Linear(FEATURES, CLASSES)
    torch.nn.init.constant_(model.weight, START)
    torch.nn.init.zeros_(model.bias)
    base = torch.optim.Adam(model.named_parameters(), lr=LEARNING_RATE)
    optimizer = l1torch.Proximal(base, STRENGTH)
    steps = epochs * -(-len(loader) // accumulate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    parts = accelerator.prepare(model, optimizer, loader, scheduler)
    return Training(accelerator, *parts)


def train_epoch(training: Training) -> None:
    """Pass once through the data."""
    accelerator, model, optimizer, loader, scheduler = training
    for X, y in loader:
        with accelerator.accumulate(model):
            loss = torch.nn.functional.cross_entropy(model(X), y)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def train(
    epochs: int = EPOCHS, batch_size: int | None = None, accumulate: int = 1
) -> torch.nn.Module:
    """Train the model; on full batches unless a batch size is given."""
    training = prepare(epochs, batch_size, accumulate)
    for _ in range(epochs):
        train_epoch(training)
    return training.accelerator.unwrap_model(training.model)


def coefficients(model: torch.nn.Module) -> np.ndarray:
    """Return the weights, of shape (pixels, digits)."""
    return model.weight.detach().cpu().numpy().T


def main() -> None:
    """Train and print the zeros of each parameter."""
    args = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    print(l1torch.sparsity_report(train(args.epochs, args.batch_size)))


if __name__ == "__main__":
    main()
