"""Every modality meets every architecture: a net that keeps its promises, or a sentence."""

import numpy as np
import pytest
import torch

import narrows
from narrows.data.modalities import MODALITIES
from narrows.errors import DataError, ParameterError
from narrows.parts.networks import ARCHITECTURES

RNG = np.random.default_rng(0)
DATA = {
    "table": RNG.normal(size=(24, 6)),
    "image": RNG.integers(0, 256, (24, 9, 7), dtype=np.uint8),
    "volume": RNG.normal(size=(24, 5, 6, 7)).astype(np.float32),
    "series": [RNG.normal(size=(n % 5 + 4, 2)) for n in range(24)],
    "text": ["ab" * (n % 4 + 1) + "c" for n in range(24)],
    "graph": (np.array([[0, 1, 2, 3], [1, 2, 3, 0]]), RNG.normal(size=(4, 2))),
}
DENSE = {"linear", "mlp"}
SEQUENTIAL = {"gru", "lstm", "transformer"}
TAKES = {
    "table": DENSE | SEQUENTIAL,
    "image": DENSE | {"conv"},
    "volume": DENSE | {"conv"},
    "series": DENSE | {"conv"} | SEQUENTIAL,
    "text": DENSE | {"conv"} | SEQUENTIAL,
    "graph": set(),  # of models of their own
}


def test_every_modality_is_here():
    assert MODALITIES.keys() == DATA.keys() == TAKES.keys()
    assert set().union(*TAKES.values()) <= ARCHITECTURES.keys()


@pytest.mark.parametrize("architecture", [*sorted(ARCHITECTURES), "unet", "gcn"])
@pytest.mark.parametrize("form", DATA)
def test_a_pair_works_or_says_why_not(form, architecture, tmp_path):
    X = DATA[form]
    hidden = None if architecture == "linear" else (4,)
    fields = {"architecture": architecture, "modality": form, "hidden": hidden, "latent_dim": 2}
    model = narrows.VAE(**fields, epochs=1, verbose=0)
    if architecture not in TAKES[form]:
        with pytest.raises((ParameterError, DataError), match=r"needs|is for"):
            model.fit(X)
        return
    codes = model.fit(X).transform(X)
    assert codes.shape == (24, 2)
    assert np.isfinite(codes).all()
    assert np.isfinite(model.score_samples(X)).all()
    back = model.reconstruct(X)
    assert type(back) is type(X)
    assert np.shape(back[0]) == np.shape(X[0])
    assert len(model.sample(3)) == 3
    model.save(tmp_path / "model")
    again = narrows.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(X), codes)
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    twin = narrows.VAE(**fields, epochs=1, verbose=0).fit(X)
    np.testing.assert_array_equal(twin.transform(X), codes)
    for i in (0, 7):  # alone, a sample is what it is among others
        np.testing.assert_allclose(model.transform(X[i : i + 1])[0], codes[i], atol=1e-5)
    batch = model.modality_.source(model.modality_.read(X, "test")).take(torch.arange(24))
    (move,) = model.losses(batch)
    loss = torch.stack([term.mean() for term in move.terms.values()]).sum()
    parameters = [*model.net_.parameters()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert all(gradient is not None for gradient in gradients)
