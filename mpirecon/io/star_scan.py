"""The loops over bytes behind star.py: lines, fields and numbers of STAR text, compiled and kept in Numba's cache.

All take whole lines as (n,) uint8. A line ends at a line feed, a carriage return, or both together.
"""

from __future__ import annotations

import numba
import numpy as np

from mpirecon.kernels.cache import njit

_TAB, _LF, _CR, _BLANK, _DOUBLE, _HASH, _SINGLE = 9, 10, 13, 32, 34, 35, 39
_PLUS, _MINUS, _POINT, _AT, _ZERO, _NINE = 43, 45, 46, 64, 48, 57

#: 10^0 … 10^22, the powers of ten that a float64 holds exactly: one product or quotient with them rounds once
_TENS = np.array([float(10**i) for i in range(23)])

#: mantissas below this are exact in a float64
_EXACT = np.uint64(2**53)

_compiled = njit(cache=True, nogil=True)


@_compiled
def _next_line(data, at):
    """Where the line after the one that byte `at` lies in starts."""
    while at < len(data) and data[at] != _LF and data[at] != _CR:
        at += 1
    if at + 1 < len(data) and data[at] == _CR and data[at + 1] == _LF:
        at += 1
    return at + 1


@_compiled
def _skip_blanks(data, at):
    while at < len(data) and (data[at] == _BLANK or data[at] == _TAB):
        at += 1
    return at


@_compiled
def _is_row(data, at):
    """Whether a line whose first letter is at `at` holds values: it is neither blank nor a comment."""
    return at < len(data) and data[at] != _LF and data[at] != _CR and data[at] != _HASH


@_compiled
def _starts_with(data, at, word):
    if at + len(word) > len(data):
        return False
    for i in range(len(word)):
        if data[at + i] != word[i]:
            return False
    return True


@_compiled
def scan_lines(data, block_word, loop_word):
    """Count lines and rows, and find lines that may be keywords: they start with block_word (``data_``) or loop_word.

    Returns
    -------
    lines, rows : int
    keywords : (k,) int64, where such lines start
    has_zero, has_wide : bool, of any byte 0 or ≥ 128
    """
    lines, rows = 0, 0
    keywords = numba.typed.List.empty_list(numba.int64)
    start = 0
    zero, wide = False, False
    while start < len(data):
        lines += 1
        at = _skip_blanks(data, start)
        if _is_row(data, at):
            rows += 1
            if _starts_with(data, at, block_word) or _starts_with(data, at, loop_word):
                keywords.append(start)
        while at < len(data):
            letter = data[at]
            if letter == _LF or letter == _CR:
                break
            zero |= letter == 0
            wide |= letter >= 128
            at += 1
        start = _next_line(data, at)
    found = np.empty(len(keywords), np.int64)
    for i in range(len(keywords)):
        found[i] = keywords[i]
    return lines, rows, found, zero, wide


@_compiled
def count_lines(data):
    """(lines, rows among them) of whole lines."""
    lines, rows, start = 0, 0, 0
    while start < len(data):
        lines += 1
        rows += _is_row(data, _skip_blanks(data, start))
        start = _next_line(data, start)
    return lines, rows


@_compiled
def find_row(data, wanted):
    """(byte, lines, rows) where the line of row number `wanted` (from 0) starts and before it;
    the end with fewer rows."""
    lines, rows, start = 0, 0, 0
    while start < len(data):
        if _is_row(data, _skip_blanks(data, start)):
            if rows == wanted:
                break
            rows += 1
        lines += 1
        start = _next_line(data, start)
    return start, lines, rows


@_compiled
def _closing(data, at):
    """The quote that ends the value whose opening quote is at `at`: one that a blank or a line end follows;
    −1 without."""
    mark, i = data[at], at + 1
    while i < len(data) and data[i] != _LF and data[i] != _CR:
        if data[i] == mark:
            after = data[i + 1] if i + 1 < len(data) else _LF
            if after == _BLANK or after == _TAB or after == _LF or after == _CR:
                return i
        i += 1
    return -1


@_compiled
def _field(data, at):
    """(first byte, byte past the last, where to continue) of the value that starts at `at`."""
    if data[at] == _DOUBLE or data[at] == _SINGLE:
        end = _closing(data, at)
        if end >= 0:
            return at + 1, end, end + 1
    end = at
    while end < len(data) and data[end] != _BLANK and data[end] != _TAB and data[end] != _LF and data[end] != _CR:
        end += 1
    return at, end, end


