"""Exact zeros in a PyTorch Lightning module.

    python examples/trainers/lightning_module.py
    python examples/trainers/lightning_module.py --batch-size 64 --epochs 50

`configure_optimizers` returns `l1torch.Proximal` around the optimizer, the scheduler
goes around `Proximal`, and nothing else changes. `accumulate_grad_batches`, clipping,
`precision="bf16-mixed"` and checkpoints, which hold the strength, work as before.
"""

import logging
import warnings
from typing import Any

import lightning
import numpy as np
import torch
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


class Classifier(lightning.LightningModule):
    """Multinomial logistic regression."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(FEATURES, CLASSES)
        torch.nn.init.constant_(self.linear.weight, START)
        torch.nn.init.zeros_(self.linear.bias)

    def training_step(
        self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int
    ) -> torch.Tensor:
        """Return the loss without the penalty."""
        X, y = batch
        return torch.nn.functional.cross_entropy(self.linear(X), y)

    def configure_optimizers(self) -> dict[str, Any]:
        """Wrap the optimizer, and tell Lightning to step its schedule every step."""
        base = torch.optim.Adam(self.named_parameters(), lr=LEARNING_RATE)
        optimizer = l1torch.Proximal(base, STRENGTH)
        steps = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": cosine, "interval": "step"},
        }


def loader(batch_size: int | None = None) -> DataLoader:
    """Load full batches unless a size is given."""
    pairs = [tuple(map(torch.tensor, pair)) for pair in batches(batch_size)]
    # They are batches already: a data set of samples would take batch_size=... here.
    return DataLoader(pairs, batch_size=None)


def trainer(epochs: int, **kwargs: Any) -> lightning.Trainer:
    """Make a quiet Trainer, on CPU; the arguments are those of `lightning.Trainer`."""
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


def train(
    epochs: int = EPOCHS, batch_size: int | None = None, **kwargs: Any
) -> Classifier:
    """Train the model; on full batches unless a batch size is given."""
    model = Classifier()
    trainer(epochs, **kwargs).fit(model, loader(batch_size))
    return model


def coefficients(model: Classifier) -> np.ndarray:
    """Return the weights, of shape (pixels, digits)."""
    return model.linear.weight.detach().cpu().numpy().T


def main() -> None:
    """Train and print the zeros of each parameter."""
    args = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    print(l1torch.sparsity_report(train(args.epochs, args.batch_size)))


if __name__ == "__main__":
    main()
