"""The workloads, who can do them, and what we want of ourselves; needs no framework."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Lap = Callable[[], None]
"""What a loop calls at the end of every epoch."""


class Workload(NamedTuple):
    """A net, its loss and its data; every loop trains it with Adam at 1e-3."""

    text: str
    data: Literal["images", "table"]
    loss: Literal["mse", "bce", "elbo"]
    rows: int
    batch_size: int
    calls: tuple[str, ...]
    """What is measured of inference."""


class Trained(NamedTuple):
    """The size of a trained net, and what it can do with new data."""

    parameters: int
    calls: dict[str, Callable[[np.ndarray], np.ndarray]]


WORKLOADS = {
    "W1": Workload(
        "784-128-64-12-3-12-64-128-784, ReLU, sigmoid, squared error, batch 256",
        "images",
        "mse",
        59_904,
        256,
        ("encode", "reconstruct"),
    ),
    "W2": Workload(
        "784-32-784, ReLU, sigmoid, binary cross-entropy, batch 256",
        "images",
        "bce",
        59_904,
        256,
        ("encode",),
    ),
    "W3": Workload(
        "VAE 784-512-16, ReLU, sigmoid, binary cross-entropy and KL, batch 128",
        "images",
        "elbo",
        29_952,
        128,
        ("encode",),
    ),
    "W4": Workload(
        "1 × 28 × 28, conv 32 and 64 with stride 2, dense 32 and its mirror, ReLU, sigmoid, "
        "squared error, batch 128",
        "images",
        "mse",
        6_400,
        128,
        (),
    ),
    "W5/32": Workload(
        "30-64-32-64-30, batch norm and dropout 0.2 in the layers of 64, squared error, batch 32",
        "table",
        "mse",
        20_000,
        32,
        ("score",),
    ),
    "W5/1024": Workload("the same, batch 1024", "table", "mse", 199_680, 1024, ("score",)),
}
"""The rows make whole batches, so that all loops make as many steps."""

EVERY = tuple(WORKLOADS)
TABLES = ("W5/32", "W5/1024")
LOOPS = {
    "narrows": ("ours", "eager", EVERY),
    "narrows compiled": ("ours", "compiled", EVERY),
    "narrows bf16": ("ours", "bf16", EVERY),
    "pythae": ("pythae", "", ("W1", "W3", "W4", *TABLES)),
    "PyOD": ("pyod", "", TABLES),
    "Lightning": ("lightning", "", EVERY),
    "skorch": ("skorch", "", EVERY),
    "scikit-learn": ("sklearn", "", ("W1", *TABLES)),
    "Keras on JAX": ("keras", "", EVERY),
    "tutorial": ("tutorial", "plain", EVERY),
    "fast": ("tutorial", "fast", EVERY),
    "limit bf16": ("limit", "bf16", EVERY),
    "limit": ("limit", "float32", EVERY),
}
"""By name: the module in `loops`, its variant, and the workloads that it can do."""
PEERS = ("pythae", "PyOD", "Lightning", "skorch", "scikit-learn", "Keras on JAX", "tutorial")
LIGHTER = {"scikit-learn": TABLES}
"""Whose net is a lighter one, for want of batch norm and dropout: compared in inference alone."""


class Target(NamedTuple):
    """What we want to be at least, as the other's cost over ours."""

    workload: str
    ours: str
    other: str
    must: float
    aim: float
    measure: Literal["seconds", "cpu", "memory", "score", "encode", "reconstruct"] = "seconds"


OURS = ("narrows", "narrows compiled")
TARGETS = [
    *(
        Target(workload, ours, other, must, aim)
        for workload, other, must, aim in [
            ("W1", "pythae", 1.8, 2.2),
            ("W1", "Lightning", 1.8, 2.3),
            ("W1", "scikit-learn", 1.0, 1.5),
            ("W2", "tutorial", 2.5, 3.5),
            ("W3", "pythae", 1.7, 1.9),
            *(("W4", peer, 1.0, 1.0) for peer in PEERS),
            ("W5/32", "PyOD", 4.0, 6.0),
            ("W5/1024", "PyOD", 3.8, 6.0),
            *((workload, "limit", 1 / 1.5, 1 / 1.2) for workload in ("W1", "W2", "W3", "W4")),
            *((workload, "limit", 1 / 2.0, 1 / 1.2) for workload in TABLES),
        ]
        for ours in OURS
    ),
    *(Target("W2", ours, "Keras on JAX", 1.0, 1.4, "cpu") for ours in OURS),
    Target("W3", "narrows bf16", "pythae", 2.5, 2.9),
    *(Target("W4", "narrows bf16", peer, 1.6, 1.9) for peer in PEERS),
    *(Target(workload, "narrows", "fast", 1 / 1.15, 1.0) for workload in EVERY),
    *(Target(workload, "narrows", "tutorial", 1 / 1.1, 1.0, "memory") for workload in EVERY),
    *(Target(workload, "narrows", "PyOD", 15.0, 30.0, "score") for workload in TABLES),
    *(Target(workload, "narrows", "scikit-learn", 1.0, 1.0, "score") for workload in TABLES),
    *(Target(workload, "narrows", "pythae", 4.0, 6.0, "encode") for workload in ("W1", "W3")),
    Target("W1", "narrows", "scikit-learn", 1.0, 1.0, "reconstruct"),
]
