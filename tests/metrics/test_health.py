"""What the codes say about a training, against closed forms."""

import numpy as np
import pytest
from sklearn.datasets import load_iris

import narrows
from narrows.metrics.health import dependence, diagnose, fit_of_prior


def test_dependence_is_the_total_correlation_of_a_normal():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((20_000, 3)).astype(np.float32)
    assert dependence(z) < 1e-3
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    assert dependence(3 * z + 1) == pytest.approx(-0.5 * np.log(1 - 0.8**2), rel=0.03)
    silent = 1e-3 * z[:, :1]
    assert dependence(np.c_[z, silent]) == pytest.approx(dependence(z))
    assert 5 < dependence(np.c_[z, 2 * z[:, 2:]]) < 8  # a copy
    few = [dependence(rng.standard_normal((100, 20))) for _ in range(20)]
    assert np.mean(few) < 0.3  # 0.95 without the correction
    assert dependence(z[:2]) == 0


def test_early_stopping_is_no_overfitting():
    """The course is read up to the epoch whose weights were kept."""
    errors = [(1.0, 1.0), (0.5, 0.6), (0.4, 0.7), (0.3, 0.9)]
    rows = [
        {"epoch": i + 1, "loss": a, "mse": a, "validation_loss": b, "validation_mse": b}
        for i, (a, b) in enumerate(errors)
    ]
    codes = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    names = [finding.name for finding in diagnose(rows, codes).findings]
    assert "overfitting" in names
    found = diagnose(rows, codes, epoch=2).findings
    assert not any(finding.level == "problem" for finding in found)
    assert any(str(f).endswith("The weights are those of epoch 2, the best of 4.") for f in found)


def test_a_prior_that_does_not_know_the_codes_is_named():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((1000, 4))
    assert fit_of_prior(z).level == "good"
    z[:, 1:] += 3 * z[:, :1]
    found = fit_of_prior(z)
    assert found.level == "notice"
    assert "density=True" in found.remedy
    assert "VampPriorVAE" in found.remedy
    assert "VampPriorVAE" not in fit_of_prior(z, learnable=False).remedy


def test_the_prior_of_a_dead_code_is_no_finding():
    model = narrows.VAE(latent_dim=4, epochs=1, verbose=0)
    model.fit(np.random.default_rng(0).standard_normal((50, 3)))
    model.codes_ = np.random.default_rng(0).normal(0, 1e-3, (500, 1)) * np.ones(4, np.float32)
    assert [f.name for f in model.diagnose().findings if f.level == "problem"] == ["collapse"]
    assert all(f.name != "prior" for f in model.diagnose().findings)


@pytest.mark.parametrize(
    ("cls", "named"),
    [
        (narrows.VAE, True),
        (narrows.FactorVAE, True),
        (narrows.AdversarialAutoencoder, True),
        (narrows.Autoencoder, False),  # no prior
        (narrows.VampPriorVAE, False),  # no independent units
        (narrows.HierarchicalVAE, False),
        (narrows.VQVAE, False),
    ],
)
def test_models_with_an_independent_normal_prior_say_whether_it_fits(cls, named):
    model = cls(epochs=1).fit(load_iris().data)
    assert any(finding.name == "prior" for finding in model.diagnose().findings) is named
