"""scikit-learn's contract: its whole battery without exceptions, and what that leaves out."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import kneighbors_graph
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import narrows
from narrows.data.samples import load

CLASSES = [cls for cls in narrows.MODELS.values() if cls.__module__.startswith("narrows.")]
# Models of graphs say by their tag that they take no matrix: scikit-learn's battery has nothing
# for them. What it asks for is asked of graphs in test_every_model.py, and below.
ARRAYS = [cls for cls in CLASSES if cls().__sklearn_tags__().input_tags.two_d_array]
GRAPHS = [cls for cls in CLASSES if cls not in ARRAYS]
ESTIMATORS = [cls(latent_dim=2, epochs=2, batch_size=64) for cls in ARRAYS]
ALWAYS = (
    narrows.AdversarialAutoencoder,
    narrows.Autoencoder,
    narrows.ConditionalVAE,
    narrows.MaskedAutoencoder,
    narrows.VAE,
    narrows.VQVAE,
)

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


@parametrize_with_checks([model for model in ESTIMATORS if type(model) in ALWAYS])
def test_battery(estimator, check):
    check(estimator)


@pytest.mark.wide
@parametrize_with_checks([model for model in ESTIMATORS if type(model) not in ALWAYS])
def test_battery_of_the_others(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # the checks ask for it
@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(model, marks=() if type(model) in ALWAYS else pytest.mark.wide)
        for model in ESTIMATORS
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("check", BY_NAME, ids=lambda check: check.__name__)
def test_by_name(check, estimator):
    check(type(estimator).__name__, clone(estimator))


@pytest.fixture(scope="module")
def graph():
    """A graph whose nodes are wines, linked to their five neighbours."""
    X = StandardScaler().fit_transform(load_wine().data)
    return kneighbors_graph(X, 5).maximum(kneighbors_graph(X, 5).T), X


def data(cls, wine, graph):
    """What a model takes."""
    return graph if cls in GRAPHS else wine


def test_only_models_of_graphs_take_no_matrix(wine):
    assert {cls.__name__ for cls in GRAPHS} == {
        "GraphAutoencoder",
        "VariationalGraphAutoencoder",
        "AdversarialGraphAutoencoder",
    }
    for cls in GRAPHS:
        with pytest.raises(TypeError, match=r"ndarray of shape \(\d+, \d+\), which is no graph"):
            cls().fit(wine)
        with pytest.raises(NotFittedError):
            cls().transform(wine)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_refuses_what_it_cannot_be(cls, wine, graph):
    """As check_param_validation, whose constraints are another mechanism than ours."""

    class Wrong:
        """A value that no parameter may have."""

    for field in cls.annotations():
        with pytest.raises(narrows.base.ParameterError, match=f"'{field}' parameter of"):
            cls(**{field: Wrong()}).fit(data(cls, wine, graph), np.arange(len(wine)) % 3)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_field_is_refused_with_the_nearest_name(cls):
    with pytest.raises(
        TypeError, match=r"no parameter 'latent_dims'. Did you mean 'latent_dim'\?"
    ):
        cls(latent_dims=3)


@pytest.mark.parametrize("cls", CLASSES)
def test_clone_keeps_the_parameters_and_drops_what_was_learned(cls, wine, graph):
    model = cls(latent_dim=3, epochs=1, learning_rate=0.01)
    model.fit(data(cls, wine, graph), np.arange(len(wine)) % 3)
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert not [name for name in vars(twin) if name.endswith("_")]


@pytest.mark.parametrize("cls", GRAPHS)
def test_codes_of_nodes_are_a_step_of_a_pipeline(cls, graph):
    pipeline = make_pipeline(cls(latent_dim=2, epochs=2), StandardScaler())
    codes = pipeline.fit_transform(graph)
    np.testing.assert_allclose(codes, pipeline.transform(graph), atol=1e-6)
    assert codes.shape == (len(graph[1]), 2)
    name = cls.__name__.lower()
    assert pipeline.get_feature_names_out().tolist() == [f"{name}0", f"{name}1"]


@pytest.mark.parametrize("cls", ARRAYS)
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
