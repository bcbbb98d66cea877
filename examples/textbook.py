"""What the textbook examples share: their arguments, their optimizer and their figure."""

import argparse

import numpy as np
from matplotlib.figure import Figure

from narrows import BaseAutoencoder

# Adam at a constant rate: AdamW without decay, warm-up or clipping; batches of 256.
ADAM = {
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "gradient_clip": None,
    "batch_size": 256,
}


def arguments(text: str, figure: str) -> argparse.Namespace:
    """Read data, figure and epochs from the command line."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("data", nargs="?", default="digits28")
    parser.add_argument("--out", default=figure)
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    # Ten epochs are the textbook's, for 60 000 images; 1 797 digits need more for as many steps.
    given.epochs = given.epochs or (10 if given.data != "digits28" else 150)
    return given


def figure_of_reconstructions(
    model: BaseAutoencoder, X: np.ndarray, path: str, columns: int = 10
) -> None:
    """Draw held-out images above what the model makes of them."""
    shown = X[:columns]
    figure = Figure(figsize=(columns, 2.2), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for row, (images, label) in enumerate(
        ((shown, "original"), (model.reconstruct(shown), "reconstruction"))
    ):
        for axis, image in zip(axes[row], images, strict=False):
            axis.imshow(image, cmap="gray")
        for axis in axes[row]:
            axis.set_axis_off()
        axes[row][0].set_title(label, loc="left", fontsize=9)
    figure.savefig(path, dpi=120)
    print("figure:", path)
