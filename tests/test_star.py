"""STAR tables: every field comes back as it was, every row knows its line, every damage is named."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpirecon.errors import UserError
from mpirecon.io import star, star_layout
from mpirecon.io.stack_paths import parse_image_names
from mpirecon.io.star import quote, read_star, split_fields, write_star
from mpirecon.io.text_column import to_numbers
from mpirecon.parallel.comm import SerialCommunicator

LOOP = "data_particles\n\nloop_\n_rlnA #1\n_rlnB #2\n"


def read(tmp_path, text: str | bytes) -> dict[str, pd.DataFrame]:
    path = tmp_path / "t.star"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_star(path)


def rows(table: pd.DataFrame) -> list[list[str]]:
    return table.to_numpy(object).tolist()


# printable text of any script, with more than its share of what STAR treats specially
LETTER = st.one_of(st.sampled_from("\"'# \t_;@[],."), st.characters(exclude_categories=["Cs", "Cc"]))
FIELD = st.text(LETTER, max_size=12)
WRITABLE = FIELD.filter(lambda value: not ('" ' in value or '"\t' in value) or not ("' " in value or "'\t" in value))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4).flatmap(lambda k: st.lists(st.tuples(*[WRITABLE] * k), min_size=1, max_size=5)))
def test_what_is_written_reads_back(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("star") / "t.star"
    table = pd.DataFrame(content, columns=[f"rln{i}" for i in range(len(content[0]))])
    write_star(path, {"": table, "particles": table}, overwrite=False)
    back = read_star(path)
    assert list(back) == ["", "particles"]
    assert rows(back["particles"]) == rows(back[""]) == [list(row) for row in content]


BARE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8).filter(
    lambda value: value[0] not in "\"'#_;" and not value.startswith(("data_", "loop_"))
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(BARE, BARE), min_size=1, max_size=6), st.sampled_from([" ", "\t", "  \t "]),
    st.sampled_from(["\n", "\r\n", "\n\n", "\n# a comment\n", " \t\n"]), st.booleans(),
)
def test_layout_does_not_matter(tmp_path_factory, content, blank, end, last):
    body = end.join(blank.join(row) for row in content) + (end if last else "")
    tables = read(tmp_path_factory.mktemp("star"), LOOP.replace("\n", "\r\n" if "\r" in end else "\n") + body)
    assert rows(tables["particles"]) == [list(row) for row in content]


@settings(max_examples=100, deadline=None)
@given(st.lists(WRITABLE, min_size=1, max_size=6))
def test_quoted_fields_split_back(fields):
    assert split_fields(" ".join(quote(field) for field in fields) + "   # comment") == fields


def test_quotes_and_comments(tmp_path):
    text = LOOP + "# first\n'a b' \"it's\" # trailing\nit's \"\" \n a#b 'say \"hi\" now'\n"
    table = read(tmp_path, text)["particles"]
    assert rows(table) == [["a b", "it's"], ["it's", ""], ["a#b", 'say "hi" now']]
    assert list(table.index) == [7, 8, 9]


def test_header_lines_in_every_dialect(tmp_path):
    text = (
        "# made by hand\n\ndata_ # unnamed\nloop_ \n_rlnA #1 [a comment]\n  _rlnB\n\n_rlnC   #3\t\n1 2 3"
        "\n\ndata_general\n_rlnX  'two words' # why\n\n_rlnY 2\ndata_empty\n\ndata_loop_2\nloop_\n_rlnD\ndata_row\n"
    )
    tables = read(tmp_path, text.replace("data_row", "data_row x") .replace("_rlnD\n", "_rlnD\n_rlnE\n"))
    assert list(tables) == ["", "general", "loop_2"]
    assert rows(tables[""]) == [["1", "2", "3"]] and list(tables[""]) == ["rlnA", "rlnB", "rlnC"]
    assert rows(tables["general"]) == [["two words", "2"]] and list(tables["general"].index) == [12]
    assert rows(tables["loop_2"]) == [["data_row", "x"]]  # a keyword stands alone on its line


def test_values_stay_text(tmp_path):
    table = read(tmp_path, "\ufeff" + LOOP + "NA 1.50\nnan 007\nπ Ünicode/µ.mrcs\n")["particles"]
    assert rows(table) == [["NA", "1.50"], ["nan", "007"], ["π", "Ünicode/µ.mrcs"]]


@pytest.mark.parametrize("middle", ["", "\n", "   \n", "# note\n", "\n\n# note\n\n"])
@pytest.mark.parametrize("quoted", [False, True])
def test_rows_know_their_lines(tmp_path, middle, quoted):
    second = "row1 'y z'\n" if quoted else "row1 y\n"
    text = LOOP + middle + "row0 x\n" + middle + second + middle + "row2 z\n" + middle
    table = read(tmp_path, text)["particles"]
    lines = text.split("\n")
    assert [lines[line - 1].split()[0] for line in table.index] == list(table["rlnA"]) == ["row0", "row1", "row2"]


@pytest.mark.parametrize("first", ["a", "\ufeffa", "[1,2]", "it's", "a#b"])
def test_comments_blanks_and_a_missing_line_end(tmp_path, first):
    text = LOOP + f"{first} 1\n# a comment\n\nb 2 # another\n# last\n\n  c   3\t\n" + "d\t4"
    table = read(tmp_path, text)["particles"]
    assert rows(table) == [[first, "1"], ["b", "2"], ["c", "3"], ["d", "4"]] and list(table.index) == [6, 9, 12, 13]
    assert read(tmp_path, text + "\n\n# the end\n")["particles"].equals(table)


def by_hand(text: str) -> tuple[list[list[str]], list[int]]:
    """The rows after LOOP, line by line with split_fields, and their lines: what the compiled reading must equal."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    split = [(number, split_fields(line)) for number, line in enumerate(text.split("\n"), 1)][5:]
    return [fields for _, fields in split if fields], [number for number, fields in split if fields]


