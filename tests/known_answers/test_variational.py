"""The price of the KL: its schedules, capacity, free bits and constraint; and the VAE's kin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import narrows
from narrows import checkpoint
from narrows.data.sources import Batch
from narrows.errors import ParameterError
from narrows.metrics.health import diagnose
from narrows.parts.divergences import aggregate, mmd, moments, sliced
from narrows.parts.latents import Gaussian

SMALL = {"latent_dim": 4, "hidden": (32,), "epochs": 3, "batch_size": 64, "verbose": 0}


def terms(cls, progress=0.5, weight=None, training=True, **fields):
    """A step of a small fitted model at some progress, and the terms of its objective."""
    X = load_digits().data[:128]
    model = cls(**SMALL | fields).fit(X)
    x, *_ = model.modality_.encode(model.modality_.read(X, "test"))
    net = model.net_.train(training)
    net.latent.train()
    with torch.no_grad():
        torch.manual_seed(0)
        step = net(Batch(x, x, weight=weight))
        step = replace(step, progress=torch.tensor(progress))
        torch.manual_seed(1)
        return model, step, model.objective(step)


def same(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected).expand_as(found))


# -- the units of the code --------------------------------------------------------------------


def test_samples_count_by_their_weights_in_the_units_of_the_code():
    h = torch.randn(3, 4)
    weighted, repeated, untouched = Gaussian(2), Gaussian(2), Gaussian(2)
    weighted.update(h, h, torch.tensor([2.0, 1.0, 0.0]))
    repeated.update(h[[0, 0, 1]], h)
    for name in ("center", "variance"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name))
    untouched.update(h, h, torch.zeros(3))
    assert not untouched.center.any()
    assert (untouched.variance == 1).all()


def test_the_code_comes_in_the_units_that_make_the_kl_smallest():
    torch.manual_seed(0)
    spread, offset = torch.tensor([0.5, 1, 30]), torch.tensor([1.0, -2, 9])
    h = torch.cat([torch.randn(500, 3) * spread + offset, torch.randn(500, 3) - 9], 1)
    latent = Gaussian(3)
    noise = torch.randn(500, 3)
    seen = latent.seen(latent.posterior(h).rsample(noise))
    for _ in range(3000):
        latent.update(h, h)
    q = latent.posterior(h)
    square = (q.mean.square() + q.logvar.exp()).mean(0)
    torch.testing.assert_close(square, torch.ones(3), rtol=1e-3, atol=0)
    torch.testing.assert_close(q.mean.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(latent.seen(q.rsample(noise)), seen, rtol=1e-3, atol=1e-3)
    best = q.kl().mean(0)
    for factor in (0.8, 1.25):
        latent.variance.mul_(factor)
        assert (latent.posterior(h).kl().mean(0) > best).all()
        latent.variance.div_(factor)
    for shift in (-0.3, 0.3):
        latent.center.add_(shift)
        assert (latent.posterior(h).kl().mean(0) > best).all()
        latent.center.sub_(shift)


def test_a_trained_code_has_the_moments_of_its_prior():
    model, step, _ = terms(narrows.VAE, epochs=60)
    latent, q = model.net_.latent, step.q
    square = q.mean.square() + q.logvar.exp()
    torch.testing.assert_close(square.mean(0), torch.ones(4), rtol=0.2, atol=0)
    torch.testing.assert_close(q.mean.mean(0), torch.zeros(4), rtol=0, atol=0.1)
    assert (latent.variance - 1).abs().max() > 0.05  # without them, it would not
    assert latent.center.abs().max() > 0.05


# -- what the KL costs ------------------------------------------------------------------------


def test_by_default_the_objective_is_the_negative_elbo():
    model, step, found = terms(narrows.VAE)
    same(found["nll"], step.nll)
    same(found["kl"], step.charges["kl"])
    bound = model.net_.likelihood.nll(step.out, step.batch.target) + step.q.kl().sum(1)
    same(sum(found.values()), bound)


@pytest.mark.parametrize(
    ("schedule", "progress", "risen"),
    [("linear", 0.2, 0.4), ("linear", 0.7, 1.0), ("cosine", 0.25, 0.5), ("cyclic", 0.3, 0.4)],
)
def test_a_schedule_multiplies_the_weight(schedule, progress, risen):
    _, step, found = terms(narrows.VAE, progress, beta=3.0, kl_schedule=schedule)
    same(found["kl"], 3.0 * risen * step.charges["kl"])
    _, step, found = terms(narrows.VAE, progress, beta=3.0, kl_schedule=schedule, training=False)
    same(found["kl"], 3.0 * step.charges["kl"])  # held-out samples, and all epochs alike


def test_a_capacity_is_the_distance_of_the_mean_kl():
    weight = torch.linspace(0.1, 1.9, 128)
    for progress, aim in ((0.2, 4.0), (0.9, 10.0)):
        _, step, found = terms(
            narrows.VAE, progress, weight, beta=7.0, capacity=10.0, kl_schedule="linear"
        )
        same(found["kl"], 7.0 * abs((step.charges["kl"] * weight).mean() - aim))
    _, step, found = terms(narrows.VAE, 0.0, capacity=1e3)
    same(found["kl"], 1e3 - step.charges["kl"].mean())


def test_free_bits_charge_a_unit_only_above_them():
    free = 0.3
    _, step, found = terms(narrows.VAE, beta=2.0, free_bits=free)
    unit = step.q.kl().mean(0)
    assert unit.min() > free  # all four carry more, so that nothing is free
    same(found["kl"], 2.0 * unit.sum())
    free = float(unit.sort().values[1:3].mean())
    _, step, found = terms(narrows.VAE, beta=2.0, free_bits=free)
    unit = step.q.kl().mean(0)
    expected = sum(max(free, float(k)) for k in unit)
    same(found["kl"], 2.0 * expected)
    assert float((unit < free).sum()) > 0


@pytest.mark.wide
def test_a_capacity_is_reached_and_free_bits_keep_units_alive(digits):
    def kl(**fields):
        model = narrows.VAE(**SMALL | {"epochs": 80, "learning_rate": 5e-3} | fields).fit(digits)
        return model.unit_kl_

    assert kl(capacity=6.0, beta=50.0).sum() == pytest.approx(6, rel=0.15)
    assert kl(beta=30.0).max() < 0.1  # nothing is worth its price
    kept = kl(beta=30.0, free_bits=1.0)
    assert kept.min() > 0.8
    assert kept.max() < 1.3


# -- the constrained objective ------------------------------------------------------------------


def test_the_price_of_the_distortion_is_that_of_a_gaussian_at_the_target():
    """λ = 1: the nll of N(mean, target), but for its constant; zero where mse = target."""
    model, step, found = terms(narrows.VAE, distortion=0.2)
    lam = float(model.net_.multiplier.value)
    mean = model.net_.likelihood.mean(step.out)
    normal = torch.distributions.Normal(mean, 0.2**0.5)
    nll = -normal.log_prob(step.batch.target).sum(1)
    at_target = mean.shape[1] * (0.5 + 0.5 * np.log(2 * np.pi * 0.2))
    torch.testing.assert_close(found["distortion"], lam * (nll - at_target), rtol=1e-4, atol=1e-3)
    same(found["kl"], step.charges["kl"])


def test_missing_values_count_for_nothing_in_the_distortion():
    model, step, _ = terms(narrows.VAE, distortion=0.2)
    mask = (torch.rand_like(step.batch.x) < 0.7).float()
    masked = replace(step, batch=replace(step.batch, mask=mask))
    square = (step.out - step.batch.x).square()
    expected = 0.5 * model.net_.multiplier.value * ((square / 0.2 - 1) * mask).sum(1)
    torch.testing.assert_close(model.net_.multiplier(masked), expected, rtol=1e-4, atol=1e-3)


def test_the_multiplier_follows_the_moving_average_and_is_clipped():
    model, step, _ = terms(narrows.VAE, distortion=0.2)
    multiplier = narrows.models.variational.Multiplier(0.2, model.net_.likelihood)
    excess = float((step.out - step.batch.x).square().mean()) / 0.2 - 1
    log, average = 0.0, 0.0
    for n, factor in enumerate((1.0, 0.2, 5.0, 1.0, 0.1, 0.1), 1):
        mean = step.batch.x + factor * (step.out - step.batch.x)
        multiplier.follow(replace(step, out=mean))
        average += max(1 / n, 0.3) * (factor**2 * (excess + 1) - 1 - average)
        log += 0.1 * min(average, 1)
        assert float(multiplier.value.log()) == pytest.approx(log, abs=1e-4)
    for factor, end in ((30.0, 1e2), (0.0, 1e-3)):
        for _ in range(400):
            multiplier.follow(replace(step, out=step.batch.x + factor))
        assert float(multiplier.value) == pytest.approx(end)


@pytest.mark.wide
@pytest.mark.parametrize("target", [0.6, 0.4])
def test_the_constraint_is_met_and_no_better(target, digits):
    model = narrows.VAE(
        **SMALL | {"epochs": 250, "learning_rate": 5e-3, "latent_dim": 8}, distortion=target
    ).fit(digits)
    assert model.history_[-1]["mse"] == pytest.approx(target, rel=0.1)


def test_a_looser_bound_leaves_less_information(digits):
    kl = [
        float(
            narrows.VAE(**SMALL | {"epochs": 80, "learning_rate": 5e-3}, distortion=target)
            .fit(digits)
            .unit_kl_.sum()
        )
        for target in (0.8, 0.5)
    ]
    assert kl[0] < 0.6 * kl[1]


def test_the_multiplier_is_saved_and_resumed(tmp_path, monkeypatch, digits):
    def make():
        return narrows.VAE(**SMALL | {"epochs": 6}, distortion=0.3)

    whole = make().fit(digits)
    value = whole.net_.multiplier.value
    assert value != 1
    whole.save(tmp_path / "model")
    assert narrows.load(tmp_path / "model").net_.multiplier.value == value

    write = checkpoint.write

    def stop(folder, training):
        write(folder, training)
        if training.epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            make().fit(digits, checkpoint=tmp_path / "run")
    resumed = make().fit(digits, checkpoint=tmp_path / "run", resume=True)
    for name, tensor in whole.net_.state_dict().items():
        assert torch.equal(resumed.net_.state_dict()[name], tensor), name


def test_an_error_that_the_price_of_the_code_raises_is_no_overfitting():
    def names(train):
        held = (1.0, 0.5, 0.8)
        history = [{"mse": a, "validation_mse": b} for a, b in zip(train, held, strict=True)]
        codes = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
        return {finding.name for finding in diagnose(history, codes).findings}

    assert "overfitting" in names((1.0, 0.5, 0.4))
    assert "overfitting" not in names((1.0, 0.5, 0.75))


# -- fields that mean nothing beside each other -------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "fields", "sentence"),
    [
        ("VAE", {"kl_warmup": 0.2}, "'kl_warmup' parameter of VAE has no effect with kl_sch"),
        ("VAE", {"kl_cycles": 2, "kl_schedule": "linear"}, "'kl_cycles'.*kl_schedule='linear'"),
        ("VAE", {"capacity": 5.0, "free_bits": 0.1}, "'free_bits'.*no effect with capacity"),
        ("VAE", {"distortion": 0.1, "beta": 2.0}, "'beta'.*no effect with distortion"),
        ("VAE", {"distortion": 0.1, "kl_schedule": "linear"}, "'kl_schedule'.*distortion"),
        ("VAE", {"distortion": 0.1, "capacity": 2.0}, "'capacity'.*no effect with distortion"),
        ("VAE", {"distortion": 0.1, "patience": 3}, "'patience'.*compares the losses"),
        ("VAE", {"distortion": 0.1, "schedule": "plateau"}, "'schedule'.*compares the losses"),
        *(
            (
                "VAE",
                {"distortion": 0.1, field: value},
                "distortion takes the place of the nll",
            )
            for field, value in (
                ("scale", "learned"),
                ("scale", "predicted"),
                ("likelihood", "negative_binomial"),
                ("likelihood", "discretised_logistic"),
            )
        ),
        ("VAE", {"kl_schedule": "cosine", "patience": 3, "validation": 0.0}, "held-out samples"),
        (
            "InfoVAE",
            {"alpha": 0.2, "lam": 0.5},
            "'lam' parameter .* must be at least 1 - alpha = 0.8",
        ),
        ("InfoVAE", {"alpha": 1.0, "kl_schedule": "linear"}, "'kl_schedule'.*alpha=1"),
        ("RegularizedAutoencoder", {"tied": True}, "'tied'.*leaves no weight"),
        (
            "RegularizedAutoencoder",
            {"regularizer": "spectral_norm", "decoder_penalty": 2.0},
            "'decoder_penalty'.*no effect",
        ),
        (
            "RegularizedAutoencoder",
            {"regularizer": "gradient_penalty", "batch_norm": True},
            "batch_norm=True mixes",
        ),
    ],
)
def test_what_means_nothing_is_refused(cls, fields, sentence, digits):
    with pytest.raises(ParameterError, match=sentence):
        narrows.MODELS[cls](**SMALL | fields).fit(digits)


def test_free_bits_need_the_kl_of_each_unit(digits):
    class _Other(narrows.parts.latents.Gaussian):
        pass

    class _Odd(narrows.VAE):
        def latent(self):
            return _Other(self.latent_dim)

    _Odd(**SMALL).fit(digits)
    with pytest.raises(ParameterError, match="'free_bits' parameter of _Odd needs the KL"):
        _Odd(**SMALL | {"free_bits": 0.1}).fit(digits)


# -- the kin ------------------------------------------------------------------------------------


def test_the_total_correlation_vae_weighs_three_parts():
    model, step, found = terms(narrows.BetaTCVAE, alpha=0.5, beta=4.0, gamma=2.0)
    assert model._size == 116  # what is not held out, of 128
    joint, product = aggregate(step.q, step.z, 116)
    prior = model.net_.latent.prior().log_prob(step.z)
    same(found["mutual_information"], 0.5 * (step.q.log_prob(step.z) - joint))
    same(found["total_correlation"], 4.0 * (joint - product))
    same(found["dimension_kl"], 2.0 * (product - prior))


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_with_equal_weights_the_parts_are_the_kl(sampling):
    _, step, found = terms(narrows.BetaTCVAE, 0.1, beta=1.0, sampling=sampling)
    parts = sum(value for name, value in found.items() if name != "nll")
    draw = step.q.log_prob(step.z) + 0.5 * (step.z.square() + np.log(2 * np.pi)).sum(1)
    torch.testing.assert_close(parts, draw)
    gap = parts - step.charges["kl"]
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / len(gap) ** 0.5


def test_a_schedule_moves_all_three_parts():
    _, _, whole = terms(narrows.BetaTCVAE, kl_schedule="linear", training=False)
    _, _, part = terms(narrows.BetaTCVAE, 0.1, kl_schedule="linear")
    for name in ("mutual_information", "total_correlation", "dimension_kl"):
        same(part[name], 0.2 * whole[name])


@pytest.mark.wide
def test_charging_the_total_correlation_lowers_it():
    """Held out: the fitted Gaussian's total correlation, -½ log |R|, of drawn codes."""
    X = load_digits().data

    def correlation(beta):
        model = narrows.BetaTCVAE(latent_dim=6, hidden=(64,), epochs=25, beta=beta).fit(X[:1200])
        x, *_ = model.modality_.encode(model.modality_.read(X[1200:], "test"))
        torch.manual_seed(0)
        z = model.net_.latent.train()(model.net_.encode(Batch(x, x))[0])[0].detach()
        return -0.5 * float(torch.linalg.slogdet(torch.corrcoef(z.T))[1])

    assert correlation(10.0) < 0.5 * correlation(0.0)


