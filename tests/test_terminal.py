"""What reaches a screen and what a file: colours where they are wanted, lines as wide as there is place."""

from __future__ import annotations

import os
import pty
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from mpirecon.cli import COMMANDS, group
from mpirecon.cli.terminal import chart_width, table_lines, uses_colours, width
from mpirecon.io.mrc import write_map
from mpirecon.validate.compare import distinct_names
from mpirecon.validate.fsc_table import text_plot

ESCAPE = "\x1b"


@pytest.fixture
def on_a_terminal(monkeypatch):
    """``on_a_terminal(args, **environment)``: what the command line writes to a terminal of its own."""

    def call(*args, **environment):
        pid, screen = pty.fork()
        if pid == 0:
            os.environ.update({"TERM": "xterm-256color", **environment})
            os.execv(sys.executable, [sys.executable, "-m", "mpirecon", *map(str, args)])
        text = b""
        try:
            while piece := os.read(screen, 4096):
                text += piece
        except OSError:  # the other side has ended
            pass
        assert os.waitpid(pid, 0)[1] == 0, text
        return text.decode()

    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return call


@pytest.fixture
def volume(tmp_path):
    write_map(tmp_path / "m.mrc", np.random.default_rng(1).random((16, 16, 16), np.float32), 3.0, overwrite=False)
    return tmp_path / "m.mrc"


def test_colours_are_for_terminals_that_want_them(on_a_terminal, volume):
    for command, plain in ((("check",), {"NO_COLOR": "1"}), (("view", volume, "--terminal"), {"TERM": "dumb"})):
        assert ESCAPE in on_a_terminal(*command), command
        assert ESCAPE not in on_a_terminal(*command, **plain), command


def test_a_launcher_s_terminal_may_be_a_file(mpirun, volume, tmp_path):
    """mpirun gives rank 0 a terminal of its own, whatever its own output goes to."""
    told = mpirun(2, ["-c", "import sys; print(sys.stdout.isatty())"], env={"TERM": "xterm"})
    if "True" not in told.stdout:
        pytest.skip("this mpirun gives ranks no terminal")
    for command in (("check",), ("view", volume, "--terminal")):
        result = mpirun(2, ["-m", "mpirecon", *command], env={"TERM": "xterm"})
        assert result.returncode == 0 and result.stdout and ESCAPE not in result.stdout + result.stderr, command


def test_neither_bars_nor_colours_get_into_a_file(cli, volume, tmp_path):
    made = cli("simulate", "--phantom", "--particles", 40, "--box", 16, "-o", tmp_path / "p.h5")
    seen = cli("view", volume, "--terminal")
    for result in (made, seen):
        assert result.returncode == 0 and not {ESCAPE, "\r"} & set(result.stdout + result.stderr)


def test_who_is_looked_at(monkeypatch):
    class Screen:
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "")
    assert uses_colours(Screen())  # no-color.org: when it is not an empty string
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb"), ("OMPI_COMM_WORLD_SIZE", "2"), ("PMI_SIZE", "1")):
        with monkeypatch.context() as more:
            more.setenv(name, value)
            assert not uses_colours(Screen()), name


@pytest.mark.parametrize("columns", [60, 72, 100])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits(name, columns):
    text = CliRunner().invoke(group, [name, "--help"] if name else ["--help"], terminal_width=columns).output
    assert text and max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("name", COMMANDS)
def test_broken_examples_are_what_they_were(name):
    """A shell reads the narrow example as the wide one: its words are the same, in order."""
    def words(columns):
        text = CliRunner().invoke(group, [name, "--help"], terminal_width=columns, max_content_width=200).output
        examples = text[text.index("Example") :].split("\n\n")[0].split(":", 1)[1]
        commands = [line.split("  #")[0] for line in examples.replace("\\\n", " ").splitlines()
                    if line.strip()[:1] != "#"]
        return [line.split() for line in commands if line.strip()]

    assert words(40) == words(200)


def test_charts_fit(monkeypatch):
    curve = np.linspace(1, 0, 129)
    for columns in (40, 60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert width() == columns
        lines = text_plot(curve, 256, 1.06, chart_width()).splitlines()
        assert max(map(len, lines)) <= columns and lines[-1].endswith("2.12 Å")
    monkeypatch.delenv("COLUMNS")
    assert width() is None and chart_width() == 64  # nobody looks


def test_tables_fit():
    header = ["iteration", "particle", "rank", "distance"]
    rows = [[3, i, 0, f"{i / 7:.9f}"] for i in range(12)]
    wide = table_lines(header, rows)
    assert len(wide) == 13 and wide[0].split() == header and table_lines(header, rows, len(wide[0])) == wide
    narrow = table_lines(header, rows, len(wide[0]) - 1)
    assert (
        narrow[:2] == ["iteration: 3", "rank: 0"]
        and narrow[2].split() == ["particle", "distance"]
        and len(narrow) == 15
    )
    blocks = table_lines(header, rows, 15)
    assert blocks[:5] == ["iteration  3", "particle   0", "rank       0", "distance   0.000000000",
                          ""] and len(blocks) == 59
    for lines in (wide, narrow, blocks):
        assert all(row[3] in "\n".join(lines) for row in rows)


@pytest.mark.parametrize(("first", "second", "names"), [
    ("run1/volume.mrc", "run2/volume.mrc", ("run1/volume.mrc", "run2/volume.mrc")),
    ("a.mrc", "b.mrc", ("a.mrc", "b.mrc")),
    ("x/run/half1.mrc", "y/run/half1.mrc", ("x/run/half1.mrc", "y/run/half1.mrc")),
    ("m/half1.mrc", "m/half2.mrc", ("half1.mrc", "half2.mrc")),
])  # fmt: skip
def test_titles_distinguish_two_files(first, second, names):
    assert distinct_names(first, second) == names


def test_the_legend_covers_no_curve(tmp_path):
    """Curves that run through every corner: the legend lies outside of the axes."""
    from mpirecon.report.figures import fsc_figure

    for curve in (np.linspace(1, 0, 33), np.ones(33), np.full(33, -0.02), np.r_[np.ones(16), np.zeros(17)]):
        figure = fsc_figure({"unmasked": curve, "masked": curve[::-1]}, 64, 3.0, {"unmasked": 12.0}, "a and b")
        figure.canvas.draw()
        axes = figure.axes[0]
        box, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
        assert legend.y1 <= box.y0 and legend.y0 >= 0
        assert legend.y1 <= axes.xaxis.label.get_window_extent().y0 + 1
