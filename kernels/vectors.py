"""Spreading and gathering one sample with explicit SIMD vectors, inlined into the kernels that need it.

Numba's loops over taps are not vectorised reliably; written as LLVM vectors they are. Each of these is one sample: taps
on three axes by Horner's rule, taps at a time, then taps² rows of the grid as one vector each. Offsets and strides
count floats; the table is (degree + 1, taps) float32, lowest power first.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mpirecon.kernels.gridding import GROUP

_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_BYTES, _DOUBLE = ir.IntType(8).as_pointer(), ir.DoubleType()

#: floats of a cache line, and what LLVM's prefetch is told
_LINE, _READ, _SECOND_CACHE, _DATA = 16, 0, 2, 1

#: 1.5 · 2⁵², and the bits of that double
_BESIDE, _BESIDE_BITS = 6755399441055744.0, 0x4338000000000000


@intrinsic(prefer_literal=True)
def locate(
    typing, table, k, q, first, xx, xy, yx, yy, zx, zy, step_z, step_y, step_x, least, place, slot, taps, degree
):
    """Where the GROUP samples from `first` on lie on the grid, into columns slot … slot + GROUP − 1 of `place`.

    k, q : float64, frequencies, readable GROUP beyond the last sample · x = xx k + xy q, …
    least : samples of smaller x are turned round, to −k
    place : a tuple of where (2·GROUP,) int64, step_z ⌊z⌋ + step_y ⌊y⌋ + step_x ⌊x⌋, whole numbers below 2⁵¹, and
        weights (3·taps + 1, 2·GROUP) float32: rows of the taps on x, y and z, and −1 where turned round, else 1.
    Coordinates are taken beside the grid points for an odd number of taps (``gridding.first_tap``).
    """
    double = types.float64
    n, last = taps.literal_value, degree.literal_value
    signature = types.void(table, k, q, types.int64, *[double] * 10, place, types.int64, taps, degree)

    def codegen(context, builder, _, args):
        build = _Builder(context, builder)
        first, slot = args[3], args[15]
        where, weights = (
            build.data(kind, a) for kind, a in zip(place.types, cgutils.unpack_tuple(builder, args[14], 2))
        )
        u, v = (build.load(builder.gep(build.data(kind, a), [first]), GROUP, _DOUBLE) for kind,
                a in ((k, args[1]), (q, args[2])))
        xx, xy, yx, yy, zx, zy, step_z, step_y, step_x, least = (build.splat(value, GROUP) for value in args[4:14])
        x, y, z = (build.add(build.times(a, u), build.times(b, v)) for a, b in ((xx, xy), (yx, yy), (zx, zy)))
        turned = builder.fcmp_ordered("<", x, least)
        sign = builder.select(turned, build.constant(-1.0, GROUP, _DOUBLE), build.constant(1.0, GROUP, _DOUBLE))
        beside = build.constant(0.5 * (n % 2), GROUP, _DOUBLE)
        points = [build.add(build.times(value, sign), beside) for value in (x, y, z)]
        floors = [build.floor(value) for value in points]
        half, narrow = build.constant(-0.5, GROUP, _DOUBLE), ir.VectorType(_FLOAT, GROUP)
        positions = [builder.fptrunc(build.add(builder.fsub(a, b), half), narrow) for a, b in zip(points, floors)]
        coefficient = build.data(table, args[0])
        rows = []
        for j in range(n):
            powers = [build.splat(builder.load(builder.gep(coefficient, [ir.Constant(_INT64, n * d + j)])), GROUP)
                      for d in range(last + 1)]
            rows.append([build.polynomial(powers, t) for t in positions])
        rows = [row[axis] for axis in range(3) for row in rows] + [builder.fptrunc(sign, narrow)]
        for row, value in enumerate(rows):
            build.store(value, build.element(weights, slot, row))
        z, y, x = floors[::-1]
        offset = build.add(build.add(build.times(step_z, z), build.times(step_y, y)), build.times(step_x, x))
        build.store(build.whole(offset), builder.gep(where, [slot]), align=8)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def spread(typing, grid, offset, stride_z, stride_y, weights, column, re, im, weight, taps):
    """grid[offset + jz·stride_z + jy·stride_y + 3·jx + (0, 1, 2)] += wz[jz] wy[jy] wx[jx] (re, im, weight).

    weights, column : of ``locate``. To a grid of int64 the nearest whole numbers are added, so that their sum does not
        depend on the order; then no product may exceed 2⁵¹.
    """
    n = taps.literal_value
    signature = types.void(grid, *[types.int64] * 3, weights, types.int64, *[types.float32] * 3, taps)
    exact = grid.dtype == types.int64

    def codegen(context, builder, _, args):
        build = _Builder(context, builder, grid, args[0], args[1], args[2], args[3], flags=() if exact else ("fast",))
        wx, wy, wz = build.weights(build.data(weights, args[4]), args[5], n)
        values = build.pack(args[6:9])
        row = build.times(build.pick(build.pack(wx), [j // 3 for j in range(3 * n)]),
                          build.pick(values, [j % 3 for j in range(3 * n)]))
        for jz in range(n):
            plane = build.times(build.splat(wz[jz], 3 * n), row)
            for jy in range(n):
                where = build.row(jz, jy)
                term = build.times(build.splat(wy[jy], 3 * n), plane)
                if exact:
                    build.count(term, where)
                else:
                    build.store(build.add(term, build.load(where, 3 * n)), where)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def gather(typing, grid, offset, stride_z, stride_y, weights, column, components, taps):
    """Σ wz[jz] wy[jy] wx[jx] grid[offset + jz·stride_z + jy·stride_y + components·jx + c] for each c,
    floats in a tuple.

    weights, column : of ``locate``.
    """
    n, c = taps.literal_value, components.literal_value
    signature = types.UniTuple(types.float32, c)(grid, *[types.int64] * 3, weights, types.int64, components, taps)

    def codegen(context, builder, _, args):
        build = _Builder(context, builder, grid, args[0], args[1], args[2], args[3])
        wx, wy, wz = build.weights(build.data(weights, args[4]), args[5], n)
        planes = []  # sums that do not wait for each other
        for jz in range(n):
            rows = [build.times(build.splat(wy[jy], c * n), build.load(build.row(jz, jy), c * n)) for jy in range(n)]
            planes.append(build.times(build.splat(wz[jz], c * n), build.total(rows)))
        total = build.times(build.total(planes), build.pick(build.pack(wx), [j // c for j in range(c * n)]))
        out = build.total([build.pick(total, list(range(c * j, c * j + c))) for j in range(n)])
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
def prefetch(typing, grid, offset, stride_z, stride_y, length, taps):
    """Ask for the cache lines of a sample's rows, each `length` floats, before they are needed.

    They come to the second cache, which may wait for more lines at a time than the first: of a grid in main memory each
    then takes half of the time. To ask for writing would bring them to the first.
    """
    n = taps.literal_value
    signature = types.void(grid, *[types.int64] * 3, length, taps)

    def codegen(context, builder, _, args):
        build = _Builder(context, builder, grid, args[0], args[1], args[2], args[3])
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTES], kind)
        flags = [ir.Constant(_INT32, value) for value in (_READ, _SECOND_CACHE, _DATA)]
        last = length.literal_value - 1
        for jz in range(n):
            for jy in range(n):
                for at in (*range(0, last, _LINE), last):
                    where = builder.gep(build.row(jz, jy), [ir.Constant(_INT64, at)])
                    builder.call(function, [builder.bitcast(where, _BYTES), *flags])
        return context.get_dummy_value()

    return signature, codegen


class _Builder:
    """LLVM instructions on float vectors, and where a sample's rows are."""

    def __init__(
        self, context, builder, kind=None, grid=None, offset=None, stride_z=None, stride_y=None, flags=("fast",)
    ) -> None:
        self.context, self.builder, self.flags = context, builder, flags
        if grid is not None:
            self._first = builder.gep(self.data(kind, grid), [offset])
            self._strides = stride_z, stride_y

    def data(self, kind, array):
        return cgutils.create_struct_proxy(kind)(self.context, self.builder, array).data

    def row(self, jz: int, jy: int):
        b, (stride_z, stride_y) = self.builder, self._strides
        # two steps: sums of both strides would be kept in more registers than there are
        plane = b.gep(self._first, [b.mul(stride_z, ir.Constant(_INT64, jz))])
        return b.gep(plane, [b.mul(stride_y, ir.Constant(_INT64, jy))])

    def taps(self, kind, table, positions, n: int, last: int, derivative: bool = False):
        """The taps' weights at each position, or their derivatives, a vector each."""
        data = self.data(kind, table)
        powers = [self.load(self.builder.gep(data, [ir.Constant(_INT64, n * d)]), n) for d in range(last + 1)]
        if derivative:
            powers = [self.times(power, ir.Constant(power.type, [float(d)] * n)) for d, power in enumerate(powers)][1:]
        return [self.polynomial(powers, self.splat(position, n)) for position in positions]

    def polynomial(self, powers, t):
        value = powers[-1]
        for power in powers[-2::-1]:
            value = self.add(self.times(value, t), power)
        return value

    def element(self, array, slot, row: int):
        """Of an array of 2·GROUP columns."""
        return self.builder.gep(array, [self.builder.add(slot, ir.Constant(_INT64, 2 * GROUP * row))])

    def weights(self, array, column, n: int):
        """A sample's weights of its taps on x, y and z, as ``locate`` left them."""
        return [[self.builder.load(self.element(array, column, n * axis + j)) for j in range(n)] for axis in range(3)]

    def pack(self, values):
        vector = ir.Constant(ir.VectorType(_FLOAT, len(values)), ir.Undefined)
        for k, value in enumerate(values):
            vector = self.builder.insert_element(vector, value, ir.Constant(_INT32, k))
        return vector

    def pick(self, vector, lanes: list[int]):
        mask = ir.Constant(ir.VectorType(_INT32, len(lanes)), lanes)
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def splat(self, value, n: int):
        one = ir.VectorType(value.type, 1)
        single = self.builder.insert_element(ir.Constant(one, ir.Undefined), value, ir.Constant(_INT32, 0))
        return self.pick(single, [0] * n)

    def constant(self, value: float, n: int, kind=_FLOAT):
        return ir.Constant(ir.VectorType(kind, n), [value] * n)

    def floor(self, vector):
        name = f"llvm.floor.v{vector.type.count}f64"
        kind = ir.FunctionType(vector.type, [vector.type])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [vector])

    def whole(self, vector):
        """The nearest whole numbers of doubles below 2⁵¹, int64: beside 1.5 · 2⁵² a double's last bit is worth one."""
        n = vector.type.count
        kind = ir.VectorType(_INT64, n)
        # no fast arithmetic: the constants must not be taken together with the vector's own terms
        beside = self.builder.bitcast(self.builder.fadd(vector, self.constant(_BESIDE, n, _DOUBLE)), kind)
        return self.builder.sub(beside, ir.Constant(kind, [_BESIDE_BITS] * n))

    def load(self, where, n: int, kind=_FLOAT):
        return self.builder.load(self.builder.bitcast(where, ir.VectorType(kind, n).as_pointer()), align=4)

    def store(self, vector, where, align: int = 4) -> None:
        self.builder.store(vector, self.builder.bitcast(where, vector.type.as_pointer()), align=align)

    def total(self, vectors):
        out = vectors[0]
        for vector in vectors[1:]:
            out = self.add(out, vector)
        return out

    def times(self, a, b):
        return self.builder.fmul(a, b, flags=self.flags)

    def add(self, a, b):
        return self.builder.fadd(a, b, flags=self.flags)

    def count(self, vector, where) -> None:
        """Add the nearest whole numbers to int64."""
        b, n = self.builder, vector.type.count
        term = self.whole(b.fpext(vector, ir.VectorType(_DOUBLE, n)))
        where = b.bitcast(where, term.type.as_pointer())
        b.store(b.add(b.load(where, align=8), term), where, align=8)
