"""Spreading and gathering one sample with explicit SIMD vectors, inlined into the kernels that need it.

Numba's loops over taps are not vectorised reliably; written as LLVM vectors they are. Each of these is one sample: taps
on three axes by Horner's rule, taps at a time, then taps² rows of the grid as one vector each. Offsets and strides count
floats; the table is (degree + 1, taps) float32, lowest power first.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_BYTES, _DOUBLE = ir.IntType(8).as_pointer(), ir.DoubleType()

#: 1.5 · 2⁵², and the bits of that double
_BESIDE, _BESIDE_BITS = 6755399441055744.0, 0x4338000000000000


@intrinsic(prefer_literal=True)
def spread(typing, grid, table, offset, stride_z, stride_y, tx, ty, tz, re, im, weight, taps, degree):
    """grid[offset + jz·stride_z + jy·stride_y + 3·jx + (0, 1, 2)] += wz[jz] wy[jy] wx[jx] (re, im, weight).

    tx, ty, tz : float32, positions between the two middle taps, −1/2 … 1/2. To a grid of int64 the nearest whole numbers
    are added, so that their sum does not depend on the order; then no product may exceed 2⁵¹.
    """
    n, last = taps.literal_value, degree.literal_value
    signature = types.void(grid, table, *[types.int64] * 3, *[types.float32] * 6, taps, degree)
    exact = grid.dtype == types.int64

    def codegen(context, builder, _, args):
        build = _Builder(context, builder, grid, args[0], args[2], args[3], args[4], flags=() if exact else ("fast",))
        wx, wy, wz = build.taps(table, args[1], args[5:8], n, last)
        values = build.pack(args[8:11])
        row = build.times(build.pick(wx, [j // 3 for j in range(3 * n)]), build.pick(values, [j % 3 for j in range(3 * n)]))
        for jz in range(n):
            factors = build.times(wy, build.pick(wz, [jz] * n))
            for jy in range(n):
                where = build.row(jz, jy)
                term = build.times(build.pick(factors, [jy] * 3 * n), row)
                if exact:
                    build.count(term, where)
                else:
                    build.store(build.add(term, build.load(where, 3 * n)), where)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def gather(typing, grid, table, offset, stride_z, stride_y, tx, ty, tz, components, taps, degree):
    """Σ wz[jz] wy[jy] wx[jx] grid[offset + jz·stride_z + jy·stride_y + components·jx + c] for each c, floats in a tuple."""
    n, last, c = taps.literal_value, degree.literal_value, components.literal_value
    signature = types.UniTuple(types.float32, c)(
        grid, table, *[types.int64] * 3, *[types.float32] * 3, components, taps, degree
    )

    def codegen(context, builder, _, args):
        build = _Builder(context, builder, grid, args[0], args[2], args[3], args[4])
        wx, wy, wz = build.taps(table, args[1], args[5:8], n, last)
        total = None
        for jz in range(n):
            factors = build.times(wy, build.pick(wz, [jz] * n))
            for jy in range(n):
                term = build.times(build.pick(factors, [jy] * c * n), build.load(build.row(jz, jy), c * n))
                total = term if total is None else build.add(total, term)
        total = build.times(total, build.pick(wx, [j // c for j in range(c * n)]))
        out = build.pick(total, list(range(c)))
        for j in range(1, n):
            out = build.add(out, build.pick(total, list(range(c * j, c * j + c))))
        values = [builder.extract_element(out, ir.Constant(_INT32, k)) for k in range(c)]
        return context.make_tuple(builder, signature.return_type, values)

    return signature, codegen


@intrinsic(prefer_literal=True)
def gather_gradient(typing, grid, table, offset, stride_z, stride_y, tx, ty, tz, taps, degree):
    """As ``gather`` of two components, and its derivatives along x, y and z: 8 floats in a tuple, two for each."""
    n, last = taps.literal_value, degree.literal_value
    signature = types.UniTuple(types.float32, 8)(grid, table, *[types.int64] * 3, *[types.float32] * 3, taps, degree)

    def codegen(context, builder, _, args):
        build = _Builder(context, builder, grid, args[0], args[2], args[3], args[4])
        wx, wy, wz = build.taps(table, args[1], args[5:8], n, last)
        dx, dy, dz = build.taps(table, args[1], args[5:8], n, last, derivative=True)

        def weighted(weights, vectors):
            return build.total([build.times(build.pick(weights, [j] * 2 * n), v) for j, v in enumerate(vectors)])

        rows = [[build.load(build.row(jz, jy), 2 * n) for jy in range(n)] for jz in range(n)]
        along = [weighted(wy, some) for some in rows]
        value, along_z = weighted(wz, along), weighted(dz, along)
        along_y = weighted(wz, [weighted(dy, some) for some in rows])
        found = [build.times(vector, build.pick(w, [j // 2 for j in range(2 * n)]))
                 for vector, w in ((value, wx), (value, dx), (along_y, wx), (along_z, wx))]
        out = []
        for vector in found:
            pair = build.total([build.pick(vector, [2 * j, 2 * j + 1]) for j in range(n)])
            out += [builder.extract_element(pair, ir.Constant(_INT32, k)) for k in range(2)]
        return context.make_tuple(builder, signature.return_type, out)

    return signature, codegen


@intrinsic(prefer_literal=True)
def prefetch(typing, grid, offset, stride_z, stride_y, length, taps, write):
    """Ask for the cache lines of a sample's rows, each `length` floats, before they are needed; write : 0 or 1."""
    n = taps.literal_value
    signature = types.void(grid, *[types.int64] * 3, length, taps, write)

    def codegen(context, builder, _, args):
        build = _Builder(context, builder, grid, args[0], args[1], args[2], args[3])
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTES], kind)
        flags = [ir.Constant(_INT32, value) for value in (write.literal_value, 3, 1)]
        for jz in range(n):
            for jy in range(n):
                first = build.row(jz, jy)
                for where in (first, builder.gep(first, [ir.Constant(_INT64, length.literal_value - 1)])):
                    builder.call(function, [builder.bitcast(where, _BYTES), *flags])
        return context.get_dummy_value()

    return signature, codegen


