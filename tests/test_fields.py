"""Every field does what it says: each one that may change the result does, the others do not."""

import ast
import inspect
import re
from contextlib import suppress
from copy import deepcopy
from functools import cache
from itertools import permutations
from typing import Annotated, ClassVar

import numpy as np
import pytest
from sklearn.datasets import load_digits

import narrows
from narrows.base import BaseAutoencoder
from narrows.errors import ParameterError
from narrows.fields import NonNegative, Weighs, choices

CLASSES = [cls for cls in narrows.MODELS.values() if cls.__module__.startswith("narrows.")]
GRAPH_MODELS = (
    "GraphAutoencoder",
    "VariationalGraphAutoencoder",
    "AdversarialGraphAutoencoder",
)
# Fields of the loop, which no model reads: two models show that they act.
OF_THE_LOOP = {"rate_cycles", "rate_drops", "rate_factor", "rate_patience"}
OF_THE_LOOP |= {"l2", "ema", "stopping"}
SHOWN = {narrows.Autoencoder, narrows.VAE}
DIGITS = load_digits()
BASE = {"latent_dim": 3, "epochs": 3, "batch_size": 16, "verbose": 0}
RESTLESS = {"learning_rate": 0.5, "epochs": 30, "batch_size": 8}  # soon no epoch is better

