"""The contract that every model keeps with every architecture that it accepts."""

import copy
import hashlib
import inspect
import pickle
import random
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import narrows
from narrows.data.corruption import CORRUPTIONS
from narrows.errors import ContextError, ParameterError
from narrows.parts.latents import LATENTS
from narrows.parts.likelihoods import LIKELIHOODS
from narrows.parts.networks import ARCHITECTURES
from narrows.parts.penalties import PENALTIES


def graphs(n, nodes):
    """A list of graphs: nodes of three kinds are linked to their like, and to a few others."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        kind = np.arange(nodes) % 3
        chance = np.where(kind[:, None] == kind, 0.9, 0.1)
        edges = np.argwhere(np.triu(rng.random((nodes, nodes)) < chance, 1)).T
        x = np.eye(3)[kind] + 0.3 * rng.standard_normal((nodes, 3)) + 1
        made.append((edges, x.astype(np.float32)))
    return made


CLASSES = [cls for cls in narrows.MODELS.values() if cls.__module__.startswith("narrows.")]
TABLE = load_digits().data[:120].astype(np.float32)
IMAGES = np.rint(load_digits().images[:120] * (255 / 16)).astype(np.uint8)
VOLUMES = IMAGES.reshape(-1, 4, 4, 4)
SHORT = TABLE[:, 18:34].copy()  # steps of sequences take their time
LABELS = load_digits().target[:120]  # read by conditional models, ignored by the others
GRAPHS = graphs(14, 12)
GRAPH_MODELS = {
    narrows.GraphAutoencoder,
    narrows.VariationalGraphAutoencoder,
    narrows.AdversarialGraphAutoencoder,
}
INPUTS = {"table": TABLE, "image": IMAGES, "volume": VOLUMES, "graph": GRAPHS, "short": SHORT}
for array in (TABLE, SHORT, IMAGES, VOLUMES):
    array.flags.writeable = False
# Their decoders see more than the code: a bare one is refused with a sentence.
NEED_CONTEXT = {narrows.MaskedAutoencoder, narrows.ResidualAutoencoder, narrows.UNetAutoencoder}
TRANSFORMER = {"architecture": "transformer", "heads": 2}
SMALL = {"mlp": (16,), "conv": (4, 6), "gru": (8,), "lstm": (8,), "transformer": (8,)}
GRID = {"architecture": "conv", "modality": "volume"}
# The other models are tried with them in known_answers/test_sequences.py.
OF_SEQUENCES = {"gru", "lstm", "transformer"}


def accepts(cls, architecture):
    try:
        cls(architecture=architecture).check_parameters()
    except ParameterError:
        return False
    return True


def compositions():
    """Every registered part in a ComposedAutoencoder, and a few of them together."""
    yield from ({"code": name} for name in LATENTS)
    yield from ({"likelihood": name} for name in LIKELIHOODS)
    for name in PENALTIES:
        images = {"modality": "image"} if name == "ms_ssim" else {}
        yield {"penalties": {name: 0.1}} | images
    yield from ({"corruption": name} for name in CORRUPTIONS)
    yield {
        "code": "gaussian",
        "charges": {"kl": 0.5},
        "penalties": {"l1": 0.1, "jacobian": 0.1},
        "corruption": "masking",
        "likelihood": "laplace",
    }
    everything = {"batch_norm": True, "dropout": 0.1, "scale": "learned", "code": "gaussian"}
    yield everything | {"architecture": "mlp", "blocks": 1}
    yield everything | {"architecture": "conv", "blocks": 1, "downsampling": "max"}
    yield {"tied": True, "code": "gaussian", "output_activation": "tanh"}
    yield from ({"likelihood": name, "scale": "predicted"} for name in ("gaussian", "laplace"))
    for name in ("negative_binomial", "discretised_logistic"):
        yield {"likelihood": name, "architecture": "conv", "code": "gaussian"}


def cases():
    for cls in CLASSES:
        if cls is not narrows.ComposedAutoencoder:
            for name in sorted(ARCHITECTURES.keys() - OF_SEQUENCES):
                if not accepts(cls, name):
                    continue
                yield f"{cls.__name__}-{name}", cls, {"architecture": name}
    for cls in sorted(GRAPH_MODELS, key=lambda cls: cls.__name__):
        yield f"{cls.__name__}-gcn", cls, {"architecture": "gcn"}
    told = {"architecture": "gcn", "feature_weight": 1.0, "decoder": "mlp"}
    yield "GraphAutoencoder-features-mlp", narrows.GraphAutoencoder, told
    for options in compositions():
        label = ",".join(f"{name}={value}" for name, value in options.items())
        yield (
            f"Composed-{label[:60]}",
            narrows.ComposedAutoencoder,
            {"architecture": "mlp"} | options,
        )
    yield (
        "Autoencoder-code_dropout",
        narrows.Autoencoder,
        {"architecture": "mlp", "code_dropout": 0.2},
    )
    sigmoid = {"architecture": "mlp", "code_activation": "sigmoid", "rho": 0.05}
    yield "SparseAutoencoder-rho", narrows.SparseAutoencoder, sigmoid
    for form in ("table", "image", "volume"):
        options = TRANSFORMER | {"modality": form}
        yield f"MaskedAutoencoder-{form}", narrows.MaskedAutoencoder, options
    for form in ("table", "image", "volume"):
        options = {"architecture": "unet", "modality": form, "hidden": (4, 6)}
        yield f"UNetAutoencoder-{form}", narrows.UNetAutoencoder, options
    for cls in (narrows.VAE, narrows.HierarchicalVQVAE, narrows.VAEGAN, narrows.ConditionalVAE):
        yield f"{cls.__name__}-conv-volume", cls, GRID
    for selection in ("batch_topk", "jumprelu", "gated", "matching_pursuit"):
        options = {"architecture": "linear", "selection": selection}
        yield f"TopKAutoencoder-{selection}", narrows.TopKAutoencoder, options
    exact = {"architecture": "mlp", "jacobian": "exact"}
    yield "ContractiveAutoencoder-exact", narrows.ContractiveAutoencoder, exact
    for name in ("gradient_penalty", "spectral_norm"):
        held = {"architecture": "mlp", "regularizer": name}
        yield f"RegularizedAutoencoder-{name}", narrows.RegularizedAutoencoder, held
    sliced = {"architecture": "mlp", "distance": "sliced"}
    yield "WassersteinAutoencoder-sliced", narrows.WassersteinAutoencoder, sliced
    held = {"architecture": "conv", "regularizer": "spectral_norm"}
    yield "RegularizedAutoencoder-spectral_norm-conv", narrows.RegularizedAutoencoder, held
    for control in ({"distortion": 0.5}, {"capacity": 2.0}, {"free_bits": 0.1}):
        yield f"VAE-{'-'.join(control)}", narrows.VAE, {"architecture": "mlp"} | control
    for cls in (narrows.Autoencoder, narrows.VAE, narrows.ConditionalVAE):
        for name in ("mlp", "conv"):
            options = {"architecture": name, "linear_path": True}
            yield f"{cls.__name__}-{name}-linear_path", cls, options
    beside = {"linear_path": True, "architecture": "mlp"}
    yield "Autoencoder-linear_path-tied", narrows.Autoencoder, beside | {"tied": True}
    for name in ("bernoulli", "negative_binomial"):
        given = beside | {"likelihood": name}
        yield f"VAE-linear_path-{name}", narrows.VAE, given
    for name in sorted(OF_SEQUENCES):
        yield f"SequenceAutoencoder-{name}", narrows.SequenceAutoencoder, {"architecture": name}
    fed = {"architecture": "lstm", "feedback": True, "word_dropout": 0.2, "teacher_forcing": 0.5}
    yield "SequenceVAE-feedback", narrows.SequenceVAE, fed | {"reverse": True}
    fed = {"architecture": "gru", "bidirectional": True, "attention": True, "hidden": (6, 8)}
    yield "SequenceVAE-attention", narrows.SequenceVAE, fed
    fed = {"architecture": "transformer", "feedback": True, "attention": True}
    yield "SequenceAutoencoder-attention", narrows.SequenceAutoencoder, fed
    mixture = {"architecture": "mlp", "prior": "mixture", "spectral_norm": True}
    yield "AdversarialAutoencoder-mixture", narrows.AdversarialAutoencoder, mixture


CASES = {name: (cls, options) for name, cls, options in cases()}
FIRST = {cls: name for name, (cls, _) in reversed(CASES.items())}
FIRST |= {cls: name for name, (cls, _) in CASES.items() if name == f"{cls.__name__}-mlp"}
ALWAYS = {*FIRST.values(), "Autoencoder-conv", "VAE-conv", "VQVAE-conv"}
"""A case of each model, and some of images; the others are for the wide run."""


def spread(cases):
    return [
        case if case in ALWAYS else pytest.param(case, marks=pytest.mark.wide) for case in cases
    ]


every_model = pytest.mark.parametrize("case", spread(CASES))


def make(case, **changes):
    """A small, unfitted model."""
    cls, options = CASES[case]
    name = options["architecture"]
    small = {"latent_dim": 3, "epochs": 5, "batch_size": 32, "learning_rate": 0.01}
    build = ARCHITECTURES.get(name)
    if build is not None and "hidden" in inspect.signature(build).parameters:
        small["hidden"] = SMALL.get(name)
    if cls in GRAPH_MODELS:
        small |= {"hidden": (16,) if name == "gcn" else None, "learning_rate": 0.02}
    return cls(**small | {"modality": modality(case)} | options | changes)


def modality(case):
    cls, options = CASES[case]
    if cls in GRAPH_MODELS:
        return "graph"
    return options.get("modality", "image" if options["architecture"] == "conv" else "table")


def data(case):
    return INPUTS["short" if "attention" in CASES[case][0].annotations() else modality(case)]


def samples(X):
    """How many samples there are: rows, or the nodes of graphs."""
    return sum(len(x) for _, x in X) if isinstance(X, list) else len(X)


def twice(X):
    return 2 * X if isinstance(X, list) else np.repeat(X, 2, 0)


def together_in_one(parts):
    """Answers as one array: matrices of links have none of one shape."""
    if not isinstance(parts, list):
        return parts
    return np.concatenate([part.ravel() for part in parts])


@cache
def fitted(case):
    """A fitted model, shared: no test may change it."""
    return make(case).fit(data(case), LABELS)


def needs_context(model):
    return type(model) in NEED_CONTEXT or getattr(model, "attention", False)


def answers(model, X):
    codes = model.transform(X)
    found = {
        "transform": codes,
        "reconstruct": together_in_one(model.reconstruct(X)),
        "score_samples": model.score_samples(X),
    }
    decoded = {
        "inverse_transform": lambda: model.inverse_transform(codes),
        "sample": lambda: model.sample(5, seed=3),
        "noisy": lambda: model.sample(5, seed=3, noise=True),
        "interpolate": lambda: model.interpolate(X[0], X[1], 4),
    }
    if type(model) in GRAPH_MODELS:  # a node is nothing without its graph
        with pytest.raises(ContextError, match="reconstruct"):
            decoded.pop("interpolate")()
    if needs_context(model):
        for decode in decoded.values():
            with pytest.raises(ContextError, match="reconstruct"):
                decode()
        return found
    return found | {name: decode() for name, decode in decoded.items()}


@cache
def expected(case):
    """The shared model's answers on its training data."""
    return answers(fitted(case), data(case))


