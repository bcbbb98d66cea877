"""narrows by its public API: `fit` with its validation off."""

from typing import Any

import numpy as np
from workloads import WORKLOADS, Lap, Trained

from narrows import VAE, Autoencoder

FIELDS: dict[str, dict[str, Any]] = {
    "W1": {"hidden": (128, 64, 12), "latent_dim": 3, "output_activation": "sigmoid"},
    "W2": {
        "hidden": (),
        "latent_dim": 32,
        "code_activation": "relu",
        "likelihood": "bernoulli",
    },
    "W3": {"hidden": (512,), "latent_dim": 16, "likelihood": "bernoulli"},
    "W4": {
        "modality": "image",
        "architecture": "conv",
        "hidden": (32, 64),
        "latent_dim": 32,
        "output_activation": "sigmoid",
        "channels_last": True,
    },
    "W5": {"hidden": (64,), "latent_dim": 32, "batch_norm": True, "dropout": 0.2},
}
UNROLLED = {"W5/32": 8}
"""Steps that a compiled graph makes at a time, where it is not left to the plan."""
ADAM = {
    "activation": "relu",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "gradient_clip": None,
    "scaling": "none",
    "validation": 0.0,
    "verbose": 0,
}


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    model = (VAE if name == "W3" else Autoencoder)(
        **FIELDS[name.partition("/")[0]],
        **ADAM,
        batch_size=WORKLOADS[name].batch_size,
        epochs=epochs,
        threads=threads,
        compile=variant != "eager",
        steps_per_execution=(UNROLLED if variant != "eager" else {}).get(name, "auto"),
        precision="bfloat16" if variant == "bf16" else "float32",
    )

    model.after_epoch = lap
    model.fit(X.reshape(-1, 1, 28, 28) if name == "W4" else X)
    calls = {
        "encode": model.transform,
        "reconstruct": model.reconstruct,
        "score": model.score_samples,
    }
    return Trained(sum(p.numel() for p in model.net_.parameters()), calls)
