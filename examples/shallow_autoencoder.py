"""The textbook's shallow autoencoder: 784-32-784, binary cross-entropy, Adam, batch 256.

    python examples/shallow_autoencoder.py [DATA] [--out FIGURE.png]

DATA is anything that `narrows fit` takes, with images of 28 × 28; without it, scikit-learn's
handwritten digits enlarged to that size.
"""

from textbook import ADAM, arguments, figure_of_reconstructions

from narrows import Autoencoder
from narrows.data.samples import open_data

given = arguments(__doc__, "shallow_autoencoder.png")
X = open_data(given.data).X
model = Autoencoder(
    architecture="mlp",
    hidden=(),
    latent_dim=32,
    code_activation="relu",
    likelihood="bernoulli",  # sigmoid and binary cross-entropy, on logits
    **ADAM,
    epochs=given.epochs,
).fit(X)

print(model.net_)
for row in model.history_[:: max(1, given.epochs // 5)]:
    pixel, held = row["nll"] / X[0].size, row["validation_nll"] / X[0].size
    print(f"epoch {row['epoch']:>3}  cross-entropy a pixel {pixel:.4f}  held out {held:.4f}")
codes = model.transform(X[:3])
assert (codes == model.transform(X[:3])).all(), "a code is deterministic"
print("first code:", codes[0].round(1).tolist())
figure_of_reconstructions(model, X[model.held_out_], given.out)
