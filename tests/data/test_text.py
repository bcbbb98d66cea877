"""Text: strings go to numbers and back without loss; what is unknown or too long is told."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import tokenizers
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import narrows
from narrows import VAE, Autoencoder
from narrows.data.modalities import Modality, Text, modality_of
from narrows.data.sources import Batch
from narrows.data.symbols import KINDS
from narrows.errors import DataError, FileError, MissingExtraError, ParameterError
from narrows.parts.levels import Categorical

QUICK = {"latent_dim": 2, "hidden": (16,), "epochs": 3, "verbose": 0}
SMILES = ["CCl", "c1ccccc1Br", "[C@@H](N)C", "C%12CC%12", "", "CC(=O)O"] * 5
anything = settings(max_examples=80, deadline=None)
texts = st.lists(st.text(max_size=12), min_size=1, max_size=6)
plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def learned(X, **fields):
    form = modality_of(X, "text", **fields)
    array = form.read(X, "test")
    return form.learn(array, "standard").counted(array, "levels"), array


# -- numbers ----------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_contract():
    modality, array = learned(["ba", "", "bab"])
    x, mask, lengths = modality.encode(array)
    assert (modality.shape, modality.levels, modality.vocabulary) == ((1, 4), 5, ("a", "b"))
    assert x.dtype == torch.int64
    assert x.tolist() == [[[4, 3, 2, 0]], [[2, 0, 0, 0]], [[4, 3, 4, 2]]]
    assert mask.tolist() == [[[1, 1, 1, 0]], [[1, 0, 0, 0]], [[1, 1, 1, 1]]]
    assert lengths.tolist() == [3, 1, 4]
    assert modality.target(array).tolist() == x.float().tolist()
    other = modality.encode(modality.read(["bxa"], "test"))
    assert other.x.tolist() == [[[4, 1, 3, 2]]]
    assert other.mask is None
    assert other.lengths is None
    assert modality.decode(other.x.float()) == ["b\N{REPLACEMENT CHARACTER}a"]


@anything
@given(X=texts, kind=st.sampled_from(list(KINDS)))
@example(X=["[0\x80\x80\x80]"], kind="smiles")  # brackets are atoms where they hold ASCII alone
def test_strings_come_back(X, kind):
    modality, array = learned(X, symbols=kind)
    assert modality.decode(modality.encode(array).x.float()) == X
    if kind != "smiles":
        assert list(modality.vocabulary) == sorted(modality.vocabulary)
    assert Modality.restore(json.loads(json.dumps(modality.state()))) == modality


@anything
@given(X=st.lists(plain, min_size=1, max_size=4), window=st.integers(1, 9), data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_back_from_their_windows(kind, X, window, data):
    stride = data.draw(st.integers(1, window))
    modality, array = learned(X, window=window, stride=stride, symbols=kind)
    x = modality.encode(array).x
    assert modality.decode(x, like=X) == X
    pieces = modality.samples(X, "test")
    assert len(pieces) == len(x) == len(modality.spans(X))
    assert torch.equal(modality.encode(modality.read(pieces, "test")).x, x)


def test_atoms_and_bonds_are_symbols():
    modality, _ = learned(SMILES, symbols="smiles")
    assert {"Cl", "Br", "[C@@H]", "%12", "c", "=", "("} <= set(modality.vocabulary)
    assert modality.lengths(["CCl", "[C@@H]Br"]) == [2, 2]


def test_bytes_know_every_text():
    modality, _ = learned(["abc"], symbols="bytes")
    assert modality.levels == 259
    x = modality.encode(modality.read(["é"], "test")).x
    assert (x == 1).sum() == 0
    assert modality.decode(x) == ["é"]
    assert modality.decode(x[:, :, 1:]) == ["\N{REPLACEMENT CHARACTER}"]  # half of it


def test_the_vocabulary_is_that_of_the_training_strings():
    X = ["ab", "ba", "aab"] * 6 + ["xy", "yx"]
    model = Autoencoder(validation=0.1, validation_split="last", **QUICK).fit(X)
    assert model.modality_.vocabulary == ("a", "b")
    assert np.isfinite(model.score_samples(X)).all()


# -- models -----------------------------------------------------------------------------------


def forms(X):
    return {
        "list": X,
        "tuple": tuple(X),
        "array": np.array(X),
        "object array": np.array(X, object),
        "pandas series": pd.Series(X, range(5, 5 + len(X)), name="s"),
        "polars series": pl.Series("s", X),
        "pandas frame": pd.DataFrame({"s": X}),
        "polars frame": pl.DataFrame({"s": X}),
    }


@pytest.mark.parametrize("form", forms(SMILES))
def test_a_model_of_text_keeps_its_promises(form, tmp_path):
    X = forms(SMILES)[form]
    name = "text" if "frame" in form else "auto"
    model = VAE(modality=name, **QUICK).fit(X)
    made = model.reconstruct(X)
    assert type(made) is (list if form == "tuple" else type(X))
    assert len(made) == len(X)
    assert list(np.ravel(made)) == VAE(**QUICK).fit(SMILES).reconstruct(SMILES)
    if form == "pandas series":
        pd.testing.assert_index_equal(made.index, X.index)
    assert model.transform(X).shape == (30, 2)
    assert all(isinstance(text, str) for text in model.sample(4))
    assert len(model.inverse_transform(model.transform(X)[:3])) == 3
    assert len(model.interpolate("CCl", ["CBr"], 4)) == 4
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    np.testing.assert_array_equal(twin.score_samples(X), model.score_samples(X))


def test_a_model_learns_strings():
    X = ["hello", "world", "help", "", "wool"] * 20
    model = Autoencoder(latent_dim=8, hidden=(64,), epochs=80, verbose=0, batch_size=32).fit(X)
    assert model.reconstruct(X) == X
    assert model.history_[-1]["mse"] == 0  # the share of wrong symbols
    assert model.score_samples(["hello"]) > model.score_samples(["oellh"])


def test_one_text_comes_back_as_one_text():
    X = "to be or not to be, " * 20
    model = Autoencoder(modality="text", window=16, stride=12, **QUICK).fit(X)
    assert isinstance(model.reconstruct(X), str)
    assert len(model.transform(X)) == len(model.modality_.spans(X)) == 33
    assert model.modality_.spread(X, model.score_samples(X)).shape == (400,)


def test_a_file_is_one_string_a_line_or_one_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\N{BOM}one\r\ntwo\n\nthrée\n".encode())
    assert modality_of(path, "text").lengths(path) == [3, 3, 0, 5]
    assert modality_of(path, "text", window=4).lengths(path) == [15]


def test_the_likelihood_follows_the_modality():
    assert isinstance(VAE(**QUICK).fit(SMILES).net_.likelihood, Categorical)
    X = np.random.default_rng(0).normal(size=(40, 3))
    auto, said = (VAE(likelihood=name, **QUICK).fit(X) for name in ("auto", "gaussian"))
    np.testing.assert_array_equal(auto.transform(X), said.transform(X))
    for name in ("gaussian", "bernoulli", "discretised_logistic", "poisson"):
        with pytest.raises(ParameterError, match=r"symbols of a text .*'categorical'"):
            VAE(likelihood=name, **QUICK).fit(SMILES)


def test_symbols_are_put_out_and_scored_as_symbols():
    out = torch.log(torch.tensor([[0.5, 0.1, 0.4]])).view(1, 3, 1)
    nominal = Categorical(levels=3, nominal=True)
    x = torch.tensor([[[2.0]]])
    assert nominal.mean(out).item() == 0
    assert Categorical(levels=3).mean(out).item() == pytest.approx(0.9)
    assert nominal.error(out, x).item() == 1
    assert nominal.error(out, torch.zeros(1, 1, 1)).item() == 0
    assert nominal.nll(out, x).item() == pytest.approx(-np.log(0.4), rel=1e-5)


def test_the_encoder_sees_symbols_one_hot():
    model = Autoencoder(architecture="linear", **QUICK | {"hidden": None}).fit(SMILES)
    modality = model.modality_
    array = modality.read(SMILES[:3], "test")
    x = modality.encode(array).x
    hot = torch.from_numpy(modality.values(array)).transpose(1, 2)
    assert hot.shape == (3, modality.levels, modality.shape[1])
    assert torch.equal(hot.argmax(1), x[:, 0])
    layer = model.net_.encoder.encoder
    assert torch.equal(model.net_.encode(Batch(x, x))[0], layer(Batch(hot, hot)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (narrows.DenoisingAutoencoder(), "calculates with the values of x"),
        (narrows.ContractiveAutoencoder(), "calculates with the values of x"),
        (narrows.VampPriorVAE(), "calculates with the values of x"),
        (narrows.TopKAutoencoder(), "calculates with the values of x"),
        (narrows.VAEGAN(), "calculates with the values of x"),
        (narrows.StackedAutoencoder(), "calculates with the values of x"),
        (narrows.ResidualAutoencoder(), "calculates with the values of x"),
        (narrows.ComposedAutoencoder(corruption="masking"), "calculates with the values of x"),
        (narrows.ComposedAutoencoder(penalties={"jacobian": 1.0}), "calculates with the values"),
        (VAE(linear_path=True), "'linear_path' parameter of VAE needs numbers, not symbols"),
        (VAE(scaling="minmax"), "scaling and output_activation have no effect on text"),
        (VAE(scale=1.0), "'scale' parameter .* has no effect with likelihood='categorical'"),
    ],
)
def test_what_means_nothing_for_text_is_refused(model, words):
    with pytest.raises(ParameterError, match=words):
        model.set_params(epochs=2, verbose=0).fit(SMILES)


# -- sentences --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "fields", "words"),
    [
        ([], {}, "0 sample"),
        (["a", None], {}, "Entry 1 of X is missing; text must be strings"),
        (["a", float("nan")], {}, "Entry 1 of X is missing"),
        (["a", 3], {}, "Entry 1 of X is of type int; text must be strings"),
        (["a", b"b"], {}, "Entry 1 of X is of type bytes.* decode it"),
        (["a", None], {"modality": "auto"}, "Entry 1 of X is missing; .* Drop it, or put ''"),
        ([b"a"], {"modality": "auto"}, "Entry 0 of X is of type bytes"),
        (np.array(["a", 3], object), {"modality": "auto"}, "Entry 1 of X is of type int"),
        ("abc", {}, "X is one string. Give a list of strings, or set window="),
        (3, {}, "modality='text' needs a list of strings.* X is int"),
        (np.zeros((2, 2)), {}, "modality='text' needs a list of strings"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), {}, "needs one column of strings; X has 2"),
        (["a\ud800"], {}, "String 0 of X holds half a character .* position 1"),
        (["a"], {"symbols": "byte"}, "'symbols' .* Got 'byte' instead. Did you mean 'bytes'"),
        (["a"], {"stride": 2}, "stride=2 .* has no effect without one"),
        (["a"], {"window": 2, "stride": 3}, "stride=3 is larger than window=2"),
        (["a"], {"modality": "image", "window": 2}, "'window' .* with modality='image'"),
        (Path("nowhere.txt"), {}, "nowhere.txt' does not exist"),
    ],
)
def test_bad_text_meets_a_sentence(X, fields, words):
    with pytest.raises((DataError, ParameterError, FileError), match=words):
        VAE(**QUICK | {"modality": "text"} | fields).fit(X)


def test_a_file_that_is_no_text_meets_a_sentence(tmp_path):
    path = tmp_path / "a.txt"
    for content, words in {
        b"one\ntw\xff\n": "not UTF-8 text: line 2 holds the byte 0xff",
        b"a\0b": "holds NUL bytes",
        b"": "is empty",
    }.items():
        path.write_bytes(content)
        with pytest.raises((DataError, FileError), match=words):
            VAE(modality="text", **QUICK).fit(path)


def test_a_path_can_only_be_a_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("ab\nc\n", "utf-8")
    assert VAE(**QUICK).fit(path).transform(path).shape == (2, 2)


def test_codes_of_windows_are_labelled_with_their_strings():
    X = pd.Series(["one and two", "three"], index=["x", "y"])
    model = VAE(window=4, **QUICK).set_output(transform="pandas").fit(X)
    assert model.transform(X).index.tolist() == ["x", "x", "x", "y", "y"]
    whole = VAE(**QUICK).set_output(transform="pandas").fit(X)
    assert whole.transform(X).index.tolist() == ["x", "y"]


def test_longer_strings_than_those_of_the_fit_are_refused():
    model = VAE(**QUICK).fit(["abc", "ab"])
    with pytest.raises(DataError, match="String 1 of X has 4 symbols, more than the 3 of the"):
        model.transform(["a", "abca"])


@pytest.mark.parametrize(
    "state",
    [{"levels": 9}, {"vocabulary": ["a"]}, {"kind": "words"}, {"window": 2}, {"shape": [1]}],
)
def test_a_damaged_state_is_refused(state):
    modality, _ = learned(["ab"])
    with pytest.raises(DataError, match="do not fit"):
        Modality.restore(modality.state() | state)


# -- tokenisers -------------------------------------------------------------------------------


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(
        (FileError, MissingExtraError), match=r"narrows\[text\]|no file of the tokeni"
    ):
        VAE(symbols=str(path), **QUICK).fit(SMILES)


def test_a_given_tokenizer_makes_the_symbols(tmp_path):
    words = {"[UNK]": 0, "hello": 1, "world": 2, "again": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    X = ["hello world", "hello", "world hello world"]
    modality, array = learned(X, symbols=str(path))
    assert modality.shape == (1, 4)
    assert modality.vocabulary == ("hello", "world")
    with pytest.raises(ParameterError, match="window cuts texts between characters"):
        modality_of(X, "text", symbols=str(path), window=2)
    path.unlink()  # it is part of the modality
    twin = Modality.restore(json.loads(json.dumps(modality.state())))
    assert twin.decode(twin.encode(array).x) == X
    assert twin.encode(twin.read(["again"], "test")).x.tolist() == [[[1, 2, 0, 0]]]
    assert isinstance(twin, Text)


def test_an_array_is_no_string():
    with pytest.raises(DataError, match="Entry 0 of X is of type ndarray"):
        modality_of([np.zeros(2)] * 3, "text")


@pytest.mark.parametrize("window", [None, 2])
def test_an_empty_string_that_is_held_out_is_no_training_sample(window):
    X = ["", "abcd"] * 20
    options = {"validation": 0.5, "window": window}
    model = VAE(latent_dim=2, hidden=(4,), epochs=1, verbose=0, **options).fit(X)
    held = model.held_out_
    spans = model.modality_.spans(X)
    assert (spans[held, 1] == spans[held, 2]).any()
    assert not np.intersect1d(model.modality_.apart(X, held), held).size
    assert len(model.modality_.apart(X, held)) == len(spans) - len(held)


def test_new_strings_need_not_be_among_the_categories():
    like = pl.Series("s", ["ab", "b"], dtype=pl.Enum(["ab", "b"]))
    text, _ = learned(["ab", "b"])
    made = text.decode(torch.tensor([[[3, 3, 2]], [[4, 2, 0]]]), like=like)
    assert made.to_list() == ["aa", "b"]
