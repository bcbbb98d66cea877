"""The optimizer against torch's own, step by step; clipping, skipping, and the schedules."""

from math import cos, pi

import pytest
import torch

import narrows
from narrows.data.sources import InMemory
from narrows.optimizer import AdamW
from narrows.training import SCHEDULES, Training


@pytest.fixture(autouse=True, params=["eager", "compiled"])
def _as_compiled(request, monkeypatch):
    """Both ways of one update: torch's fused kernel, and what a graph is made of."""
    if request.param == "compiled":
        monkeypatch.setattr(AdamW, "_move", AdamW._move_in_a_graph)


RATE, DECAY = 2.0**-7, 2.0**-4  # exact in float32, which holds the rate


def parameters():
    torch.manual_seed(0)
    shapes = {"weight": (5, 3), "bias": (5,), "kernel": (2, 3, 3, 3), "scale": ()}
    return {
        name: torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
        for name, shape in shapes.items()
    }


def gradients(step):
    generator = torch.Generator().manual_seed(step)
    return [
        10 * torch.randn(p.shape, dtype=torch.float64, generator=generator)
        for p in parameters().values()
    ]


def reference(own, decay=DECAY, **options):
    matrices = [p for p in own.values() if p.ndim > 1]
    vectors = [p for p in own.values() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},  # decay only where there is a matrix
    ]
    return torch.optim.AdamW(groups, lr=RATE, **options)


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "expanded"])
def test_adamw_is_torchs_adamw_step_by_step(decay, layout):
    ours, theirs = parameters(), parameters()
    optimizer, torchs = AdamW(ours, RATE, weight_decay=decay), reference(theirs, decay)
    for step in range(30):
        g = gradients(step)
        if layout == "expanded":
            g = [x.flatten()[0].expand_as(x) for x in g]
        for p, x in zip(theirs.values(), g, strict=True):
            p.grad = x.clone()
        torchs.step()
        if layout == "transposed":  # the same values in another order in memory
            g = [x.T.contiguous().T if x.ndim == 2 else x for x in g]
            g = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in g]
        optimizer.update(g)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-12)


def test_the_rate_is_read_at_every_step():
    ours, theirs = parameters(), parameters()
    optimizer, torchs = AdamW(ours, RATE), reference(theirs, 0.0)
    for step in range(10):
        rate = RATE / 2**step
        optimizer.rate.fill_(rate)
        for group in torchs.param_groups:
            group["lr"] = rate
        for p, x in zip(theirs.values(), gradients(step), strict=True):
            p.grad = x
        torchs.step()
        optimizer.update(gradients(step))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("clip", [0.5, 30.0, 1e6])