def assert_answers_as_expected(case, model):
    found = answers(model, data(case))
    for name, answer in expected(case).items():
        np.testing.assert_array_equal(found[name], answer, err_msg=name)


def source(model, X):
    """The data as training sees them."""
    return model.modality_.source(model.modality_.read(X, "test"), LABELS)


def paid(model, X):
    """Names of the terms of the autoencoder's loss; a critic has terms of its own."""
    model = copy.deepcopy(model)
    moves = list(model.losses(source(model, X).take(torch.arange(8))))
    return {name for move in moves if move.player == "autoencoder" for name in move.terms}


def together(model):
    """The history from where the whole net trains: pieces that train before it have no loss."""
    return [row for row in model.history_ if "loss" in row]


def weights(model):
    return {name: p.detach().clone() for name, p in model.net_.named_parameters()}


# -- training ---------------------------------------------------------------------------------


@every_model
def test_the_loss_falls(case):
    """Or the error, where a multiplier or a critic's skill weighs the loss anew."""
    history = together(fitted(case))
    names = history[0]
    loss = "mse" if "distortion" in names else "nll" if "critic" in names else "loss"
    assert history[-1][loss] < history[0][loss]
    # How far twelve held-out rows are from a prior is noise.
    held = "nll" if {"mmd", "sliced"} & names.keys() else loss
    assert history[-1][f"validation_{held}"] < history[0][f"validation_{held}"]


