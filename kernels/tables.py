"""The arguments of every CUDA kernel: one table each, from which its parameter list and its launches are made.

``ARGUMENTS_name`` stands for the parameter list in the .cu files; ``Gpu.launch`` takes the arguments by name.
"""

from __future__ import annotations

from mpirecon.kernels.arguments import Argument, Kernel, array, number, output

#: shape of an extended grid, in points
_EXTENT = number("nz"), number("ny"), number("nx")
_GRID, _SUMS = array("grid", "complex64", "nz", "ny", "nx"), output("grid", "float32_fours", "nz", "ny", "nx")
_ROTATION = array("rotation", "float32", "particles", 12)  # rotation_arguments
_CTF = array("ctf", "float32", "particles", 16)  # ctf_arguments
_FREQUENCIES = array("k", "int16_pairs", "samples")
_SHELL, _SAMPLES, _PARTICLES = array("shell", "int32", "samples"), number("samples"), number("particles")

#: what optics groups add, struct Optics of common.cuh; None without
_OPTICS = (
    array("on_data", "complex64", "optics_groups", "samples", optional=True),
    array("turns", "float32", "optics_groups", "samples", optional=True),
    array("on_ctf", "float32", "optics_groups", "samples", optional=True),
    array("optics_row", "int32", "particles", optional=True),
)

#: samples of images, struct Images of common.cuh, and the optics
_IMAGES = (
    array("data", "complex64", "rows", "stride"), array("row", "int32", "particles"),
    array("shift", "float32", "particles", 4, optional=True),  # shift_arguments
    number("stride", "int64"), number("data_scale", "float32"), number("box"), *_OPTICS,
)  # fmt: skip

#: samples by band, the gains in their order, and how data and model are multiplied
_BANDS = (
    array("index", "int32", "count"), array("first", "int32", "bands + 1"),
    array("gain", "float32", "noise_groups", "count"),
    array("group", "int32", "particles"), number("count"), number("mode"),
)  # fmt: skip

#: what each image counts: the expected contrast of a particle, or of its shells
_WEIGHT = array("weight", "float32", "particles")
_CONTRAST, _CONTRAST2 = (array(name, "float32", "particles", "per_particle") for name in ("contrast", "contrast2"))
_COUNTS = number("per_particle"), number("per_shell"), number("scale", "float32"), number("premultiplied")

#: a padded half grid, and factors that depend on the radius only
_HALF_GRID = "p", "p", "p // 2 + 1"
_RADIAL = array("ridge", "float64", "shells"), number("shells"), number("p"), number("ratio", "float64")


def _table(name: str, *arguments: Argument) -> Kernel:
    return Kernel(name, arguments)