@pytest.mark.parametrize("expanded", [False, True])
def test_clipping_is_clip_grad_norm(clip, expanded):
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours, RATE, gradient_clip=clip)
    torchs = reference(theirs, 0.0)
    for step in range(5):
        g = gradients(step)
        if expanded:
            g = [x.flatten()[0].expand_as(x) for x in g]
        for p, x in zip(theirs.values(), g, strict=True):
            p.grad = x.clone()
        torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
        torchs.step()
        optimizer.update(g)
        for name, first in zip(ours, optimizer.first, strict=True):
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9)
            expected = torchs.state[theirs[name]]["exp_avg"]
            torch.testing.assert_close(first, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_broken_gradient_changes_nothing_and_is_counted(broken, clip):
    own = parameters()
    optimizer = AdamW(own, RATE, weight_decay=DECAY, gradient_clip=clip)
    optimizer.update(gradients(0))
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    before = [p.detach().clone() for p in own.values()]
    g = gradients(1)
    g[1][2] = broken
    optimizer.update(g)
    for p, old in zip(own.values(), before, strict=True):
        assert torch.equal(p, old)
    after = optimizer.state()
    assert float(after.pop("skipped")) == 1 + float(state.pop("skipped")) == 1
    for name in state:
        assert torch.equal(after[name], state[name]), name


def test_after_a_broken_gradient_training_goes_on_as_if_there_had_been_none():
    one, two = parameters(), parameters()
    with_gap, without = AdamW(one, RATE, weight_decay=DECAY), AdamW(two, RATE, weight_decay=DECAY)
    for step in range(6):
        with_gap.update(gradients(step))
        without.update(gradients(step))
        with_gap.update([torch.full_like(p, torch.nan) for p in one.values()])
    for name in one:
        assert torch.equal(one[name], two[name])


def test_float32_parameters_follow_torch_too():
    ours = {k: torch.nn.Parameter(p.detach().float()) for k, p in parameters().items()}
    theirs = {k: torch.nn.Parameter(p.detach().float()) for k, p in parameters().items()}
    optimizer, torchs = AdamW(ours, 2e-3, weight_decay=1e-4), None
    torchs = reference(theirs, 1e-4)
    for group in torchs.param_groups:
        group["lr"] = 2e-3
    for step in range(30):
        g = [x.float() for x in gradients(step)]
        for p, x in zip(theirs.values(), g, strict=True):
            p.grad = x.clone()
        torchs.step()
        optimizer.update(g)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_both_ways_leave_the_same_state(monkeypatch):
    """So a run may change from one to the other at any step."""
    states = []
    for move in (AdamW._move, AdamW._move_in_a_graph):
        monkeypatch.setattr(AdamW, "_move", move)
        optimizer = AdamW(parameters(), RATE, weight_decay=DECAY, gradient_clip=20.0)
        for step in range(20):
            optimizer.update(gradients(step))
        states.append(optimizer.state())
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-9, atol=1e-12)


# -- schedules --------------------------------------------------------------------------------

COURSE = {
    "constant": lambda p: 1.0,
    "linear": lambda p: 1 - p,
    "cosine": lambda p: (1 + cos(pi * p)) / 2,
}


def training(epochs=10, **options):
    X = torch.randn(40, 4)
    model = narrows.Autoencoder(latent_dim=2, hidden=(3,), batch_size=10, epochs=1, **options)
    model.fit(X)
    return Training(model, InMemory(X), None, epochs, 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_rate_warms_up_and_follows_its_course(schedule, warmup):
    run = training(epochs=10, schedule=schedule, warmup=warmup, learning_rate=0.5)
    total = 10 * 4
    for done in range(total):
        run.advance(done, 4)
        progress = done / total
        if progress < warmup:
            expected = (done + 1) / (warmup * total + 1)
        else:
            expected = COURSE[schedule]((progress - warmup) / (1 - warmup))
        assert float(run.optimizers["autoencoder"].rate) == pytest.approx(0.5 * expected, rel=1e-6)
        assert float(run.net.progress) == pytest.approx(progress, rel=1e-6)


def test_the_rate_rises_to_its_peak_and_is_never_zero_or_above():
    run = training(epochs=10, warmup=0.5, learning_rate=1.0)
    rates = []
    for done in range(40):
        run.advance(done, 4)
        rates.append(float(run.optimizers["autoencoder"].rate))
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert max(rates) == rates[20] == 1.0
    assert min(rates) > 0


def test_without_an_end_the_rate_is_constant():
    run = training(epochs=None, schedule="linear", warmup=0.5, learning_rate=0.25)
    for done in (0, 7, 1000):
        run.advance(done, 4)
        assert float(run.optimizers["autoencoder"].rate) == 0.25
        assert float(run.net.progress) == 1.0


def test_the_history_shows_the_rate(digits):
    model = narrows.Autoencoder(
        latent_dim=2, hidden=(4,), epochs=4, schedule="linear", warmup=0.0, learning_rate=0.1,
        batch_size=256, validation=0.0,
    ).fit(digits)  # fmt: skip
    assert [row["learning_rate"] for row in model.history_] == pytest.approx(
        [0.1, 0.075, 0.05, 0.025], rel=1e-6
    )