# pieces that make what STAR treats specially likely, in lines of two fields or of any number
PIECE = st.one_of(st.sampled_from(["a", '"', "'", "#", '" ', "' ", "é", "it's", "data_x", "loop_", "_a", ";", "x y"]),
                  FIELD)
ODD_LINE = st.lists(PIECE, max_size=5).map(" ".join)
TWO_FIELDS = st.tuples(BARE, BARE, st.sampled_from(["", " ", " # note", "\t"])).map(lambda t: f"{t[0]}  {t[1]}{t[2]}")
END = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \t\n", "\n#\n"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.one_of(TWO_FIELDS, ODD_LINE), END), max_size=12), st.sampled_from([1, 7, 50, 10**6]),
       st.booleans())
def test_blocks_of_bytes_read_what_lines_read(tmp_path_factory, lines, block, last):
    """However a file is cut into blocks, values and line numbers are those of its lines read one by one."""
    text = LOOP + "".join(line + end for line, end in lines) + ("last row" if last else "")
    wanted, numbers = by_hand(text)
    keywords = [line for line in text.replace("\r", "\n").split("\n")[5:] if line.split()[:1] and
                line.split()[0].startswith(("data_", "loop_")) or line.lstrip(" \t").startswith("_")]
    if keywords or any("\0" in line for line, _ in lines):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(star_layout, "BLOCK", block)
        folder = tmp_path_factory.mktemp("star")
        if any(len(row) != 2 for row in wanted):
            with pytest.raises(UserError, match=r"line \d+: \d+ fields in a table of 2 columns"):
                read(folder, text)
        else:
            table = read(folder, text)["particles"]
            assert rows(table) == wanted and list(table.index) == numbers


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(BARE, st.sampled_from(["", "\n", "# c\n"])), max_size=9), st.sampled_from([3, 20]),
       st.integers(1, 5))
