"""scikit-learn's contract: its whole battery without exceptions, and what that leaves out."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import narrows
from narrows.data.samples import load

CLASSES = [cls for cls in narrows.MODELS.values() if cls.__module__.startswith("narrows.")]
ESTIMATORS = [cls(latent_dim=2, epochs=2, batch_size=64) for cls in CLASSES]

# What `check_estimator` does not run: some for want of a place, and those of the sample weights
# because `fit` takes sample_weight as a keyword option, which the battery does not see.
# `check_sample_weight_equivalence_*` is no truth here: a weight is a share of a batch's loss,
# repeating a row changes the batches.
BY_NAME = [
    checks.check_dataframe_column_names_consistency,
    checks.check_transformer_get_feature_names_out,
    checks.check_transformer_get_feature_names_out_pandas,
    checks.check_set_output_transform,
    checks.check_set_output_transform_pandas,
    checks.check_set_output_transform_polars,
    checks.check_global_output_transform_pandas,
    checks.check_global_set_output_transform_polars,
    checks.check_sample_weights_pandas_series,
    checks.check_sample_weights_not_an_array,
    checks.check_sample_weights_list,
    checks.check_sample_weights_shape,
    checks.check_sample_weights_not_overwritten,
    checks.check_all_zero_sample_weights_error,
]


@parametrize_with_checks(ESTIMATORS)
def test_battery(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # the checks ask for it
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("check", BY_NAME, ids=lambda check: check.__name__)
def test_by_name(check, estimator):
    check(type(estimator).__name__, clone(estimator))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_refuses_what_it_cannot_be(cls, wine):
    """As check_param_validation, whose constraints are another mechanism than ours."""

    class Wrong:
        """A value that no parameter may have."""

    for field in cls.annotations():
        with pytest.raises(narrows.base.ParameterError, match=f"'{field}' parameter of"):
            cls(**{field: Wrong()}).fit(wine, np.arange(len(wine)) % 3)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_field_is_refused_with_the_nearest_name(cls):
    with pytest.raises(
        TypeError, match=r"no parameter 'latent_dims'. Did you mean 'latent_dim'\?"
    ):
        cls(latent_dims=3)


@pytest.mark.parametrize("cls", CLASSES)
def test_clone_keeps_the_parameters_and_drops_what_was_learned(cls, wine):
    model = cls(latent_dim=3, epochs=1, learning_rate=0.01).fit(wine, np.arange(len(wine)) % 3)
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert not [name for name in vars(twin) if name.endswith("_")]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_code_is_a_step_of_a_pipeline(cls, wine):
    pipeline = make_pipeline(StandardScaler(), cls(latent_dim=2, epochs=2))
    codes = pipeline.fit_transform(wine, np.arange(len(wine)) % 3)
    np.testing.assert_array_equal(codes, pipeline.transform(wine))
    name = cls.__name__.lower()
    width = codes.shape[1]
    assert pipeline.get_feature_names_out().tolist() == [f"{name}{i}" for i in range(width)]


def test_grid_search_finds_the_better_model():
    X = load("blobs").X[:600]  # near 3 dimensions
    model = narrows.VAE(epochs=30, learning_rate=0.01)
    grid = {"beta": [1.0, 500.0], "latent_dim": [1, 5]}
    search = GridSearchCV(model, grid, cv=KFold(2, shuffle=True, random_state=0)).fit(X)
    assert search.best_params_ == {"beta": 1.0, "latent_dim": 5}
    assert search.best_estimator_.transform(X).shape == (len(X), 5)


def test_fit_transform_is_fit_and_transform(wine):
    model = narrows.Autoencoder(latent_dim=2, epochs=2)
    np.testing.assert_array_equal(
        model.fit_transform(wine), clone(model).fit(wine).transform(wine)
    )