# Another value for every field, with the partners that it needs.
CHANGES = {
    "latent_dim": (5, {}),
    "window": (1, {"modality": "series"}),  # of a recording, where there were rows
    "stride": (1, {"modality": "series", "window": 2}),
    "symbols": ("bytes", {"modality": "text"}),
    "scaling": ("robust", {}),
    "architecture": ("linear", {}),  # from the MLP that a table gets
    "hidden": ((12,), {}),
    "activation": ("tanh", {}),
    "dropout": (0.5, {}),
    "batch_norm": (True, {}),
    "blocks": (1, {}),
    "tied": (True, {}),
    "linear_path": (True, {}),
    "downsampling": ("max", {"architecture": "conv", "modality": "image", "hidden": (4,)}),
    "likelihood": ("laplace", {}),
    "scale": (1.0, {}),
    "output_activation": ("tanh", {}),
    "score_draws": (3, {}),
    "epochs": (5, {}),
    "batch_size": (32, {}),
    "learning_rate": (0.05, {}),
    "schedule": ("constant", {}),
    "rate_cycles": (2, {}),
    "rate_drops": (1, {"schedule": "step"}),
    "rate_factor": (0.5, {"schedule": "exponential"}),
    "rate_patience": (1, {"schedule": "plateau"} | RESTLESS),
    "warmup": (0.5, {}),
    "weight_decay": (3.0, {}),
    "l2": (0.1, {}),
    "gradient_clip": (1e-3, {"schedule": "constant"}),
    "patience": (1, {"learning_rate": 0.03, "schedule": "constant", "epochs": 40}),
    "accumulation": (2, {}),
    "ema": (0.9, {}),
    "stopping": ("lagged", {"patience": 4, "schedule": "constant"} | RESTLESS),
    "validation": (0.3, {}),
    "validation_split": ("last", {}),
    "precision": ("bfloat16", {}),
    "seed": (1, {}),
    "code_activation": ("relu", {}),
    "code_dropout": (0.5, {}),
    "corruption": ("masking", {}),
    "noise": (0.9, {"corruption": "gaussian"}),
    "mask_ratio": (0.3, {}),
    "patch_size": (3, {"modality": "image"}),
    "heads": (2, {}),
    "skip_rank": (1, {}),
    "sparsity": (5.0, {"selection": "jumprelu"}),
    "rho": (0.2, {"code_activation": "sigmoid"}),
    "contraction": (5.0, {}),
    "jacobian": ("exact", {}),
    "alpha": (0.2, {}),
    "beta": (5.0, {}),
    "bits": (4, {}),
    "categories": (4, {}),
    "codebook": ("gradient", {}),
    "codes": (8, {}),
    "commitment": (5.0, {}),
    "decay": (0.5, {}),
    "depth_dropout": (0.5, {}),
    "entropy": (5.0, {}),
    "final_temperature": (0.1, {}),
    "init_decay": (0.9, {}),
    "kmeans": (False, {}),
    "levels": ((4, 4), {}),
    "lookup": ("cosine", {}),
    "norm_weight": (50.0, {"init_decay": 1.0}),
    "quantizers": (2, {}),
    "restart": (0.95, {}),
    "temperature": (5.0, {}),
    "tokens": (2, {}),
    "lam": (500.0, {}),
    "kl_schedule": ("linear", {}),
    "kl_warmup": (0.9, {"kl_schedule": "linear"}),
    "kl_cycles": (2, {"kl_schedule": "cyclic"}),
    "capacity": (5.0, {}),
    "free_bits": (0.5, {}),
    "distortion": (0.3, {}),
    "sampling": ("weighted", {}),
    "version": ("I", {}),
    "off_diagonal": (50.0, {}),
    "diagonal": (50.0, {}),
    "direct": (0.0, {}),
    "kernel": ("rbf", {}),
    "matching": (5.0, {}),
    "distance": ("sliced", {}),
    "projections": (5, {"distance": "sliced"}),
    "curvature": (4.0, {}),
    "regularizer": ("gradient_penalty", {}),
    "code_penalty": (3.0, {}),
    "decoder_penalty": (3.0, {}),
    "gamma": (50.0, {}),
    "adversarial": (50.0, {}),
    "prior": ("uniform", {}),
    "components": (4, {"prior": "mixture"}),
    "critic_hidden": ((12,), {}),
    "critic_rate": (3.0, {}),
    "spectral_norm": (True, {}),
    "r1": (5.0, {}),
    "k": (2, {}),
    "prefixes": ((2,), {}),
    "selection": ("batch_topk", {}),
    "revival": (0.1, {"latent_dim": 40, "dead_after": 1}),
    "dead_after": (1, {"latent_dim": 40}),
    "code": ("gaussian", {}),
    "condition": (("pixel",), {}),  # columns of a data frame
    "code_options": ({"activation": "tanh"}, {"code": "point"}),
    "charges": ({"kl": 0.1}, {"code": "gaussian"}),
    "penalties": ({"l1": 3.0}, {}),
    "particles": (2, {}),
    "repeats": (2, {}),
    "elbo_weight": (0.5, {}),
    "pseudo_inputs": (9, {}),
    "posterior": ("planar", {}),
    "flows": (2, {}),
    "gradient": ("doubly_reparametrised", {}),
    "partial": (True, {"repeats": 2}),
    "leapfrogs": (1, {}),
    "step_size": (0.1, {}),
    "centroids": (3, {}),
    "floor": (1.0, {}),
    "bidirectional": (True, {}),
    "feedback": (True, {}),
    "attention": (True, {}),
    "reverse": (True, {}),
    "word_dropout": (0.5, {"feedback": True}),
    "teacher_forcing": (0.0, {"feedback": True}),
    "beams": (3, {}),
    "pretraining": (0.0, {"epochs": 6}),
    "decoder": ("mlp", {}),
    "feature_weight": (5.0, {}),
    "all_pairs": (5, {}),
}
# Where and how it runs, not what it learns.
NEUTRAL = {
    "modality": "table",  # "graph" for the models of graphs
    "channels_last": False,  # True rounds in another way: known_answers/test_grids.py
    "compile": False,  # what "auto" takes for a short run
    "device": "cpu",
    "gradient_checkpointing": True,
    "steps_per_execution": 1,
    "threads": 1,
    "verbose": 1,
    "warm_start": True,  # on a first fit
}
# The model's own type of the other field leaves out where this one would be idle.
NEVER_IDLE = {("DenoisingAutoencoder", "noise"), ("UNetAutoencoder", "noise")}
# They say how training starts, and a net that goes on does not start again.
AT_THE_START = {("StackedAutoencoder", name) for name in ("pretraining", "corruption", "noise")}
# Where a name means something else in another family.
OWN_CHANGES = {
    ("MaskedAutoencoder", "window"): (2, {"modality": "series", "architecture": "transformer"}),
    ("MaskedAutoencoder", "stride"): (
        1,
        {"modality": "series", "architecture": "transformer", "window": 2},
    ),
    ("ConditionalVAE", "alpha"): (5.0, {}),
    ("FlowVAE", "prior"): ("normal", {"posterior": "iaf"}),
    **{
        (name, "gradient"): ("rotation", {})
        for name in ("VQVAE", "ResidualVQVAE", "HierarchicalVQVAE", "SimVQ")
    },
    ("HierarchicalVAE", "kl_schedule"): ("cosine", {}),
    ("HierarchicalVAE", "kl_warmup"): (0.9, {}),
    ("HierarchicalVAE", "levels"): (3, {}),
    **{
        (name, field): change
        for name in ("SequenceAutoencoder", "SequenceVAE")
        for field, change in {
            "activation": ("tanh", {"architecture": "transformer"}),
            "architecture": ("gru", {}),
            "heads": (2, {"architecture": "transformer"}),
        }.items()
    },
    ("RiemannianVAE", "temperature"): (0.5, {}),
    ("SparseAutoencoder", "code_activation"): ("tanh", {}),
    ("StackedAutoencoder", "architecture"): ("mlp", {"modality": "image", "hidden": (4,)}),
    ("StackedAutoencoder", "corruption"): ("masking", {"epochs": 6}),
    ("StackedAutoencoder", "noise"): (0.9, {"corruption": "gaussian", "epochs": 6}),
    ("UNetAutoencoder", "downsampling"): ("max", {}),
}
FEATURES = {"feature_weight": 1.0}  # whose likelihood these are
for name in GRAPH_MODELS:
    OWN_CHANGES |= {
        (name, "likelihood"): ("laplace", FEATURES),
        (name, "output_activation"): ("tanh", FEATURES),
        (name, "scale"): (1.0, FEATURES),
        (name, "schedule"): ("cosine", {}),
        (name, "downsampling"): ("max", {}),
        (name, "window"): (2, {}),
        (name, "stride"): (1, {}),
        (name, "symbols"): ("bytes", {}),
    }
