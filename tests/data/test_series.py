"""Series of any lengths and windows of recordings: nothing is lost, leaked or made up."""

import json

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import narrows
from narrows import VAE, Autoencoder
from narrows.data.modalities import Modality, Series, modality_of
from narrows.data.windows import cut, hold_out, join, labels, overlapping, starts
from narrows.errors import DataError, ParameterError

QUICK = {"modality": "series", "latent_dim": 2, "hidden": (16,), "epochs": 3, "verbose": 0}
TIMES = pd.date_range("2026-01-01", periods=100, freq="min")
anything = settings(max_examples=80, deadline=None)
lengths = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@st.composite
def windows(draw):
    window = draw(st.integers(1, 20))
    return window, draw(st.integers(1, window))


def recording(n=100, channels=2, seed=0):
    steps = np.arange(n)[:, None]
    waves = np.sin(steps / 5 + np.arange(channels)) * [10.0**i for i in range(channels)]
    return waves + np.random.default_rng(seed).normal(size=waves.shape) * 0.1


def learned(X, target="standard", **fields):
    form = modality_of(X, "series", **fields)
    array = form.read(X, "test")
    return form.learn(array, target), array


# -- windows ----------------------------------------------------------------------------------


@anything
@given(length=st.integers(1, 80), given=windows())
def test_windows_cover_every_step_and_end_where_the_recording_does(length, given):
    window, stride = given
    found = starts(length, window, stride)
    covered = {step for start in found for step in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert found[-1] == max(length - window, 0)
    assert (np.diff(found) > 0).all()
    assert (np.diff(found)[:-1] == stride).all()


@anything
@given(lengths=lengths, given=windows())
def test_recordings_come_back_from_their_windows(lengths, given):
    spans = cut(lengths, *given)
    whole = [np.random.default_rng(i).normal(size=(n, 2)) for i, n in enumerate(lengths)]
    pieces = np.full((len(spans), given[0], 2), np.nan)
    for piece, (i, start, stop) in zip(pieces, spans, strict=True):
        piece[: stop - start] = whole[i][start:stop]
    for made, expected in zip(join(pieces, spans, lengths), whole, strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_overlaps_are_averaged():
    spans = cut([5], 4, 2)
    assert spans.tolist() == [[0, 0, 4], [0, 1, 5]]
    made = join(np.array([[0.0] * 4, [6.0] * 4]), spans, [5])
    assert made[0].tolist() == [0, 3, 3, 3, 6]


@anything
@given(
    lengths=lengths,
    given=windows(),
    fraction=st.floats(0, 0.6),
    how=st.sampled_from(["random", "last"]),
    seed=st.integers(0, 50),
)
def test_training_windows_stay_a_window_away_from_held_out_ones(
    lengths, given, fraction, how, seed
):
    spans = cut(lengths, *given)
    try:
        train, held = hold_out(spans, fraction, how, seed)
    except DataError:  # all are too near
        return
    steps = [
        {(int(i), step) for i, a, b in spans[rows] for step in range(a, b)}
        for rows in (train, held)
    ]
    assert not steps[0] & steps[1]
    assert not np.intersect1d(train, held).size
    left = np.setdiff1d(np.arange(len(spans)), np.union1d(train, held))
    gap = (spans[:, 2] - spans[:, 1]).max()
    assert overlapping(spans, held, gap)[left].all()  # none is left out without need
    if np.unique(spans[held, 0]).size == len(lengths):  # they are blocks of each recording
        for i, start, stop in spans[train]:
            near = spans[held][spans[held, 0] == i]
            assert ((near[:, 1] >= stop + gap) | (near[:, 2] <= start - gap)).all()


def test_the_last_part_of_a_recording_is_held_out_behind_a_gap():
    spans = cut([1000], 20, 5)
    train, held = hold_out(spans, 0.2, "last", 0)
    assert held.tolist() == list(range(len(spans) - 39, len(spans)))
    assert train.tolist() == list(range(len(spans) - 39 - 7))
    assert spans[held[0], 1] - spans[train[-1], 2] == 20


def test_random_blocks_are_contiguous_and_lie_at_random_places():
    spans = cut([5000], 20, 20)
    found = [hold_out(spans, 0.2, "random", seed)[1] for seed in range(5)]
    for held in found:
        assert len(held) == 50
        assert 1 <= (np.diff(held) > 1).sum() + 1 <= 4
    assert len({tuple(held) for held in found}) == 5


def test_of_many_recordings_whole_ones_are_held_out():
    spans = cut([50] * 10, 20, 10)
    train, held = hold_out(spans, 0.2, "random", 0)
    assert len(set(spans[held, 0])) == 2
    assert not set(spans[held, 0]) & set(spans[train, 0])
    assert len(train) + len(held) == len(spans)


def test_a_window_is_labelled_as_most_of_its_steps_or_as_its_recording():
    kinds = np.array(["rest", "rest", "walk", "walk", "walk", "rest", "rest"])
    assert labels(kinds, cut([7], 3, 2)).tolist() == ["rest", "walk", "rest"]
    assert labels(np.array([4, 9]), cut([7, 3], 3, 3)).tolist() == [4, 4, 4, 9]
    assert labels(kinds[:5], cut([7], 3, 2)) is None
    assert labels(np.arange(10), cut([7, 3], 3, 3)) is None


def test_windows_that_are_all_too_near_to_the_held_out_ones_are_refused():
    with pytest.raises(DataError, match=r"from the 4 that are held out\. Set validation=0"):
        VAE(window=60, stride=5, validation=0.45, **QUICK).fit(recording(100))


# -- forms ------------------------------------------------------------------------------------


def forms():
    one = recording()
    names = ["a", "b"]
    stamped = {"time": TIMES.to_numpy(), "a": one[:, 0], "b": one[:, 1]}
    return {
        "stack": (one.reshape(5, 20, 2), {}),
        "rows": (one.T, {}),
        "list": ([one[:7], one[:30], one[:1]], {}),
        "tuple of flat": ((one[:7, 0], one[:30, 0]), {}),
        "ragged array": (np.array([one[:7], one[:9]], dtype=object), {}),
        "recording": (one, {"window": 16, "stride": 5}),
        "short recording": (one, {"window": 200}),
        "flat recording": (one[:, 0], {"window": 16}),
        "recordings": ([one, one[:20], one[:3]], {"window": 16}),
        "stack in windows": (one.reshape(2, 50, 2), {"window": 16}),
        "pandas": (pd.DataFrame(one, TIMES, names), {"window": 16, "stride": 4}),
        "pandas with stamps": (pd.DataFrame(stamped), {"window": 16}),
        "polars": (pl.DataFrame(stamped), {"window": 16}),
        "pyarrow": (pa.table(stamped), {"window": 16}),
        "tensor": (torch.tensor(one.reshape(5, 20, 2)), {}),
    }


def same(found, X):
    if isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object):
        assert isinstance(found, list)
        for a, b in zip(found, X, strict=True):
            same(a, b)
    elif isinstance(X, pd.DataFrame):
        pd.testing.assert_frame_equal(found, X, rtol=1e-5)
    elif isinstance(X, pl.DataFrame | pa.Table):
        assert type(found) is type(X)
        assert found.schema == X.schema
        kind = X if isinstance(X, pl.DataFrame) else pl.from_arrow(X)
        other = found if isinstance(found, pl.DataFrame) else pl.from_arrow(found)
        pl.testing.assert_frame_equal(other, kind)
    else:
        assert found.shape == X.shape
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, X, atol=1e-5)


