"""Sequences: padding, attention, the steps of a likelihood, searches, collapse and repetition."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import narrows
from narrows.data.sources import Batch, InMemory
from narrows.errors import ContextError, ParameterError
from narrows.parts import cores
from narrows.parts.cores import Attention, Reader, Writer
from narrows.parts.generation import END, Plan, beam, flipped, unroll

ARCHITECTURES = ("lstm", "gru", "transformer")
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
RNG = np.random.default_rng(0)
SERIES = [
    np.stack([np.sin(0.5 * np.arange(n) + p), np.cos(0.5 * np.arange(n) + p)], 1)
    for n, p in zip(RNG.integers(3, 13, 48), RNG.uniform(0, 6, 48), strict=True)
]
WORDS = ["to be", "or not", "that is", "the question", "whether", "nobler", "in the mind", "aye"]
TEXTS = [str(word) for word in RNG.choice(WORDS, 64)]
SMALL = {"hidden": (8,), "latent_dim": 4, "epochs": 2, "batch_size": 16, "verbose": 0}
OPTIONS = {
    "plain": {},
    "feedback": {"feedback": True, "reverse": True},
    "attention": {"attention": True},
}


@cache
def fitted(data, architecture, options="plain"):
    given = SMALL | OPTIONS[options] | {"architecture": architecture, "modality": data}
    if options == "plain" and architecture != "transformer":
        given["bidirectional"] = True
    X = SERIES if data == "series" else TEXTS
    return narrows.SequenceAutoencoder(**given).fit(X)


def source(model, X, trims=True):
    array = model.modality_.read(X, "test")
    x, mask, lengths = model.modality_.encode(array)
    target = model.modality_.target(array)
    return InMemory(x, mask, target=target, lengths=lengths, trims=trims)


def batch(model, X=None, trims=True):
    X = X or (SERIES if model.modality == "series" else TEXTS)
    return source(model, X, trims).take(torch.arange(len(X)))


# -- padding and batches -----------------------------------------------------------------------


@every_architecture
@pytest.mark.parametrize("data", ["series", "text"])
@pytest.mark.parametrize("options", OPTIONS)
def test_padded_values_change_nothing(data, architecture, options):
    """Bit for bit, neither the code nor the likelihood nor what is written."""
    model = fitted(data, architecture, options)
    seen = batch(model)
    beyond = torch.arange(seen.x.shape[2]) >= seen.lengths[:, None, None]
    other = torch.full_like(seen.x, 3)
    changed = replace(seen, x=torch.where(beyond, other, seen.x))
    changed = replace(changed, target=torch.where(beyond, other, seen.target))
    assert not torch.equal(seen.x, changed.x)
    with torch.inference_mode():
        a, b = model.net_(seen), model.net_(changed)
        assert torch.equal(a.z, b.z)
        assert torch.equal(a.nll, b.nll)
        made = [model.net_.reconstruct(each, Plan()) for each in (seen, changed)]
    torch.testing.assert_close(*made, rtol=0, atol=0, equal_nan=True)


@every_architecture
@pytest.mark.parametrize("data", ["series", "text"])
def test_a_code_does_not_depend_on_its_batch(data, architecture):
    """Nor on how far the batch is padded."""
    model = fitted(data, architecture)
    X = SERIES if data == "series" else TEXTS
    whole, scores = model.transform(X), model.score_samples(X)
    for rows in ([0], [5, 1, 30], range(16), range(16, 48)):
        some = [X[i] for i in rows]
        np.testing.assert_allclose(model.transform(some), whole[list(rows)], atol=1e-6)
        np.testing.assert_allclose(model.score_samples(some), scores[list(rows)], rtol=1e-5)
    wide, trimmed = batch(model, X, trims=False), batch(model, X[:16])
    with torch.inference_mode():
        one, two = model.net_.code(wide)[:16], model.net_.code(trimmed)
    assert torch.equal(one, two) or architecture == "transformer"
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_steps_are_turned_within_each_sequence():
    x = torch.tensor([[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]])[:, :, None]
    lengths = torch.tensor([3, 5])
    assert flipped(x, lengths)[:, :, 0].tolist() == [[3, 2, 1, 0, 0], [5, 4, 3, 2, 1]]
    assert flipped(x, lengths, 1)[:, :, 0].tolist() == [[2, 1, 3, 0, 0], [4, 3, 2, 1, 5]]
    assert torch.equal(flipped(x, None), x.flip(1))


@every_architecture
def test_lengths_come_back(architecture):
    model = fitted("series", architecture)
    assert [len(s) for s in model.reconstruct(SERIES)] == [len(s) for s in SERIES]
    median = sorted(len(s) for s in SERIES)[len(SERIES) // 2]
    assert {len(s) for s in model.inverse_transform(model.transform(SERIES))} == {median}
    drawn = [len(s) for s in model.sample(400)]
    assert set(drawn) <= {len(s) for s in SERIES}
    assert np.mean(drawn) == pytest.approx(np.mean([len(s) for s in SERIES]), abs=0.6)


# -- sources -----------------------------------------------------------------------------------


def test_batches_hold_samples_of_about_one_length():
    lengths = torch.randint(1, 101, (4000,))
    x = torch.zeros(4000, 1, 100)
    plain, alike = (InMemory(x, lengths=lengths, trims=trims) for trims in (False, True))
    orders = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        batches = list(alike.batches(32, generator))
        orders.append(torch.cat([each.index for each in batches]))
    assert torch.equal(*orders)
    assert orders[0].sort().values.tolist() == list(range(4000))
    assert all(each.x.shape[2] == each.lengths.max() for each in batches)
    assert {each.x.shape[2] for each in plain.batches(32)} == {100}
    steps = sum(each.x.shape[0] * each.x.shape[2] for each in batches)
    assert steps < 1.1 * lengths.sum()
    widths = torch.tensor([each.x.shape[2] for each in batches], dtype=torch.float32)
    assert (widths[1:] - widths[:-1]).abs().mean() > 20  # short and long ones in turn
    assert not torch.equal(orders[0], torch.cat([b.index for b in alike.batches(32, generator)]))


def test_sources_without_lengths_are_as_they_were():
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    batches = InMemory(torch.zeros(10, 2), trims=True).batches(4, generator)
    assert torch.equal(torch.cat([each.index for each in batches]), order)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
def test_cells_are_full_where_the_processor_has_no_half_ones(kind, monkeypatch):
    monkeypatch.setattr(cores, "HALF_CELLS", False)
    reader, writer = Reader(kind, 3, (4, 4), 0.0, True), Writer(kind, 3, 2, (4, 5), 0.0)
    steps, code = torch.randn(2, 6, 3).bfloat16(), torch.randn(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        states, last = reader(steps, None)
        state = [part.bfloat16() for part in writer.begin(code)]
        written, _ = writer(steps, state)
    assert states.dtype == last.dtype == written.dtype == torch.float32
    torch.testing.assert_close(states, reader(steps.float(), None)[0])
    full, _ = writer(steps.float(), [part.float() for part in state])
    torch.testing.assert_close(written, full)


# -- attention ---------------------------------------------------------------------------------


def test_attention_weights_sum_to_one_and_see_no_padding():
    attention = Attention(6, 4)
    steps, states = torch.randn(3, 5, 6), torch.randn(3, 7, 4)
    seen = torch.arange(7) < torch.tensor([7, 1, 4])[:, None]
    weights = attention.weights(steps, states, seen)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 5))
    assert (weights[1, :, 1:] == 0).all()
    assert (weights[2, :, 4:] == 0).all()
    by_hand = torch.stack([weights[2, t] @ states[2] for t in range(5)])
    mixed = attention.mix(torch.cat([steps[2], by_hand], 1)).tanh()
    torch.testing.assert_close(attention(steps, states, seen)[2], mixed)


@pytest.mark.parametrize("data", ["series", "text"])
def test_attention_needs_the_sequence(data):
    model = fitted(data, "lstm", "attention")
    X = SERIES if data == "series" else TEXTS
    for call in (
        lambda: model.sample(2),
        lambda: model.inverse_transform(model.transform(X)),
        lambda: model.interpolate(X[0], X[1]),
    ):
        with pytest.raises(ContextError, match="Call reconstruct"):
            call()
    assert len(model.reconstruct(X)) == len(X)


# -- step by step ------------------------------------------------------------------------------


@every_architecture
@pytest.mark.parametrize("data", ["series", "text"])
@pytest.mark.parametrize("options", ["feedback", "attention"])
def test_the_likelihood_is_the_sum_of_its_steps(data, architecture, options):
    """Each through the cell that also generates, fed with the true steps before it."""
    if (data, options) == ("series", "attention"):
        return  # without feedback there is nothing to be fed
    model = fitted(data, architecture, options)
    net, seen = model.net_, batch(model)
    writer, lengths = net.writer, seen.lengths
    with torch.inference_mode():
        step = net(seen)
        code, context = net.latent.seen(step.z), net.encode(seen)[1]
        target = writer.turned(seen.target, lengths) if writer.backwards else seen.target
        mask = seen.mask
        state, value = writer.core.begin(code), None
        total = torch.zeros(len(seen))
        for t in range(seen.x.shape[2]):
            out, state = writer.advance(code, value, state, context)
            value = target[:, :, t : t + 1]
            total += net.likelihood.nll(out, value, mask[:, :, t : t + 1])
    torch.testing.assert_close(total, step.nll, rtol=1e-4, atol=1e-4)


def test_the_mean_of_a_series_feeds_back():
    """The reconstruction is a fixed point: teacher-forced on it, its means are itself."""
    model = fitted("series", "gru", "feedback")
    net, seen = model.net_, batch(model)
    with torch.inference_mode():
        made = net.reconstruct(seen, Plan())[:, :, : seen.x.shape[2]]
        beyond = made.isnan()
        assert torch.equal(beyond[:, 0], torch.arange(made.shape[2]) >= seen.lengths[:, None])
        again = replace(seen, target=made.nan_to_num())
        mean = net.likelihood.mean(net.complete(again, *net.encode(seen)).out)
    torch.testing.assert_close(mean[~beyond], made[~beyond], rtol=1e-4, atol=1e-5)


@every_architecture
def test_a_beam_finds_no_worse_text_than_greed(architecture):
    model = fitted("text", architecture)
    writer = model.net_.writer
    code = 3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        greedy, cost = unroll(writer, code, Plan(), ())
        one = beam(writer, code, Plan(beams=1), ())
        assert torch.equal(one, greedy)
        first = score_ids(model, model.net_.generate(code, Plan()), code)
        torch.testing.assert_close(first, cost, rtol=1e-4, atol=1e-3)
        for beams in (2, 5):
            found = score_ids(model, model.net_.generate(code, Plan(beams=beams)), code)
            assert (found <= first + 1e-3).all()
            assert (found < first - 0.1).any()


def score_ids(model, ids, code):
    """Return -log p of the numbers of symbols given codes."""
    lengths = ((ids[:, 0] != END).cumprod(1).sum(1) + 1).clamp(max=ids.shape[2])
    mask = (torch.arange(ids.shape[2]) < lengths[:, None])[:, None].float()
    out = model.net_.decoded(code, Batch(ids, ids, mask, lengths=lengths))
    return model.net_.likelihood.nll(out, ids, mask)


def test_draws_follow_the_temperature():
    model = fitted("text", "lstm")
    writer, code = model.net_.writer, torch.zeros(4000, 4)
    with torch.inference_mode():
        logits = writer.advance(code, None, writer.core.begin(code), ())[0][0, :, 0]
        logits[0] = -torch.inf  # nothing is padded before its end
        torch.manual_seed(0)
        for temperature in (0.5, 1.0, 2.0):
            first = unroll(writer, code, Plan(True, temperature), ())[0][:, 0, 0]
            shares = first.bincount(minlength=len(logits)) / len(first)
            expected = (logits / temperature).softmax(0)
            assert (shares - expected).abs().max() < 0.03
    again = model.sample(20, noise=True, seed=1)
    assert again == model.sample(20, noise=True, seed=1)
    assert len(set(again)) > 10


def test_beams_and_temperature_are_fields():
    model = fitted("text", "lstm")
    twins = [clone(model, beams=5), clone(model, temperature=0.1)]
    codes = 3 * np.random.default_rng(0).normal(size=(40, 4))
    assert twins[0].inverse_transform(codes) != model.inverse_transform(codes)
    assert twins[1].sample(9, noise=True) != model.sample(9, noise=True)
    assert twins[1].sample(9) == model.sample(9)


def clone(model, **changes):
    """The fitted model with other parameters that act after training."""
    return copy.deepcopy(model).set_params(**changes)


# -- what is learned ---------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "lstm"},
        {"architecture": "gru", "reverse": True, "bidirectional": True},
        {"architecture": "transformer", "attention": True},
    ],
    ids=["lstm", "gru", "transformer"],
)
def test_a_small_corpus_is_written_again_exactly(options):
    model = narrows.SequenceAutoencoder(
        hidden=(32,),
        latent_dim=8,
        epochs=60,
        batch_size=16,
        learning_rate=0.02,
        verbose=0,
        **options,
    ).fit(TEXTS)
    assert model.reconstruct(WORDS) == WORDS
    assert model.reconstruct(np.array(TEXTS)).tolist() == TEXTS
    if not options.get("attention"):
        assert model.inverse_transform(model.transform(WORDS)) == WORDS


@pytest.mark.wide
def test_free_bits_keep_the_code_that_collapses_without():
    letters = RNG.choice(list("abcd"), (300, 6))
    texts = ["".join(row) for row in letters]
    given = SMALL | {"hidden": (32,), "epochs": 15, "learning_rate": 0.01}
    bare = narrows.SequenceVAE(**given).fit(texts)
    kept = narrows.SequenceVAE(**given, free_bits=1.0).fit(texts)
    assert bare.history_[-1]["validation_kl"] < 0.1
    assert kept.unit_kl_.sum() > 3
    assert [f.level for f in bare.diagnose().findings if f.name == "collapse"] == ["problem"]
    assert next(f.name for f in kept.diagnose().findings if f.level == "good") == "units"


def test_sampled_inputs_replace_true_ones_as_training_goes_on():
    model = narrows.SequenceAutoencoder(**SMALL, teacher_forcing=0.0).fit(TEXTS)
    net, seen = model.net_, batch(model)
    net.train()
    forced = net.writer.put_out(net.code(seen), seen.x.shape[2], (), seen.target)
    for progress, same in ((0.0, True), (1.0, False)):
        net.writer.progress.fill_(progress)
        assert torch.equal(net(seen).out, forced) is same
    own = forced.clone()
    own[:, 0] = -torch.inf
    fed = net.writer.put_out(net.code(seen), seen.x.shape[2], (), own.argmax(1, keepdim=True))
    torch.testing.assert_close(net(seen).out, fed)


def test_word_dropout_hides_symbols_in_training_alone():
    model = narrows.SequenceAutoencoder(**SMALL, word_dropout=0.99).fit(TEXTS)
    writer, target = model.net_.writer, batch(model).target
    writer.train()
    hidden = writer.inputs(torch.ones_like(target))[:, :-1]
    shares = (writer.fed(target)[:, 1:] == hidden).all(2).float().mean()
    assert shares > 0.97
    writer.eval()
    torch.testing.assert_close(writer.fed(target)[:, 1:], writer.inputs(target)[:, :-1])


@pytest.mark.parametrize("data", ["series", "text"])
def test_training_resumes_exactly(data, tmp_path, monkeypatch):
    X = SERIES if data == "series" else TEXTS
    given = SMALL | {"architecture": "gru", "modality": data, "feedback": True, "epochs": 4}
    given |= {"teacher_forcing": 0.5, "word_dropout": 0.3}
    whole = narrows.SequenceVAE(**given).fit(X)

    def stop(model):
        if any((tmp_path / "run").iterdir()):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(narrows.SequenceVAE, "after_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            narrows.SequenceVAE(**given).fit(X, checkpoint=tmp_path / "run")
    resumed = narrows.SequenceVAE(**given)
    resumed.fit(X, checkpoint=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(resumed.transform(X), whole.transform(X))
    np.testing.assert_array_equal(resumed.score_samples(X), whole.score_samples(X))


def test_a_saved_model_writes_the_same(tmp_path):
    for model in (fitted("series", "lstm", "feedback"), fitted("text", "transformer")):
        model.save(tmp_path / model.modality)
        twin = narrows.load(tmp_path / model.modality)
        X = SERIES if model.modality == "series" else TEXTS
        for a, b in zip(twin.reconstruct(X), model.reconstruct(X), strict=True):
            assert np.array_equal(a, b)
        for a, b in zip(twin.sample(5), model.sample(5), strict=True):
            assert np.array_equal(a, b)


# -- every model -------------------------------------------------------------------------------


REFUSING = {
    "series": {"VAEGAN"},
    "text": {
        "ContractiveAutoencoder",
        "DenoisingAutoencoder",
        "ResidualAutoencoder",
        "VAEGAN",
        "VampPriorVAE",
    },
}


def taking_gru():
    for cls in narrows.MODELS.values():
        try:
            cls(architecture="gru").check_parameters()
        except ParameterError:
            continue
        if cls.__module__.startswith("narrows."):
            yield cls


@pytest.mark.parametrize("cls", list(taking_gru()))
@pytest.mark.parametrize("data", ["series", "text"])
def test_every_model_takes_sequences_or_says_why_not(cls, data):
    """A gated recurrent unit is an architecture like any other."""
    X, y = (SERIES if data == "series" else TEXTS)[:24], np.arange(24) % 3
    model = cls(**SMALL | {"architecture": "gru", "modality": data, "epochs": 1})
    if cls.__name__ in REFUSING[data]:
        with pytest.raises(ParameterError, match="Use"):
            model.fit(X, y)
        return
    model.fit(X, y)
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score_samples(X, y)).all()
    assert [type(made) for made in model.reconstruct(X, y)] == [type(x) for x in X]
    if cls is not narrows.ResidualAutoencoder:
        assert len(model.sample(3)) == len(model.interpolate(X[0], X[1], 3)) == 3


# -- settings that cannot act ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        ("series", {"beams": 3}, "'beams' parameter .* text with feedback"),
        ("series", {"temperature": 0.5}, "'temperature' parameter .* on text"),
        ("series", {"word_dropout": 0.5}, "'word_dropout' parameter .* without feedback"),
        ("series", {"teacher_forcing": 0.5}, "'teacher_forcing' parameter .* without feedback"),
        ("text", {"feedback": False, "beams": 2}, "'beams' parameter"),
        ("series", {"heads": 2}, "'heads' parameter .* architecture='transformer'"),
        ("text", {"architecture": "transformer", "hidden": (8, 6)}, "must be alike"),
        ("text", {"architecture": "transformer", "heads": 3}, "'heads'\n?.*must divide"),
        ("text", {"architecture": "gru", "hidden": ()}, r"gru.*hidden=\(\) leaves none"),
        ("series", {"architecture": "transformer", "hidden": ()}, r"hidden=\(\)"),
        ("series", {"likelihood": "poisson", "feedback": True}, "no whole numbers"),
    ],
)
def test_settings_that_cannot_act_are_refused(data, options, sentence):
    X = SERIES if data == "series" else TEXTS
    if options.get("likelihood") == "poisson":
        X = [np.full((3, 1), 2.0), np.full((4, 1), 5.0)]
    with pytest.raises(ParameterError, match=sentence):
        narrows.SequenceAutoencoder(**SMALL | {"modality": data} | options).fit(X)


def test_images_are_no_sequences():
    with pytest.raises(ParameterError, match=r"needs sequences.* which most models take"):
        narrows.Autoencoder(architecture="lstm").fit(np.eye(8, dtype=np.uint8)[None])


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_derivatives_that_torch_lacks_are_refused(architecture):
    model = narrows.ContractiveAutoencoder(**SMALL | {"architecture": architecture})
    with pytest.raises(ParameterError, match="Use architecture='gru'"):
        model.fit(np.random.default_rng(0).normal(size=(20, 5)))
