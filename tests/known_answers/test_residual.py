"""What passes beside a code, what that leaves to it, and blocks that start as the identity."""

import numpy as np
import pytest
import torch
from torch import nn

import narrows
from narrows.data.files import Dataset
from narrows.data.sources import Batch
from narrows.errors import ContextError, ParameterError
from narrows.evaluation.evaluate import evaluate
from narrows.evaluation.report import render
from narrows.parts.networks import Residual


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def fit(X, **options):
    defaults = {"latent_dim": 2, "hidden": (16,), "epochs": 20, "learning_rate": 1e-2}
    return narrows.ResidualAutoencoder(**defaults | options).fit(X)


def skip_of(model):
    """W as one matrix, from the path's own weights."""
    weights = [p.detach() for p in model.net_.encoder.skip.parameters()]
    return weights[0] if len(weights) == 1 else weights[1] @ weights[0]


# -- the path beside the code -----------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, None])
def test_the_mean_is_g_of_the_code_plus_w_x(rank, wine):
    model = fit(wine, skip_rank=rank)
    net, x = model.net_, torch.randn(6, 13)
    step = net(Batch(x, x))
    passed = x @ skip_of(model).t()
    torch.testing.assert_close(
        step.out, net.decoder.decoder(net.code(Batch(x, x))) + passed, atol=1e-5, rtol=1e-4
    )
    assert int(torch.linalg.matrix_rank(skip_of(model), rtol=1e-4)) == (rank or 13)


def test_it_starts_at_zero(wine):
    start = fit(wine, epochs=1, learning_rate=1e-30)
    assert skip_of(start).abs().max() < 1e-20


def test_a_full_rank_makes_the_code_useless_and_the_diagnosis_says_so(wine):
    """A low rank leaves work to the code."""
    findings = {
        rank: {f.name: f for f in fit(wine, skip_rank=rank, epochs=150).diagnose().findings}
        for rank in (1, None)
    }
    assert findings[1]["worth of the code"].level == "good"
    assert findings[None]["worth of the code"].level == "problem"
    assert "useless" in findings[None]["worth of the code"].text
    useful = fit(wine, skip_rank=None, latent_dim=13).diagnose()
    assert "all of x can pass" in str(useful)


def test_the_share_of_the_code_is_half_the_rise_with_another_samples_code(wine):
    """The squared distance of two independent draws is twice the variance."""
    model = fit(wine)
    net, x = model.net_, torch.randn(6, 13)
    batch = Batch(x, x)
    step = net(batch)
    out = net.decoder(step.z.roll(1, 0), batch, net.encoder.skip(x))
    rise = (out - x).square().mean() - (step.out - x).square().mean()
    variance = (x - x.mean(0)).square().mean()
    torch.testing.assert_close(net.statistics(step)["code_share"], 0.5 * rise / variance)


def test_a_code_that_carries_all_has_a_share_of_one(wine):
    model = fit(wine, latent_dim=13, architecture="linear", hidden=None, epochs=60, skip_rank=1)
    (weight,) = [p for n, p in model.net_.decoder.named_parameters() if n.endswith("weight")]
    with torch.no_grad():
        model.net_.encoder.encoder[1].weight.copy_(torch.eye(13))
        model.net_.encoder.encoder[1].bias.zero_()
        weight.copy_(torch.eye(13))
        for p in model.net_.encoder.skip.parameters():
            p.zero_()
    x = torch.randn(20_000, 13)
    share = model.net_.statistics(model.net_(Batch(x, x)))["code_share"]
    assert float(share) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("method", ["inverse_transform", "sample", "interpolate"])
def test_a_bare_code_is_refused_with_what_to_call_instead(method, wine):
    model = fit(wine, epochs=1)
    arguments = {
        "inverse_transform": [model.transform(wine)],
        "sample": [3],
        "interpolate": [wine[0], wine[1]],
    }[method]
    with pytest.raises(ContextError, match=r"Call reconstruct\(X\) .* use Autoencoder to"):
        getattr(model, method)(*arguments)  # asking for inverse_transform is refused already
    assert issubclass(ContextError, ParameterError)
    assert not hasattr(model, "inverse_transform")


def test_the_report_leaves_out_what_cannot_be_decoded(images):
    model = fit(images, hidden=(4,), epochs=1, modality="image")
    found = evaluate(model, images, train=np.arange(200), test=np.arange(200, 256))
    page = render(model, Dataset(images), found, command="narrows fit digits", seconds=1.0)
    assert "beside its own sample" in page
    assert "Reconstructions" in page


# -- residual blocks --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_blocks_of_any_size_start_as_the_identity_and_all_learn(architecture, batch_norm, images):
    options = {"latent_dim": 3, "hidden": (5, 6), "modality": "image", "batch_norm": batch_norm}
    options |= {"architecture": architecture, "blocks": 2, "batch_size": 64}
    start = narrows.Autoencoder(epochs=1, learning_rate=1e-30, **options).fit(images[:, :, :7])
    blocks = [m for m in start.net_.eval().modules() if isinstance(m, Residual)]
    assert len(blocks) == 2 * (4 if architecture == "mlp" else 3)  # none at the image itself
    shape = (4, 7, 3) if architecture == "conv" else ()
    for block in blocks:
        layer = next(m for m in block if isinstance(m, nn.Linear | nn.Conv2d))
        x = torch.randn(9, layer.weight.shape[1], *shape[1:])
        torch.testing.assert_close(block(x), x)
    model = narrows.Autoencoder(epochs=3, learning_rate=1e-2, **options).fit(images[:, :, :7])
    for before, after in zip(start.net_.parameters(), model.net_.parameters(), strict=True):
        assert not torch.equal(before, after)