NOT_OF_GRAPHS = {"batch_norm", "blocks", "tied", "linear_path", "downsampling"}
NOT_OF_GRAPHS |= {"window", "stride", "symbols", "accumulation"}
NOT_OF_GRAPHS |= {"gradient_checkpointing"}
MLP_ONLY = {
    "hidden",
    "activation",
    "dropout",
    "batch_norm",
    "blocks",
    "tied",
    "linear_path",
    "architecture",
    "downsampling",
}
NOT_RECURRENT = {
    "gradient_checkpointing",
    "batch_norm",
    "blocks",
    "tied",
    "linear_path",
    "downsampling",
}
# Combinations that a model refuses with a sentence; everything else must work.
REFUSED = {
    "LinearAutoencoder": MLP_ONLY,
    "TopKAutoencoder": MLP_ONLY | {"symbols"},
    "ContractiveAutoencoder": {"batch_norm", "gradient_checkpointing", "symbols"},
    "VampPriorVAE": {"batch_norm", "free_bits", "symbols"},
    "FlowVAE": {"free_bits"},
    "BinaryAutoencoder": {"linear_path"},  # no code there is a linear map of x
    "CategoricalVAE": {"linear_path"},
    "FSQVAE": {"linear_path"},
    "HRQVAE": {"linear_path"},
    "LFQVAE": {"linear_path"},
    "HamiltonianVAE": {"batch_norm", "gradient_checkpointing"},
    "HierarchicalVAE": {"linear_path"},
    "PoincareVAE": {"free_bits", "linear_path", "tied"},
    "ResidualVQVAE": {"linear_path"},
    "RiemannianVAE": {"batch_norm", "gradient_checkpointing"},
    "SimVQ": {"linear_path"},
    "SparseAutoencoder": {"linear_path"},
    "SphericalVAE": {"free_bits", "linear_path"},
    "StackedAutoencoder": {"linear_path", "symbols"},  # its layers are trained on their own
    "VQVAE": {"linear_path"},
    "DenoisingAutoencoder": {"symbols"},  # it calculates with x, as those beside it do
    "ResidualAutoencoder": {"symbols"},
    "VAEGAN": {"symbols"},
    # Its decoder reads more than the encoder's last layer gives.
    "HierarchicalVQVAE": {"linear_path", "tied"},
    "BetaTCVAE": {"capacity", "free_bits", "distortion"},
    "InfoVAE": {"beta"},
    "RegularizedAutoencoder": {"linear_path", "tied"},
    "ConditionalVAE": {"condition", "tied"},
    # Beams and the temperature are for text.
    "SequenceAutoencoder": NOT_RECURRENT | {"beams", "temperature"},
    "SequenceVAE": NOT_RECURRENT | {"beams", "temperature"},
    "MaskedAutoencoder": (MLP_ONLY - {"activation", "dropout", "hidden"}) | {"symbols"},
    "UNetAutoencoder": {
        "gradient_checkpointing",
        "architecture",
        "linear_path",
        "tied",
        "symbols",
    },
    "GraphAutoencoder": NOT_OF_GRAPHS,
    "AdversarialGraphAutoencoder": NOT_OF_GRAPHS,
    "VariationalGraphAutoencoder": NOT_OF_GRAPHS | {"distortion"},
}


