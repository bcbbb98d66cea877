"""What is hidden and what is seen: the cut into tokens, the masked loss, and what comes of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import narrows
from narrows.data.modalities import Image, Table
from narrows.data.sources import Batch
from narrows.errors import ContextError, ParameterError
from narrows.parts.likelihoods import LIKELIHOODS
from narrows.parts.transformers import Block, Tokens, scatter, waves

FORMS = {
    "table": (Table((9,)), 9),
    "image": (Image((2, 6, 7)), 2),  # patches of 3 do not divide 7
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def masked_net(form, **options):
    """A net in double precision for data of a form, and samples for it."""
    modality, scales = FORMS[form]
    modality = replace(modality, center=(0.0,) * scales, scale=(1.0,) * scales)
    options = {"latent_dim": 4, "hidden": (8, 8), "heads": 2} | options
    if form == "image":
        options |= {"patch_size": 3}
    net = narrows.MaskedAutoencoder(**options).build(modality).double()
    return net, torch.randn(5, *modality.shape, dtype=torch.float64)


def masked(net, batch, ratio=0.5):
    """One masked pass, with the same tokens hidden every time."""
    torch.manual_seed(3)
    return net.masked(batch, ratio)


# -- tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "patch"), [(6, 6, 3), (6, 7, 3), (5, 1, 4), (2, 2, 9)]
)
def test_an_image_is_cut_and_joined_without_loss(height, width, patch):
    x = torch.randn(3, 2, height, width)
    tokens = Tokens((2, height, width), patch)
    cut = tokens.cut(x)
    assert cut.shape == (3, tokens.count, tokens.values)
    assert torch.equal(tokens.join(cut), x)
    corner = torch.nn.functional.pad(x, (0, patch, 0, patch))[:, :, :patch, :patch]
    assert torch.equal(cut[:, 0], corner.flatten(1))
    doubled = tokens.join(torch.cat([cut, -cut], 2))  # two channels a value
    assert torch.equal(doubled, torch.cat([x, -x], 1))


def test_a_row_is_cut_into_cells():
    x = torch.randn(3, 5)
    tokens = Tokens((5,), 4)
    assert torch.equal(tokens.join(tokens.cut(x)), x)
    assert torch.equal(tokens.join(torch.stack([x, -x], 2)), torch.cat([x, -x], 1))


def test_positions_differ_and_scatter_puts_tokens_at_their_places():
    places = torch.cartesian_prod(torch.arange(7), torch.arange(9))
    assert len(waves(places, 10, 1.0, 100.0).unique(dim=0)) == 63
    tokens, places = torch.randn(2, 2, 3), torch.tensor([[3, 0], [1, 2]])
    whole = scatter(tokens, places, 4)
    assert torch.equal(whole[0, 3], tokens[0, 0])
    assert torch.equal(whole[1, 2], tokens[1, 1])
    assert int((whole != 0).sum()) == 12


def test_a_block_is_the_attention_of_the_books():
    """Against torch's own pre-norm encoder layer with the same weights."""
    block = Block(8, 2, "gelu", 0.0).double()
    twin = torch.nn.TransformerEncoderLayer(
        8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    names = {
        "norm1": block.before_attention,
        "norm2": block.before_dense,
        "self_attn.out_proj": block.mix,
        "linear1": block.dense[0],
        "linear2": block.dense[2],
    }
    state = {f"{n}.{k}": v for n, m in names.items() for k, v in m.state_dict().items()}
    state["self_attn.in_proj_weight"] = block.query_key_value.weight
    state["self_attn.in_proj_bias"] = block.query_key_value.bias
    twin.load_state_dict(state)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), twin(x))


# -- the masked loss --------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 0.99])
def test_the_hidden_share_is_exact(form, ratio):
    net, x = masked_net(form)
    tokens = net.encoder.tokens
    step = masked(net, Batch(x, x), ratio)
    hidden = tokens.cut(step.batch.mask).amax(2).sum(1)
    expected = min(max(1, round(ratio * tokens.count)), tokens.count - 1)
    assert (hidden == expected).all()
    assert len(step.batch.mask.unique(dim=0)) > 1  # not the same for every sample


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_visible_targets_do_not_change_the_loss_and_hidden_inputs_not_the_answer(form, likelihood):
    net, x = masked_net(form, likelihood=likelihood)
    x = x.sigmoid()
    step = masked(net, Batch(x, x))
    hidden = step.batch.mask
    other = torch.rand_like(x)
    changed = masked(net, Batch(x, torch.where(hidden > 0, x, other)))
    assert torch.equal(changed.nll, step.nll)
    blind = masked(net, Batch(torch.where(hidden > 0, other, x), x))
    assert torch.equal(blind.out, step.out)
    assert torch.equal(blind.nll, step.nll)
    moved = masked(net, Batch(x, torch.where(hidden > 0, other, x)))
    if likelihood != "categorical":  # it has a single level here, which is always right
        assert (moved.nll != step.nll).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_nll_is_the_sum_over_the_hidden_values(form):
    net, x = masked_net(form, scale=1.0)
    step = masked(net, Batch(x, x))
    mask = step.batch.mask
    expected = (0.5 * ((step.out - x).square() + np.log(2 * np.pi)) * mask).flatten(1).sum(1)
    torch.testing.assert_close(step.nll, expected)
    hidden = ((step.out - x).square() * mask).sum() / mask.sum()
    torch.testing.assert_close(net.statistics(step)["mse"], hidden)


def test_missing_cells_do_not_count_among_the_hidden():
    net, x = masked_net("table", scale=1.0)
    observed = (torch.rand_like(x) > 0.4).double()
    step = masked(net, Batch(x, x, mask=observed))
    whole = masked(net, Batch(x, x))
    assert torch.equal(step.batch.mask, whole.batch.mask * observed)
    assert (step.nll < whole.nll).any()