def test_slabs_of_a_table_are_the_table(tmp_path_factory, values, block, size):
    """What each of several ranks reads of a split table, put together, is the table."""
    path = tmp_path_factory.mktemp("star") / "t.star"
    path.write_text("data_o\nloop_\n_A\n1\n" + LOOP + "".join(f"{v} {i}\n{between}" for i,
                                                              (v, between) in enumerate(values)))
    whole = read_star(path)["particles"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(star_layout, "BLOCK", block)
        parts = []
        for rank in range(size):
            comm = SerialCommunicator()
            with star_layout.StarText(path) as text:
                layout = star_layout.scan(text, comm)  # of all blocks, as after the exchange between ranks
                comm.size, comm.rank = size, rank
                parts.append(star.read_tables(text, layout, comm, "rlnB"))
    assert all(part["o"].equals(parts[0]["o"]) and part["particles"].attrs["rows"] == len(values) for part in parts)
    together = pd.concat([part["particles"] for part in parts])
    assert rows(together) == rows(whole) and list(together.index) == list(whole.index)
    assert max(len(p["particles"]) for p in parts) - min(len(p["particles"]) for p in parts) <= 1


NUMBER = st.one_of(
    st.floats().map(repr),
    st.floats(-1e5, 1e5).map("{:.6f}".format),
    st.integers().map(str),
    st.floats().map("{:.3e}".format),
    st.text("0123456789.eE+-", max_size=9),
    st.sampled_from(["", "inf", "-nan", "1e400", "0x10", " 1 ", "1_0", "١", "1e", ".", "+.5"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(NUMBER, min_size=1, max_size=8))
def test_numbers_are_those_of_python(values):
    """Correctly rounded as float() is; what pandas takes for no number is none here either."""
    found = to_numbers(pd.Series(values, dtype=object))
    for text, value in zip(values, found):
        known = pd.to_numeric(pd.Series([text], dtype=object), errors="coerce").astype(float)[0]
        if np.isnan(known):
            assert np.isnan(value), text
        else:
            assert value == pytest.approx(known, rel=1e-15)
            assert value == float(text) or not re.fullmatch(r"[+-]?(\d{1,15}\.?\d*|\.\d+)", text) or len(text) > 16


def test_no_rows_is_an_empty_table(tmp_path):
    assert read(tmp_path, LOOP)["particles"].shape == (0, 2)
    assert read(tmp_path, LOOP + "\n\n")["particles"].shape == (0, 2)


@pytest.mark.parametrize("end", ["", " 'q q'\n"])
@pytest.mark.parametrize("damaged", ["1", "1 2 3", "1 2 3 4 5"])
@pytest.mark.parametrize("before", ["", "1 2\n", "1 2\n\n1 2\n"])
def test_wrong_number_of_fields_names_the_line(tmp_path, before, damaged, end):
    text = LOOP + before + damaged + "\n1 2\n" + ("1" + end if end else "")
    line = 6 + before.count("\n")
    with pytest.raises(UserError, match=rf"t\.star, line {line}: {len(damaged.split())} fields .* 2 columns"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello\nworld\n", "not a STAR file: it has no data_ block"),
        ("", "not a STAR file"),
        (b"data_\0\1\2", "binary data"),
        (b"data_\n# ok\n# caf\xe9\n", "line 3: not UTF-8 .* iconv -f latin1"),
        ("\ufeffdata_\nloop_\n_a\n1\n".encode("utf-16-le"), "UTF-16 text.*iconv -f utf-16 -t utf8"),
        ("\ufeffdata_\nloop_\n_a\n1\n".encode("utf-16-be"), "UTF-16 text.*iconv -f utf-16 -t utf8"),
        ("\ufeffdata_\nloop_\n_a\n1\n".encode("utf-32-le"), "UTF-32 text.*iconv -f utf-32 -t utf8"),
        ("loop_\n_a\n1\ndata_x\n", "line 1: loop_ before any data_"),
        (LOOP + "1 2\n" + LOOP + "1 2\n", "second table in block data_particles"),
        ("data_x\nloop_\n_a\n_a\n1 2\n", "two columns _a"),
        ("data_x\n_a 1 2\n", "line 2: expected one label and one value"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="nothing.star: No such file"):
        read_star(tmp_path / "nothing.star")


def test_write_refuses_what_it_cannot_do(tmp_path):
    path = tmp_path / "out.star"
    with pytest.raises(UserError, match="line breaks"):
        write_star(path, {"x": pd.DataFrame({"a": ["two\nlines"]})}, overwrite=False)
    assert list(tmp_path.iterdir()) == []
    write_star(path, {"x": pd.DataFrame({"a": [1]})}, overwrite=False)
    with pytest.raises(UserError, match="exists already"):
        write_star(path, {"x": pd.DataFrame({"a": [2]})}, overwrite=False)
    write_star(path, {"x": pd.DataFrame({"a": [2]})}, overwrite=True)
    assert rows(read_star(path)["x"]) == [["2"]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.text("ab/._@= é", min_size=1, max_size=6)), min_size=1, max_size=8),
       st.integers(0, 8))
def test_image_names_split_at_the_first_at(names, zeros):
    column = pd.Series([f"{number:0{zeros}d}@{stack}" for number, stack in names])
    image, stack, stacks = parse_image_names(column)
    assert [(i + 1, stacks[s]) for i, s in zip(image, stack)] == names
    assert len(set(stacks)) == len(stacks)


def test_image_name_without_a_number_is_the_first_image():
    image, stack, stacks = parse_image_names(pd.Series(["a.mrc", "2@b.mrcs"]))
    assert (list(image), list(stack), stacks) == ([0, 1], [0, 1], ["a.mrc", "b.mrcs"])


@pytest.mark.parametrize("name", ["0@a.mrcs", "000@a.mrcs", "-1@a.mrcs", "x@a.mrcs", "1.5@a", "1@", "@a", "", "²@a"])
def test_bad_image_names_are_refused_with_their_line(name):
    with pytest.raises(UserError, match="p.star, line 12: image name"):
        parse_image_names(pd.Series(["1@a.mrcs", name], index=[11, 12]), "p.star")