@every_model
def test_every_parameter_gets_a_gradient(case):
    model = copy.deepcopy(fitted(case))
    net, device = model.net_.train(), torch.device("cpu")
    reached = set()
    for move in model.losses(source(model, data(case)).take(torch.arange(64)).to(device)):
        loss = torch.stack([term.mean() for term in move.terms.values()]).sum()
        modules, _ = net.players()[move.player]
        own = {p for module in modules for p in module.parameters()}
        named = {name: p for name, p in net.named_parameters() if p in own}
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        reached |= {
            name for name, g in zip(named, gradients, strict=True) if g is not None and g.any()
        }
    assert {name for name, _ in net.named_parameters()} == reached


@every_model
def test_every_parameter_moves(case):
    still = weights(make(case, learning_rate=1e-30, weight_decay=0.0).fit(data(case), LABELS))
    moved = weights(fitted(case))
    assert [name for name in moved if torch.equal(moved[name], still[name])] == []


@every_model
def test_the_history_shows_every_term_of_both_parts(case):
    model = fitted(case)
    assert len(model.history_) == model.n_iter_ == 5
    for row in together(model):
        terms = {name for name in row if f"validation_{name}" in row}
        assert {"loss", "mse"} <= terms
        assert "nll" in terms or "distortion" in terms  # a bound takes the likelihood's place
        other = {"epoch", "seconds", "learning_rate"}
        assert set(row) == terms | {f"validation_{name}" for name in terms} | other
        charged = [row[name] for name in paid(model, data(case))]
        assert row["loss"] == pytest.approx(sum(charged), rel=1e-5)


