"""The optimizer against torch's own, step by step; clipping, skipping, and the schedules."""

from functools import partial

import pytest
import torch
import torch.optim.lr_scheduler as lr

import narrows
from narrows.data.sources import InMemory
from narrows.errors import ParameterError
from narrows.optimizer import AdamW, LossScale
from narrows.schedules import SCHEDULES, Plateau
from narrows.training import Training


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


# -- what else there may be -------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 30.0])
@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_l2_is_torchs_adam_with_weight_decay(clip, decay):
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours, RATE, weight_decay=decay, l2=0.3, gradient_clip=clip)
    matrices = [p for p in theirs.values() if p.ndim > 1]
    vectors = [p for p in theirs.values() if p.ndim <= 1]
    adam = torch.optim.Adam(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors}], lr=RATE
    )
    for step in range(20):
        g = gradients(step)
        for p, x in zip(theirs.values(), g, strict=True):
            p.grad = x.clone()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
        before = [p.detach().clone() for p in matrices]
        adam.step()
        with torch.no_grad():
            for p, old in zip(matrices, before, strict=True):
                p.sub_(RATE * decay * old)  # the decoupled one, of what was there before
        optimizer.update(g)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ema", [0.5, 0.999])
def test_averages_follow_their_formula_and_a_broken_step_leaves_them(ema):
    own = parameters()
    optimizer = AdamW(own, RATE, ema=ema)
    expected = {name: p.detach().clone() for name, p in own.items()}
    for step in range(30):
        optimizer.update(gradients(step))
        decay = min(ema, (2 + step) / (11 + step))
        expected = {k: decay * expected[k] + (1 - decay) * p.detach() for k, p in own.items()}
        optimizer.update([torch.full_like(p, torch.nan) for p in own.values()])
    for average, wanted in zip(optimizer.averages, expected.values(), strict=True):
        torch.testing.assert_close(average, wanted, rtol=1e-6, atol=1e-9)
    kept = [p.detach().clone() for p in own.values()]
    optimizer.exchange()
    for p, wanted in zip(own.values(), expected.values(), strict=True):
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-6, atol=1e-9)
    optimizer.exchange()
    for p, old in zip(own.values(), kept, strict=True):
        assert torch.equal(p, old)


@pytest.mark.parametrize("clip", [None, 30.0])
def test_the_scale_of_a_loss_is_torchs_grad_scaler(clip, monkeypatch):
    """A gradient overflows in half precision where the scale lifts it too high."""
    monkeypatch.setattr(LossScale, "interval", 3)
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours, RATE, gradient_clip=clip, scaled=True)
    torchs = reference(theirs, 0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    scales = []
    for step in range(30):
        g = [x * torch.tensor(2.0 ** (step % 7)) for x in gradients(step)]
        assert float(optimizer.scaled(torch.tensor(1.0))) == scaler.scale(torch.tensor(1.0))
        scaled = [x * scaler.get_scale() for x in g]
        if max(float(x.abs().max()) for x in scaled) > 2.0**22:
            scaled[0] = torch.full_like(scaled[0], torch.inf)
        for p, x in zip(theirs.values(), scaled, strict=True):
            p.grad = x.clone()
        scaler.unscale_(torchs)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
        scaler.step(torchs)
        scaler.update()
        optimizer.update(scaled)
        scales.append(scaler.get_scale())
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9)
    assert len(set(scales)) > 3
    assert float(optimizer.skipped) == 0  # a smaller scale mended each
    assert float(optimizer.count) < 30


def test_an_overflow_that_no_scale_mends_is_counted():
    optimizer = AdamW(parameters(), RATE, scaled=True)
    for _ in range(20):
        optimizer.update([torch.full_like(x, torch.inf) for x in gradients(0)])
    assert float(optimizer.scale.value) == 1
    assert float(optimizer.skipped) == 20 - 16


# -- schedules --------------------------------------------------------------------------------


def training(epochs=10, **options):
    X = torch.randn(40, 4)
    model = narrows.Autoencoder(latent_dim=2, hidden=(3,), batch_size=10, epochs=1, **options)
    model.fit(X)
    return Training(model, InMemory(X), None, epochs, 0)