@_compiled
def split_lines(data, starts, lengths, lines):
    """Find the values of every row.

    Parameters
    ----------
    starts, lengths : (columns, rows) int32, filled: where each value is in data
    lines : (rows,) int64, filled: number of the row's line (from 0)

    Returns
    -------
    row, fields : of the first row that has not one value a column, or (−1, 0)
    """
    columns = len(starts)
    row, line, start = 0, 0, 0
    while start < len(data):
        at = _skip_blanks(data, start)
        if _is_row(data, at):
            lines[row] = line
            fields = 0
            while _is_row(data, at):  # a hash where a value would start begins a comment
                first, end, at = _field(data, at)
                if fields < columns:
                    starts[fields, row], lengths[fields, row] = first, end - first
                fields += 1
                at = _skip_blanks(data, at)
            if fields != columns:
                return row, fields
            row += 1
        line += 1
        start = _next_line(data, at)
    return -1, 0


@_compiled
def copy_values(data, starts, lengths, out):
    """Copy values into rows of out (rows, width) uint8; what is left of a row stays as it is."""
    for row in range(len(starts)):
        for i in range(lengths[row]):
            out[row, i] = data[starts[row] + i]


@_compiled
def parse_numbers(cells, values, odd):
    """Decimal numbers of cells (rows, width) uint8, padded with zeros, correctly rounded into values (rows,) float64.

    odd : (rows,) bool, set where this simple reading does not do (no plain number, or too many digits to be exact)
    """
    width = cells.shape[1]
    for row in range(len(cells)):
        mantissa, point, digits, i = np.uint64(0), 0, 0, 0
        negative, fraction = False, False
        if i < width and (cells[row, i] == _PLUS or cells[row, i] == _MINUS):
            negative = cells[row, i] == _MINUS
            i += 1
        while i < width and digits < 19:
            letter = cells[row, i]
            if letter >= _ZERO and letter <= _NINE:
                mantissa = mantissa * np.uint64(10) + np.uint64(letter - _ZERO)
                digits += 1
                point -= fraction
            elif letter == _POINT and not fraction:
                fraction = True
            else:
                break
            i += 1
        if i < width and digits > 0 and (cells[row, i] == 101 or cells[row, i] == 69):  # e, E
            exponent, sign, count = 0, 1, 0
            i += 1
            if i < width and (cells[row, i] == _PLUS or cells[row, i] == _MINUS):
                sign = -1 if cells[row, i] == _MINUS else 1
                i += 1
            while i < width and cells[row, i] >= _ZERO and cells[row, i] <= _NINE and count < 4:
                exponent = exponent * 10 + (cells[row, i] - _ZERO)
                count += 1
                i += 1
            point += sign * exponent
            digits = digits if count else 0
        plain = digits > 0 and (i == width or cells[row, i] == 0)
        odd[row] = not (plain and mantissa < _EXACT and -22 <= point <= 22)
        if not odd[row]:
            value = float(mantissa)
            value = value * _TENS[point] if point >= 0 else value / _TENS[-point]
            values[row] = -value if negative else value


@_compiled
def hash_rows(cells, out):
    """A 64-bit hash of each row of cells (rows, width) uint8 up to its zeros (FNV-1a, then mixed), into out int64."""
    for row in range(len(cells)):
        h = np.uint64(0xCBF29CE484222325)
        for i in range(cells.shape[1]):
            if cells[row, i] == 0:
                break
            h = (h ^ np.uint64(cells[row, i])) * np.uint64(0x100000001B3)
        h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        out[row] = np.int64(h ^ (h >> np.uint64(33)))


@_compiled
def split_image_names(cells, number, stack):
    """Divide cells (rows, width) uint8 such as ``0012@a.mrcs:mrcs`` into number (rows,) int64 and stack, like cells.

    A name without @ has number 1. Returns the first row that has no number from 1 or no stack, or −1.
    """
    width = cells.shape[1]
    for row in range(len(cells)):
        length, at = 0, -1
        while length < width and cells[row, length] != 0:
            if cells[row, length] == _AT and at < 0:
                at = length
            length += 1
        value = np.int64(1 if at < 0 else 0)
        for i in range(at):
            letter = cells[row, i]
            if letter < _ZERO or letter > _NINE or at >= 19:
                return row
            value = value * 10 + (letter - _ZERO)
        end = length
        if length >= 5 and _starts_with(cells[row], length - 5, np.array([58, 109, 114, 99, 115], np.uint8)):  # :mrcs
            end = length - 5
        if value < 1 or at + 1 >= length:
            return row
        number[row] = value
        for i in range(at + 1, end):
            stack[row, i - at - 1] = cells[row, i]
    return -1