@pytest.mark.parametrize("form", FORMS)
def test_what_was_not_observed_is_not_seen(form):
    """Neither the code nor what is told depends on it, bit for bit; even where nothing is left."""
    net, x = masked_net(form)
    net.eval()
    observed = torch.ones_like(x)
    observed[0, ..., -4:] = 0  # whole patches
    observed[1] = 0
    other = torch.where(observed == 0, 7.0, x)
    a, b = (net(Batch(each, x, mask=observed)) for each in (x, other))
    assert torch.equal(a.h[0], b.h[0])
    assert torch.equal(a.nll[[0, 2]], b.nll[[0, 2]])
    assert torch.isfinite(a.h).all()
    assert not torch.equal(a.h[0], net(Batch(x, x)).h[0])


# -- what comes of it -------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_sees_every_token_and_the_code_is_their_mean(form):
    net, x = masked_net(form)
    code = net.code(Batch(x, x))
    torch.testing.assert_close(code, net.encoder.see(x).mean(1))
    for value in range(x[0].numel()):  # each value of the first sample matters
        other = x.clone()
        other[0].view(-1)[value] += 1
        assert not torch.equal(net.code(Batch(other, other))[0], code[0])
        assert torch.equal(net.code(Batch(other, other))[1:], code[1:])


@pytest.mark.wide
def test_hidden_cells_are_told_from_the_others_they_depend_on():
    """Columns in pairs: what is hidden is the visible twin; one in five hides beside its twin."""
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((600, 3))
    X = np.concatenate([pairs, -pairs], 1)
    model = narrows.MaskedAutoencoder(
        latent_dim=8, hidden=(16,), heads=2, mask_ratio=1 / 3, epochs=40, learning_rate=1e-2
    ).fit(X)
    assert model.history_[0]["validation_mse"] > 0.8
    assert model.history_[-1]["validation_mse"] == pytest.approx(1 / 5, abs=0.06)
    assert np.mean((model.reconstruct(X) - X) ** 2) < 0.02  # no quarter holds twins


def test_series_of_unequal_lengths_are_told_from_what_is_seen():
    rng = np.random.default_rng(0)
    X = [np.sin(np.arange(n) / 3 + rng.random()) for n in rng.integers(12, 25, 200)]
    X[0][3] = np.nan
    options = {"hidden": (24,), "latent_dim": 16, "patch_size": 4, "mask_ratio": 0.4}
    options |= {"epochs": 15, "learning_rate": 1e-2, "batch_size": 32}
    model = narrows.MaskedAutoencoder(modality="series", **options).fit(X)
    made = model.reconstruct(X)
    assert [len(one) for one in made] == [len(one) for one in X]
    error = np.mean([np.nanmean((a - b) ** 2) for a, b in zip(made, X, strict=True)])
    assert error < 0.3 * np.nanvar(np.concatenate(X))

    x, mask, lengths = model.modality_.encode(model.modality_.read(X[:9], "test"))
    step = masked(model.net_, Batch(x, x, mask, lengths=lengths))
    assert (step.batch.mask <= mask).all()  # neither padding nor what is missing is told
    other = replace(step.batch, target=torch.where(mask == 0, 7.0, x), mask=mask)
    assert torch.equal(masked(model.net_, other).nll, step.nll)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_told_does_not_depend_on_what_else_is_asked(form):
    net, x = masked_net(form)
    order = torch.randperm(net.encoder.tokens.count).expand(len(x), -1)
    codes = net.encoder.see(x, order[:, 2:])
    both = net.decoder.tell(codes, order[:, 2:], order[:, :2])
    one = net.decoder.tell(codes, order[:, 2:], order[:, :1])
    place = int(order[0, 0])
    torch.testing.assert_close(one[:, place], both[:, place])
    assert not both[:, int(order[0, 1])].eq(0).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_reconstruction_tells_each_part_from_the_others(form):
    net, x = masked_net(form)
    tokens = net.encoder.tokens
    quarters = tokens.quarters()
    assert torch.equal(torch.cat(quarters).sort().values, torch.arange(tokens.count))
    out = tokens.cut(net(Batch(x, x)).out)
    for quarter in quarters:
        cut = tokens.cut(x).clone()
        cut[:, quarter] += 1
        other = tokens.join(cut)
        told = tokens.cut(net(Batch(other, other)).out)
        assert torch.equal(told[:, quarter], out[:, quarter])
        rest = [place for place in range(tokens.count) if place not in quarter]
        assert (told[:, rest] != out[:, rest]).any(2).all()


def test_one_column_hides_itself():
    X = np.random.default_rng(0).standard_normal((50, 1))
    model = narrows.MaskedAutoencoder(hidden=(8,), heads=2, epochs=2).fit(X)
    assert model.transform(X).shape == (50, 32)


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, r"'heads' must divide them. Got hidden=\(64, 64, 64\) and heads=5"),
        ({"patch_size": 2}, "'patch_size' parameter is for images"),
        ({"hidden": (8, 4)}, r"must be alike.* Got hidden=\(8, 4\)"),
        ({"hidden": ()}, r"must be alike.* Got hidden=\(\)"),
    ],
)
def test_what_cannot_work_is_refused(options, message, wine):
    with pytest.raises(ParameterError, match=message):
        narrows.MaskedAutoencoder(**options).fit(wine)


def test_a_bare_code_is_refused(wine):
    model = narrows.MaskedAutoencoder(hidden=(8,), heads=2, epochs=1).fit(wine)
    with pytest.raises(ContextError, match=r"Call reconstruct\(X\)"):
        model.inverse_transform(model.transform(wine))
