"""Many models at once: each learns what it learns alone, and what cannot be done so is told."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import narrows
from narrows import compiled
from narrows.fields import NonNegative
from narrows.optimizer import AdamW
from narrows.together.optimizer import StackedAdamW

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 3, "batch_size": 32, "compile": False}


def made(cls, variants, **options):
    """One model a variant, each of a seed of its own."""
    return [cls(**SMALL | {"seed": k} | options | own) for k, own in enumerate(variants)]


def both(cls, variants, X, y=None, **options):
    """Models that were fitted together, and their twins that were fitted alone."""
    together = made(cls, variants, **options)
    assert narrows.fit_together(together, X, y) == together
    return together, [model.fit(X, y) for model in made(cls, variants, **options)]


def assert_close(together, alone):
    """All that was learned is equal to 1e-5, but for statistics of some batches only."""
    for one, two in zip(together, alone, strict=True):
        for (name, a), b in zip(
            one.net_.state_dict().items(), two.net_.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: n + m)
        np.testing.assert_allclose(one.codes_, two.codes_, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(one.held_out_, two.held_out_)
        assert len(one.history_) == len(two.history_)
        for row, other in zip(one.history_, two.history_, strict=True):
            assert list(row) == list(other)
            some = {"seconds", "mse"}
            row, other = ({k: v for k, v in r.items() if k not in some} for r in (row, other))
            assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.fixture
def steps(monkeypatch):
    """The sizes of the batches of joint steps."""
    seen, move = [], narrows.together.loop.Joint.move

    def counting(self, batch, watch):
        seen.append(tuple(batch.x.shape[:2]))
        return move(self, batch, watch)

    monkeypatch.setattr(narrows.together.loop.Joint, "move", counting)
    return seen


# -- equal to runs alone ------------------------------------------------------------------------

CASES = {
    "optimizer": (
        "Autoencoder",
        [
            {"learning_rate": 1e-2, "weight_decay": 0.0, "schedule": "constant"},
            {"learning_rate": 1e-3, "gradient_clip": None, "warmup": 0.3},
            {"gradient_clip": 0.5, "schedule": "linear"},
        ],
        {},
    ),
    "penalty": ("SparseAutoencoder", [{"sparsity": 0.0}, {"sparsity": 0.1}, {"sparsity": 3}], {}),
    "penalties": (
        "ComposedAutoencoder",
        [{"penalties": {"l1": 0.1, "l2": 1.0}}, {"penalties": {"l1": 0.3, "l2": 0.0}}],
        {},
    ),
    "parts": (
        "Autoencoder",
        [{}, {}],
        {"likelihood": "laplace", "scale": "learned", "tied": True, "blocks": 1},
    ),
    "vae": ("VAE", [{"beta": 0.5}, {"beta": 4}, {}], {"kl_schedule": "linear"}),
    "dropout": ("VAE", [{}, {"beta": 2.0}], {"dropout": 0.2, "batch_norm": True}),
    "corruption": ("DenoisingAutoencoder", [{"noise": 0.1}, {"noise": 0.5}], {}),
    "masking": ("DenoisingAutoencoder", [{}, {"noise": 0.5}], {"corruption": "masking"}),
    "jacobian": ("ContractiveAutoencoder", [{"contraction": 0.1}, {"contraction": 1.0}], {}),
    "discrepancy": ("WassersteinAutoencoder", [{"matching": 1.0}, {"matching": 10.0}], {}),
    "codebook": ("VQVAE", [{"commitment": 0.1}, {"commitment": 1.0}], {"codes": 8}),
    "gumbel": ("CategoricalVAE", [{"beta": 0.5}, {}], {"categories": 4}),
    "running state": ("VAE", [{}, {}], {"distortion": 0.5}),
}


@pytest.mark.wide
@pytest.mark.parametrize(("name", "variants", "options"), CASES.values(), ids=CASES)
def test_each_model_learns_what_it_learns_alone(name, variants, options, wine, steps):
    together, alone = both(getattr(narrows, name), variants, wine[:170], **options)
    assert steps == [(len(variants), size) for size in (32, 32, 32, 32, 25)] * 3
    assert_close(together, alone)


def test_images_and_conditions_and_weights_go_along(images, steps):
    y, weight = np.arange(96) % 3, np.linspace(0.5, 2, 96)
    options = {"architecture": "mlp", "likelihood": "bernoulli", **SMALL}
    models = [[narrows.ConditionalVAE(seed=k, **options) for k in range(2)] for _ in range(2)]
    narrows.fit_together(models[0], images[:96], y, sample_weight=weight)
    for model in models[1]:
        model.fit(images[:96], y, sample_weight=weight)
    assert len(steps) == 3 * 3
    assert_close(*models)


def test_patience_ends_each_model_by_itself(wine, steps):
    variants = [{"learning_rate": rate} for rate in (0.001, 0.05, 0.03)]
    together, alone = both(narrows.Autoencoder, variants, wine, epochs=12, patience=1)
    ends = [model.n_iter_ for model in together]
    assert len(set(ends)) > 1
    assert len(steps) == 5 * max(ends)
    assert_close(together, alone)


def test_a_model_that_breaks_down_leaves_the_others_alone(wine):
    variants = [{}, {"learning_rate": 1e30, "gradient_clip": None}, {}]
    models = made(narrows.Autoencoder, variants)
    with pytest.raises(narrows.errors.TrainingError, match=r"'nll' of .* all but those at 1 are"):
        narrows.fit_together(models, wine)
    assert not [name for name in vars(models[1]) if name.endswith("_")]
    sound = [models[0], models[2]]
    assert_close(sound, [model.fit(wine) for model in made(narrows.Autoencoder, variants)[::2]])


def test_the_optimizer_is_each_models_own():
    """Against AdamW: rates, decay and clipping differ, and one model's gradient is infinite."""
    torch.manual_seed(0)
    nets = [nn.Linear(4, 3) for _ in range(3)]
    options = [{"weight_decay": 0.3}, {"gradient_clip": 0.1}, {"gradient_clip": 1.0}]
    alone = [
        AdamW(dict(net.named_parameters()), learning_rate=0.1 / (k + 1), **options[k])
        for k, net in enumerate(nets)
    ]
    stacked = [torch.stack(p).detach() for p in zip(*(o.parameters for o in alone), strict=True)]
    together = StackedAdamW.of(alone)
    for step in range(6):
        gradients = [torch.randn_like(p) for p in stacked]
        if step == 3:
            gradients[0][1, 0, 0] = float("inf")
        together.update(stacked, gradients, alone[0].betas, alone[0].eps, alone[0].decays)
        for k, optimizer in enumerate(alone):
            optimizer.update([g[k] for g in gradients])
    assert together.skipped.tolist() == [0, 1, 0]
    for k, optimizer in enumerate(alone):
        for p, own in zip(stacked, optimizer.parameters, strict=True):
            torch.testing.assert_close(p[k], own.detach(), rtol=1e-5, atol=1e-6)