@pytest.mark.parametrize("version", ["I", "II"])
def test_dip_charges_the_covariance_of_means_or_of_codes(version):
    fields = {"version": version, "off_diagonal": 3.0, "diagonal": 5.0, "beta": 2.0}
    _, step, found = terms(narrows.DIPVAE, **fields)
    off, own = moments(step.q, sampled=version == "II")
    same(found["off_diagonal"], 3.0 * off)
    same(found["diagonal"], 5.0 * own)
    same(found["kl"], 2.0 * step.charges["kl"])
    covariance = np.cov(step.q.mean.detach().numpy().T, bias=True)
    if version == "II":
        covariance += np.diag(step.q.logvar.exp().mean(0).numpy())
    gap = covariance - np.eye(4)
    assert float(found["diagonal"]) == pytest.approx(5.0 * (np.diag(gap) ** 2).sum(), rel=1e-3)
    gap -= np.diag(np.diag(gap))
    assert float(found["off_diagonal"]) == pytest.approx(3.0 * (gap**2).sum(), rel=1e-3)


@pytest.mark.wide
@pytest.mark.parametrize(("version", "diagonal"), [("I", 200.0), ("II", 20.0)])
def test_dip_brings_the_covariance_to_the_identity(version, diagonal, digits):
    def gap(weight):
        model = narrows.DIPVAE(
            **SMALL | {"epochs": 60, "learning_rate": 5e-3},
            version=version,
            off_diagonal=weight * 20.0,
            diagonal=weight * diagonal,
        ).fit(digits)
        x, *_ = model.modality_.encode(model.modality_.read(digits, "test"))
        with torch.no_grad():
            q = model.net_(Batch(x, x)).q
        return float(sum(moments(q, sampled=version == "II")))

    assert gap(1.0) < 0.5 * gap(0.0)


