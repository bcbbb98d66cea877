"""What must hold on a GPU, where there is one: the same contract as on the CPU."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph

import narrows
from narrows.training import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CLASSES = [cls for cls in narrows.MODELS.values() if cls.__module__.startswith("narrows.")]
TABLE = load_digits().data[:256].astype(np.float32)
NEAR = kneighbors_graph(TABLE, 5)
SMALL = {"latent_dim": 3, "epochs": 5, "batch_size": 64, "learning_rate": 0.01, "device": "cuda"}


def data(cls):
    """A table, or a graph whose nodes are its rows."""
    rows = cls().__sklearn_tags__().input_tags.two_d_array
    return TABLE if rows else (NEAR.maximum(NEAR.T), TABLE)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_model_trains_answers_and_comes_back_on_the_cpu(cls, tmp_path):
    X = data(cls)
    model = cls(**SMALL).fit(X)
    assert model.net_.progress.device.type == "cuda"
    losses = [row["loss"] for row in model.history_ if "loss" in row]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    assert twin.net_.progress.device.type == "cpu"
    np.testing.assert_allclose(twin.transform(X), model.transform(X), rtol=1e-3, atol=1e-4)
    scores = twin.score_samples(X), model.score_samples(X)
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=0.05)
    assert np.isfinite(model.sample(4)).all()


@pytest.mark.parametrize("cls", CLASSES)
def test_one_seed_gives_one_result_and_the_random_state_stays(cls):
    before = torch.cuda.get_rng_state()
    X = data(cls)
    one, two = (cls(**SMALL).fit(X) for _ in range(2))
    assert torch.equal(before, torch.cuda.get_rng_state())
    np.testing.assert_allclose(one.transform(X), two.transform(X), rtol=1e-4, atol=1e-5)


def test_a_run_resumes(tmp_path, monkeypatch):
    whole = narrows.VAE(**SMALL).fit(TABLE)
    run = Training.run_epoch

    def stop(self):
        if self.epoch == 3:
            raise KeyboardInterrupt
        run(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            narrows.VAE(**SMALL).fit(TABLE, checkpoint=tmp_path)
    resumed = narrows.VAE(**SMALL).fit(TABLE, checkpoint=tmp_path, resume=True)
    codes = whole.transform(TABLE), resumed.transform(TABLE)
    np.testing.assert_allclose(*codes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"precision": "tf32"},
        {"accumulation": 2, "ema": 0.9, "gradient_checkpointing": True, "l2": 0.01},
    ],
)
def test_what_a_step_may_be_made_of_trains_on_the_device(options):
    model = narrows.VAE(**SMALL | options).fit(TABLE)
    assert model.history_[-1]["loss"] < model.history_[0]["loss"]
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("steps", [1, 2])
def test_a_compiled_run_is_the_eager_run_to_rounding(steps):
    """Its graph is captured, and replayed: what it put out before must not change."""
    graph = narrows.VAE(**SMALL, compile=True, steps_per_execution=steps).fit(TABLE)
    eager = narrows.VAE(**SMALL, compile=False).fit(TABLE)
    for one, two in zip(graph.history_, eager.history_, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)


def test_bytes_rest_on_the_device():
    images = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    seen = []

    class _Looking(narrows.VAE):
        def prepare(self, source):
            seen.append((source.x.dtype, source.x.device.type))

    _Looking(**SMALL).fit(images)
    assert seen == [(torch.uint8, "cuda")]


def test_models_learn_together_what_they_learn_alone():
    models = [
        [narrows.VAE(**SMALL | {"seed": k}, dropout=0.1) for k in range(3)] for _ in range(2)
    ]
    for one, two in zip(narrows.fit_together(models[0], TABLE), models[1], strict=True):
        codes = one.transform(TABLE), two.fit(TABLE).transform(TABLE)
        np.testing.assert_allclose(*codes, rtol=1e-3, atol=1e-4)
