"""What is taken of SciPy by itself, beside SciPy's own: a test may run it in a process of its own."""

import itertools

import numpy as np


def compare() -> None:
    """Assert that both give the same, to the bit."""
    from mpirecon.kernels import fft
    from mpirecon.validate.shapes import distance_to, extent, filled, labels_of

    rng = np.random.default_rng(5)
    ours = [*transforms(fft, rng), *shapes(labels_of, filled, distance_to, rng)]
    lengths = [fft.next_fast_len(n, real) for n in (7, 61, 1013) for real in (True, False)]
    marked = np.zeros((4, 5, 6), bool)
    marked[1, 2:4, 5] = True
    assert extent(marked) == (slice(1, 2), slice(2, 4), slice(5, 6))

    import scipy
    from scipy import ndimage

    rng = np.random.default_rng(5)
    theirs = [*transforms(scipy.fft, rng), *shapes(ndimage.label, ndimage.binary_fill_holes,
                                                   lambda a: ndimage.distance_transform_edt(~a), rng)]
    assert len(ours) == len(theirs) > 100
    for number, (a, b) in enumerate(zip(ours, theirs)):
        np.testing.assert_array_equal(a, b, err_msg=str(number))
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None), number
    assert lengths == [scipy.fft.next_fast_len(n, real) for n in (7, 61, 1013) for real in (True, False)]


def transforms(fft, rng):
    """Of every function, lengths, types, orders and norms; `fft` is scipy.fft or what stands for it."""
    yield from (fft.fftfreq(7, 0.5), fft.rfftfreq(8), fft.fftshift(np.arange(5)), fft.ifftshift(np.arange(5)))
    for shape, dtype in itertools.product([(4, 6, 8), (3, 5, 7), (1, 1, 2)], ["f4", "f8", "f2", ">f4", "i2"]):
        values = (10 * rng.standard_normal(shape)).astype(dtype)
        strided = np.asfortranarray(values)[:, ::-1]
        for norm, some in itertools.product((None, "ortho", "forward"), (values, strided)):
            half, one = fft.rfftn(some, norm=norm), fft.rfft(some, axis=1, norm=norm)
            yield from (half, one, fft.rfft2(some, norm=norm, workers=2), fft.fftn(some, norm=norm))
            yield from (fft.rfftn(some, axes=(0, 2), norm=norm), fft.fft(some, axis=0, norm=norm))
            yield from (fft.irfftn(half, s=shape, norm=norm), fft.irfft(one, n=shape[1], axis=1, norm=norm))
            yield from (fft.irfft2(half, s=shape[1:], norm=norm), fft.irfftn(half, s=(6, 8, 10), norm=norm))
            yield from (fft.ifft(half, axis=1, norm=norm), fft.irfftn(half[:, :, :2]), fft.irfft(one))
    values = rng.standard_normal((6, 5)).astype(np.complex64)
    found = fft.fft(values, axis=0, overwrite_x=True)
    yield from (found, values, np.shares_memory(found, values))


def shapes(label, fill, distance, rng):
    for size in ((3, 4, 5), (9, 8, 7), (1, 2, 12), (16, 16, 16)):
        for marked in (rng.random(size) < share for share in (0.05, 0.3, 0.5, 0.9, 1.0)):
            labels, count = label(marked)
            yield from (labels, count, fill(marked))
            if marked.any():
                yield distance(marked)