@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("target", ["standard", "robust", "unit", "none"])
def test_series_come_back_in_their_own_form(form, target):
    X, fields = forms()[form]
    modality, array = learned(X, target, **fields)
    same(modality.decode(modality.encode(array).x, like=X), X)
    assert Modality.restore(json.loads(json.dumps(modality.state()))) == modality


@pytest.mark.parametrize("form", forms())
def test_a_model_of_series_keeps_its_promises(form, tmp_path):
    X, fields = forms()[form]
    model = VAE(**QUICK, **fields, validation=0.0).fit(X)
    samples = len(model.modality_.spans(X))
    assert model.transform(X).shape == (samples, 2)
    assert model.score_samples(X).shape == (samples,)
    made = model.reconstruct(X)
    assert type(made) is (list if isinstance(X, tuple) or form == "ragged array" else type(X)) or (
        form == "tensor" and isinstance(made, np.ndarray)
    )
    assert len(made) == len(X)
    for new in (model.sample(3), model.inverse_transform(np.zeros((3, 2)))):
        assert len(new) == 3
        assert model.transform(new).shape == (3, 2)
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    np.testing.assert_array_equal(twin.transform(X), model.transform(X))
    assert len(model.interpolate(model.sample(1), model.sample(1, seed=1), 4)) == 4