def test_skipped_updates_are_told(wine):
    class _Steep(narrows.Autoencoder):
        edge: NonNegative = 0.0

        def objective(self, step):
            return {"nll": step.nll, "edge": (step.z[0, 0] * self.edge).sqrt().nan_to_num()}

    with pytest.warns(UserWarning, match="updates were skipped"):
        narrows.fit_together([_Steep(seed=k, **SMALL) for k in range(2)], wine)


@pytest.mark.filterwarnings("ignore:The gradient of _Broken became nan")
def test_a_model_of_which_no_update_is_sound_does_not_count_as_fitted(wine):
    class _Broken(narrows.Autoencoder):
        edge: NonNegative = 0.0

        def objective(self, step):
            late = (step.progress > 0.2).float()
            steep = self.edge * (step.z[:, 0] - step.z[:, 0].detach() - late)
            return {"nll": step.nll, "edge": (1 + steep).sqrt()}

    models = [_Broken(seed=k, **SMALL | {"epochs": 300, "edge": float(k)}) for k in range(2)]
    with pytest.raises(narrows.errors.TrainingError, match="all but those at 1 are fitted"):
        narrows.fit_together(models, wine)


CLASSES = [cls for cls in narrows.MODELS.values() if cls.__module__.startswith("narrows.")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:2 models of .* are fitted one after another")
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_model_learns_what_it_learns_alone(cls, wine):
    if not cls().__sklearn_tags__().input_tags.two_d_array:
        return
    y, options = np.arange(96) % 3, SMALL | {"hidden": None}
    models = [[cls(**options | {"seed": k}) for k in range(2)] for _ in range(2)]
    for one, two in zip(narrows.fit_together(models[0], wine[:96], y), models[1], strict=True):
        # Not the weights: some have no gradient but rounding, and codes are chosen by a hair.
        losses = ([row["loss"] for row in m.history_] for m in (one, two.fit(wine[:96], y)))
        assert next(losses) == pytest.approx(next(losses), rel=1e-3, abs=1e-3)


# -- what cannot be done together ----------------------------------------------------------------


class _Deciding(narrows.Autoencoder):
    weight: NonNegative = 0.0

    def objective(self, step):
        more = {"l1": self.weight * step.z.abs().sum(1)} if self.weight else {}
        return {"nll": step.nll} | more


class _Hidden(narrows.Autoencoder):
    def build(self, modality):
        self._own = SimpleNamespace(weight=float(self.seed))
        return super().build(modality)

    def objective(self, step):
        return {"nll": step.nll, "own": self._own.weight * step.z.square().sum(1)}


class _Holding(_Hidden):
    def build(self, modality):
        net = super().build(modality)
        self._own.weight = torch.tensor(float(self.seed))
        return net


class _Drawing(narrows.Autoencoder):
    def objective(self, step):
        shown = torch.bernoulli(torch.full_like(step.nll, 0.5))
        return {"nll": shown * step.nll}


class _Seeding(narrows.Autoencoder):
    def objective(self, step):
        noise = torch.randn(len(step.nll), generator=torch.Generator().manual_seed(3))
        return {"nll": step.nll + noise * step.z.square().sum(1)}


class _Ending(narrows.Autoencoder):
    def after_epoch(self):
        self.epochs_seen = self.__dict__.get("epochs_seen", 0) + 1


@pytest.mark.parametrize(
    ("cls", "variants", "why"),
    [
        (_Deciding, [{"weight": 0.1}, {"weight": 0.2}], "a loss decides by a number .*in weight"),
        (_Hidden, [{}, {}], "the term 'own' would not be what it is in a run alone"),
        (_Holding, [{}, {}], "neither in the net nor in the batch"),
        (_Drawing, [{}, {}], "they draw random numbers that cannot be drawn for each"),
        (_Seeding, [{}, {}], "they draw random numbers that cannot be drawn for each"),
        (_Ending, [{}, {}], "each acts by itself after an epoch"),
        (narrows.AdversarialAutoencoder, [{}, {}], "a critic plays against the rest of each"),
        (narrows.StackedAutoencoder, [{}, {}], "they are trained in stages"),
    ],
)
def test_what_stands_in_the_way_is_told(cls, variants, why, wine, steps):
    with pytest.warns(UserWarning, match=f"2 models of .* one after another: .*{why}"):
        together, alone = both(cls, variants, wine)
    assert not steps
    for one, two in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.codes_, two.codes_)