@every_model
def test_one_seed_gives_one_result(case):
    model = fitted(case)
    torch.rand(1000)
    twin = make(case).fit(data(case), LABELS)
    assert_answers_as_expected(case, twin)
    assert [{**row, "seconds": 0} for row in model.history_] == [
        {**row, "seconds": 0} for row in twin.history_
    ]


@every_model
def test_the_global_random_state_stays(case):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    model = make(case, epochs=1).fit(data(case), LABELS)
    answers(model, data(case))
    model.partial_fit(data(case), LABELS)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


# -- evaluation -------------------------------------------------------------------------------


@every_model
def test_evaluation_is_deterministic(case):
    expected(case)
    torch.rand(1000)
    assert_answers_as_expected(case, fitted(case))


@every_model
def test_answers_are_finite_and_of_the_right_shape(case):
    model, X, found = fitted(case), data(case), expected(case)
    for name in found:
        assert np.isfinite(found[name]).all(), name
    width = np.prod(model.net_.latent.code_shape)
    n = samples(X)
    assert found["transform"].shape == (n, width)
    assert found["score_samples"].shape == (n,)
    if type(model) in GRAPH_MODELS:
        assert [P.shape for P in model.reconstruct(X)] == [(len(x), len(x)) for _, x in X]
        assert found["inverse_transform"].shape == (n, n)
        assert found["sample"].shape == found["noisy"].shape == (5, 5)
        return
    assert found["reconstruct"].shape == X.shape
    if not needs_context(model):
        assert found["inverse_transform"].shape == X.shape
        assert found["sample"].shape == found["noisy"].shape == (5, *X.shape[1:])
        assert found["interpolate"].shape == (4, *X.shape[1:])