def test_padding_and_gaps_are_zero_masked_and_counted():
    one = recording(6)
    one[2, 1] = np.nan
    X = [one, one[:2]]
    modality, array = learned(X)
    x, mask, lengths = modality.encode(array)
    assert (modality.shape, x.shape, lengths.tolist()) == ((2, 6), (2, 2, 6), [6, 2])
    expected = np.ones((2, 2, 6))
    expected[1, :, 2:] = expected[0, 1, 2] = 0
    np.testing.assert_array_equal(mask, expected)
    assert not x[mask == 0].any()
    whole, _ = learned(recording(6)[None])
    full = whole.encode(whole.read(recording(6)[None], "test"))
    assert full.mask is None
    assert full.lengths is None


def test_padded_and_missing_values_are_not_scored():
    one = recording()
    X = [one[:20].copy(), one[:13].copy()]
    X[0][4, 0] = np.nan
    model = VAE(**QUICK, validation=0.0).fit(X)
    x, mask, lengths = model.modality_.encode(model.modality_.read(X, "test"))
    out = model.net_(narrows.base.Batch(x, x, mask, lengths=lengths)).out
    nll = model.net_.likelihood.nll(out, x, mask)
    assert torch.equal(nll, model.net_.likelihood.nll(out, x + 100 * (1 - mask), mask))