def test_models_of_other_shapes_are_no_matter(wine, steps):
    """Neither shapes nor numbers that a net was built with can be tensors; no warning tells it."""
    variants = [{"latent_dim": 3}, {}, {"hidden": (4,)}, {}, {"dropout": 0.1}, {"epochs": 2}]
    together, alone = both(narrows.Autoencoder, variants, wine)
    assert {count for count, _ in steps} == {2}
    assert_close(together, alone)
    bounds = [{"distortion": 0.1}, {"distortion": 1.0}]
    assert_close(*both(narrows.VAE, bounds, wine))


def test_what_is_refused_is_refused_before_anything_changes(wine):
    models = made(narrows.VAE, [{}, {}])
    with pytest.raises(narrows.errors.ParameterError, match="twice"):
        narrows.fit_together([models[0], models[0]], wine)
    with pytest.raises(narrows.errors.ParameterError, match="for a single run"):
        narrows.fit_together(models, wine, checkpoint="run")
    with pytest.raises(narrows.errors.DataError, match="NaN"):
        narrows.fit_together(models, np.full((9, 3), np.nan))
    with pytest.raises(narrows.errors.ParameterError, match="'beta' parameter of VAE"):
        narrows.fit_together([models[0], narrows.VAE(beta=-1)], wine)
    assert not [name for model in models for name in vars(model) if name.endswith("_")]


# -- what is left behind -------------------------------------------------------------------------


def test_each_model_has_its_tensors_to_itself(wine):
    before = torch.get_rng_state()
    models, _ = both(narrows.VAE, [{}, {}, {}], wine)
    assert torch.equal(torch.get_rng_state(), before)
    for tensor in models[0].net_.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    more = models[1].set_params(warm_start=True).fit(wine)
    assert more.n_iter_ == 3


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_a_compiled_step_is_the_same(backend, wine, monkeypatch):
    seen, call = [], compiled.Graph.__call__

    def counting(self, batch):
        seen.append(len(batch))
        return call(self, batch)

    monkeypatch.setattr(compiled.Graph, "__call__", counting)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    models = made(narrows.VAE, [{"beta": 2.0}, {}], dropout=0.2, compile=True)
    narrows.fit_together(models, wine)
    assert seen == [2] * 3 * 4  # the last batch has a sample more
    alone = [model.fit(wine) for model in made(narrows.VAE, [{"beta": 2.0}, {}], dropout=0.2)]
    assert_close(models, alone)


def test_images_of_bytes_are_learned_together_as_alone(images):
    models, alone = (made(narrows.VAE, [{"seed": 1}, {}], architecture="mlp") for _ in range(2))
    narrows.fit_together(models, images)
    assert_close(models, [model.fit(images) for model in alone])
