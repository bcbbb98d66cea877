"""Keras on JAX: its functional API and `fit`, whose step is one compiled graph."""

import keras
import numpy as np
from keras import layers, ops
from workloads import WORKLOADS, Lap, Trained

Symbol = keras.KerasTensor


class Posterior(layers.Layer):
    """Draws a code from (mean, logvar), and charges its KL divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = keras.random.SeedGenerator(0)

    def call(self, h: Symbol) -> Symbol:
        """Return the draw."""
        mean, logvar = ops.split(h, 2, axis=1)
        kl = -0.5 * ops.sum(1 + logvar - ops.square(mean) - ops.exp(logvar), axis=1)
        self.add_loss(ops.mean(kl))
        return mean + ops.exp(0.5 * logvar) * keras.random.normal(ops.shape(mean), seed=self.noise)


def dense(x: Symbol, *sizes: int, last: str | None = None) -> Symbol:
    """Apply dense layers with ReLU between them."""
    for size in sizes[:-1]:
        x = layers.Dense(size, activation="relu")(x)
    return layers.Dense(sizes[-1], activation=last)(x)


def images(x: Symbol) -> Symbol:
    """Apply the convolutions and their mirror."""
    options = {"kernel_size": 3, "strides": 2, "padding": "same"}
    for channels in (32, 64):
        x = layers.Conv2D(channels, activation="relu", **options)(x)
    x = layers.Dense(32)(layers.Flatten()(x))
    x = layers.Reshape((7, 7, 64))(layers.Dense(64 * 7 * 7, activation="relu")(x))
    x = layers.Conv2DTranspose(32, activation="relu", **options)(x)
    return layers.Conv2DTranspose(1, activation="sigmoid", **options)(x)


def table(x: Symbol) -> Symbol:
    """Apply one hidden layer of 64 each way, with batch normalisation and dropout."""
    for size in (32, 30):
        x = layers.Dense(64, use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.Dense(size)(layers.Dropout(0.2)(layers.ReLU()(x)))
    return x


def net(name: str, x: Symbol) -> Symbol:
    """Apply the net of a workload."""
    match name:
        case "W1":
            return dense(dense(x, 128, 64, 12, 3), 12, 64, 128, 784, last="sigmoid")
        case "W2":
            return dense(dense(x, 32, last="relu"), 784, last="sigmoid")
        case "W3":
            return dense(Posterior()(dense(x, 512, 32)), 512, 784, last="sigmoid")
        case "W4":
            return images(x)
        case _:
            return table(x)


def entropy(x: Symbol, out: Symbol) -> Symbol:
    """Return the cross-entropy, summed over a sample."""
    return keras.losses.binary_crossentropy(x, out) * x.shape[1]


LOSSES = {"mse": "mse", "bce": "binary_crossentropy", "elbo": entropy}


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    del threads, variant
    work = WORKLOADS[name]
    x = X.reshape(-1, 28, 28, 1) if name == "W4" else X
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, net(name, inputs))
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), LOSSES[work.loss])
    laps = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: lap())
    model.fit(x, x, work.batch_size, epochs, verbose=0, callbacks=[laps])
    return Trained(sum(int(np.prod(w.shape)) for w in model.trainable_weights), {})
