"""Bad input: one sentence with what, where, what was expected and what to do; nothing else."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import NotFittedError

import narrows
from narrows.data.modalities import modality_of
from narrows.distributed.processes import FILES
from narrows.errors import (
    DataError,
    DataTypeError,
    FileError,
    MissingExtraError,
    ModelFileError,
    NarrowsError,
    ParameterError,
    TrainingError,
    nearest,
)

GOOD = np.random.default_rng(0).normal(size=(30, 5))
TINY = {"latent_dim": 2, "hidden": (4,), "epochs": 1}


@pytest.fixture(scope="module")
def model():
    return narrows.VAE(**TINY).fit(GOOD)


@pytest.fixture(scope="module")
def framed():
    return narrows.VAE(**TINY).fit(pd.DataFrame(GOOD, columns=list("abcde")))


def with_value(value, row=3, column=2):
    X = GOOD.copy()
    X[row, column] = value
    return X


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (ParameterError, ValueError),
        (DataError, ValueError),
        (DataTypeError, TypeError),
        (FileError, OSError),
        (ModelFileError, OSError),
        (TrainingError, RuntimeError),
        (MissingExtraError, ImportError),
    ],
)
def test_one_family_that_is_also_what_python_expects(cls, base):
    assert issubclass(cls, NarrowsError)
    assert issubclass(cls, base)


@pytest.mark.parametrize(
    ("name", "hint"), [("latentdim", " Did you mean 'latent_dim'?"), ("zzz", "")]
)
def test_the_nearest_name_is_offered_where_there_is_one(name, hint):
    assert nearest(name, ["latent_dim", "beta"]) == hint


# -- the array --------------------------------------------------------------------------------

BAD_ARRAYS = {
    "NaN": (
        with_value(np.nan),
        ValueError,
        r"X contains NaN in 1 of its 30 rows, first in row 3, column 2. .*modality='table'",
    ),
    "infinity": (with_value(np.inf), ValueError, r"X contains infinity .* row 3, column 2"),
    "minus infinity": (with_value(-np.inf), ValueError, r"X contains infinity"),
    "beyond float32": (1e39 * GOOD, DataError, r"too large for .*float32"),
    "far beyond float32": (1e200 * GOOD, DataError, r"too large for .*float32"),
    "no rows": (GOOD[:0], ValueError, r"0 sample\(s\).*minimum of 1 is required"),
    "no columns": (GOOD[:, :0], ValueError, r"0 feature\(s\).*minimum of 1 is required"),
    "one dimension": (GOOD[0], ValueError, r"Reshape your data"),
    "a scalar": (np.float64(3), ValueError, r"[Ss]calar|Reshape your data"),
    "three dimensions": (np.zeros((4, 5, 6)), DataError, r"dim 3.* Say modality='image'"),
    "five dimensions": (np.zeros((4, 5, 6, 2, 2)), DataError, r"dim 5.*modality='image'"),
    "complex": (GOOD * 1j, ValueError, r"Complex data not supported"),
    "text": (np.array([["a", "b"], ["c", "d"]]), ValueError, r"numbers|numeric"),
    "text in objects": (np.array([[1, "b"], [2, "d"]], object), ValueError, r"numbers|numeric"),
    "dates": (
        np.array([["2026-01-01"]] * 9, "datetime64[D]"),
        ValueError,
        r"dates.* Convert them to numbers",
    ),
    "masked": (np.ma.masked_greater(GOOD, 1), ValueError, r"mask"),
    "sparse": (scipy.sparse.csr_array(GOOD), TypeError, r"[Ss]parse.*toarray"),
    "a sparse tensor": (torch.tensor(GOOD).to_sparse(), TypeError, r"[Ss]parse.*to_dense"),
    "a meta tensor": (torch.empty(20, 5, device="meta"), TypeError, r"meta.*no values"),
    "ragged rows": ([[1, 2, 3], [1, 2], [1, 2, 3]], DataError, r"Row 1 of X has 2 .* row 0 has 3"),
    "ragged images": (
        [np.zeros((4, 4)), np.zeros((4, 5))],
        ValueError,
        r"1 of X has (20|the shape \(4, 5\))",
    ),
    "a dict": ({"a": [1, 2]}, TypeError, r"dict.*(array|data ?frame)"),
    "None": (None, (TypeError, ValueError), r"None"),
    "a generator": ((row for row in GOOD), TypeError, r"generator.*(array|list)"),
    "a string": ("digits", (TypeError, ValueError), r"'digits'|str"),
    "a lazy frame": (pl.LazyFrame({"a": [1.0]}), TypeError, r"LazyFrame.*collect"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_an_array_that_cannot_be_used_is_refused_at_fit(case):
    X, error, sentence = BAD_ARRAYS[case]
    estimator = narrows.VAE(**TINY)
    with pytest.raises(error, match=f"(?s){sentence}"):
        estimator.fit(X)
    assert not [name for name in vars(estimator) if name.endswith("_")]


@pytest.mark.parametrize("method", ["transform", "reconstruct", "score_samples", "partial_fit"])
@pytest.mark.parametrize(
    "case", ["NaN", "infinity", "no rows", "one dimension", "text", "complex", "sparse"]
)
def test_and_at_every_later_method(method, case, model):
    X, error, sentence = BAD_ARRAYS[case]
    with pytest.raises(error, match=f"(?s){sentence}"):
        getattr(model, method)(X)


@pytest.mark.parametrize("method", ["transform", "reconstruct", "score_samples", "partial_fit"])
@pytest.mark.parametrize("width", [3, 8])
def test_another_width_says_both(method, width, model):
    X = np.ones((4, width))
    with pytest.raises(
        ValueError, match=f"X has {width} features, but VAE is expecting 5 features"
    ):
        getattr(model, method)(X)


def test_a_code_of_another_width_says_both(model):
    with pytest.raises(
        DataError, match=r"Z has 3 values a row, but the code of VAE has 2.*transfo"
    ):
        model.inverse_transform(np.ones((4, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_code_that_is_not_finite_is_refused(bad, model):
    with pytest.raises(DataError, match=r"Z contains (NaN|infinity).* row 1, column 0. Repair or"):
        model.inverse_transform([[0, 0], [bad, 0]])


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [([1.0, 2.0], "Reshape your data"), ([["a", "b"]], "Z holds text"), ([[1], [1, 2]], "Row 1")],
)
def test_what_is_no_code_is_refused(codes, sentence, model):
    with pytest.raises(DataError, match=sentence):
        model.inverse_transform(codes)


METHODS = {
    "transform": lambda model: model.transform(GOOD),
    "inverse_transform": lambda model: model.inverse_transform(GOOD[:, :2]),
    "reconstruct": lambda model: model.reconstruct(GOOD),
    "score_samples": lambda model: model.score_samples(GOOD),
    "score": lambda model: model.score(GOOD),
    "sample": lambda model: model.sample(3),
    "interpolate": lambda model: model.interpolate(GOOD[0], GOOD[1]),
    "diagnose": lambda model: model.diagnose(),
    "save": lambda model: model.save("/nowhere/at/all"),
    "get_feature_names_out": lambda model: model.get_feature_names_out(),
}


@pytest.mark.parametrize("method", METHODS)
def test_before_fit_every_method_says_so(method):
    with pytest.raises(NotFittedError, match="VAE instance is not fitted yet"):
        METHODS[method](narrows.VAE())


@pytest.mark.parametrize("n", [0, -1, 2.5, "3", None, True])
def test_no_samples_cannot_be_drawn(n, model):
    with pytest.raises(ParameterError, match=f"sample needs an int n ≥ 1. Got {n!r} instead"):
        model.sample(n)


@pytest.mark.parametrize("seed", [-1, "a", 0.5])
def test_a_seed_is_a_whole_number(seed, model):
    with pytest.raises(ParameterError, match=f"sample needs an int seed ≥ 0. Got {seed!r}"):
        model.sample(2, seed=seed)


@pytest.mark.parametrize("steps", [1, "4", 2.0])
def test_a_way_has_two_steps_or_more(steps, model):
    with pytest.raises(ParameterError, match=f"interpolate needs an int steps ≥ 2. Got {steps!r}"):
        model.interpolate(GOOD[0], GOOD[1], steps)


def test_a_way_leads_from_one_sample_to_another(model):
    with pytest.raises(ParameterError, match=r"to another\. Got 3 and 1 samples"):
        model.interpolate(GOOD[:3], GOOD[1])


def test_constant_data_are_told():
    with pytest.warns(
        UserWarning, match="Every column of X is constant: there is nothing to learn"
    ):
        narrows.VAE(**TINY).fit(np.ones((20, 3)))


# -- frames -----------------------------------------------------------------------------------

FRAME = pd.DataFrame(GOOD, columns=list("abcde"))
BAD_FRAMES = {
    "text": (FRAME.assign(c="x"), ValueError, r"Column 'c' holds String.*numeric.*drop it"),
    "dates": (
        FRAME.assign(c=pd.date_range("2026", periods=30)),
        ValueError,
        r"Column 'c' holds Datetime",
    ),
    "categories": (
        FRAME.assign(c=pd.Categorical(["u", "v"] * 15)),
        ValueError,
        r"Column 'c' holds Categorical.*OneHotEncoder",
    ),
    "repeated names": (
        pd.DataFrame(GOOD, columns=list("abcdb")),
        ValueError,
        r"'b' occurs more than once",
    ),
    "names of mixed types": (
        pd.DataFrame(GOOD, columns=["a", 1, "c", "d", "e"]),
        TypeError,
        r"only supported if all input features have string names.*astype\(str\)",
    ),
    "nothing observed": (FRAME * np.nan, ValueError, r"missing|no value"),
    "no rows": (FRAME[:0], ValueError, r"0 sample\(s\)"),
    "infinity": (FRAME.assign(c=np.inf), ValueError, r"infinity"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_a_frame_that_cannot_be_used_is_refused_by_column(case):
    X, error, sentence = BAD_FRAMES[case]
    with pytest.raises(error, match=f"(?s){sentence}"):
        narrows.VAE(**TINY).fit(X)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (list("edcba"), "same order as they were in fit.\nColumn 0 is 'e' where 'a' was"),
        (list("abcdz"), r"unseen at fit time:\n- z\n.*yet now missing:\n- e"),
        (list("abcd"), r"yet now missing:\n- e"),
        (list("abcdef"), r"unseen at fit time:\n- f"),
    ],
)
def test_other_columns_are_named(columns, sentence, framed):
    X = pd.DataFrame(np.ones((4, len(columns))), columns=columns)
    with pytest.raises(ValueError, match=f"(?s)feature names should match.*{sentence}"):
        framed.transform(X)


# -- images -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictured():
    return narrows.VAE(**TINY).fit(
        np.random.default_rng(0).integers(0, 255, (20, 8, 6, 3), np.uint8)
    )


@pytest.mark.parametrize("shape", [(4, 3, 8, 6), (4, 8, 6), (4, 8, 6, 1), (4, 6, 8, 3), (4, 144)])
def test_images_of_another_shape_or_layout_say_both(shape, pictured):
    expected = r"expecting images of shape \(n, 8, 6, 3\); X has the shape .*channel order"
    with pytest.raises(DataError, match=expected):
        pictured.transform(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_counted(value):
    X = np.random.default_rng(0).random((9, 8, 8))
    X[[4, 6], 1, 1] = value
    with pytest.raises(DataError, match=r"NaN, infinity .* in 2 of its 9 images"):
        narrows.VAE(**TINY, modality="image").fit(X)


BAD_IMAGES = {
    "a table": (GOOD, r"needs images .* X has the shape \(30, 5\)"),
    "no pixels": (np.zeros((5, 0, 8), np.uint8), r"images without pixels"),
    "no images": (np.zeros((0, 8, 8), np.uint8), r"0 sample\(s\)"),
    "text": (np.full((3, 4, 4), "a"), r"must hold numbers"),
    "complex": (np.zeros((3, 4, 4), complex), r"must hold numbers"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_what_is_no_image_is_refused(case):
    X, sentence = BAD_IMAGES[case]
    with pytest.raises(DataError, match=sentence):
        narrows.VAE(**TINY, modality="image").fit(X)


def test_a_conv_net_needs_images():
    with pytest.raises(
        ParameterError, match=r"architecture='conv' needs images .*modality='image'"
    ):
        narrows.VAE(**TINY, architecture="conv").fit(GOOD)


# -- what goes beside the data ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        (np.ones(29), r"shape \(29,\); expected \(30,\)"),
        (np.ones((30, 1)), r"shape \(30, 1\); expected \(30,\)"),
        (-np.ones(30), r"negative or non-finite"),
        (np.full(30, np.nan), r"negative or non-finite"),
        (np.full(30, np.inf), r"negative or non-finite"),
        (np.zeros(30), r"Every sample_weight is zero"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_weights_that_cannot_be(method, weight, sentence):
    with pytest.raises(DataError, match=sentence):
        getattr(narrows.VAE(**TINY), method)(GOOD, sample_weight=weight)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"groups": np.zeros(29)}, r"groups has the shape \(29,\); expected \(30,\)"),
        ({"validation": np.ones((4, 3))}, "X has 3 features, but VAE is expecting 5"),
        ({"validation": GOOD * np.nan}, "NaN"),
        ({"validation": GOOD[:0]}, r"0 sample\(s\)"),
    ],
)
def test_options_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        narrows.VAE(**TINY).fit(GOOD, **options)


@pytest.mark.parametrize(
    ("option", "near"),
    [("sample_weights", "sample_weight"), ("valdation", "validation"), ("group", "groups")],
)
def test_an_unknown_option_names_the_nearest(option, near):
    with pytest.raises(TypeError, match=f"'{option}'.* Did you mean '{near}'") as caught:
        narrows.VAE(**TINY).fit(GOOD, **{option: None})
    assert isinstance(caught.value, NarrowsError)


def test_one_group_alone_cannot_be_held_out():
    model = narrows.VAE(**TINY, validation=0.5).fit(GOOD, groups=np.zeros(30))
    assert len(model.held_out_) == 0


# -- parameters -------------------------------------------------------------------------------

BAD_PARAMETERS = [
    ("latent_dim", 0, "an int ≥ 1. Got 0"),
    ("latent_dim", -1, "an int ≥ 1. Got -1"),
    ("latent_dim", 2.5, "an int ≥ 1. Got 2.5"),
    ("latent_dim", 2.0, "an int ≥ 1. Got 2.0"),
    ("latent_dim", True, "an int ≥ 1. Got True"),
    ("latent_dim", "2", "an int ≥ 1. Got '2'"),
    ("latent_dim", None, "an int ≥ 1. Got None"),
    ("hidden", (4, 0), r"a tuple of ints ≥ 1 or None. Got \(4, 0\)"),
    ("hidden", 4, "a tuple of ints ≥ 1 or None. Got 4"),
    ("hidden", "4", "a tuple of ints ≥ 1 or None. Got '4'"),
    ("activation", "rellu", r"one of .*'relu'.* Got 'rellu' instead. Did you mean 'relu'\?"),
    ("likelihood", "gausian", r"one of .* Did you mean 'gaussian'\?"),
    ("architecture", "resnet", "one of 'auto', .*'mlp', 'conv'.* Got 'resnet'"),
    ("modality", "tabel", r"'table'.* Did you mean 'table'\?"),
    ("scaling", "min-max", r"Did you mean 'minmax'\?"),
    ("schedule", "cos", "one of 'constant', 'linear', 'cosine', .*. Got 'cos'"),
    ("dropout", 1.0, "a float ≥ 0 and < 1. Got 1.0"),
    ("dropout", -0.1, "a float ≥ 0 and < 1. Got -0.1"),
    ("batch_norm", 1, "a bool. Got 1"),
    ("batch_norm", "yes", "a bool. Got 'yes'"),
    ("scale", 0, "a float > 0. Got 0"),
    ("scale", "optimum", r"Did you mean 'optimal'\?"),
    ("score_draws", -1, "an int ≥ 0. Got -1"),
    ("epochs", 0, "an int ≥ 1. Got 0"),
    ("epochs", "many", "'auto' or an int ≥ 1. Got 'many'"),
    ("batch_size", 0, "an int ≥ 1. Got 0"),
    ("learning_rate", 0, "a float > 0. Got 0"),
    ("learning_rate", -1.0, "a float > 0. Got -1.0"),
    ("learning_rate", float("nan"), "a float > 0. Got nan"),
    ("learning_rate", float("inf"), "a float > 0. Got inf"),
    ("learning_rate", "0.1", "a float > 0. Got '0.1'"),
    ("warmup", 1.0, "a float ≥ 0 and < 1. Got 1.0"),
    ("weight_decay", -1e-9, "a float ≥ 0. Got -1e-09"),
    ("gradient_clip", 0.0, "a float > 0 or None. Got 0.0"),
    ("patience", 0, "an int ≥ 1 or None. Got 0"),
    ("validation", 1.0, "a float ≥ 0 and < 1. Got 1.0"),
    ("validation_split", "first", "one of 'random', 'last'. Got 'first'"),
    ("precision", "float8", "one of 'float32', .*. Got 'float8'"),
    ("threads", 0, "'auto' or an int ≥ 1. Got 0"),
    ("seed", -1, "an int ≥ 0 and < 4294967296 or None. Got -1"),
    ("seed", "abc", "an int ≥ 0 and < 4294967296 or None. Got 'abc'"),
    ("seed", 2**32, "an int ≥ 0 and < 4294967296 or None. Got 4294967296"),
    ("verbose", 3, "an int ≥ 0 and ≤ 2. Got 3"),
    ("verbose", True, "an int ≥ 0 and ≤ 2. Got True"),
    ("device", 0, "a str. Got 0"),
    ("beta", -1, "a float ≥ 0. Got -1"),
    ("beta", True, "a float ≥ 0. Got True"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), BAD_PARAMETERS)
def test_a_parameter_that_cannot_be_is_refused_at_fit_and_not_before(name, value, sentence):
    estimator = narrows.VAE(**{name: value})
    assert estimator.get_params()[name] is value
    with pytest.raises(
        ParameterError, match=f"The '{name}' parameter of VAE must be .*{sentence}"
    ):
        estimator.fit(GOOD)
    assert getattr(estimator, name) is value


OTHER_PARAMETERS = [
    (narrows.Autoencoder, {"code_activation": "sigmoidal"}, r"Did you mean 'sigmoid'\?"),
    (narrows.DenoisingAutoencoder, {"corruption": "mask"}, r"Did you mean 'masking'\?"),
    (narrows.DenoisingAutoencoder, {"noise": -0.1}, "≥ 0. Got -0.1"),
    (narrows.SparseAutoencoder, {"rho": 1.0}, "> 0 and < 1 or None. Got 1.0"),
    (narrows.SparseAutoencoder, {"sparsity": -1.0}, "≥ 0. Got -1.0"),
    (narrows.ContractiveAutoencoder, {"jacobian": "full"}, "'hutchinson', 'exact'. Got 'full'"),
    (narrows.LinearAutoencoder, {"architecture": "mlp"}, "'linear'. Got 'mlp'"),
    (narrows.VAE, {"architecture": "unet"}, "architecture='unet' is for UNetAutoencoder alone"),
    (narrows.Autoencoder, {"architecture": "gcn"}, "for GraphAutoencoder, .* must be one of"),
    (narrows.ComposedAutoencoder, {"code": "gausian"}, r"Did you mean 'gaussian'\?"),
    (narrows.ComposedAutoencoder, {"code_options": {"size": 3}}, "code_options do not fit .*size"),
    (narrows.ComposedAutoencoder, {"code_options": 3}, "a dict .* or None. Got 3"),
    (
        narrows.ComposedAutoencoder,
        {"code_options": {"activation": "rellu"}},
        r"rellu.*Did you mean 'relu'\?",
    ),
    (narrows.ComposedAutoencoder, {"penalties": {"jakobian": 1.0}}, "'jacobian'\\?"),
    (narrows.ComposedAutoencoder, {"penalties": {"l1": -1.0}}, "penalties.*Got {'l1': -1.0}"),
    (
        narrows.ComposedAutoencoder,
        {"charges": {"kl": 1.0}},
        r"'charges'.*'kl', which is not one of",
    ),
]


@pytest.mark.parametrize(("cls", "parameters", "sentence"), OTHER_PARAMETERS)
def test_so_are_those_of_the_families(cls, parameters, sentence):
    with pytest.raises(ParameterError, match=sentence):
        cls(**parameters, epochs=1).fit(GOOD)


CONTRADICTIONS = [
    (
        narrows.SparseAutoencoder,
        {"rho": 0.05},
        "needs code_activation='sigmoid'. Leave it at None",
    ),
    (narrows.ContractiveAutoencoder, {"batch_norm": True}, "batch_norm=True mixes the samples"),
    (
        narrows.ComposedAutoencoder,
        {"penalties": {"jacobian": 1.0}, "batch_norm": True},
        "batch_norm",
    ),
    (
        narrows.ComposedAutoencoder,
        {"penalties": {"jacobian_exact": 1.0}, "batch_norm": True},
        "batch_norm",
    ),
    (
        narrows.ComposedAutoencoder,
        {"penalties": {"decoder_weights": 1.0}, "hidden": (), "tied": True},
        "none of its own. Set tied=False",
    ),
    (narrows.VAE, {"likelihood": "bernoulli", "output_activation": "tanh"}, "output_activation"),
    (narrows.VAE, {"likelihood": "bernoulli", "output_activation": "linear"}, "output_activation"),
    (narrows.VAE, {"likelihood": "bernoulli", "scale": 1.0}, "'scale' parameter .* has no effect"),
    (narrows.VAE, {"downsampling": "max"}, r"'downsampling' .* no effect with architecture='mlp'"),
    (
        narrows.VAE,
        {"architecture": "linear", "dropout": 0.1},
        r"'dropout' .* no effect with architecture='linear'; it is for .*'mlp' or 'conv'",
    ),
    (narrows.VAE, {"architecture": "linear", "hidden": (4,)}, "'hidden' .* has no effect"),
    (
        narrows.Autoencoder,
        {"tied": True, "modality": "image", "architecture": "conv"},
        "'tied' .* no effect with architecture='conv'",
    ),
]


@pytest.mark.parametrize(("cls", "parameters", "sentence"), CONTRADICTIONS)
def test_parameters_that_contradict_each_other_are_refused(cls, parameters, sentence):
    images = np.arange(9 * 64, dtype=np.uint8).reshape(9, 8, 8)
    X = images if parameters.get("modality") else GOOD
    with pytest.raises(ParameterError, match=sentence):
        cls(**{"epochs": 1} | parameters).fit(X)


def test_bernoulli_needs_values_between_0_and_1():
    model = narrows.VAE(**TINY, likelihood="bernoulli", scaling="standard")
    with pytest.raises(
        DataError, match=r"values in \[0, 1\]; X has values from .* scaling='auto'"
    ):
        model.fit(GOOD)


def test_batch_norm_needs_more_than_one_row():
    with pytest.raises(DataError, match=r"batch_norm=True needs at least 2 samples.*X has 1"):
        narrows.VAE(**TINY, batch_norm=True).fit(GOOD[:1])


def test_batch_norm_needs_more_than_one_row_a_batch():
    with pytest.raises(DataError, match=r"at least 2 samples in a batch.*batch_size is 1"):
        narrows.VAE(**TINY, batch_norm=True, batch_size=1).fit(GOOD)


@pytest.mark.parametrize(
    "options", [{"batch_size": 10_000}, {"batch_size": 1}, {"latent_dim": 50}], ids=str
)
def test_what_sounds_odd_but_works(options):
    assert narrows.Autoencoder(**TINY | options).fit(GOOD).reconstruct(GOOD).shape == GOOD.shape


@pytest.mark.parametrize("cls", [narrows.VAE, narrows.Autoencoder])
@pytest.mark.parametrize(
    ("name", "near"),
    [("latentdim", "latent_dim"), ("learningrate", "learning_rate"), ("random_state", None)],
)
def test_an_unknown_parameter_is_a_type_error_with_the_nearest_name(cls, name, near):
    hint = rf" Did you mean '{near}'\?" if near else ""
    with pytest.raises(
        TypeError, match=rf"{cls.__name__} has no parameter '{name}'.{hint}"
    ) as error:
        cls(**{name: 3})
    assert isinstance(error.value, NarrowsError)
    assert "latent_dim, " in str(error.value)  # it lists what there is


def test_set_params_refuses_an_unknown_parameter():
    with pytest.raises(ValueError, match=r"no parameter 'latentdim'.*Did you mean 'latent_dim'"):
        narrows.VAE().set_params(latentdim=3)


@pytest.mark.parametrize("device", ["cuda", "cuda:9", "banana", "cuda:x", "meta", "", "tpu"])
def test_a_device_that_is_not_there_is_an_error_and_no_fall_back(device):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(
        ParameterError, match=rf"device '{device}' cannot be used.*'auto' or 'cpu'"
    ):
        narrows.VAE(**TINY, device=device).fit(GOOD)


# -- the loss ---------------------------------------------------------------------------------


@pytest.fixture
def spoiled(monkeypatch):
    """A VAE whose objective has a term that is NaN from the k-th step of its run on."""

    def make(k, value=float("nan"), total=18, **options):
        objective = narrows.VAE.objective

        def odd(self, step):
            done = round(float(step.progress) * total)
            factor = value if self.net_.training and done >= k - 1 else 1.0
            return {**objective(self, step), "odd": factor * step.nll}

        monkeypatch.setattr(narrows.VAE, "objective", odd)
        return narrows.VAE(**{"latent_dim": 2, "hidden": (4,), "batch_size": 9, **options})

    return make


@pytest.mark.filterwarnings("ignore:.*Training went back to the state")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("k", "step", "epoch", "good"),
    [
        (1, 1, 1, "no epoch was good"),
        (3, 3, 1, "no epoch was good"),
        (4, 1, 2, "at 1/8 of the learning rate; epoch 1 was the last good one"),
        (11, 2, 4, "at 1/8 of the learning rate; epoch 3 was the last good one"),
    ],
)
def test_a_loss_that_is_not_finite_names_term_step_epoch_and_the_last_good_one(
    k, step, epoch, good, value, spoiled
):
    model = spoiled(k, value, epochs=6)  # 27 training rows: 3 steps an epoch
    sentence = (
        f"'odd' of VAE became {value} at step {step} of epoch {epoch}[;,] {good}. Lower learning"
    )
    with pytest.raises(TrainingError, match=sentence):
        model.fit(GOOD)


def test_a_learning_rate_beyond_all_bounds_stops_with_the_same_sentence():
    model = narrows.VAE(**TINY | {"epochs": 5}, learning_rate=1e20)
    with pytest.raises(
        TrainingError, match=r"became .* learning_rate \(now 1e\+20\), set gradient_c"
    ):
        model.fit(GOOD)


def test_it_is_noticed_in_validation_too(spoiled, monkeypatch):
    model = spoiled(10**6, epochs=3)
    objective = narrows.VAE.objective

    def odd(self, step):
        bad = not self.net_.training and len(step.batch) == 3
        return {**objective(self, step), "odd": step.nll * (float("nan") if bad else 1.0)}

    monkeypatch.setattr(narrows.VAE, "objective", odd)
    with pytest.raises(TrainingError, match="'odd' of VAE became nan"):
        model.fit(GOOD)


@pytest.mark.parametrize("n", [300, 600])
def test_long_epochs_are_watched_too(n, spoiled):
    """The log is read every so many steps: the step that is named is still the right one."""
    X = np.random.default_rng(0).normal(size=(700, 3))
    model = spoiled(n, total=700, batch_size=1, epochs=1, validation=0.0)
    with pytest.raises(TrainingError, match=f"at step {n} of epoch 1"):
        model.fit(X)


@pytest.mark.filterwarnings("ignore:.*Training went back to the state")
def test_the_weights_in_a_checkpoint_are_always_finite(spoiled, tmp_path):
    model = spoiled(8, epochs=6)
    with pytest.raises(TrainingError):
        model.fit(GOOD, checkpoint=tmp_path)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["epoch-000001", "epoch-000002"]
    for path in tmp_path.iterdir():
        _, tensors = narrows.storage.unpack(path, FILES)
        assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


# -- quiet ------------------------------------------------------------------------------------


def test_good_input_gives_no_warning_and_no_output(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = narrows.VAE(**TINY).fit(GOOD)
        METHODS["interpolate"](model)
        model.sample(3, density=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "X", [GOOD, FRAME, np.zeros((3, 4, 4), np.uint8)], ids=["array", "frame", "im"]
)
def test_describing_data_changes_nothing(X):
    assert modality_of(X) == modality_of(X)