@every_model
def test_the_score_is_the_mean_of_all(case):
    scores = expected(case)["score_samples"]
    assert fitted(case).score(data(case)) == pytest.approx(scores.mean(), rel=1e-6)


@every_model
def test_samples_differ_from_each_other_and_with_the_seed(case):
    model = fitted(case)
    if needs_context(model):
        return  # it draws none, as `answers` makes sure of
    distinct = min(5, len(np.unique(model.codes_, axis=0)))  # few codes give few samples
    one, two = model.sample(50, seed=1), model.sample(50, seed=2)
    assert len(np.unique(one, axis=0)) >= distinct
    assert not np.array_equal(one, two)


@every_model
def test_a_row_does_not_depend_on_its_neighbours(case):
    """Nor a graph on the graphs beside it."""
    model, X = fitted(case), data(case)[:14]
    for method in (model.transform, model.score_samples, model.reconstruct):
        whole = together_in_one(method(X))
        # A pixel beside a half may be rounded either way.
        allowed = 1 if whole.dtype == np.uint8 else 1e-6 * np.abs(whole).max()
        for size in (1, 2, 7):
            parts = [together_in_one(method(X[i : i + size])) for i in range(0, len(X), size)]
            difference = np.concatenate(parts).astype(float) - whole
            assert np.abs(difference).max() <= allowed, (method.__name__, size)


@every_model
def test_inputs_are_never_changed(case):
    X = copy.deepcopy(data(case))
    if isinstance(X, np.ndarray):
        X.flags.writeable = True
    digest, half = hashlib.sha256(pickle.dumps(X)).hexdigest(), len(X) // 2
    model = make(case, epochs=1)
    steps = {
        "fit": lambda X: model.fit(X, LABELS),
        "partial_fit": lambda X: model.partial_fit(X, LABELS),
        "answers": lambda X: answers(model, X),
        "validation": lambda X: model.fit(X[:half], LABELS[:half], validation=X[half:]),
    }
    for name, step in steps.items():
        step(X)
        assert hashlib.sha256(pickle.dumps(X)).hexdigest() == digest, name
    codes = model.transform(X)
    digest = hashlib.sha256(codes).hexdigest()
    if not needs_context(model):
        model.inverse_transform(codes)
    assert hashlib.sha256(codes).hexdigest() == digest


@every_model
def test_the_estimator_does_not_change_when_asked(case):
    model = copy.deepcopy(fitted(case))
    state = {name: value.clone() for name, value in model.net_.state_dict().items()}
    names = set(vars(model))
    answers(model, data(case))
    model.diagnose()
    assert set(vars(model)) - names <= {"_density"}  # what `sample` fits when first asked
    for name, value in model.net_.state_dict().items():
        assert torch.equal(value, state[name]), name


# -- odd data ---------------------------------------------------------------------------------


@every_model
@pytest.mark.filterwarnings("ignore:Every column of X is constant")
def test_one_row(case):
    X = data(case)[:1]
    if CASES[case][1].get("batch_norm"):
        with pytest.raises(narrows.errors.DataError, match="batch_norm=True needs at least 2"):
            make(case).fit(X, LABELS[: len(X)])
        return
    model = make(case).fit(X, LABELS[: len(X)])
    for name, answer in answers(model, twice(X)).items():
        assert np.isfinite(answer).all(), name


@every_model
@pytest.mark.parametrize("n", [pytest.param(5, marks=pytest.mark.wide), 15, 33])
def test_fewer_rows_than_a_batch_or_one_more(case, n):
    X = data(case)[:n]
    model = make(case, epochs=2, validation=0.1 if n == 15 else 0.0).fit(X, LABELS[: len(X)])
    made = model.reconstruct(X)
    assert np.isfinite(together_in_one(made)).all()
    assert len(made) == len(X)
    assert isinstance(X, list) or made.shape == X.shape