class _Builder:
    """LLVM instructions on float vectors, and where a sample's rows are."""

    def __init__(self, context, builder, kind, grid, offset, stride_z, stride_y, flags=("fast",)) -> None:
        self.context, self.builder, self._flags = context, builder, flags
        self._first = builder.gep(self._data(kind, grid), [offset])
        self._strides = stride_z, stride_y

    def _data(self, kind, array):
        return cgutils.create_struct_proxy(kind)(self.context, self.builder, array).data

    def row(self, jz: int, jy: int):
        b, (stride_z, stride_y) = self.builder, self._strides
        along = b.add(b.mul(stride_z, ir.Constant(_INT64, jz)), b.mul(stride_y, ir.Constant(_INT64, jy)))
        return b.gep(self._first, [along])

    def taps(self, kind, table, positions, n: int, last: int, derivative: bool = False):
        """The taps' weights at each position, or their derivatives, a vector each."""
        data = self._data(kind, table)
        powers = [self.load(self.builder.gep(data, [ir.Constant(_INT64, n * d)]), n) for d in range(last + 1)]
        if derivative:
            powers = [self.times(power, ir.Constant(power.type, [float(d)] * n)) for d, power in enumerate(powers)][1:]
        return [self._polynomial(powers, position, n) for position in positions]

    def _polynomial(self, powers, position, n: int):
        t = self.pick(self.pack([position]), [0] * n)
        value = powers[-1]
        for power in powers[-2::-1]:
            value = self.add(self.times(value, t), power)
        return value

    def pack(self, values):
        vector = ir.Constant(ir.VectorType(_FLOAT, len(values)), ir.Undefined)
        for k, value in enumerate(values):
            vector = self.builder.insert_element(vector, value, ir.Constant(_INT32, k))
        return vector

    def pick(self, vector, lanes: list[int]):
        mask = ir.Constant(ir.VectorType(_INT32, len(lanes)), lanes)
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def load(self, where, n: int):
        return self.builder.load(self.builder.bitcast(where, ir.VectorType(_FLOAT, n).as_pointer()), align=4)

    def store(self, vector, where) -> None:
        self.builder.store(vector, self.builder.bitcast(where, vector.type.as_pointer()), align=4)

    def total(self, vectors):
        out = vectors[0]
        for vector in vectors[1:]:
            out = self.add(out, vector)
        return out

    def times(self, a, b):
        return self.builder.fmul(a, b, flags=self._flags)

    def add(self, a, b):
        return self.builder.fadd(a, b, flags=self._flags)

    def count(self, vector, where) -> None:
        """Add the nearest whole numbers to int64: beside 1.5 · 2⁵² a double's last bit is worth one."""
        b, n = self.builder, vector.type.count
        whole = ir.VectorType(_INT64, n)
        beside = b.fadd(b.fpext(vector, ir.VectorType(_DOUBLE, n)), ir.Constant(ir.VectorType(_DOUBLE, n), [_BESIDE] * n))
        term = b.sub(b.bitcast(beside, whole), ir.Constant(whole, [_BESIDE_BITS] * n))
        where = b.bitcast(where, whole.as_pointer())
        b.store(b.add(b.load(where, align=8), term), where, align=8)