def graphs():
    """Four random graphs of sixteen nodes with features."""
    rng = np.random.default_rng(0)
    upper = [np.argwhere(np.triu(rng.random((16, 16)) < 0.3, 1)).T for _ in range(4)]
    return [(edges, rng.standard_normal((16, 3))) for edges in upper]


def result(cls, **options):
    """Everything that a fit leaves, as one comparable value."""
    return _result(cls, repr(options))


@cache
def _result(cls, text):
    return outcome(*fitted(cls, **ast.literal_eval(text))[:2])


def outcome(model, X):
    """What a fitted model has to show."""
    history = [{**row, "seconds": 0} for row in model.history_]
    return history, model.transform(X).tobytes(), model.score_samples(X).tobytes()


def fitted(cls, **options):
    """A model, and what it was fitted to."""
    X = DIGITS.data[:64].astype(np.float32)
    X = X[:, 18:34] if "attention" in cls.annotations() else X  # long rows take long
    if options.get("modality") == "image":
        X = X.reshape(-1, 8, 8)
    if options.get("modality") == "text":
        X = ["".join(chr(97 + int(value)) for value in row[18:24]) for row in X]
    windows = {(2, None): 32, (2, 1): 63}.get((options.get("window"), options.get("stride")), 64)
    X = graphs() if cls.__name__ in GRAPH_MODELS else X
    y = DIGITS.target[:windows]
    return cls(**BASE | options).fit(X, y), X, y


@pytest.mark.parametrize("field", sorted(set().union(*(cls.annotations() for cls in CLASSES))))
def test_every_field_is_in_the_tables(field):
    assert (field in CHANGES) + (field in NEUTRAL) == 1


def change_of(cls, field):
    """Another value of a field, and what it needs beside it."""
    value, partners = OWN_CHANGES.get((cls.__name__, field), CHANGES[field])
    return value, {name: v for name, v in partners.items() if name in cls.annotations()}


def wide(cls, field):
    """Leave to the wide run what a model has of the base, but for the two that show it."""
    return () if cls in SHOWN or field not in BaseAutoencoder.annotations() else pytest.mark.wide


@pytest.mark.parametrize(
    ("cls", "field"),
    [
        pytest.param(cls, field, marks=wide(cls, field))
        for cls in CLASSES
        for field in cls.annotations()
        if field in CHANGES and (cls in SHOWN or field not in OF_THE_LOOP)
    ],
)
def test_a_field_changes_the_result(cls, field):
    value, partners = change_of(cls, field)
    drawn = cls(**BASE).latent().stochastic
    if field in REFUSED.get(cls.__name__, ()) or (field == "score_draws" and not drawn):
        value = "mlp" if field == "architecture" else value
        with pytest.raises(
            ParameterError, match="architecture" if "architecture" in partners else field
        ):
            result(cls, **partners | {field: value})
        return
    before, after = result(cls, **partners), result(cls, **partners | {field: value})
    assert before != after