@every_model
@pytest.mark.filterwarnings("ignore:Every .* of X is constant")
def test_identical_rows(case):
    value = 7 if len(case) % 2 else 0
    if modality(case) == "graph":  # alike in all but their links
        X = [(edges, np.full_like(x, value)) for edges, x in GRAPHS]
        model = make(case).fit(X)
        assert all(np.isfinite(answer).all() for answer in answers(model, X).values())
        return
    X = np.full_like(data(case), value)
    model = make(case).fit(X, LABELS[: len(X)])
    for name, answer in answers(model, X).items():
        assert np.isfinite(answer).all(), name
    np.testing.assert_allclose(model.reconstruct(X).astype(float), X, atol=0.5)


@pytest.mark.parametrize("case", spread(case for case in CASES if modality(case) == "table"))
def test_a_constant_column_is_restored_exactly(case):
    X = data(case).copy()
    X[:, 5], X[:, 12] = -0.1, 12345.0
    model = make(case).fit(X, LABELS[: len(X)])
    for name, answer in answers(model, X).items():
        assert np.isfinite(answer).all(), name
        if name not in ("transform", "score_samples"):
            assert (answer[:, 5] == np.float32(-0.1)).all(), name
            assert (answer[:, 12] == 12345.0).all(), name


# -- copies -----------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(copy.deepcopy, id="deep", marks=pytest.mark.wide),
        pytest.param(lambda model: pickle.loads(pickle.dumps(model)), id="pickle"),
    ],
)
def test_copies_give_the_same_answers(case, copied):
    assert_answers_as_expected(case, copied(fitted(case)))


READER = """
import pickle, sys
from pathlib import Path
import numpy as np
import narrows

root = Path(sys.argv[1])
inputs = pickle.loads((root / "inputs.pickle").read_bytes())

def answers(model, X):
    made = model.reconstruct(X)
    found = {
        "transform": model.transform(X),
        "reconstruct": np.concatenate([m.ravel() for m in made]) if type(X) is list else made,
        "score_samples": model.score_samples(X),
    }
    try:
        return found | {"sample": model.sample(5, seed=3)}
    except narrows.errors.ContextError:
        return found

for folder in sorted(root.glob("*.model")):
    model = narrows.load(folder)
    X = inputs["short" if "attention" in model.get_params() else model.modality_.name]
    np.savez(root / f"{folder.stem}.npz", **answers(model, X))
    unpickled = pickle.loads((root / f"{folder.stem}.pickle").read_bytes())
    np.savez(root / f"{folder.stem}-pickle.npz", **answers(unpickled, X))
    if folder.stem == "0":
        again = unpickled.fit(X)
        np.savez(root / f"{folder.stem}-again.npz", **answers(again, X))
"""


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(sorted(ALWAYS), id="always"),
        pytest.param(sorted(CASES.keys() - ALWAYS), id="others", marks=pytest.mark.wide),
    ],
)
def test_a_fresh_process_gives_the_same_bits(cases, tmp_path):
    """One process loads, unpickles and refits what another one saved."""
    (tmp_path / "inputs.pickle").write_bytes(pickle.dumps(INPUTS))
    for i, case in enumerate(cases):
        fitted(case).save(tmp_path / f"{i}.model")
        (tmp_path / f"{i}.pickle").write_bytes(pickle.dumps(fitted(case)))
    subprocess.run([sys.executable, "-c", READER, str(tmp_path)], check=True, timeout=300)
    for i, case in enumerate(cases):
        for suffix in ["", "-pickle", *(["-again"] if i == 0 else [])]:
            found = np.load(tmp_path / f"{i}{suffix}.npz")
            assert len(found.files) == (3 if needs_context(fitted(case)) else 4)
            for name in found.files:
                np.testing.assert_array_equal(
                    found[name], expected(case)[name], err_msg=f"{case} {name}{suffix}"
                )


@every_model
def test_a_loaded_model_knows_all_that_the_saved_one_knew(case, tmp_path):
    model = fitted(case)
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    assert twin.get_params() == model.get_params()
    assert twin.history_ == model.history_
    assert twin.n_iter_ == model.n_iter_
    assert twin.n_features_in_ == model.n_features_in_
    assert twin.diagnose().findings == model.diagnose().findings
    assert twin.get_feature_names_out().tolist() == model.get_feature_names_out().tolist()
