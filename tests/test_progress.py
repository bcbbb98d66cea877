"""Progress: every term, samples a second, time left; in place, by the line, or not at all."""

import io
import re
import sys
import types
from itertools import count

import pytest
from rich.console import Console

import narrows
from narrows import progress
from narrows.progress import Bar, Cell, Lines, displays

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 4, "batch_size": 32}
TERMS = r"nll -?[\d.e+]+  kl [\d.e+-]+  loss -?[\d.e+]+  mse [\d.e+-]+  validation_loss -?[\d.e+]+"


@pytest.fixture
def often(monkeypatch):
    """Draw whenever there is something new."""
    monkeypatch.setattr(progress, "PAUSE", 0.0)


class Terminal(io.StringIO):
    """A terminal, and what it got."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal on stderr."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=Terminal()))
    return progress.sys.stderr


class Handle:
    """The output of a notebook's cell."""

    def __init__(self, first):
        self.shown = [first]

    def update(self, data, raw=False):
        assert raw is True
        self.shown.append(data)


@pytest.fixture
def notebook(monkeypatch):
    """A notebook, as rich and IPython know it, without the widgets that rich would ask for."""
    handles = []

    def display(data, raw=False, display_id=None):
        assert raw is True
        assert display_id is True
        handles.append(Handle(data))
        return handles[-1]

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as its kernels do
    return handles


# -- which --------------------------------------------------------------------------------------


def kinds(verbose):
    return [type(display) for display in displays(verbose)]


def test_a_pipe_gets_lines_or_nothing():
    assert [kinds(0), kinds(1), kinds(2)] == [[], [], [Lines]]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar():
    assert [kinds(0), kinds(1), kinds(2)] == [[], [Bar], [Lines]]


@pytest.mark.usefixtures("notebook")
def test_a_notebook_gets_a_cell():
    assert [kinds(0), kinds(1), kinds(2)] == [[], [Cell], [Lines]]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_that_cannot_draw_gets_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert kinds(1) == []


def test_a_log_in_colours_is_no_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("CI", "true")
    assert kinds(1) == []


# -- what it shows ------------------------------------------------------------------------------


def test_a_line_an_epoch(digits, capsys):
    narrows.VAE(**SMALL, verbose=2).fit(digits)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 4
    for i, line in enumerate(lines, 1):
        left = "" if i == 4 else r"  \d:\d\d:\d\d left"
        assert re.fullmatch(rf"epoch {i}/4  {TERMS}  [\d,]+ samples/s{left}", line), line


def test_the_time_left_is_that_of_the_epochs_to_come(digits, capsys, monkeypatch):
    clock = iter([0.0, 100.0, 130.0, 160.0, 190.0])  # the first epoch makes a graph
    monkeypatch.setattr(progress, "perf_counter", lambda: next(clock))
    narrows.VAE(**SMALL, verbose=2).fit(digits)
    left = re.findall(r"\d:\d\d:\d\d(?= left)", capsys.readouterr().err)
    assert left == ["0:05:00", "0:01:00", "0:00:30"]


@pytest.mark.parametrize("verbose", [0, 1])
def test_it_is_silent_where_there_is_no_terminal(verbose, digits, capsys):
    narrows.VAE(**SMALL, verbose=verbose).fit(digits)
    assert capsys.readouterr() == ("", "")


def drawn(model, X, width=120):
    """What a terminal of this width gets of a bar, in text alone."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    model.fit(X, callbacks=[Bar(console)])
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue())


@pytest.mark.usefixtures("often")
def test_a_bar_shows_every_term_rate_and_time_left(digits):
    text = drawn(narrows.VAE(**SMALL | {"epochs": 40}), digits)
    assert re.search(r"VAE \S+ +\d+/40 +[\d,]+ samples/s 0:00:\d\d *\r?\n" + TERMS, text)


@pytest.mark.usefixtures("often")
def test_a_narrow_terminal_shows_all_of_it(digits):
    text = " ".join(drawn(narrows.VAE(**SMALL | {"epochs": 40}), digits, width=60).split())
    assert "…" not in text
    assert re.search(TERMS.replace("  ", " "), text)
    assert re.search(r"\d+/40 [\d,]+ samples/s 0:00:\d\d", text)


@pytest.mark.usefixtures("often")
def test_the_first_epoch_shows_a_batchs_terms(digits):
    class First(Bar):
        def step(self, training, terms):
            super().step(training, terms)
            if training.epoch == 0:
                seen.append((self.bar.tasks[0].completed, self.bar.terms.plain, terms))

    seen = []
    file = io.StringIO()
    bar = First(Console(file=file, force_terminal=True))
    narrows.VAE(**SMALL).fit(digits, callbacks=[bar])
    assert [done for done, *_ in seen] == pytest.approx([(i + 1) / 8 for i in range(8)])
    for _, text, terms in seen:
        assert f"kl {float(terms['kl']):.4g}  " in text


def test_the_bar_of_a_fit_is_gone_in_the_end(digits, terminal):
    narrows.VAE(**SMALL | {"epochs": 30}).fit(digits)
    err = terminal.getvalue()
    assert "VAE" in err
    assert err.endswith("\x1b[2K")  # the last line is cleared
    assert err.count("\x1b[?25l") == err.count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.usefixtures("often")
def test_a_cell_is_one_output_that_stays(digits, notebook, capsys):
    model = narrows.VAE(**SMALL).fit(digits)
    (handle,) = notebook
    texts = [data["text/plain"] for data in handle.shown]
    assert len(texts) == 1 + 4 * 8 + 4 + 1  # at first, of steps, of epochs, in the end
    assert re.match(r"VAE +0/4 +-:--:--", texts[0])
    assert re.search(r"VAE ━+ 4/4 +[\d,]+ samples/s 0:00:00", texts[-1])
    assert re.search(TERMS, texts[-1])
    assert f"mse {model.history_[-1]['mse']:.4g}" in texts[-1]
    assert all("\x1b" not in text for text in texts)
    assert capsys.readouterr() == ("", "")


def test_a_cell_is_replaced_a_few_times_a_second(digits, notebook, monkeypatch):
    clock = count(step=0.01)
    monkeypatch.setattr(progress, "perf_counter", lambda: next(clock))
    narrows.VAE(**SMALL | {"epochs": 50}).fit(digits)
    draws, seconds = len(notebook[0].shown) - 2, next(clock)
    assert seconds > 4
    assert seconds / 0.3 < draws < seconds / 0.2