def test_each_channel_is_scaled_by_the_training_part_alone():
    one = recording(400)
    one[300:] += 1000
    model = Autoencoder(window=10, validation=0.3, validation_split="last", **QUICK).fit(one)
    train = one[: 10 * (40 - len(model.held_out_) - 1)]
    np.testing.assert_allclose(model.modality_.center, train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(model.modality_.scale, train.std(0), rtol=1e-6)


FRAMED = {
    "a frame with an index": pd.DataFrame(recording(), index=TIMES, columns=["a", "b"]),
    "a frame with stamps": pd.DataFrame(recording(), columns=["a", "b"]).assign(when=TIMES),
    "one of polars": pl.DataFrame({"a": np.arange(100.0), "when": TIMES.to_numpy()}),
    "a series": pd.Series(np.arange(100.0), index=TIMES),
}


@pytest.mark.parametrize("form", FRAMED)
def test_codes_of_windows_are_labelled_with_their_first_stamps(form):
    X = FRAMED[form]
    model = Autoencoder(window=8, stride=3, **QUICK).fit(X)
    plain = model.transform(X)
    codes = model.set_output(transform="pandas").transform(X)
    assert list(codes.columns) == ["autoencoder0", "autoencoder1"]
    np.testing.assert_array_equal(codes, plain)
    assert codes.index.tolist() == TIMES[model.modality_.spans(X)[:, 1]].tolist()
    assert model.set_output(transform="polars").transform(X).shape == plain.shape


def test_codes_of_unstamped_windows_are_numbered():
    model = Autoencoder(window=8, stride=3, **QUICK).set_output(transform="pandas")
    assert model.fit_transform(ONE).index.tolist() == list(range(32))


def test_numbers_as_objects_are_numbers():
    X = np.arange(24.0).reshape(4, 6)
    model = VAE(**QUICK).fit(X)
    np.testing.assert_array_equal(model.transform(X.astype(object)), model.transform(X))


@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_extreme_units_are_scaled_away(factor):
    X = recording(60).reshape(10, 6, 2).astype(np.float32)
    found = (
        learned((X * np.float32(factor)).astype(kind))[0] for kind in (np.float32, np.float64)
    )
    for modality in found:
        np.testing.assert_allclose(np.array(modality.scale) / factor, learned(X)[0].scale, 1e-4)


def test_scores_are_spread_over_the_stamps():
    X = pd.DataFrame(recording(10), TIMES[:10])
    modality, _ = learned(X, window=4, stride=3)
    assert modality.spans(X).tolist() == [[0, 0, 4], [0, 3, 7], [0, 6, 10]]
    np.testing.assert_allclose(modality.spread(X, [1.0, 3.0, 5.0]), [1, 1, 1, 2, 3, 3, 4, 5, 5, 5])
    lists, _ = learned([recording(3), recording(5)], window=4)
    assert [each.tolist() for each in lists.spread([recording(3)], [7.0])] == [[7, 7, 7]]
    with pytest.raises(DataError, match="There are 2 values for the 3 samples"):
        modality.spread(X, [1.0, 2.0])


def test_a_window_where_the_recording_breaks_its_habit_scores_lowest():
    one = recording(2000)
    one[1200:1220] = one[1200:1220][:, ::-1] * [1, 10]
    options = {"latent_dim": 4, "epochs": 50, "batch_size": 32, "learning_rate": 0.01}
    model = VAE(window=20, stride=4, **QUICK | options).fit(one[:1000])
    scores = model.score_samples(one)
    assert abs(scores.argmin() - 300) <= 4
    made = model.reconstruct(one[:1000])
    assert np.mean((made - one[:1000]) ** 2 / one[:1000].var(0)) < 0.3


@pytest.mark.parametrize("form", ["array", "list", "recording", "frame"])
@pytest.mark.parametrize("architecture", ["mlp", "conv", "lstm"])
def test_constant_channels_are_set_aside_and_put_back(form, architecture, tmp_path):
    one = np.insert(recording(), 1, 7.1, 1)
    X = {
        "array": one.reshape(5, 20, 3),
        "list": [one[:20], one[:13], one[20:50], one[50:]],
        "recording": one,
        "frame": pd.DataFrame(one, columns=["a", "b", "c"]),
    }[form]
    window = {"window": 8} if form in ("recording", "frame") else {}
    model = VAE(architecture=architecture, **QUICK | {"hidden": (4,)} | window).fit(X)
    assert (model.modality_.kept, model.modality_.shape[0]) == ((0, 2), 2)
    assert model.net_.decode(torch.zeros(1, 2)).shape[1] == 2
    assert model.n_features_in_ == 3 * model.modality_.shape[1]
    model.save(tmp_path / "model")
    made = narrows.load(tmp_path / "model").reconstruct(X)
    for each in made if isinstance(made, list) else [np.asarray(made)]:
        assert (each[..., 1] == np.float32(7.1)).all()
        assert (each[..., 0] != np.float32(7.1)).all()
    for each in [*model.sample(3), *model.inverse_transform(np.zeros((2, 2)))]:
        assert each.shape[1] == 3
        assert (each[:, 1] == np.float32(7.1)).all()


def test_other_values_of_a_constant_channel_change_no_code():
    X = np.insert(recording(), 1, 7.0, 1).reshape(5, 20, 3)
    model = VAE(**QUICK).fit(X)
    other = X.copy()
    other[1, 3, 1], other[2, :, 1] = np.nan, 9
    np.testing.assert_array_equal(model.transform(other), model.transform(X))
    np.testing.assert_array_equal(model.score_samples(other), model.score_samples(X))


def test_series_that_are_constant_are_named_and_come_back():
    X = np.full((6, 5, 2), [3.3, -1.0])
    with pytest.warns(UserWarning, match="Every channel of X is constant"):
        model = VAE(**QUICK).fit(X)
    assert (model.modality_.kept, model.modality_.scale) == ((0,), (1.0,))
    assert np.isfinite(model.score_samples(X)).all()
    np.testing.assert_array_equal(model.reconstruct(X)[..., 1], X[..., 1])


@pytest.mark.parametrize(
    ("likelihood", "X"),
    [
        ("bernoulli", np.random.default_rng(0).random((20, 8, 2))),
        ("poisson", np.random.default_rng(0).poisson(3, (20, 8, 2))),
        ("categorical", np.random.default_rng(0).integers(0, 4, (20, 8, 2))),
        ("laplace", recording().reshape(5, 20, 2)),
    ],
)
def test_other_likelihoods_explain_series(likelihood, X):
    model = VAE(likelihood=likelihood, **QUICK).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert model.reconstruct(X).shape == X.shape


def test_one_series_is_given_as_a_list_or_an_array():
    for X in ([[1.0, 2, 3], [4, 5]] * 4, [[[1.0, 2], [3, 4]], [[5, 6]]] * 4):
        model = VAE(**QUICK, validation=0.0).fit(X)
        way = model.interpolate(X[0], X[1], 3)
        again = model.interpolate(np.array(X[0]), np.array(X[1]), 3)
        np.testing.assert_array_equal(way, again)
        np.testing.assert_array_equal(way, model.interpolate(X[:1], X[1:2], 3))


# -- sentences --------------------------------------------------------------------------------


ONE = recording()


@pytest.mark.parametrize(
    ("X", "fields", "words"),
    [
        (ONE[:, :, None], {"modality": "auto"}, "more than one way.*modality='series'"),
        (
            [ONE[:3], ONE[:4]],
            {"modality": "auto"},
            r"Sample 1 .* shape \(4, 2\) where sample 0 has \(3, 2\).*modality='series'",
        ),
        ([[1, 2], [3]], {"modality": "auto"}, "Row 1 .* equally long.*modality='series'"),
        ([[[1, 2], [3]]] * 2, {"modality": "auto"}, "Sample 0 of X holds lists of unequal"),
        (np.float64(3), {}, "modality='series' needs series .*Reshape your data"),
        (ONE[:, 0], {}, "needs series .* X has the shape .100,.. Reshape"),
        (np.zeros((2, 3, 4, 5)), {}, "X has the shape .2, 3, 4, 5."),
        (np.zeros((0, 3, 2)), {}, "0 sample"),
        (np.zeros((3, 4, 0)), {}, "0 sample.s. or channels"),
        (np.zeros((20, 0)), {"window": 4}, "0 sample.s. or channels"),
        (np.zeros(0), {"window": 4}, "0 sample.s. or channels"),
        ([ONE, ONE * 1e300], {}, "Series 1 of X holds values too large for float32"),
        (np.array([["a", 1], [2, 3]], object), {}, "object values; series must hold numbers"),
        (np.ma.masked_array(ONE), {}, "masked array.* NaN, which means missing .* 'series'"),
        (np.zeros((3, 0)), {}, "Series 0 of X has no steps"),
        ([], {}, "0 sample"),
        ([ONE, np.zeros((0, 2))], {}, "Series 1 of X has no steps"),
        ([ONE, ONE[:, :1]], {}, "Series 1 of X has 1 channels where series 0 has 2"),
        (
            [ONE, ONE[:, 0]],
            {},
            r"Series 1 of X has the shape \(100,\); expected \(steps, channels\), as series 0",
        ),
        ([ONE, ["a", "b"]], {}, "Series 1 of X holds <U1 values; series must hold numbers"),
        ([ONE, pd.DataFrame(ONE)], {}, "Series 1 of X is a data frame"),
        ([torch.ones(3), torch.ones(4)], {"modality": "auto"}, "Row 1 of X has 4 values where"),
        ([ONE, np.where(ONE > 9, np.inf, ONE)], {}, "Series 1 of X contains infinity, .* step"),
        (ONE.astype(complex), {"window": 5}, "complex128 values; series must hold numbers"),
        (np.full((5, 4), np.nan), {}, "Every value of channel 0 of X is missing"),
        (pd.DataFrame(ONE), {}, "A data frame is one recording.*set window="),
        (
            pd.DataFrame({"a": ONE[:, 0], "b": ["x"] * 100}),
            {"window": 5},
            "Column 'b' holds .*numeric",
        ),
        (
            pd.DataFrame({"t": TIMES, "u": TIMES, "a": ONE[:, 0]}),
            {"window": 5},
            "more than one column of times: t, u",
        ),
        (pd.DataFrame({"t": TIMES}), {"window": 5}, "no columns of values"),
        (ONE, {"stride": 5}, "stride=5 .* has no effect without one"),
        (ONE, {"window": 5, "stride": 6}, "stride=6 is larger than window=5"),
        (ONE, {"window": 0}, "'window' parameter of VAE must be"),
        (ONE, {"modality": "table", "window": 5}, "'window' .* no effect with modality='table'"),
        (ONE, {"modality": "auto", "stride": 5}, "'stride' .* no effect with modality='table'"),
        (ONE, {"window": 5, "symbols": "bytes"}, "'symbols' .* no effect with modality='series'"),
    ],
)
def test_bad_series_meet_a_sentence(X, fields, words):
    with pytest.raises((DataError, ParameterError), match=words):
        VAE(**QUICK | fields).fit(X)


def test_what_does_not_fit_the_fitted_series_meets_a_sentence():
    model = VAE(**QUICK, validation=0.0).fit([ONE, ONE[:5]])
    with pytest.raises(DataError, match="Series 0 of X has 101 steps, more than the 100"):
        model.transform([recording(101)])
    with pytest.raises(DataError, match="Series 0 of X has 3 channels, but VAE is"):
        model.transform([recording(5, 3)])
    frame = VAE(**QUICK, window=10).fit(pd.DataFrame(ONE, columns=["a", "b"]))
    with pytest.raises(DataError, match="feature names"):
        frame.transform(pd.DataFrame(ONE, columns=["a", "c"]))
    with pytest.raises(DataError, match="X has 3 channels, but VAE is expecting 2"):
        frame.transform(recording(50, 3))


def test_groups_and_weights_are_one_a_sample():
    with pytest.raises(DataError, match="groups cannot be given for windows"):
        VAE(**QUICK, window=10).fit(ONE, groups=np.arange(10))
    with pytest.raises(DataError, match=r"sample_weight has the shape \(100,\)"):
        VAE(**QUICK, window=10).fit(ONE, sample_weight=np.ones(100))
    X = ONE.reshape(10, 10, 2)
    groups = np.repeat(np.arange(5), 2)
    model = VAE(**QUICK).fit(X, groups=groups)
    assert len(set(groups[model.held_out_])) == 1


@pytest.mark.parametrize(
    "state",
    [
        {"window": 3},
        {"stride": 11},
        {"shape": [2]},
        {"center": [0.0]},
        {"frame": "pandas"},
        {"kept": [0, 2]},
        {"constants": [0.0]},
    ],
)
def test_a_damaged_state_is_refused(state):
    modality, _ = learned(ONE, window=10, stride=5)
    with pytest.raises(DataError, match="do not fit"):
        Modality.restore(modality.state() | state)


def test_a_window_is_part_of_what_a_model_is():
    model = VAE(**QUICK, window=10, warm_start=True).fit(ONE)
    model.set_params(window=5)
    with pytest.raises(ParameterError, match="window"):
        model.fit(ONE)
    assert isinstance(model.modality_, Series)


def stamped(days):
    stamps = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.asarray(days), unit="D")
    return pd.DataFrame({"time": stamps, "a": np.arange(float(len(days)))})