_KERNELS = (
    _table("project", _GRID, *_EXTENT, _ROTATION, _FREQUENCIES, _SAMPLES,
           output("out", "complex64", "particles", "samples")),
    _table("backproject", _SUMS, *_EXTENT, _ROTATION, _FREQUENCIES, _SAMPLES,
           array("numerator", "complex64", "particles", "samples"),
           array("weight", "float32", "particles", "samples")),
    _table("accumulate", _SUMS, *_EXTENT, _ROTATION, _CTF, *_IMAGES, _FREQUENCIES, _SHELL, _SAMPLES, _WEIGHT,
           _CONTRAST, _CONTRAST2, *_COUNTS),
    _table("weighted_samples", _CTF, *_IMAGES, _FREQUENCIES, _SHELL, _SAMPLES, _PARTICLES, _WEIGHT, _CONTRAST,
           *_COUNTS, output("out", "complex64", "particles", "samples")),
    _table("statistics", _GRID, *_EXTENT, _ROTATION, _CTF, *_IMAGES, _FREQUENCIES, _SAMPLES, *_BANDS,
           output("out", "float64", "particles", "bands", 3)),
    _table("statistics_of", array("model", "complex64", "particles", "samples"), _CTF, *_IMAGES, _FREQUENCIES,
           _SAMPLES, *_BANDS, output("out", "float64", "particles", "bands", 3)),
    _table("image_power", _CTF, *_IMAGES, _FREQUENCIES, _SAMPLES, array("multiplicity", "float32", "samples"),
           number("premultiplied"), output("out", "float64", "particles")),
    _table("shell_power", _CTF, *_IMAGES, _FREQUENCIES, _SAMPLES, array("multiplicity", "float32", "samples"),
           array("shell_index", "int32", "samples"), array("first", "int32", "shells + 1"),
           array("weight", "float64", "particles"), _PARTICLES, number("premultiplied"),
           output("power", "float64", "shells"), output("count", "float64", "shells")),
    _table("look_nearby", _GRID, *_EXTENT, _ROTATION, array("matrix", "float32", "particles", 9), _CTF, *_IMAGES,
           _FREQUENCIES, _SAMPLES, *_BANDS, number("used"), output("out", "float64", "particles", "sums")),
    _table("evaluate_ctf", array("coefficients", "float32", "particles", 16), *_OPTICS, _FREQUENCIES, _SAMPLES,
           _PARTICLES, output("out", "float32", "particles", "samples")),
    _table("gather_translated", *_IMAGES, _FREQUENCIES, _SAMPLES, _PARTICLES, array("to", "int32", "particles"),
           output("out", "complex64", "places", "samples")),
    _table("scatter_translated", array("samples_in", "complex64", "particles", "samples"),
           array("shift", "float32", "particles", 4), number("box"), _FREQUENCIES, _SAMPLES, _PARTICLES,
           output("spectra", "complex64", "particles", "box", "box // 2 + 1")),
    _table("extend", array("half", "complex64", *_HALF_GRID), number("p"), *_EXTENT,
           output("out", "complex64", "nz", "ny", "nx")),
    _table("fold", array("grid", "float32_fours", "nz", "ny", "nx"), *_EXTENT, number("p"),
           output("out", "float32", *_HALF_GRID, 3)),
    _table("radial_sum", array("values", "float32", *_HALF_GRID, "stride"), number("stride"), number("component"),
           number("p"), number("ratio", "float64"), number("shells"), output("total", "float64", "p", "shells"),
           output("count", "float64", "p", "shells")),
    _table("divide_regularised", array("folded", "float32", *_HALF_GRID, 3), *_RADIAL,
           output("out", "complex64", *_HALF_GRID)),
    _table("precondition", output("spectrum", "complex64", *_HALF_GRID), array("folded", "float32", *_HALF_GRID, 3),
           *_RADIAL),
    _table("multiply_regularised", output("spectrum", "complex64", *_HALF_GRID),
           array("transfer", "float32", *_HALF_GRID), *_RADIAL),
    _table("rotate_volumes", array("coefficients", "float32", "n", "n", "n"),
           array("rotation", "float32", "volumes", 9), number("n"), number("volumes"),
           output("out", "float32", "volumes", "n", "n", "n")),
    _table("move_images", array("coefficients", "float32", "images", "n", "n"),
           array("motion", "float32", "images", 4), number("n"), number("images"),
           output("out", "float32", "images", "n", "n")),
    _table("project_real", array("coefficients", "float32", "n", "n", "n"),
           array("rotation", "float32", "images", 9), number("n"), number("images"),
           output("out", "float32", "images", "n", "n")),
    _table("backproject_real", output("coefficients", "float32", "n", "n", "n"),
           array("rotation", "float32", "images", 9), number("n"), number("images"),
           array("values", "float32", "images", "n", "n")),
)  # fmt: skip

#: the kernels that there are, by name
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _KERNELS}


def add_kernel(kernel: Kernel) -> None:
    """Have a kernel that brings its own source compiled with the others.

    Raises
    ------
    ValueError
        where there is another kernel of this name
    """
    if KERNELS.setdefault(kernel.name, kernel) != kernel:
        raise ValueError(f"there is another kernel named {kernel.name}")
