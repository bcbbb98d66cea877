"""What the estimator's methods mean: splits, weights, stopping, going on, scoring, sampling."""

import copy
import pickle
import warnings
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import narrows
from narrows.data.samples import load
from narrows.data.sources import Batch
from narrows.density import Mixture
from narrows.errors import ParameterError, TrainingError
from narrows.fields import NonNegative
from narrows.parts.latents import Gaussian

SMALL = {"latent_dim": 3, "hidden": (16,), "epochs": 3, "batch_size": 32}


def state(model):
    return {name: value.clone() for name, value in model.net_.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def unclocked(history):
    return [{**row, "seconds": 0} for row in history]


# -- what is held out -------------------------------------------------------------------------


def test_a_share_of_the_rows_is_held_out_and_never_trained_on(digits):
    model = narrows.Autoencoder(**SMALL, validation=0.2).fit(digits)
    assert len(model.held_out_) == int(0.2 * len(digits))
    assert len(model.codes_) == len(digits) - len(model.held_out_)
    changed = digits.copy()
    changed[model.held_out_] = changed[model.held_out_][:, ::-1]
    twin = narrows.Autoencoder(**SMALL, validation=0.2).fit(changed)
    assert same(state(model), state(twin))
    assert model.history_[0]["validation_nll"] != twin.history_[0]["validation_nll"]


def test_the_modality_is_learned_on_the_training_part_alone(wine):
    model = narrows.Autoencoder(**SMALL, validation=0.5).fit(wine)
    train = np.delete(wine, model.held_out_, 0)
    np.testing.assert_allclose(model.modality_.center, train.mean(0))
    np.testing.assert_allclose(model.modality_.scale, train.std(0))


def test_the_last_rows_are_held_out_in_the_order_of_time(digits):
    model = narrows.Autoencoder(**SMALL, validation=0.25, validation_split="last").fit(digits)
    assert model.held_out_.tolist() == list(range(192, 256))


def test_no_validation_holds_out_nothing(digits):
    model = narrows.Autoencoder(**SMALL, validation=0.0).fit(digits)
    assert len(model.held_out_) == 0
    assert not [name for name in model.history_[0] if name.startswith("validation")]


@pytest.mark.parametrize("groups", ["numbers", "words"])
def test_no_group_is_on_both_sides(groups, digits):
    member = np.random.default_rng(0).integers(20, size=len(digits))
    if groups == "words":
        member = np.array([f"patient {i}" for i in member])
    model = narrows.Autoencoder(**SMALL, validation=0.3).fit(digits, groups=member)
    held = set(member[model.held_out_])
    trained = set(np.delete(member, model.held_out_))
    assert len(held) == 6
    assert held.isdisjoint(trained)


def test_own_validation_data_replace_the_share(digits):
    train, held = digits[:200], digits[200:]
    model = narrows.Autoencoder(**SMALL).fit(train, validation=held)
    alone = narrows.Autoencoder(**SMALL, validation=0.0).fit(train)
    assert len(model.held_out_) == 0
    assert same(state(model), state(alone))
    x, *_ = model.modality_.encode(held.astype(float))
    with torch.no_grad():
        error = (model.net_(Batch(x, x)).out - x).square().mean()
    assert model.history_[-1]["validation_mse"] == pytest.approx(float(error), rel=1e-5)


# -- sample weights ---------------------------------------------------------------------------


def gradients(model, x, weight):
    batch = Batch(x, x, weight=weight)
    torch.manual_seed(0)
    (move,) = model.losses(batch)
    loss, _ = narrows.terms.total(move, weight)
    return torch.autograd.grad(loss, list(model.net_.parameters()))


@pytest.fixture
def vae(wine):
    model = narrows.VAE(**SMALL).fit(wine)
    model.net_.eval()  # no draws: the comparison is of the weights
    return model


def test_a_sample_of_weight_zero_gives_no_gradient(vae):
    x = torch.randn(8, 13)
    weight = torch.tensor([1.0, 2, 1, 0, 0, 3, 1, 1])
    other = torch.where(weight[:, None] > 0, x, 50 * torch.randn(8, 13))
    for a, b in zip(gradients(vae, x, weight), gradients(vae, other, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_weight_of_two_counts_like_the_sample_twice(vae):
    x = torch.randn(5, 13)
    weighted = gradients(vae, x, torch.tensor([2.0, 1, 1, 1, 1]) / 1.2)  # a mean of one
    doubled = gradients(vae, torch.cat([x[:1], x]), None)
    for a, b in zip(weighted, doubled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_only_the_ratios_of_weights_matter(digits):
    weight = np.random.default_rng(0).integers(1, 5, len(digits)).astype(float)
    one = narrows.VAE(**SMALL).fit(digits, sample_weight=weight)
    two = narrows.VAE(**SMALL).fit(digits, sample_weight=8 * weight)
    none = narrows.VAE(**SMALL).fit(digits)
    np.testing.assert_allclose(one.transform(digits), two.transform(digits), rtol=1e-4, atol=1e-5)
    assert not np.allclose(one.transform(digits), none.transform(digits), atol=1e-3)


def test_equal_weights_are_no_weights(digits):
    one = narrows.VAE(**SMALL).fit(digits, sample_weight=np.full(len(digits), 3.0))
    none = narrows.VAE(**SMALL).fit(digits)
    np.testing.assert_allclose(one.transform(digits), none.transform(digits), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", ["optimal", "learned", 1.0])
def test_garbage_of_weight_zero_changes_nothing_that_is_learned(scale, digits):
    """Not the weights, and not the running scale either."""
    weight = np.ones(len(digits))
    weight[::3] = 0
    one, two = digits.copy(), digits.copy()
    one[::3] = np.roll(one[::3], 1, axis=0)  # the same rows in another order: equal means
    two[::3] = two[::3][::-1]
    options = SMALL | {"scale": scale, "scaling": "none", "validation": 0.0}
    first = narrows.VAE(**options).fit(one, sample_weight=weight)
    second = narrows.VAE(**options).fit(two, sample_weight=weight)
    kept = digits[weight > 0]
    np.testing.assert_allclose(first.transform(kept), second.transform(kept), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_optimal_scale_is_the_optimum_of_the_weighted_loss(vae):
    likelihood = vae.net_.likelihood
    x, weight = torch.randn(8, 13), torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4])
    x[weight == 0] *= 100
    step = vae.net_(Batch(x, x, weight=weight))
    likelihood.updates.zero_()  # the first update takes the batch's own optimum
    vae.net_.update(step)
    square = (likelihood.mean(step.out) - x).square().mean(1)
    assert likelihood.log_scale.exp().square() == pytest.approx(
        float((square * weight).sum() / weight.sum()), rel=1e-4
    )


def test_batches_of_weight_zero_do_no_harm(digits):
    weight = np.zeros(len(digits))
    weight[:10] = 1
    model = narrows.VAE(**SMALL | {"batch_size": 8}).fit(digits, sample_weight=weight)
    assert np.isfinite(model.score_samples(digits)).all()
    assert all(np.isfinite(row["loss"]) for row in model.history_)


def test_held_out_rows_of_weight_zero_do_no_harm(digits):
    weight = np.ones(len(digits))
    weight[-60:] = 0
    model = narrows.VAE(**SMALL, validation_split="last").fit(digits, sample_weight=weight)
    assert np.isfinite(model.score_samples(digits)).all()


def test_partial_fit_takes_weights(digits):
    weight = np.ones(len(digits))
    weight[::2] = 0
    one = narrows.Autoencoder(**SMALL).partial_fit(digits, sample_weight=weight)
    none = narrows.Autoencoder(**SMALL).partial_fit(digits)
    assert not np.allclose(one.transform(digits), none.transform(digits), atol=1e-4)


# -- going on ---------------------------------------------------------------------------------


def test_partial_fit_goes_on_under_other_fields_of_the_optimizer(digits):
    model = narrows.Autoencoder(**SMALL).partial_fit(digits)
    other = {"ema": 0.9, "precision": "float16"}
    model.set_params(**other).partial_fit(digits)
    assert model.n_iter_ == 2
    assert {"scale", "average.encoder.1.weight"} <= {
        k.partition(".")[2] for k in model._partial[0]
    }


def test_partial_fit_lowers_the_loss_from_call_to_call(digits):
    model = narrows.VAE(**SMALL, learning_rate=0.01)
    losses = [model.partial_fit(digits).history_[-1]["loss"] for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.97 * losses[0]
    assert model.n_iter_ == len(model.history_) == 6
    assert len(model.held_out_) == 0


def test_partial_fit_does_not_harm_what_fit_has_learned():
    X = np.random.default_rng(0).normal(size=(80, 3)) @ np.eye(3, 6)
    model = narrows.Autoencoder(latent_dim=2, epochs=60, verbose=0).fit(X)
    before = model.score(X)
    for _ in range(10):
        assert model.partial_fit(X).score(X) > before - 0.1


def test_the_rate_of_partial_fit_rises_once_whatever_the_sizes_of_its_calls(digits):
    model = narrows.Autoencoder(latent_dim=2, hidden=(8,), batch_size=16, learning_rate=2e-3)
    rates = [
        model.partial_fit(X).history_[-1]["learning_rate"] for X in (digits, *[digits[:16]] * 3)
    ]
    steps = len(digits) // 16 + np.arange(4)
    assert rates == pytest.approx(2e-3 * np.minimum(1, steps / 100))


def test_partial_fit_learns_from_pieces(digits):
    model = narrows.Autoencoder(**SMALL, learning_rate=0.01)
    model.partial_fit(digits)
    before = model.score(digits)
    for _ in range(5):
        for piece in np.array_split(digits, 4):
            model.partial_fit(piece)
    assert model.score(digits) > before


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deep", "pickle"],
)
def test_partial_fit_goes_on_after_a_copy_as_if_there_were_none(copied, digits):
    model = narrows.VAE(**SMALL).partial_fit(digits).partial_fit(digits)
    twin = copied(model)
    model.partial_fit(digits)
    twin.partial_fit(digits)
    assert same(state(model), state(twin))
    assert unclocked(model.history_) == unclocked(twin.history_)


def test_a_pickle_after_partial_fit_does_not_carry_the_data(digits):
    few = narrows.Autoencoder(**SMALL).partial_fit(digits[:32])
    many = narrows.Autoencoder(**SMALL).partial_fit(np.tile(digits, (8, 1)))
    codes = many.codes_.nbytes - few.codes_.nbytes
    grown = len(pickle.dumps(many)) - len(pickle.dumps(few))
    assert grown < codes + 2_000  # the data would be 500 000


@pytest.mark.parametrize("change", [{"learning_rate": 0.1}, {"weight_decay": 50.0}])
def test_partial_fit_heeds_fields_changed_between_the_calls(change, digits):
    one = narrows.Autoencoder(**SMALL).partial_fit(digits).set_params(**change)
    two = narrows.Autoencoder(**SMALL).partial_fit(digits)
    assert not same(state(one.partial_fit(digits)), state(two.partial_fit(digits)))


def test_partial_fit_goes_on_from_fit(digits):
    model = narrows.Autoencoder(**SMALL, learning_rate=0.01).fit(digits)
    before, score = model.modality_, model.score(digits)
    for _ in range(5):
        model.partial_fit(digits)
    assert model.modality_ is before
    assert model.score(digits) > score


def test_partial_fit_goes_on_from_a_loaded_model(digits, tmp_path):
    model = narrows.Autoencoder(**SMALL, learning_rate=0.01).fit(digits)
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    assert same(state(model.partial_fit(digits)), state(twin.partial_fit(digits)))


def test_fit_starts_anew_after_partial_fit(digits):
    model = narrows.Autoencoder(**SMALL)
    fresh = state(model.fit(digits))
    model.partial_fit(digits)
    assert same(state(model.fit(digits)), fresh)


def test_partial_fit_goes_on_from_a_warm_start_too(digits):
    """Not from where the partial_fit before it had stopped."""
    model = narrows.Autoencoder(**SMALL, learning_rate=0.01, warm_start=True).partial_fit(digits)
    model.set_params(epochs=30).fit(digits)
    score = model.score(digits)
    assert model.set_params(learning_rate=1e-9).partial_fit(digits).score(digits) > score - 0.5


def test_warm_start_goes_on(digits):
    options = SMALL | {"learning_rate": 0.01}
    model = narrows.Autoencoder(**options, warm_start=True).fit(digits)
    first = model.history_
    net = model.net_
    model.fit(digits)
    assert model.net_ is net
    assert model.history_[-1]["loss"] < first[-1]["loss"]
    assert model.history_[0]["loss"] < first[0]["loss"]
    cold = narrows.Autoencoder(**options).fit(digits)
    assert unclocked(cold.fit(digits).history_) == unclocked(first)


def test_warm_start_keeps_the_units_of_the_first_fit(wine):
    model = narrows.Autoencoder(**SMALL, warm_start=True).fit(wine)
    before = model.modality_
    model.fit(3 * wine + 1)
    assert model.modality_ == before


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "change", [{"latent_dim": 5}, {"hidden": (4,)}, {"scale": 1.0}, {"activation": "relu"}]
)
def test_a_net_of_other_fields_is_not_gone_on_with(method, change, digits):
    model = narrows.Autoencoder(**SMALL, warm_start=True).fit(digits)
    model.set_params(**change)
    with pytest.raises(ParameterError, match="describe another net"):
        getattr(model, method)(digits)


class _Scaled(Gaussian):
    """A latent that keeps what it was told in some form."""

    def __init__(self, dim, told):
        super().__init__(dim)
        self.told = told


class _Telling(narrows.VAE):
    weight: NonNegative = 1.0
    form: Literal["list", "dict", "set", "numpy"] = "list"

    def describe(self, X, y):
        self.samples_ = len(X)
        return super().describe(X, y)

    def latent(self):
        told = {
            "list": [("w", self.weight)],
            "dict": {"w": {"w": self.weight}},
            "set": {self.weight},
            "numpy": np.float32(self.weight),
        }
        return _Scaled(self.latent_dim, told[self.form])

    def build(self, modality):
        assert self.samples_
        return super().build(modality)


@pytest.mark.parametrize("form", ["list", "dict", "set", "numpy"])
def test_what_a_part_was_told_must_stay_as_it_is(form, digits):
    model = _Telling(**SMALL, form=form, warm_start=True).fit(digits)
    model.set_params(learning_rate=0.02).fit(digits)
    with pytest.raises(ParameterError, match=r"changed \(weight\) and describe another net"):
        model.set_params(weight=2.0).partial_fit(digits)


def test_fields_that_do_not_shape_the_net_may_change_before_a_warm_start(digits):
    model = narrows.VAE(**SMALL, warm_start=True).fit(digits)
    model.set_params(learning_rate=0.02, beta=2.0, epochs=2, batch_size=64).fit(digits)
    assert len(model.history_) == 2


# -- stopping ---------------------------------------------------------------------------------


def overfitting(digits, **options):
    """A fit whose held-out loss is at its best long before the end."""
    X = digits[:60]
    model = narrows.Autoencoder(
        latent_dim=16,
        hidden=(128,),
        epochs=60,
        batch_size=8,
        learning_rate=0.01,
        schedule="constant",
        validation=0.5,
        **options,
    )
    return model.fit(X)


def test_patience_stops_early_and_restores_the_best_weights(digits):
    model = overfitting(digits, patience=3)
    held = [row["validation_loss"] for row in model.history_]
    best = int(np.argmin(held))
    assert len(held) == best + 1 + 3 < 60
    assert model.n_iter_ == len(held)
    X = digits[:60][model.held_out_].astype(float)
    x, *_ = model.modality_.encode(X)
    with torch.no_grad():
        found = float(model.net_(Batch(x, x)).nll.mean())
    assert found == pytest.approx(held[best], rel=1e-5)


def test_the_epoch_whose_weights_are_kept_is_known_and_saved(digits, tmp_path):
    model = overfitting(digits, patience=3)
    losses = [row["validation_loss"] for row in model.history_]
    assert model.best_epoch_ == losses.index(min(losses)) + 1 < model.n_iter_
    stopped = [f for f in model.diagnose().findings if f.name == "early stopping"]
    assert f"epoch {model.best_epoch_}, the best of {model.n_iter_}" in stopped[0].text
    model.partial_fit(digits)
    assert model.best_epoch_ == model.n_iter_ == 1
    model.partial_fit(digits).save(tmp_path / "m")
    for went_on in (model, narrows.load(tmp_path / "m")):
        assert went_on.best_epoch_ == 2  # the last, whichever was the best
        assert "early stopping" not in [f.name for f in went_on.diagnose().findings]


def test_patience_without_held_out_samples_says_what_it_looks_at(digits):
    options = SMALL | {"patience": 2, "epochs": 2}
    with pytest.warns(UserWarning, match=r"validation=0.1 of 8 is less than one"):
        narrows.Autoencoder(**options, validation=0.1).fit(digits[:8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        narrows.Autoencoder(**options, validation=0.1).fit(digits[:10])
        narrows.Autoencoder(**options, validation=0.0).fit(digits[:8])
        weight = (np.arange(20) > 9).astype(float)  # a held-out sample may count for nothing
        last = {"validation": 0.1, "validation_split": "last"}
        narrows.Autoencoder(**options, **last).fit(digits[:20], sample_weight=weight[::-1])


def test_without_patience_training_goes_to_the_end(digits):
    assert len(overfitting(digits).history_) == 60


def test_patience_watches_the_training_loss_where_nothing_is_held_out(digits):
    model = narrows.Autoencoder(
        **SMALL | {"epochs": 30},
        validation=0.0,
        patience=2,
        learning_rate=1.0,
        schedule="constant",
    ).fit(digits)
    losses = [row["loss"] for row in model.history_]
    assert len(losses) == int(np.argmin(losses)) + 1 + 2 < 30


# -- failing ----------------------------------------------------------------------------------


@pytest.fixture
def diverge(monkeypatch, digits):
    """Make a model's next fit fail after a few steps."""

    def failing(model, method="fit"):
        steps = iter(range(1000))
        objective = type(model).objective

        def broken(self, step):
            factor = float("nan") if next(steps) >= 5 else 1.0
            return {**objective(self, step), "odd": factor * step.nll}

        with monkeypatch.context() as patch:
            patch.setattr(type(model), "objective", broken)
            with pytest.raises(TrainingError, match="'odd'"):
                getattr(model, method)(digits)

    return failing


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_that_fails_leaves_the_fitted_estimator_as_it_was(warm_start, diverge, digits):
    model = narrows.VAE(**SMALL, warm_start=warm_start).fit(digits)
    before, attributes = state(model), {k: v for k, v in vars(model).items() if k.endswith("_")}
    codes = model.transform(digits)
    diverge(model)
    assert {k: v for k, v in vars(model).items() if k.endswith("_")}.keys() == attributes.keys()
    assert model.history_ is attributes["history_"]
    assert same(state(model), before)
    np.testing.assert_array_equal(model.transform(digits), codes)


def test_a_partial_fit_that_fails_leaves_the_fitted_estimator_as_it_was(diverge, digits):
    model = narrows.VAE(**SMALL).partial_fit(digits)
    before, history = state(model), list(model.history_)
    diverge(model, "partial_fit")
    assert same(state(model), before)
    assert model.history_ == history
    twin = narrows.VAE(**SMALL).partial_fit(digits).partial_fit(digits)
    assert same(state(model.partial_fit(digits)), state(twin))


def test_a_first_fit_that_fails_leaves_an_unfitted_estimator(diverge, digits):
    model = narrows.VAE(**SMALL)
    diverge(model)
    assert not [name for name in vars(model) if name.endswith("_")]


def test_bad_data_leave_the_fitted_estimator_as_it_was(digits):
    model = narrows.VAE(**SMALL).fit(digits)
    codes = model.transform(digits)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((5, 3), np.nan))
    np.testing.assert_array_equal(model.transform(digits), codes)


# -- scoring ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    X = load_digits().data[:400]
    return narrows.VAE(latent_dim=4, hidden=(32,), epochs=40, learning_rate=0.01).fit(X), X


@torch.no_grad()
def importance_sampled(model, X, draws):
    """log p(x) of each row in X's own units, estimated with draws from the posterior."""
    torch.manual_seed(0)
    net = model.net_.eval()
    x, mask, _ = model.modality_.encode(model.modality_.read(X, "test"))
    batch = Batch(x, x, mask)
    h, _ = net.encode(batch)
    q, p = net.latent.posterior(h), net.latent.prior()
    logs = []
    for _ in range(draws):
        z = q.rsample()
        nll = net.likelihood.nll(net.decoded(z), x, mask)
        logs.append(p.log_prob(z) - q.log_prob(z) - nll)
    return (torch.logsumexp(torch.stack(logs), 0) - np.log(draws)).numpy()


def test_the_score_is_a_bound_on_the_log_likelihood(trained):
    model, X = trained
    log_p = importance_sampled(model, X, 500)
    # From 1 draw (the bound itself) to 500 the estimate only grows.
    assert importance_sampled(model, X, 1).mean() < importance_sampled(model, X, 10).mean()
    assert importance_sampled(model, X, 10).mean() < log_p.mean()
    score = model.score_samples(X)
    assert score.mean() < log_p.mean()
    assert log_p.mean() - score.mean() < 0.05 * abs(log_p.mean())  # and not a loose one


def test_the_score_at_the_mean_is_no_bound_and_differs(trained):
    model, X = trained
    at_mean = copy.deepcopy(model).set_params(score_draws=0)
    assert at_mean.score(X) > importance_sampled(model, X, 500).mean()
    assert not np.allclose(at_mean.score_samples(X), model.score_samples(X), rtol=1e-3)


def test_more_draws_approach_the_expectation(trained):
    """The noise is shared by the rows, so single draws differ and many agree."""
    model, X = copy.deepcopy(trained[0]), trained[1]

    def score(draws):
        return model.set_params(score_draws=draws).score_samples(X).astype(float)

    exact = score(2000)
    errors = [np.abs(score(draws) - exact).mean() for draws in (1, 16, 400)]
    assert errors[2] < errors[1] < errors[0]


def test_the_score_is_the_negative_loss_of_training_at_beta_one(trained):
    model, X = trained
    assert model.score(np.delete(X, model.held_out_, 0)) == pytest.approx(
        -model.history_[-1]["loss"], rel=0.03
    )


def test_ordinary_rows_score_higher_than_strange_ones(trained):
    model, X = trained
    strange = np.random.default_rng(0).permuted(X, axis=1)
    assert model.score_samples(X).min() > np.median(model.score_samples(strange))


def test_the_score_of_a_point_code_is_minus_the_nll(digits):
    model = narrows.Autoencoder(**SMALL).fit(digits)
    x, *_ = model.modality_.encode(digits.astype(float))
    with torch.no_grad():
        nll = model.net_(Batch(x, x)).nll
    np.testing.assert_allclose(model.score_samples(digits), -nll.numpy(), rtol=1e-5)


# -- what one does with a code ----------------------------------------------------------------


def test_the_ends_of_an_interpolation_are_reconstructions(trained):
    model, X = trained
    way = model.interpolate(X[3], X[8], 7)
    assert way.shape == (7, 64)
    np.testing.assert_allclose(way[[0, -1]], model.reconstruct(X[[3, 8]]), rtol=1e-5, atol=1e-5)
    codes = model.transform(X[[3, 8]])
    middle = model.inverse_transform(codes.mean(0, keepdims=True))
    np.testing.assert_allclose(way[3:4], middle, rtol=1e-5, atol=1e-5)


def test_reconstruct_is_the_inverse_transform_of_transform(trained):
    model, X = trained
    np.testing.assert_allclose(
        model.inverse_transform(model.transform(X)), model.reconstruct(X), rtol=1e-5, atol=1e-5
    )


def test_codes_of_the_training_rows_are_kept(trained):
    model, X = trained
    trained_on = np.delete(X, model.held_out_, 0)
    np.testing.assert_array_equal(model.codes_, model.transform(trained_on))


def test_samples_resemble_the_data(trained):
    model, X = trained
    samples = model.sample(500, noise=True)
    assert np.abs(samples.mean(0) - X.mean(0)).max() < 2
    assert samples.std() == pytest.approx(X.std(), rel=0.2)


def test_a_seed_repeats_samples_and_none_does_not(trained):
    model, _ = trained
    np.testing.assert_array_equal(model.sample(4, seed=5), model.sample(4, seed=5))
    assert not np.array_equal(model.sample(4, seed=None), model.sample(4, seed=None))
    np.testing.assert_array_equal(model.sample(4, seed=5), model.sample(9, seed=5)[:4])


def test_the_prior_the_density_and_the_noise_are_different_samples(trained):
    model, _ = trained
    prior = model.sample(5)
    assert not np.allclose(prior, model.sample(5, density=True))
    assert not np.allclose(prior, model.sample(5, noise=True))
    np.testing.assert_array_equal(prior, model.sample(5, density=False))


def test_samples_of_a_point_code_come_from_the_density_of_codes(digits):
    model = narrows.Autoencoder(**SMALL).fit(digits)
    np.testing.assert_array_equal(model.sample(5), model.sample(5, density=True))
    codes = Mixture.fit(model.codes_).sample(5, seed=9)
    np.testing.assert_array_equal(model.sample(5, seed=9), model.inverse_transform(codes))


def test_samples_come_from_the_newest_fit(digits):
    model = narrows.Autoencoder(**SMALL).fit(digits)
    model.sample(3)
    model.fit(digits[::-1] * 2)
    fresh = narrows.Autoencoder(**SMALL).fit(digits[::-1] * 2)
    np.testing.assert_array_equal(model.sample(3), fresh.sample(3))
    model.partial_fit(digits)
    codes = Mixture.fit(model.codes_).sample(3, seed=0)
    np.testing.assert_array_equal(model.sample(3), model.inverse_transform(codes))


@pytest.mark.parametrize("modality", ["table", "image"])
def test_interpolate_takes_samples_with_and_without_the_first_axis(modality, images):
    X = images if modality == "image" else images.reshape(-1, 64)
    model = narrows.VAE(**SMALL | {"hidden": (4,)}, modality=modality).fit(X)
    np.testing.assert_array_equal(
        model.interpolate(X[0], X[1], 3), model.interpolate(X[:1], X[1:2], 3)
    )


def test_every_fit_has_a_new_seed_where_seed_is_none(digits):
    one = narrows.VAE(**SMALL, seed=None).fit(digits)
    two = narrows.VAE(**SMALL, seed=None).fit(digits)
    assert not np.allclose(one.transform(digits), two.transform(digits))


# -- health -----------------------------------------------------------------------------------


def levels(model):
    return {finding.name: finding.level for finding in model.diagnose().findings}


def test_collapse_is_named(digits):
    model = narrows.VAE(**SMALL | {"epochs": 15}, beta=200.0, learning_rate=0.01).fit(digits)
    diagnosis = model.diagnose()
    assert levels(model)["collapse"] == "problem"
    assert diagnosis.active == 0
    assert diagnosis.findings[0].name == "collapse"  # problems first
    assert "Lower beta" in str(diagnosis)
    assert diagnosis.kl.max() < 0.01


def test_unused_units_are_counted():
    X = load("blobs").X[:600]  # of 3 dimensions, and noise
    model = narrows.VAE(latent_dim=10, hidden=(32,), epochs=60, learning_rate=0.01, beta=2.0).fit(
        X
    )
    diagnosis = model.diagnose()
    assert levels(model)["unused units"] == "notice"
    assert (diagnosis.kl > 0.5).sum() == 3 <= diagnosis.active <= 5
    assert f"latent_dim={diagnosis.active} would do" in str(diagnosis)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cls", [narrows.VAE, narrows.Autoencoder])
def test_a_healthy_run_gives_no_false_alarm(cls, seed):
    X = load_digits().data[:900]
    model = cls(latent_dim=5, hidden=(64,), epochs=20, seed=seed, learning_rate=5e-3).fit(X)
    assert "problem" not in levels(model).values()
    assert levels(model)["units"] == "good"


def test_overfitting_is_named():
    noise = np.random.default_rng(0).normal(size=(60, 20))
    options = {"latent_dim": 2, "hidden": (256, 64), "batch_size": 8, "validation": 0.5}
    model = narrows.Autoencoder(**options, epochs=60, learning_rate=3e-3, schedule="constant")
    assert levels(model.fit(noise))["overfitting"] == "problem"


def test_underfitting_is_named(digits):
    model = narrows.Autoencoder(**SMALL | {"epochs": 12}, warmup=0.95, learning_rate=0.01)
    assert levels(model.fit(digits))["underfitting"] == "notice"


def test_a_collapsed_point_code_is_named(digits):
    model = narrows.SparseAutoencoder(
        **SMALL | {"epochs": 30}, sparsity=1e4, code_activation="relu", learning_rate=0.01
    ).fit(digits)
    assert levels(model)["collapse"] == "problem"


# -- defaults ---------------------------------------------------------------------------------


def test_a_table_works_without_setting_anything(cancer):
    model = narrows.VAE().fit(pd.DataFrame(cancer, columns=[f"c{i}" for i in range(30)]))
    assert model.history_[-1]["validation_mse"] < 0.5
    assert levels(model).get("collapse") is None


def test_automatic_epochs_make_about_eight_thousand_steps():
    def count(n, batch_size):
        source = narrows.data.sources.InMemory(torch.zeros(n, 1))
        return narrows.fitting.epochs(narrows.Autoencoder(batch_size=batch_size), source)

    assert count(128 * 100, 128) == 80
    assert count(256, 128) == 100
    assert count(128 * 4000, 128) == 10


def test_a_model_of_narrows_keeps_its_name():
    with pytest.raises(ParameterError, match=r"narrows has a model called VAE.*Call yours"):
        type("VAE", (narrows.Autoencoder,), {})
    assert narrows.MODELS["VAE"] is narrows.VAE
    for _ in range(2):  # one's own may be defined anew
        type("Mine", (narrows.Autoencoder,), {})
    del narrows.MODELS["Mine"]