STAMPED = {
    "column": stamped,
    "column of a zone": lambda days: stamped(days).assign(
        time=lambda X: X["time"].dt.tz_localize("Europe/Berlin")
    ),
    "index": lambda days: stamped(days).set_index("time"),
    "index of a zone": lambda days: stamped(days).set_index("time").tz_localize("UTC"),
    "periods": lambda days: stamped(days).set_index("time").to_period("D"),
    "spans of time": lambda days: stamped(days).set_index(pd.to_timedelta(days, unit="D"))[["a"]],
    "series": lambda days: stamped(days).set_index("time")["a"],
    "polars": lambda days: pl.from_pandas(stamped(days)),
    "pyarrow": lambda days: pa.Table.from_pandas(stamped(days)),
}


@pytest.mark.parametrize("days", [[0, 1, 3, 2, 4, 5], [0, 1, 1, 2, 3, 4]])
@pytest.mark.parametrize("where", STAMPED)
def test_times_that_do_not_rise_are_refused(days, where):
    model = Autoencoder(modality="series", window=2, epochs=1)
    sentence = r"Row [23] of X has the stamp .* not after .*Sort"
    with pytest.raises(DataError, match=sentence):
        model.fit(STAMPED[where](days))
    model.fit(STAMPED[where](range(6)))
    with pytest.raises(DataError, match=sentence):
        model.score_samples(STAMPED[where](days))