@pytest.mark.wide
@pytest.mark.parametrize(
    ("cls", "field"),
    [
        (cls, field)
        for cls in CLASSES
        for field in cls.annotations()
        if field in CHANGES.keys() - OF_THE_LOOP
        and (cls in SHOWN or field not in BaseAutoencoder.annotations())
        and field not in REFUSED.get(cls.__name__, ())
        and (cls.__name__, field) not in AT_THE_START
        and (field != "score_draws" or cls().latent().stochastic)
    ],
)
def test_a_field_that_is_changed_later_acts_or_is_refused(cls, field):
    """Training goes on with what the fields say now, or not at all."""
    value, partners = change_of(cls, field)
    model, X, y = fitted(cls, **partners | {"seed": 0, "warm_start": True})
    other = deepcopy(model).set_params(**{field: value})
    known = outcome(model.fit(X, y), X)
    try:
        assert outcome(other.fit(X, y), X) != known
    except ParameterError as error:
        if not re.search(rf"cannot go on training.*\({field}\)", str(error)):
            raise


@pytest.mark.parametrize(
    ("cls", "field"),
    [pytest.param(cls, field, marks=wide(cls, field)) for field in NEUTRAL for cls in CLASSES],
)
def test_a_field_of_the_run_changes_nothing(cls, field):
    value = NEUTRAL[field]
    if field == "modality" and cls.__name__ in GRAPH_MODELS:
        value = "graph"
    if field in REFUSED.get(cls.__name__, ()):
        with pytest.raises(ParameterError, match=field):
            result(cls, **{field: value})
        return
    assert result(cls) == result(cls, **{field: value})


@pytest.mark.wide
@pytest.mark.parametrize("cls", CLASSES)
def test_a_field_acts_or_is_refused_beside_every_choice_of_another(cls):
    own = cls.annotations().keys() & CHANGES.keys() - REFUSED.get(cls.__name__, set())
    own -= BaseAutoencoder.annotations().keys()
    for field, other in permutations(sorted(own), 2):
        if (field, other) == ("dead_after", "selection"):
            continue  # it counts dead units, of which small data leave none
        value, partners = change_of(cls, field)
        known = choices(cls.annotations()[other]) or [change_of(cls, other)[0]]
        for choice in known:
            options = partners | {other: choice}
            with suppress(ParameterError):
                changed = result(cls, **options | {field: value})
                assert changed != result(cls, **options), (field, options)


def admits(cls, field, value):
    """Whether a field of this class can have this value."""
    try:
        cls(**{field: value}).fields()
    except ParameterError:
        return False
    return True


@pytest.mark.parametrize(
    ("cls", "field", "condition"),
    [
        (cls, field, condition)
        for cls in CLASSES
        for field, condition in cls.conditions()
        if condition.other not in cls.meaningless
    ],
)
def test_a_field_that_could_not_act_is_refused(cls, field, condition):
    other, default = condition.other, cls.defaults()[condition.other]
    known = (default, *condition.values, CHANGES.get(other, (False,))[0])
    idle = [
        each
        for each in dict.fromkeys((*choices(cls.annotations()[other]), *known))
        if not condition.acts(each) and admits(cls, other, each)
    ]
    assert bool(idle) == ((cls.__name__, field) not in NEVER_IDLE)
    value, _ = OWN_CHANGES.get((cls.__name__, field), CHANGES.get(field, (1, {})))
    reason = re.escape(condition.reason) or f"has no effect with {other}|means nothing"
    for each in idle:
        with pytest.raises(ParameterError, match=f"'{field}' .* ({reason})"):
            cls(**{field: value, other: each}).check_parameters()


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_documented(cls):
    assert set(cls.field_docs()) >= set(cls.annotations())