def test_infovae_weighs_the_kl_and_the_discrepancy_as_the_paper_does():
    _, step, found = terms(narrows.InfoVAE, alpha=0.3, lam=20.0)
    same(found["kl"], 0.7 * step.charges["kl"])
    torch.manual_seed(1)
    same(found["mmd"], (0.3 + 20.0 - 1) * mmd(step.z, torch.randn_like(step.z)))


def test_infovae_without_preference_is_the_vae():
    model = narrows.InfoVAE(**SMALL, alpha=0.0, lam=1.0)
    X = load_digits().data[:128]
    twin = narrows.VAE(**SMALL).fit(X)
    history = model.fit(X).history_
    assert all(row["mmd"] == 0 for row in history)
    assert history[0]["loss"] == pytest.approx(twin.history_[0]["loss"], rel=0.02)


def test_the_wasserstein_autoencoder_adds_the_discrepancy_of_its_codes():
    model, step, found = terms(narrows.WassersteinAutoencoder, matching=20.0, kernel="rbf")
    assert step.q is None
    torch.manual_seed(1)
    same(found["mmd"], 20.0 * mmd(step.z, torch.randn_like(step.z), "rbf"))
    same(found["nll"], step.nll)
    prior = model.net_.latent.prior()
    assert float(prior.log_prob(torch.zeros(1, 4))) == pytest.approx(-2 * np.log(2 * np.pi))


