import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import narrows
from narrows import VAE, Autoencoder, LinearAutoencoder
from narrows.data.files import Dataset
from narrows.data.samples import load
from narrows.evaluation import evaluate, render
from narrows.evaluation.gallery import SERIES, STEPS
from narrows.evaluation.latent_map import Groups, view_of
from narrows.evaluation.markup import Markup, broken, number, percent, seconds_text, tag
from narrows.evaluation.pictures import Ink
from narrows.evaluation.report import layers
from narrows.evaluation.sequences import SPARK, sparks

QUICK = {"epochs": 3, "verbose": 0, "threads": 1}
RNG = np.random.default_rng(0)
DIGITS = load("digits")
FEW = Dataset(DIGITS.X[:150], DIGITS.y[:150], "digits", "image")
CANCER = load("breast_cancer")
ROWS = Dataset(CANCER.X.slice(0, 150), CANCER.y[:150], "breast_cancer", "table")
SECTIONS = ["pca", "reconstructions", "map", "samples", "training", "health", "run"]
EVIL = "<script>alert(1)</script>\"'&"


def report(model, dataset, command="narrows fit digits --model vae"):
    model.set_params(**QUICK)
    if dataset.modality != "auto":
        model.set_params(modality=dataset.modality)
    model.fit(dataset.X, dataset.y)
    rows = np.arange(len(dataset.X))
    test = model.held_out_ if len(model.held_out_) else rows
    train = np.setdiff1d(rows, model.held_out_)
    found = evaluate(model, dataset.X, train=train, test=test)
    return render(model, dataset, found, command=command, seconds=12.3)


