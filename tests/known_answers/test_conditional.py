"""Conditional VAEs against enumeration, closed forms, and what their samples are taken for."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression

import narrows
from narrows.data.conditions import Labels, Numbers, describe_condition
from narrows.data.sources import Batch
from narrows.errors import DataError, NarrowsError, ParameterError
from narrows.net import Net

DIGITS, TARGET = load_digits(return_X_y=True)
DIGITS = DIGITS.astype(np.float32)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits():
    """A model of labelled digits."""
    return narrows.ConditionalVAE(epochs=30, seed=1).fit(DIGITS[:1200], TARGET[:1200])


@pytest.fixture(scope="module")
def judge():
    """A classifier of real digits."""
    return LogisticRegression(max_iter=1000).fit(DIGITS / 16, TARGET)


def some(n=6, labels=3, seed=0):
    """An untrained net of three labels, and a batch with unknown ones."""
    model = narrows.ConditionalVAE(epochs=1, latent_dim=2, hidden=(8,), seed=seed)
    y = np.arange(60) % labels
    y[30:] = -1
    model.fit(DIGITS[:60, 20:30], np.where(y == 2, 1 + np.arange(60) % 2, y))
    net = model.net_.eval()
    k = len(model.classes_)
    condition = torch.eye(k)[torch.arange(n) % k]
    known = (torch.arange(n) < n // 2).float()
    x = torch.randn(n, *model.modality_.shape)
    return net, Batch(x, x, condition=condition * known[:, None], known=known)


def with_label(net, batch, k):
    """The pass of all samples with one label, as the plain net makes it."""
    label = torch.eye(len(net.log_shares))[k].expand(len(batch), -1)
    told = Batch(batch.x, batch.x, condition=label)
    h, context = Net.encode(net, told)
    return Net.complete(net, told, h, context, torch.ones(1, 2))


def test_an_unknown_label_is_averaged_over_exactly():
    net, batch = some()
    net.requires_grad_(False)
    step = net(batch, torch.ones(1, 2))
    q = net.classifier(batch).softmax(1)
    for i in range(len(batch)):
        nll = kl = prior = 0.0
        for k in range(q.shape[1]):
            one = with_label(net, batch, k)
            p = batch.condition[i, k] if batch.known[i] else q[i, k]
            nll += float(p * one.nll[i])
            kl += float(p * one.charges["kl"][i])
            prior += 0.0 if batch.known[i] else float(p * (p.log() - net.log_shares[k]))
        missed = -float((batch.condition[i] * q[i].log()).sum()) / net.labelled
        assert float(step.nll[i]) == pytest.approx(nll, rel=1e-5)
        assert float(step.charges["kl"][i]) == pytest.approx(kl, rel=1e-5)
        assert float(step.charges["kl_label"][i]) == pytest.approx(prior, abs=1e-6)
        assert float(step.charges["classifier"][i]) == pytest.approx(missed, rel=1e-5)
        assert missed > 0 if batch.known[i] else missed == 0


def test_with_the_best_classifier_the_bound_is_the_mixture_of_the_labels_bounds():
    net, batch = some()
    batch = Batch(batch.x, batch.x, condition=batch.condition * 0, known=batch.known * 0)
    passes = [with_label(net, batch, k) for k in range(len(net.log_shares))]
    bounds = torch.stack([-p.nll - p.charges["kl"] for p in passes], 1) + net.log_shares

    class Best(torch.nn.Module):
        def forward(self, batch):
            return bounds

    loose = net.elbo(batch, torch.ones(1, 2))
    net.classifier = Best()
    tight = net.elbo(batch, torch.ones(1, 2))
    torch.testing.assert_close(tight, bounds.logsumexp(1))
    assert (loose < tight).all()


def test_a_known_label_pays_the_same_beside_unknown_ones():
    net, batch = some()
    step = net(batch, torch.ones(1, 2))
    whole = net(Batch(batch.x[:3], batch.x[:3], condition=batch.condition[:3]), torch.ones(1, 2))
    torch.testing.assert_close(step.nll[:3], whole.nll)
    torch.testing.assert_close(step.z[:3], whole.z)
    torch.testing.assert_close(step.out[:3], whole.out)
    torch.testing.assert_close(step.charges["kl"][:3], whole.charges["kl"])
    scaled = whole.charges["classifier"] / net.labelled
    torch.testing.assert_close(step.charges["classifier"][:3], scaled)


def test_a_linear_model_reaches_the_closed_form():
    """Regression on the condition, then probabilistic PCA of what it leaves."""
    n, d, q = 2000, 6, 2
    c = RNG.standard_normal((n, 1))
    z = RNG.standard_normal((n, q))
    X = z @ RNG.standard_normal((q, d)) + 3 * c @ RNG.standard_normal((1, d))
    X = X + 0.5 * RNG.standard_normal((n, d))
    model = narrows.ConditionalVAE(
        architecture="linear",
        latent_dim=q,
        epochs=40,
        learning_rate=0.05,
        weight_decay=0.0,
        validation=0.0,
        scaling="none",
        score_draws=1000,
    ).fit(X, c)
    rest = X - LinearRegression().fit(c, X).predict(c)
    values, vectors = np.linalg.eigh(np.cov(rest.T, bias=True))
    noise = values[:-q].mean()
    covariance = vectors @ np.diag(np.r_[np.full(d - q, noise), values[-q:]]) @ vectors.T
    exact = multivariate_normal(np.zeros(d), covariance).logpdf(rest).mean()
    assert model.score(X, c) == pytest.approx(exact, abs=0.08)
    without = multivariate_normal(X.mean(0), np.cov(X.T)).logpdf(X).mean()
    assert without < exact - 1


def test_samples_are_taken_for_what_was_asked_for(digits, judge):
    wanted = np.repeat(np.arange(10), 20)
    drawn = digits.sample(200, condition=wanted)
    assert (judge.predict(drawn / 16) == wanted).mean() > 0.9
    np.testing.assert_array_equal(  # one condition stands for all
        digits.sample(20, condition=3), digits.sample(20, condition=np.full(20, 3))
    )


def test_samples_without_a_wish_are_of_all_kinds(digits, judge):
    found = np.bincount(judge.predict(digits.sample(500) / 16), minlength=10)
    assert (found > 20).all()


def test_a_digit_is_shown_as_another_one(digits, judge):
    codes = digits.transform(DIGITS[1200:], TARGET[1200:])
    other = (TARGET[1200:] + 1) % 10
    shown = digits.inverse_transform(codes, condition=other)
    assert (judge.predict(shown / 16) == other).mean() > 0.8
    same = digits.inverse_transform(codes, condition=TARGET[1200:])
    expected = digits.reconstruct(DIGITS[1200:], TARGET[1200:])
    np.testing.assert_allclose(same, expected, atol=1e-3)


def test_codes_without_a_condition_decode_to_the_mean_of_all_kinds(digits):
    codes = digits.transform(DIGITS[:5])
    shares = digits.modality_.condition.shares
    every = [digits.inverse_transform(codes, condition=k) for k in range(10)]
    mean = sum(p * one for p, one in zip(shares, every, strict=True))
    np.testing.assert_allclose(digits.inverse_transform(codes), mean, atol=1e-3)


def test_interpolation_changes_the_label_too(digits):
    a, b = DIGITS[1300], DIGITS[1301]
    way = digits.interpolate(a, b, 5)
    np.testing.assert_allclose(way[[0]], digits.reconstruct(a[None]), atol=1e-3)
    np.testing.assert_allclose(way[[-1]], digits.reconstruct(b[None]), atol=1e-3)


def test_the_label_raises_the_bound_where_it_is_right(digits):
    X, y = DIGITS[1200:], TARGET[1200:]
    right, wrong = digits.score(X, y), digits.score(X, (y + 1) % 10)
    assert right > wrong + 10
    assert digits.score(X) < right  # a bound on log p(x), which has to pay for the label


@pytest.mark.slow
def test_few_labels_and_many_digits_beat_the_few_labels():
    order = np.random.default_rng(5).permutation(len(DIGITS))
    train, test = order[:1400], order[1400:]
    few = np.concatenate([train[TARGET[train] == k][:10] for k in range(10)])
    y = np.where(np.isin(np.arange(len(DIGITS)), few), TARGET, -1)
    options = {"hidden": (100,), "latent_dim": 16, "learning_rate": 0.005, "validation": 0.0}
    both = narrows.ConditionalVAE(epochs=40, **options).fit(DIGITS[train], y[train])
    alone = narrows.ConditionalVAE(epochs=200, **options).fit(DIGITS[few], y[few])
    right = [(model.predict(DIGITS[test]) == TARGET[test]).mean() for model in (both, alone)]
    assert right[0] > right[1] + 0.02
    assert set(both.history_[-1]) >= {"kl", "kl_label", "classifier"}


# -- columns as the condition ---------------------------------------------------------------------


def frame(n=400):
    """A column that follows another one, and a third."""
    a = RNG.normal(50, 10, n)
    return pd.DataFrame({"a": a, "b": 2 * a + RNG.normal(0, 1, n), "c": RNG.standard_normal(n)})


def test_columns_are_given_and_not_reconstructed(tmp_path):
    X = frame()
    model = narrows.ConditionalVAE(condition=("a",), latent_dim=2, epochs=60).fit(X)
    assert model.modality_.shape == (2,)
    assert model.n_features_in_ == 3
    shown = model.reconstruct(X)
    assert list(shown.columns) == ["a", "b", "c"]
    np.testing.assert_array_equal(shown["a"], X["a"])
    for a in (40.0, 60.0):
        drawn = model.sample(200, condition={"a": a})
        np.testing.assert_allclose(drawn["a"], a, rtol=1e-6)
        assert drawn["b"].mean() == pytest.approx(2 * a, abs=2)
    drawn = model.sample(300)
    assert drawn["a"].std() == pytest.approx(10, rel=0.2)
    assert np.corrcoef(drawn["a"], drawn["b"])[0, 1] > 0.95
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    pd.testing.assert_frame_equal(twin.sample(9), model.sample(9))
    np.testing.assert_array_equal(twin.score_samples(X), model.score_samples(X))


def test_columns_change_the_code():
    X = frame()
    with_a = narrows.ConditionalVAE(condition=("a",), epochs=2).fit(X)
    with_c = narrows.ConditionalVAE(condition=("c",), epochs=2).fit(X)
    assert not np.array_equal(with_a.transform(X), with_c.transform(X))


def test_numbers_as_y(tmp_path):
    X = frame()
    model = narrows.ConditionalVAE(latent_dim=1, epochs=40).fit(X[["b", "c"]], X[["a"]])
    told = model.reconstruct(X[["b", "c"]], X[["a"]])
    assert abs(told["b"] - X["b"]).mean() < 3
    assert model.sample(50, condition=[60.0])["b"].mean() == pytest.approx(120, abs=3)
    with pytest.raises(DataError, match="y must hold 1 numbers for each sample"):
        model.transform(X[["b", "c"]])
    with pytest.raises(ParameterError, match="it has no labels"):
        model.predict(X[["b", "c"]])


# -- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "values", "missing"),
    [
        (["a", None, "b", np.nan, ""], ["a", "b"], [1, 3, 4]),
        (np.array([3, -1, 2, -1]), [2, 3], [1, 3]),
        (np.array([1.0, np.nan, 0.0]), [0, 1], [1]),
        (pd.Series(["x", None, "y"], dtype="string"), ["x", "y"], [1]),
        (pd.Series(["x", "y", "x"], dtype="category"), ["x", "y"], []),
        (torch.tensor([1, 0, -1]), [0, 1], [2]),
        ([True, False], [False, True], []),
    ],
)
def test_labels_are_read(y, values, missing):
    labels = describe_condition(y)
    assert isinstance(labels, Labels)
    assert list(labels.values) == values
    hot, known = labels.encode(y, len(y))
    assert np.flatnonzero(hot.sum(1) == 0).tolist() == missing
    assert (known is None) == (not missing)
    if missing:
        assert np.flatnonzero(known == 0).tolist() == missing


def test_numbers_are_read():
    numbers = describe_condition(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert isinstance(numbers, Numbers)
    learned = numbers.learn([[1.0, 5.0], [3.0, 5.0]], 2, np.arange(2))
    assert learned.encode([[5.0, 6.0]], 1)[0].tolist() == [[3.0, 1.0]]
    assert learned.units(torch.tensor([[3.0, 1.0]])).tolist() == [[5.0, 6.0]]


def test_text_labels_are_saved(tmp_path):
    y = np.array(["ham", "spam", ""])[np.arange(90) % 3]
    model = narrows.ConditionalVAE(epochs=2).fit(DIGITS[:90], y)
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    assert twin.classes_.tolist() == ["ham", "spam"]
    np.testing.assert_array_equal(twin.predict(DIGITS), model.predict(DIGITS))
    np.testing.assert_array_equal(
        twin.sample(5, condition="spam"), model.sample(5, condition="spam")
    )
    np.testing.assert_allclose(model.predict_proba(DIGITS).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (None, "requires y to be passed.* name columns of a data frame"),
        (np.full(60, -1), "y holds no label"),
        (np.where(np.arange(60) % 2, 1, -1), "y holds -1, which stands for unknown.* beside 1,"),
        (np.arange(60.0) % 3 - 2, "y holds -1.* beside -2,"),
        (np.arange(59) % 2, "There are 59 labels for 60 samples"),
        (np.linspace(0, 1, 60), "which is no label"),
        ([1, "a"] * 30, "mixes labels of the types int and str"),
        (np.full((60, 1), np.nan), "Only labels may be unknown"),
        (np.zeros((59, 2)), "There are 59 conditions for 60 samples"),
        (np.array([["a"]] * 60), "must be numbers"),
        (np.zeros((60, 1, 1)), "labels are one a sample"),
        ([[1], [1, 2]] * 30, "y has rows of unequal lengths"),
    ],
)
def test_bad_conditions_meet_their_sentence(y, sentence):
    with pytest.raises(NarrowsError, match=sentence):
        narrows.ConditionalVAE(epochs=1).fit(DIGITS[:60], y)


@pytest.mark.parametrize("fields", [{"free_bits": 0.1}, {"distortion": 0.5}])
def test_what_is_not_averaged_over_unknown_labels_is_refused(fields):
    model, y = narrows.ConditionalVAE(epochs=1, warm_start=True, **fields), TARGET[:60]
    model.fit(DIGITS[:60], y)
    few = np.where(np.arange(60) < 30, y, -1)
    for goes_on in (model.fit, model.partial_fit):
        with pytest.raises(ParameterError, match="needs the labels of all samples"):
            goes_on(DIGITS[:60], few)
    model = clone(model)
    with pytest.raises(ParameterError, match="needs the labels of all samples"):
        model.fit(DIGITS[:60], np.where(np.arange(60) < 40, y, -1))


def test_a_column_of_whole_numbers_is_told_to_be_no_labels():
    with pytest.warns(UserWarning, match=r"taken for amounts.* y.ravel\(\)"):
        narrows.ConditionalVAE(epochs=1).fit(DIGITS[:60], TARGET[:60, None])


def test_bad_wishes_meet_their_sentence(digits):
    X = DIGITS[:4]
    with pytest.raises(DataError, match="The label 10 was not seen at fit; expected one of 0, 1"):
        digits.transform(X, [1, 2, 3, 10])
    with pytest.raises(DataError, match="There are 3 labels for 4 samples"):
        digits.reconstruct(X, [1, 2, 3])
    with pytest.raises(DataError, match="leaves samples unlabelled"):
        digits.sample(2, condition=[1, -1])
    with pytest.raises(ParameterError, match="VAE takes no condition"):
        narrows.VAE(epochs=1).fit(X).sample(2, condition=1)
    with pytest.raises(DataError, match=r"condition names \['d'\]; expected \['a'\]"):
        narrows.ConditionalVAE(epochs=1, condition=("a",)).fit(frame()).sample(condition={"d": 1})
    with pytest.raises(ParameterError, match="weighs the classifier of labels"):
        narrows.ConditionalVAE(epochs=1, alpha=2.0).fit(X, X[:, :2])
    for names in (("z",), (), ("a", "b", "c")):
        with pytest.raises(ParameterError, match="'condition' parameter names"):
            narrows.ConditionalVAE(condition=names).fit(frame())


def test_held_out_labels_and_later_batches():
    X, y = DIGITS[:120], TARGET[:120] % 3
    model = narrows.ConditionalVAE(epochs=1).fit(X[:60], y[:60], validation=(X[60:], y[60:]))
    assert "validation_classifier" in model.history_[-1]
    model.partial_fit(X, np.where(np.arange(120) % 2, y, -1))
    assert "kl_label" in model.history_[-1]
    with pytest.raises(DataError, match="The label 7 was not seen at fit"):
        model.partial_fit(X, np.full(120, 7))


@pytest.mark.parametrize(("architecture", "seen"), [("conv", 1 + 10), ("mlp", 64 + 10)])
def test_images_get_the_condition_as_channels_or_units(architecture, seen):
    images = np.rint(load_digits().images[:300] * (255 / 16)).astype(np.uint8)
    model = narrows.ConditionalVAE(architecture=architecture, epochs=2, hidden=(4, 8))
    model.fit(images, TARGET[:300])
    first = next(p for p in model.net_.encoder.parameters())
    assert first.shape[1] == seen
    assert model.sample(3, condition=[1, 2, 3]).shape == (3, 8, 8)
    one, two = (model.inverse_transform(np.zeros((1, 8)), condition=k) for k in (1, 2))
    assert not np.array_equal(one, two)


def test_many_unknown_labels_take_no_more_memory_at_once(images, monkeypatch):
    """Each sample is read with every label, so fewer samples pass at once."""
    images = images.reshape(-1, 64)
    y, seen = np.arange(len(images)) % 32, []
    model = narrows.ConditionalVAE(latent_dim=2, hidden=(4,), epochs=1).fit(images, y)
    complete = type(model.net_).complete

    def noting(self, batch, *rest):
        seen.append(len(batch))
        return complete(self, batch, *rest)

    monkeypatch.setattr(type(model.net_), "complete", noting)
    apart = model.score_samples(images)
    assert max(seen) * 32 <= model.modality_.at_once
    monkeypatch.setattr(type(model.net_), "copies", lambda self, known: 1)
    np.testing.assert_allclose(apart, model.score_samples(images), rtol=1e-5)
    assert max(seen) == len(images)