@pytest.mark.parametrize("cls", CLASSES)
def test_the_docstrings_of_public_classes_show_every_field(cls):
    """Those that private bases declare stand in the docstring of the model that has them."""
    public = [base for base in cls.__mro__ if not base.__name__.startswith("_")]
    docs = [inspect.cleandoc(base.__doc__ or "") for base in public]
    shown = [re.findall(r"^ {4}(\w+): ", doc, re.MULTILINE) for doc in docs]
    assert set().union(*shown) >= set(cls.annotations())


@pytest.mark.parametrize("cls", CLASSES)
def test_every_default_passes_its_own_check(cls):
    assert cls().fields() == cls.defaults()


@pytest.mark.parametrize(
    ("field", "given", "plain"),
    [
        ("latent_dim", np.int64(3), 3),
        ("hidden", [np.int64(8), 4], (8, 4)),
        ("hidden", np.array([8, 4]), (8, 4)),
        ("learning_rate", np.float32(0.5), 0.5),
        ("scale", 1, 1),
        ("batch_norm", np.bool_(True), True),
        ("activation", np.str_("relu"), "relu"),
    ],
)
def test_numpy_and_lists_are_read_and_the_estimator_is_not_rewritten(field, given, plain):
    model = narrows.Autoencoder(**BASE | {field: given})
    assert model.fields()[field] == plain
    X = DIGITS.data[:50]
    codes = model.fit(X).transform(X)
    assert getattr(model, field) is given
    twin = narrows.Autoencoder(**BASE | {field: plain}).fit(X)
    np.testing.assert_array_equal(codes, twin.transform(X))


def test_a_list_or_array_does_not_upset_a_model_that_ignores_it():
    X = DIGITS.data[:50]
    with pytest.raises(
        ParameterError, match=r"'hidden' parameter of LinearAutoencoder has no eff"
    ):
        narrows.LinearAutoencoder(**BASE | {"hidden": np.array([8, 4])}).fit(X)


class Indented:
    """A child with a field of its own.

    Args:
        gamma: another weight, which takes
            two lines.

    References:
        None.
    """


class _Halved(BaseAutoencoder):
    half: Annotated[NonNegative, Weighs("half")] | None = None


class _Again(narrows.VAE):
    beta: NonNegative = 4.0


class _Both(_Halved, _Again):
    later: "ClassVar[_Defined | None]" = None  # its name is found when the model is used


class _Other(narrows.VAE):
    beta: Annotated[NonNegative, Weighs("other")] = 1.0


class _Defined: ...


@pytest.mark.parametrize(
    ("cls", "weights"),
    [
        (narrows.VAE, {"kl": "beta"}),
        (_Again, {"kl": "beta"}),
        (_Both, {"kl": "beta", "half": "half"}),
        (_Other, {"other": "beta"}),
        (narrows.LFQVAE, {"commitment": "commitment", "entropy": "entropy"}),
    ],
)
def test_a_marked_field_weighs_its_charge_also_where_it_is_declared_again(cls, weights):
    model = cls()
    model.check_parameters()
    known = {charge: getattr(model, field) for charge, field in weights.items()}
    assert model.charge_weights(None) == {c: w for c, w in known.items() if w is not None}


@pytest.mark.parametrize(
    "text",
    [
        Indented.__doc__,
        inspect.cleandoc(Indented.__doc__),
        Indented.__doc__.replace("\n", "\n    "),
    ],
    ids=["module", "cleaned, as Python 3.13 does", "nested"],
)
def test_inherited_fields_need_no_forwarding(text):
    class _Child(narrows.VAE):
        __doc__ = text
        gamma: float = 2.0

    model = _Child(beta=3.0, gamma=4.0, latent_dim=2)
    assert {"beta", "gamma", "latent_dim", "seed"} <= set(model.get_params())
    assert _Child.field_docs()["gamma"] == "another weight, which takes two lines."
    assert _Child.field_docs()["beta"] == narrows.VAE.field_docs()["beta"]


def test_a_name_with_an_underscore_is_not_registered():
    class _Hidden(narrows.VAE):
        pass

    class Shown(narrows.VAE):
        pass

    assert "_Hidden" not in narrows.MODELS
    assert narrows.MODELS["Shown"] is Shown


def test_fields_are_keywords_only():
    with pytest.raises(TypeError):
        narrows.VAE(3)