class Page(HTMLParser):
    """Reads a page as a browser would, and notes what is in it."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words, self.data = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_startendtag(self, name, attributes):
        self.tags.append((name, dict(attributes)))

    def handle_starttag(self, name, attributes):
        assert name not in ("img", "input", "meta", "path"), f"<{name}> without its stroke"
        self.tags.append((name, dict(attributes)))
        self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        hidden = bool(self.open) and self.open[-1] in ("script", "style")
        (self.data if hidden else self.words).append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\u202f", " ").split())

    def all(self, name):
        return [attributes for found, attributes in self.tags if found == name]

    @property
    def map(self):
        return next(json.loads(text) for text in self.data if text.startswith("{"))


@pytest.fixture(scope="module")
def digits():
    return report(VAE(latent_dim=4), FEW)


@pytest.fixture(scope="module")
def table():
    return report(Autoencoder(latent_dim=4), ROWS)


@pytest.mark.parametrize("kind", ["digits", "table"])
def test_everything_is_there_and_well_formed(kind, request):
    page = request.getfixturevalue(kind)
    read = Page(page)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert ids == SECTIONS
    assert [a["href"] for a in read.all("a")] == [f"#{name}" for name in SECTIONS]
    assert [name for name, _ in read.tags if name in ("h1", "h2")] == ["h1"] + ["h2"] * 7
    assert all(image["alt"] for image in read.all("img"))
    assert all(drawing.get("aria-label") for drawing in read.all("svg") if "role" in drawing)
    assert read.all("html") == [{"lang": "en"}]
    for words in ("beside the model", "Best", "Median", "Worst", "PCA", "active", "nll", "mse"):
        assert words in read.text
    for words in ("narrows fit digits --model vae", "12 s", "samples/s", "epochs", "latent_dim"):
        assert words in read.text
    assert not re.search(r"\b(nan|inf)\b", read.text)
    drawn = [str(a) for name, a in read.tags if name in ("path", "rect", "line", "circle", "text")]
    assert not re.search(r"nan|inf", " ".join(drawn))


@pytest.mark.parametrize("kind", ["digits", "table"])
def test_nothing_is_loaded(kind, request):
    page = request.getfixturevalue(kind)
    for _, attributes in Page(page).tags:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(key, "#").startswith(("#", "data:image/"))
    own = re.sub(r"data:image/[^\"\\]*", "", page)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|WebSocket|sendBeacon|import\(", own)
    assert not re.search(r"https?://(?!arxiv|doi|icml|web\.stanford|openreview)", own)
    assert "default-src 'none'" in str(Page(page).all("meta"))


def test_says_what_was_trained_on_what(digits):
    text = Page(digits).text
    assert "VAE on digits" in text
    assert FEW.describe() in text
    assert "trained on 135, scored on 15 held out" in text
    assert "A Gaussian code whose posterior pays" in text
    assert "E[-log p(x | z)] + beta * s(t) * KL" in text
    assert "64 → 4" in text


def test_where_pca_is_better_the_report_names_the_path_that_starts_there():
    words = "linear_path=True starts there, and patience=10 keeps what is better"
    assert words in Page(report(Autoencoder(latent_dim=6), ROWS)).text
    assert words not in Page(report(Autoencoder(latent_dim=6, code_activation="tanh"), ROWS)).text
    assert words not in Page(report(Autoencoder(latent_dim=6, linear_path=True), ROWS)).text


def test_the_table_holds_the_numbers():
    model = VAE(latent_dim=4, modality="image", **QUICK).fit(FEW.X)
    train = np.setdiff1d(np.arange(150), model.held_out_)
    found = evaluate(model, FEW.X, train=train, test=model.held_out_)
    text = Page(render(model, FEW, found, command="", seconds=0.0)).text
    for scores in found.metrics.values():
        assert number(scores["mse"]).replace("\u202f", " ") in text
        assert percent(scores["explained_variance"]).replace("\u202f", " ") in text
        assert f"{scores['psnr']:.2f}" in text
        assert number(scores["log_likelihood"]) in text
    wins = int((found.errors["model"] < found.errors["pca"]).sum())
    shown = {0: "none", 15: "all"}.get(wins, wins)
    assert f"It reconstructs {shown} of the 15 held-out samples better than PCA" in text


def test_pictures_can_be_read(digits):
    sizes = {}
    for source in re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", digits):
        image = Image.open(io.BytesIO(base64.b64decode(source)))
        image.load()
        sizes[image.size] = sizes.get(image.size, 0) + 1
    assert sizes[8, 8] == 3 * 12  # original, model and PCA of the best, the median and the worst
    found = Page(digits).map
    sprite = Image.open(io.BytesIO(base64.b64decode(found["sprite"]["source"].split(",")[1])))
    pixels, i = np.asarray(sprite), 77
    left, top = (i % found["sprite"]["columns"]) * 8, (i // found["sprite"]["columns"]) * 8
    np.testing.assert_array_equal(pixels[top : top + 8, left : left + 8], FEW.X[found["rows"][i]])
    assert found["labels"][i] == str(FEW.y[found["rows"][i]])


@pytest.mark.parametrize("misfit", [True, False])
def test_where_the_prior_misfits_a_fitted_density_draws_beside_it(misfit, monkeypatch):
    nats = (lambda codes: 5.0) if misfit else (lambda codes: 0.0)
    monkeypatch.setattr("narrows.metrics.health.dependence", nats)
    text = Page(report(VAE(latent_dim=2), FEW)).text
    assert "codes drawn from the prior" in text
    assert ("codes drawn from a density fitted to the training codes" in text) == misfit


def test_rows_can_be_read(table):
    found = Page(table).map
    names, i = found["columns"], 77
    row = [float(found["facts"][i][k].replace("\u202f", "")) for k in range(len(names))]
    expected = [ROWS.X[name][found["rows"][i]].as_py() for name in names]
    np.testing.assert_allclose(row, expected, rtol=1e-3)
    assert "malignant" in Page(table).text


def test_size_of_the_digits_report():
    assert len(report(VAE(), DIGITS)) < 1_500_000


# The report on graphs is another one: see test_cli_graphs.py.
OF_ROWS = [
    name for name, cls in narrows.MODELS.items() if cls().__sklearn_tags__().input_tags.two_d_array
]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [(ROWS, name) for name in sorted(OF_ROWS)]
    + [
        pytest.param(FEW, name, marks=pytest.mark.wide)
        for name in sorted(OF_ROWS)
        if not name.startswith("Sequence")
    ],
)
def test_every_model(dataset, name):
    page = report(narrows.MODELS[name](latent_dim=3), dataset)
    assert f"{name} on {dataset.name}" in Page(page).text


def frame(n=60):
    X = pd.DataFrame(RNG.standard_normal((n, 4)), columns=list("abcd"))
    X = X.mask(RNG.random(X.shape) < 0.2)
    return X.assign(whole=RNG.integers(0, 9, n), flag=RNG.random(n) > 0.5, constant=1.0)


COUNTS = np.random.default_rng(0).poisson(3, (40, 5)).astype(float)
REALS = RNG.standard_normal((40, 5))
CASES = {
    "colour": (VAE(), Dataset(RNG.integers(0, 256, (40, 13, 17, 3), np.uint8), None, "c")),
    "reals": (VAE(), Dataset(RNG.random((40, 3, 8, 8)), np.arange(40), "r", "image")),
    "transparent": (VAE(), Dataset(RNG.random((40, 8, 8, 4)), None, "t", "image")),
    "wide pictures": (Autoencoder(), Dataset(RNG.random((20, 6, 200)), None, "w", "image")),
    "missing": (VAE(), Dataset(frame(), None, "frame", "table")),
    "one dimension": (VAE(latent_dim=1), FEW),
    "two dimensions": (VAE(latent_dim=2), FEW),
    "wider than the data": (Autoencoder(latent_dim=100), ROWS),
    "two images": (VAE(), Dataset(DIGITS.X[:2], DIGITS.y[:2], "two", "image")),
    "two rows": (Autoencoder(), Dataset(CANCER.X.slice(0, 2), CANCER.y[:2], "two", "table")),
    "one image": (VAE(), Dataset(DIGITS.X[:1], None, "one", "image")),
    "blank": (VAE(), Dataset(np.zeros((20, 5, 5), np.uint8), None, "blank", "image")),
    "all trained on": (VAE(validation=0.0), FEW),
    "bernoulli": (VAE(likelihood="bernoulli"), ROWS),
    "counts": (VAE(likelihood="negative_binomial"), Dataset(COUNTS, None, "c", "table")),
    "grey levels": (VAE(likelihood="discretised_logistic"), FEW),
    "collapsed": (VAE(beta=1e4), FEW),
    "real labels": (VAE(), Dataset(REALS, np.r_[np.nan, REALS[1:, 0]], "r", "table")),
    "words": (VAE(), Dataset(REALS, np.array(["long words as labels", "b"] * 20), "r", "table")),
    "one column": (LinearAutoencoder(), Dataset(REALS[:, :1], None, "r", "table")),
    "many columns": (VAE(), Dataset(RNG.standard_normal((40, 90)), None, "m", "table")),
    "no name": (VAE(), Dataset(REALS)),
    "series": (VAE(), Dataset(RNG.standard_normal((40, 12, 2)), np.arange(40) % 2, "s", "series")),
    "gaps": (VAE(), Dataset(np.where(REALS > 1, np.nan, REALS), None, "g", "series")),
    "lengths": (
        VAE(),
        Dataset([row[: 1 + i % 5] for i, row in enumerate(REALS)], None, "l", "series"),
    ),
    "text": (VAE(), Dataset([EVIL, "", "two words", "é" * 300] * 10, None, "t", "text")),
    "one string": (Autoencoder(), Dataset(["one"], None, "o", "text")),
}


@pytest.mark.filterwarnings("ignore:Every channel of X is constant")
@pytest.mark.parametrize("case", CASES)
def test_edges(case):
    model, dataset = CASES[case]
    read = Page(report(model, dataset))
    assert [a["id"] for _, a in read.tags if "id" in a] == SECTIONS
    held_out = len(model.held_out_) > 0
    assert ("no held-out data" in read.text) != held_out
    assert ("There is no held-out data" in read.text) != held_out


def test_pca_that_keeps_everything_is_no_yardstick():
    assert "PCA is exact here" in Page(report(VAE(latent_dim=30), ROWS)).text


def test_text_of_users_cannot_become_markup():
    X = pd.DataFrame({EVIL: REALS[:, 0], "</style>": REALS[:, 1], "<b>": REALS[:, 2]})
    dataset = Dataset(X, np.array([EVIL, "</script><img src=x>"] * 20), EVIL, "table")
    page = report(VAE(latent_dim=2), dataset, command=f"narrows fit '{EVIL}'")
    read, plain = Page(page), Page(report(VAE(latent_dim=2), Dataset(REALS, None, "r", "table")))
    assert len(read.all("script")) == len(plain.all("script"))
    assert not [a for name, a in read.tags if name == "b" and a] + read.all("img")
    assert not any(key.startswith("on") for _, a in read.tags for key in a)
    assert f"VAE on {' '.join(EVIL.split())}" in read.text
    assert EVIL in read.map["labels"]
    assert EVIL in read.map["columns"]


def test_strings_are_shown_and_measured():
    texts = ["<b>one</b>", "two & three", "four"] * 15
    model = Autoencoder(latent_dim=8, hidden=(64,), batch_size=16)
    page = report(model, Dataset(texts, None, "strings", "text"))
    read = Page(page)
    assert "45 strings" in read.text
    assert "Symbols that are right" in read.text
    assert "<b>one</b>" in read.text
    assert {fact for facts in read.map["facts"] for fact in facts} == set(texts)


def test_series_are_drawn_channel_by_channel():
    X = np.sin(np.arange(20)[:, None] / 3 + np.arange(40)[:, None, None]) * [1, 100]
    read = Page(report(VAE(latent_dim=2), Dataset(X, None, "waves", "series")))
    alts = [a["aria-label"] for a in read.all("svg") if "aria-label" in a]
    for kind in ("Best", "Median", "Worst"):
        assert sum(alt.startswith(f"{kind}: channel") for alt in alts) == 2
    assert "40 series of 20 × 2" in read.text


def test_a_constant_channel_is_drawn_beside_its_original_alone():
    waves = np.sin(np.arange(20)[:, None] / 3 + np.arange(40)[:, None, None]) * [1, 0, 100]
    page = report(VAE(latent_dim=2), Dataset(waves + 7, None, "waves", "series"))
    alts = [a["aria-label"] for a in Page(page).all("svg") if "aria-label" in a]
    assert sum(alt.startswith("Best: channel 1") for alt in alts) == 1
    drawn = [alt for alt in alts if alt.startswith(("series", "step"))]
    assert len(drawn) == SERIES + STEPS
    assert all(alt.endswith(": channel 0, channel 2") for alt in drawn)


def test_fields_that_differ():
    read = Page(report(VAE(latent_dim=5, beta=2.5), FEW))
    tables = [a for a in read.all("table") if a.get("class") == "fields"]
    assert len(tables) == 2
    changed = read.text.split("Fields that differ from the defaults")[1].split("All ")[0]
    for words in ("latent_dim 5 8", "beta 2.5 1.0 weight of the KL divergence.", "epochs 3"):
        assert words in changed
    assert "dropout" not in changed
    assert "dropout" in read.text


def test_rendering_changes_nothing():
    model = VAE(latent_dim=3, modality="image", **QUICK).fit(FEW.X)
    train, test = np.setdiff1d(np.arange(150), model.held_out_), model.held_out_
    before = model.reconstruct(FEW.X)
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - it must stay as it is
    found = evaluate(model, FEW.X, train=train, test=test)
    first = render(model, FEW, found, command="x", seconds=1.0)
    again = render(model, FEW, found, command="x", seconds=1.0)
    assert re.sub(r" on \d{4}-[^.]*", "", first) == re.sub(r" on \d{4}-[^.]*", "", again)
    np.testing.assert_array_equal(model.reconstruct(FEW.X), before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert not any(module._forward_hooks for module in model.net_.modules())


# -- parts -------------------------------------------------------------------------------------


def test_markup_escapes_all_but_markup():
    found = tag("p", "<b>", Markup("<b></b>"), title='"')
    assert found == '<p title="&quot;">&lt;b&gt;<b></b></p>'
    assert tag("img", alt="", hidden=True, width=None, z=1.5) == '<img alt="" hidden z="1.5"/>'
    assert broken("VQVAE<i>") == "<wbr/>VQVAE&lt;i&gt;"
    assert broken("SparseAutoencoder") == "<wbr/>Sparse<wbr/>Autoencoder"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5.0, "5"),
        (1797, "1 797"),
        (-12.345, "−12.35"),
        (0.001234, "0.001234"),
        (9.9999, "10.00"),
        (1234567, "1 234 567"),
        (-3.2e-7, "−3.20 × 10⁻⁷"),
        (2.5e12, "2.50 × 10¹²"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
    ],
)
def test_numbers_are_written_as_people_write_them(value, text):
    assert number(value).replace("\u202f", " ") == text


def test_shares_and_times():
    found = [percent(0.1234), percent(1.0), percent(0.99996), percent(-0.5), percent(float("nan"))]
    assert [text.replace("\u202f", " ") for text in found] == [
        "12.3 %", "100.0 %", "99.996 %", "−50.0 %", "–",
    ]  # fmt: skip
    found = [seconds_text(s).replace("\u202f", " ") for s in (0.42, 23.4, 250, 7500)]
    assert found == ["0.4 s", "23 s", "4 min 10 s", "2 h 5 min"]


def test_labels_become_groups():
    few = Groups.of(np.array([3, 1, 10, 1]), 4)
    assert (few.names, few.member.tolist()) == (["1", "3", "10"], [1, 0, 2, 0])
    many = Groups.of(np.repeat(np.arange(30), 2), 60)
    assert many.names[-1] == "20 others"
    assert len(many.names) == len(many.styles) == 11
    reals = Groups.of(np.linspace(0, 1, 61), 61)
    assert reals.names[0].startswith("0 to")
    assert reals.member[[0, 60]].tolist() == [0, 5]
    assert Groups.of(None, 3).names == []
    assert Groups.of(np.array([None, "a", 2, "a"], dtype=object), 4).names == ["2", "None", "a"]


def test_the_map_keeps_its_shape():
    points = np.array([[0.0, 0.0], [2.0, 1.0], [4.0, 2.0]])
    view = view_of(points)
    placed = view.place(points)
    np.testing.assert_allclose(placed[1], placed.mean(0))
    assert (placed > 0).all()
    assert placed[0, 1] > placed[2, 1]  # up is up
    steps = placed[2] - placed[0]
    assert steps[0] == pytest.approx(-2 * steps[1])
    assert np.isfinite(view_of(np.zeros((1, 2))).place(np.zeros((1, 2)))).all()


def test_ink_takes_the_limits_of_the_type():
    assert Ink.of(np.zeros((1, 1, 2, 2), np.uint8)) == Ink(0.0, 255.0)
    assert Ink.of(np.full((1, 1, 2, 2), 0.5)) == Ink(0.0, 1.0)
    grey = Ink(-1.0, 1.0).draw(np.array([[[[-1.0, 0.0], [1.0, 5.0]]]]))
    np.testing.assert_array_equal(grey, [[[0, 128], [255, 255]]])
    small = Ink(0.0, 1.0).draw(np.ones((2, 3, 33, 47)), longest=16)
    assert small.shape == (2, 11, 15, 3)


def test_text_is_judged_by_its_symbols():
    words = ["ethane", "methane", "propane", "butane", "pentane"] * 8
    model = Autoencoder(latent_dim=2, hidden=(16,), modality="text")
    read = Page(report(model, Dataset(words, None, "words", "text")))
    found = evaluate(model, words, train=np.arange(36), test=model.held_out_).metrics
    wrong = [percent(1 - found[owner]["accuracy"]).replace("\u202f", " ") for owner in found]
    assert f"gets {wrong[0]} of their symbols wrong, where PCA gets {wrong[1]}" in read.text
    assert "share of wrong symbols" in read.text
    assert "strings that are right" in read.text


def test_series_are_drawn_on_the_map():
    X = np.sin(np.arange(40)[:, None] + np.arange(30) / 3)
    read = Page(
        report(Autoencoder(latent_dim=2, modality="series"), Dataset(X, None, "", "series"))
    )
    assert (read.map["sprite"]["height"], read.map["sprite"]["width"]) == SPARK
    rise, gap = sparks(np.array([[-1.0, 1.0], [1.0, np.nan]])).min(3) < 255
    assert rise[-2, 0]
    assert rise[1, -1]
    assert (rise.any(0)).all()
    assert not gap[:, -1].any()


def test_a_layer_is_drawn_once_however_often_it_is_passed():
    words = ["ethane", "methane", "propane", "butane"] * 5
    model = narrows.SequenceAutoencoder(hidden=(8,), latent_dim=3, **QUICK).fit(words)
    sizes, code = layers(model, words[:1])
    assert sizes[code] == 3
    assert len(sizes) < 12  # and not one for each letter
