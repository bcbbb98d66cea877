"""The textbook's deep autoencoder: 784-128-64-12-3-12-64-128-784, ReLU, sigmoid, squared error.

    python examples/deep_autoencoder.py [DATA] [--out FIGURE.png]

DATA is anything that `narrows fit` takes, with images of 28 × 28; without it, scikit-learn's
handwritten digits enlarged to that size.
"""

from textbook import ADAM, arguments, figure_of_reconstructions

from narrows import Autoencoder
from narrows.data.samples import open_data

given = arguments(__doc__, "deep_autoencoder.png")
X = open_data(given.data).X
model = Autoencoder(
    architecture="mlp",
    hidden=(128, 64, 12),
    latent_dim=3,
    activation="relu",
    output_activation="sigmoid",
    likelihood="gaussian",
    scale=1.0,  # the textbook's ½ ‖x − x̂‖², up to a constant
    **ADAM,
    epochs=given.epochs,
).fit(X)

print(model.net_)
for row in model.history_[:: max(1, given.epochs // 5)]:
    print(f"epoch {row['epoch']:>3}  mse {row['mse']:.4f}  held out {row['validation_mse']:.4f}")
codes = model.transform(X[:3])
assert (codes == model.transform(X[:3])).all(), "a code is deterministic"
print("codes of three images:", codes.round(2).tolist())
figure_of_reconstructions(model, X[model.held_out_], given.out)
