"""The compiled step: the same training in one graph, chosen by the plan, resumed bit for bit."""

from functools import partial

import numpy as np
import pytest
import torch
import torch._inductor.config as lowering
from scipy.sparse import csr_array

import narrows
from narrows import compiled
from narrows.callbacks import Callback
from narrows.data.sources import InMemory
from narrows.errors import ParameterError
from narrows.training import Training

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 3, "batch_size": 32, "validation": 0.0}
# Batches of graphs are of many shapes, and never compiled.
CLASSES = [
    cls
    for cls in narrows.MODELS.values()
    if cls.__module__.startswith("narrows.") and "Graph" not in cls.__name__
]


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """How many steps went through a graph."""
    seen, call = [], compiled.Graph.__call__

    def counting(self, rows, dials):
        made = call(self, rows, dials)
        seen.extend(len(part) for part in rows.chunk(len(dials)))
        return made

    monkeypatch.setattr(compiled.Graph, "__call__", counting)
    return seen


@pytest.fixture
def traced(monkeypatch):
    """Trace the whole graph, gradients and updates included, but make no machine code of it."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def data(digits):
    return digits[:80], np.arange(80) % 3


def fitted(cls, data, **options):
    """Fit; warnings are errors, so that nothing falls back unseen."""
    wanted = {k: v for k, v in (SMALL | options).items() if k in cls.annotations()}
    return cls(**wanted).fit(*data)


def assert_equal(one, two):
    """Not a bit is different."""
    for (name, a), b in zip(
        one.net_.state_dict().items(), two.net_.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    histories = ([{**row, "seconds": 0} for row in model.history_] for model in (one, two))
    assert next(histories) == next(histories)


def assert_close(one, two):
    """They differ by rounding, which training may stretch a little."""
    for a, b in zip(one.history_, two.history_, strict=True):
        assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, rel=1e-3, abs=1e-5)


# -- the same training ------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("VAE", {"dropout": 0.2, "batch_norm": True, "validation": 0.2}),
        ("VAE", {"precision": "bfloat16", "gradient_clip": None, "weight_decay": 0.0}),
        ("VAE", {"accumulation": 2, "ema": 0.9, "l2": 0.1, "validation": 0.2}),
        ("VAE", {"precision": "float16"}),
        ("VQVAE", {"codes": 8}),
        ("HamiltonianVAE", {"validation": 0.2}),
        ("RiemannianVAE", {"validation": 0.2}),
        ("IWAE", {"partial": True, "repeats": 2, "gradient": "doubly_reparametrised"}),
        ("AdversarialAutoencoder", {}),
        ("AdversarialAutoencoder", {"accumulation": 2, "precision": "float16"}),
    ],
)
def test_a_compiled_run_is_the_eager_run_to_rounding(name, options, data, calls):
    cls = getattr(narrows, name)
    graph = fitted(cls, data, compile=True, **options)
    full = len(data[0][: 64 if options.get("validation") else 80]) // 32
    assert calls == [32] * 3 * full  # a last batch that is not full runs eagerly
    assert_close(graph, fitted(cls, data, compile=False, **options))


@pytest.mark.usefixtures("traced")
def test_a_graph_of_several_steps_is_the_eager_run_to_rounding(data, calls):
    """Rates, schedules and noise are those of each step; the statistics are of other ones."""
    options = {"batch_size": 16, "warmup": 0.5, "kl_schedule": "linear", "dropout": 0.2}
    graph = fitted(narrows.VAE, data, compile=True, steps_per_execution=2, **options)
    assert calls == [16] * 3 * 4  # of five full batches one is left over
    eager = fitted(narrows.VAE, data, compile=False, **options)
    for row in graph.history_ + eager.history_:
        del row["mse"]
    assert_close(graph, eager)


@pytest.mark.wide
@pytest.mark.usefixtures("traced")
def test_every_stage_has_a_graph_of_its_own(data, calls):
    options = {"hidden": (8,), "epochs": 4}
    graph = fitted(narrows.StackedAutoencoder, data, compile=True, **options)
    assert len(calls) == 4 * 2
    eager = fitted(narrows.StackedAutoencoder, data, **options)
    assert_close(graph, eager)


@pytest.mark.slow
@pytest.mark.parametrize("cls", CLASSES)
def test_every_model_compiles(cls, data, calls):
    options = {"hidden": None}
    if cls.__module__.endswith("sequences"):
        options["architecture"] = "transformer"  # no graph takes an LSTM in
    graph = fitted(cls, data, compile=True, **options)
    assert len(calls) == 2 * 3
    eager = fitted(cls, data, compile=False, **options)
    assert graph.history_[-1]["mse"] == pytest.approx(eager.history_[-1]["mse"], rel=1e-3)


# -- what changes while training --------------------------------------------------------------


@pytest.mark.usefixtures("traced")
def test_schedules_never_need_another_graph(data, calls):
    """Another graph would warn: every run has one, or stops compiling."""
    options = {"warmup": 0.5, "kl_schedule": "linear", "epochs": 6}
    graph = fitted(narrows.VAE, data, compile=True, **options)
    assert len(calls) == 6 * 2
    assert_close(graph, fitted(narrows.VAE, data, **options))


class _Counting(narrows.Autoencoder):
    weight = 1.0

    def objective(self, step):
        return {"nll": self.weight * step.nll}

    def after_epoch(self):
        self.weight += 1.0


class _Growing(narrows.Autoencoder):
    def build(self, modality):
        self.past = torch.ones(1)
        return super().build(modality)

    def objective(self, step):
        return {"nll": step.nll * self.past.sum()}

    def after_epoch(self):
        self.past = torch.ones(len(self.past) + 1)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("cls", [_Counting, _Growing])
def test_a_number_or_a_size_that_changes_ends_compilation(cls, data, calls):
    with pytest.warns(UserWarning, match=f"{cls.__name__} goes on without .* a number that is no"):
        graph = fitted(cls, data, compile=True)
    assert len(calls) == 2
    assert_close(graph, fitted(cls, data))


@pytest.mark.usefixtures("traced")
def test_a_call_looks_only_at_what_a_run_can_change(data, monkeypatch):
    kept, whole = [], torch.compile

    def spying(steps, options, **rest):
        def spy(guards):
            keep = options["guard_filter_fn"](guards)
            kept.extend(guard for guard, keeps in zip(guards, keep, strict=True) if keeps)
            return keep

        return whole(steps, options={"guard_filter_fn": spy}, **rest)

    monkeypatch.setattr(torch, "compile", spying)
    fitted(narrows.Autoencoder, data, compile=True)
    kinds = {guard.guard_type for guard in kept}
    assert {"CONSTANT_MATCH", "EQUALS_MATCH", "SEQUENCE_LENGTH", "TENSOR_MATCH"} <= kinds
    assert not kinds & compiled.SETTLED
    tensors = [guard.name for guard in kept if guard.guard_type == "TENSOR_MATCH"]
    assert not any(name.endswith("weight") or "optimizers" in name for name in tensors)


# -- where it cannot ---------------------------------------------------------------------------


class _Branching(narrows.Autoencoder):
    def objective(self, step):
        factor = 2.0 if step.nll.mean() > 0 else 1.0
        return {"nll": factor * step.nll}


class _Drawing(narrows.Autoencoder):
    def objective(self, step):
        noise = torch.randn(step.nll.shape, generator=torch.Generator().manual_seed(3))
        return {"nll": step.nll + 0.1 * noise * step.h.square().sum(1)}


class _Raising(narrows.Autoencoder):
    def objective(self, step):
        raise ZeroDivisionError("mine")


@pytest.mark.parametrize("cls", [_Branching, _Drawing])
def test_what_cannot_be_traced_runs_eagerly_as_if_nothing_had_been_tried(cls, data, calls):
    with pytest.warns(UserWarning, match=f"training of {cls.__name__} goes on without") as caught:
        tried = fitted(cls, data, compile=True, dropout=0.2)
    assert len(caught) == 1
    assert not calls
    assert_equal(tried, fitted(cls, data, compile=False, dropout=0.2))


@pytest.mark.filterwarnings("ignore:The training of _Raising goes on without")
def test_the_error_of_a_user_comes_through_as_it_is(data):
    with pytest.raises(ZeroDivisionError, match="mine"):
        fitted(_Raising, data, compile=True)


def test_without_a_compiler_it_runs_eagerly(data, calls):
    missing = {"cpp.cxx": (None, "/nowhere/g++"), "force_disable_caches": True}
    with lowering.patch(missing), pytest.warns(UserWarning, match=r"without .*C\+\+ compiler"):
        tried = fitted(narrows.Autoencoder, data, compile=True)
    assert not calls
    assert_equal(tried, fitted(narrows.Autoencoder, data, compile=False))


def test_an_older_torch_runs_eagerly(data, calls, monkeypatch):
    monkeypatch.setattr(compiled, "ABLE", False)
    with pytest.warns(UserWarning, match="compilation: it takes torch 2.13 or later. Set compile"):
        tried = fitted(narrows.VAE, data, compile=True)
    assert not calls
    assert_equal(tried, fitted(narrows.VAE, data, compile=False))


# -- the decision ------------------------------------------------------------------------------


def run(data, epochs, **options):
    model = fitted(narrows.VAE, data, epochs=1)
    return Training(model.set_params(**options), InMemory(torch.zeros(80, 64)), None, epochs, 0)


@pytest.mark.parametrize(
    ("cls", "X", "words"),
    [
        (narrows.GraphAutoencoder, csr_array(np.ones((3, 3)) - np.eye(3)), "of graphs, whose"),
        (narrows.SequenceAutoencoder, ["ab", "c", "def"] * 9, "of sequences of unequal lengths"),
    ],
)
def test_what_has_batches_of_many_shapes_says_so_before_the_first_step(cls, X, words, monkeypatch):
    steps = []
    monkeypatch.setattr(Training, "step", lambda *_: steps.append(1))
    model = cls(compile=True, epochs=1, batch_size=9, verbose=0)
    with pytest.raises(UserWarning, match=f"compile=True has no effect on the training {words}"):
        model.fit(X)
    assert not steps
    monkeypatch.undo()
    cls(compile="auto", epochs=1, batch_size=9, verbose=0).fit(X)  # and auto says nothing


def test_auto_decides_by_steps_and_parameters(data):
    tensors = len(list(fitted(narrows.VAE, data).net_.parameters()))
    epochs = round(30 / (4e-5 * tensors * 2))  # of two full batches
    assert not run(data, epochs - 2).execution.compiled
    assert run(data, epochs + 2).execution.compiled
    assert not run(data, epochs + 2, compile=False).execution.compiled
    assert not run(data, 10 * epochs, batch_size=100).execution.compiled  # no batch would be full
    assert run(data, 1, compile=True).execution.compiled


def test_auto_leaves_recurrent_nets_alone(data):
    """No graph takes an LSTM in: a long run does not try, and warn of it."""
    options = {"latent_dim": 2, "hidden": (4,), "batch_size": 32, "validation": 0.0, "epochs": 1}
    for name, compiles in (("lstm", False), ("gru", False), ("transformer", True)):
        model = narrows.SequenceAutoencoder(architecture=name, **options).fit(*data)
        source = model.modality_.source(model.modality_.read(data[0], "test"))
        assert Training(model, source, None, 10**6, 0).execution.compiled == compiles


def test_auto_takes_several_steps_at_a_time_where_a_run_is_very_long():
    assert compiled.unrolled(10**7, 625) == compiled.STEPS > 1
    assert compiled.unrolled(10**5, 625) == 1  # too few to repay so large a graph
    assert compiled.unrolled(10**7, 10) == 1  # a large share of an epoch would be left over


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compile": False, "steps_per_execution": 2}, "no effect with compile=False"),
        ({"steps_per_execution": 3}, "is more than the 2 full batches of an epoch"),
    ],
)
def test_steps_that_no_graph_could_take_at_a_time_are_refused(options, words, data):
    with pytest.raises(ParameterError, match=words):
        fitted(narrows.VAE, data, **options)


def test_the_decision_is_of_the_checkpoint(data):
    stored, other = run(data, 2, compile=True), run(data, 2, compile=False)
    other.load(*stored.snapshot())
    assert other.execution.compiled


def test_a_pass_of_partial_fit_is_eager(data, calls):
    model = narrows.VAE(latent_dim=2, hidden=(8,), batch_size=32, compile=True)
    for _ in range(2):
        model.partial_fit(data[0])
    assert not calls


# -- resuming ----------------------------------------------------------------------------------


class _Stop(BaseException):
    """A run that is killed."""


def assert_resumes(cls, data, folder, monkeypatch, **options):
    whole = fitted(cls, data, compile=True, **options)
    run_epoch = Training.run_epoch

    def stopping(self):
        if self.epoch == 2:
            raise _Stop
        run_epoch(self)

    model = cls(**SMALL | options, compile=True)
    monkeypatch.setattr(Training, "run_epoch", stopping)
    with pytest.raises(_Stop):
        model.fit(*data, checkpoint=folder)
    monkeypatch.setattr(Training, "run_epoch", run_epoch)
    assert_equal(whole, model.fit(*data, checkpoint=folder, resume=True))


@pytest.mark.wide
@pytest.mark.usefixtures("traced")
def test_a_traced_run_resumes_bit_for_bit(data, tmp_path, monkeypatch, calls):
    assert_resumes(narrows.VAE, data, tmp_path, monkeypatch, epochs=4)
    assert len(calls) == 2 * (4 + 2 + 2)


class _Ending(Callback):
    """Kills a run within its second epoch."""

    def step(self, training, terms):
        if (training.epoch, training.position) == (1, 4):
            raise _Stop


@pytest.mark.wide
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("together", [1, 2])
def test_a_traced_run_resumes_within_an_epoch_bit_for_bit(together, data, tmp_path, calls):
    options = {"batch_size": 16, "dropout": 0.2, "steps_per_execution": together, "compile": True}
    whole = fitted(narrows.VAE, data, **options)
    made = len(calls)
    model = narrows.VAE(**SMALL | options)
    with pytest.raises(_Stop):
        model.fit(*data, checkpoint=tmp_path, checkpoint_every=1, callbacks=[_Ending()])
    assert_equal(whole, model.fit(*data, checkpoint=tmp_path, resume=True))
    assert len(calls) == 2 * made + together  # the last ones, killed before they were saved


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VAE", "VQVAE", "AdversarialAutoencoder"])
def test_a_compiled_run_resumes_bit_for_bit(name, data, tmp_path, monkeypatch, calls):
    options = {"epochs": 4, "dropout": 0.2, "batch_norm": True, "patience": 3, "validation": 0.1}
    assert_resumes(getattr(narrows, name), data, tmp_path, monkeypatch, **options)
    assert len(calls) == 2 * (4 + 2 + 2)