def test_the_wasserstein_autoencoder_adds_the_sliced_distance_of_its_codes():
    options = {"matching": 20.0, "distance": "sliced", "projections": 7}
    _, step, found = terms(narrows.WassersteinAutoencoder, **options)
    torch.manual_seed(1)
    same(found["sliced"], 20.0 * sliced(step.z, torch.randn_like(step.z), 7))
    assert found.keys() == {"nll", "sliced"}


@pytest.mark.parametrize("distance", ["mmd", "sliced"])
def test_matching_brings_the_codes_to_the_prior(digits, distance):
    """And so the prior's samples near the data: by the biased discrepancy, in data space."""

    def gaps(matching):
        model = narrows.WassersteinAutoencoder(
            **SMALL | {"epochs": 50, "learning_rate": 5e-3}, matching=matching, distance=distance
        ).fit(digits)
        codes = torch.from_numpy(model.transform(digits))
        torch.manual_seed(0)
        samples = torch.from_numpy(model.sample(256))
        return (
            float(mmd(codes, torch.randn(256, 4), unbiased=False)),
            float(mmd(samples / 16, torch.from_numpy(digits / 16), unbiased=False)),
        )

    held, free = gaps(200.0), gaps(0.0)
    assert held[0] < 0.5 * free[0]
    assert held[1] < free[1]


def test_a_code_without_noise_is_scored_once(digits):
    model = narrows.WassersteinAutoencoder(**SMALL).fit(digits)
    assert not model.net_.latent.stochastic
    x, *_ = model.modality_.encode(model.modality_.read(digits, "test"))
    nll = model.net_(Batch(x, x)).nll.detach().numpy()
    np.testing.assert_allclose(model.score_samples(digits), -nll, rtol=1e-4, atol=1e-3)