@pytest.mark.parametrize("where", STAMPED)
def test_holes_between_times_are_told(where):
    days = [*range(30), *range(40, 70)]
    model = Autoencoder(modality="series", window=2, epochs=1)
    with pytest.warns(UserWarning, match=r"X has 1 hole .* (2026-01-30|29 days).* NaN"):
        model.fit(STAMPED[where](days))


@pytest.mark.parametrize(
    "days",
    [
        range(60),
        [day for day in range(60) if day % 7 < 5],
        np.cumsum(np.random.default_rng(0).exponential(size=60)),
    ],
    ids=["even", "weekdays", "random"],
)
@pytest.mark.filterwarnings("error:X has")
def test_times_that_are_uneven_throughout_have_no_holes(days):
    Autoencoder(modality="series", window=2, epochs=1).fit(stamped(days))


@pytest.mark.parametrize("kind", [pd.Series, pl.Series], ids=["pandas", "polars"])
def test_a_series_of_a_library_comes_back_as_one(kind):
    values = np.sin(np.arange(40, dtype=np.float32))
    X = kind(values, TIMES[:40], name="a") if kind is pd.Series else kind("a", values)
    made = Autoencoder(window=8, **QUICK).fit(X).reconstruct(X)
    assert type(made) is kind
    assert made.name == "a"
    assert made.dtype == X.dtype
    if kind is pd.Series:
        assert made.index.equals(X.index)


def test_recordings_too_short_for_a_held_out_window_lose_one_of_them():
    spans = cut([140] * 5, 16, 16)
    train, held = hold_out(spans, 0.1, "random", 0)
    assert len(np.unique(spans[held, 0])) == 1
    assert len(np.unique(spans[train, 0])) == 4


def test_noise_reaches_no_padding(monkeypatch):
    seen = []
    losses = Autoencoder.losses

    def look(self, batch):
        seen.append(float((batch.x * (1 - batch.mask)).abs().max()))
        return losses(self, batch)

    monkeypatch.setattr(Autoencoder, "losses", look)
    X = [recording(n) for n in (5, 9, 12, 7)] * 4
    narrows.DenoisingAutoencoder(modality="series", epochs=1, validation=0.0).fit(X)
    assert seen == [0.0] * len(seen)
    assert seen