def torchs(schedule, steps):
    """Torch's learning rates for so many steps, with a peak of 1 and the fields of `SET`."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    rates = {
        "constant": partial(lr.ConstantLR, factor=1.0),
        "linear": partial(lr.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=steps),
        "cosine": partial(lr.CosineAnnealingWarmRestarts, T_0=steps // 3),
        "exponential": partial(lr.ExponentialLR, gamma=0.2 ** (1 / steps)),
        "step": partial(lr.StepLR, step_size=steps // 3, gamma=0.2),
        "plateau": partial(lr.ConstantLR, factor=1.0),
    }[schedule](optimizer)
    for _ in range(steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        rates.step()


SET = {"cosine": {"rate_cycles": 3}, "step": {"rate_drops": 2, "rate_factor": 0.2}}
SET |= {"exponential": {"rate_factor": 0.2}}


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "one_cycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_rate_warms_up_and_is_torchs(schedule, warmup):
    options = SET.get(schedule, {})
    run = training(epochs=12, schedule=schedule, warmup=warmup, learning_rate=0.5, **options)
    total, warm = 48, int(48 * warmup)
    risen = [(done + 1) / (warm + 1) for done in range(warm)]
    for done, expected in enumerate([*risen, *torchs(schedule, total - warm)]):
        run.advance(done, 4)
        assert float(run.optimizers["autoencoder"].rate) == pytest.approx(0.5 * expected, rel=1e-6)
        assert float(run.net.progress) == pytest.approx(done / total, rel=1e-6)


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_one_cycle_is_torchs(warmup):
    """Its peak is at the end of the warm-up, and its end where training ends: a step later."""
    run = training(epochs=12, schedule="one_cycle", warmup=warmup, learning_rate=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    rates = lr.OneCycleLR(
        optimizer, 0.5, 49, pct_start=(48 * warmup + 1) / 49, cycle_momentum=False
    )
    for done in range(48):
        run.advance(done, 4)
        expected = optimizer.param_groups[0]["lr"]
        assert float(run.optimizers["autoencoder"].rate) == pytest.approx(expected, rel=1e-6)
        optimizer.step()
        rates.step()


@pytest.mark.parametrize("patience", [1, 3])
def test_a_plateau_lowers_the_rate_as_torch_does(patience):
    losses = torch.randn(60, generator=torch.Generator().manual_seed(0)).cumsum(0).abs().tolist()
    ours = Plateau(warmup=0.0, rate_factor=0.5, rate_patience=patience)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    # Torch lowers the rate in the epoch after its patience has run out.
    rates = lr.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience - 1, threshold=0, eps=0)
    for i, loss in enumerate(losses):
        rates.step(loss)
        ours.see(losses[: i + 1])
        assert ours(1, 2) == optimizer.param_groups[0]["lr"]
    assert ours.share < 2**-4


def test_a_plateau_reads_the_losses_of_a_run(digits):
    model = narrows.Autoencoder(
        latent_dim=2, hidden=(4,), epochs=30, schedule="plateau", warmup=0.0, learning_rate=0.1,
        rate_patience=2, rate_factor=0.5,
    ).fit(digits)  # fmt: skip
    rows = model.history_
    for i, row in enumerate(rows):
        plateau = Plateau(warmup=0.0, rate_factor=0.5, rate_patience=2)
        plateau.see([other["validation_loss"] for other in rows[:i]])
        assert row["learning_rate"] == pytest.approx(0.1 * plateau.share, rel=1e-6)
    assert rows[-1]["learning_rate"] < 0.1


@pytest.mark.parametrize(
    ("field", "value", "schedules"),
    [
        ("rate_cycles", 2, {"cosine"}),
        ("rate_drops", 1, {"step"}),
        ("rate_factor", 0.5, {"step", "exponential", "plateau"}),
        ("rate_patience", 1, {"plateau"}),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_field_that_the_schedule_does_not_read_is_refused(schedule, field, value, schedules):
    options = {"schedule": schedule, field: value}
    if schedule in schedules:
        training(**options)
        return
    sentence = f"'{field}' .* no effect with schedule='{schedule}'; it is for schedule='"
    with pytest.raises(ParameterError, match=sentence):
        training(**options)


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


def test_without_an_end_the_rate_rises_to_a_constant():
    run = training(epochs=None, schedule="linear", warmup=0.5, learning_rate=0.25)
    for done, share in [(0, 0.01), (49, 0.5), (99, 1), (100, 1), (1000, 1)]:
        run.advance(done, 4)
        assert float(run.optimizers["autoencoder"].rate) == pytest.approx(0.25 * share)
        assert float(run.net.progress) == 1.0


def test_the_history_shows_the_rate(digits):
    model = narrows.Autoencoder(
        latent_dim=2, hidden=(4,), epochs=4, schedule="linear", warmup=0.0, learning_rate=0.1,
        batch_size=256, validation=0.0,
    ).fit(digits)  # fmt: skip
    assert [row["learning_rate"] for row in model.history_] == pytest.approx(
        [0.1, 0.075, 0.05, 0.025], rel=1e-6
    )
