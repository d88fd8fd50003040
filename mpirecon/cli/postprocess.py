"""``mpirecon postprocess``: corrected FSC, B-factor, sharpened map and local resolution of two half maps."""

from __future__ import annotations

import json
from functools import partial

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import (
    ANY_PATH, COUNT, EXISTING_FILE, EXISTING_PATH, POSITIVE, FileOr, Number, json_option, overwrite_option,
    map_seed_option,
    pass_communicator, verbosity_options,
)  # fmt: skip
from mpirecon.cli.terminal import chart_width


@click.command("postprocess", cls=DocumentedCommand)
@click.argument("half1", metavar="HALF1|OUT", type=EXISTING_PATH)
@click.argument("half2", metavar="[HALF2]", type=EXISTING_FILE, required=False)
@click.option("-o", "--output", type=ANY_PATH, metavar="FOLDER", help="Folder for the sharpened map, with and without "
              "the mask, the mask, FSC curves and what was found.  [default with OUT and --local-resolution: OUT, for "
              "the local resolution alone]")
@click.option("--mask", type=FileOr("none"), metavar="FILE|none", help="Mask (MRC, 0 … 1, soft edge), or none.  "
              "[default: made from the mean of the maps; of OUT its mask.mrc]")
@click.option("--bfactor", type=Number(-5000, 5000, metavar="Å²"), help="Sharpen by this (negative sharpens).  "
              "[default: fitted]")
@click.option("--lowpass", type=POSITIVE, metavar="Å", help="Where the sharpened map ends.  [default: where the "
              "corrected FSC falls below 0.143]")
@click.option("--mtf", type=EXISTING_FILE, metavar="FILE.star", help="Divide by the detector's MTF (RELION's STAR "
              "file).")
@click.option("--mtf-pixel-size", type=POSITIVE, metavar="Å", help="Pixel size of the detector that it counts in.  "
              "[default: the maps']")
@click.option("--pixel-size", type=POSITIVE, metavar="Å", help="Pixel size of the maps and of the "
              "mask, where their headers are wrong or have none.")
@click.option("--local-resolution", "--locres", "local", is_flag=True, help="Also find the local resolution, and "
              "filter the map by it.")
@click.option("--locres-sampling", type=POSITIVE, metavar="Å", help="Distance between windows.  [default: 25, at most "
              "a quarter of the box]")
@click.option("--locres-maskrad", type=POSITIVE, metavar="Å", help="Radius of a window.  [default: half the sampling]")
@click.option("--locres-edgwidth", type=POSITIVE, metavar="Å", help="Width of a window's soft edge.  [default: the "
              "sampling]")
@click.option("--locres-randomize-at", type=POSITIVE, metavar="Å", help="Random phases, which correct for the window, "
              "begin here.  [default: 25, at most half the box]")
@click.option("--locres-minres", type=POSITIVE, default=50.0, show_default=True, metavar="Å",
              help="What is coarser counts as no resolution, and has this value in the map.")
@click.option("--locres-threshold", type=Number(0, 1, metavar="FSC"), default=0.143, show_default=True,
              help="Where a window's FSC falls below this is its resolution.")
@click.option("--threads", type=COUNT, help="Threads of each rank for the local resolution.  [default: "
              "OMP_NUM_THREADS, else the cores divided by the ranks of the host]")
@json_option
@map_seed_option
@overwrite_option
@verbosity_options
@pass_communicator
def command(comm, half1, half2, output, local, threads, as_json, seed, overwrite, quiet, verbose, mask, bfactor, mtf,
            **options):
    """Sharpen the mean of the half maps HALF1 and HALF2 (MRC, unmasked, unfiltered), and find its resolution.

    As relion_postprocess does: the FSC in a mask, corrected for the mask by random phases; the B-factor of the Guinier
    plot; the mean of the maps weighted by the FSC, sharpened, and filtered at its resolution. reconstruct does all of
    this at its end; this is for the half maps of other programs, another mask, or a B-factor of your own.

    With --local-resolution also, as relion_postprocess --locres: the FSC in soft spheres all over the map (locres.mrc,
    in Å), and the map filtered place by place (locres_filtered.mrc). Given the folder OUT of a finished run and no -o,
    these two go there and onto its report. Starts under mpirun as well, whose ranks share the spheres.

    \b
    Examples:
      mpirecon postprocess run1/half1.mrc run1/half2.mrc -o post
      mpirecon postprocess h1.mrc h2.mrc --mask mask.mrc --bfactor -80 --mtf mtf_k3_300kV.star -o post
      mpirecon postprocess run1 --local-resolution
    """
    from mpirecon.parallel.agree import run_first
    from mpirecon.api.half_maps import postprocess_files, write_half_maps

    console = Console(comm, quiet=quiet or as_json, verbose=verbose)
    windows = [
        options.pop(f"locres_{name}")
        for name in ("sampling", "maskrad", "edgwidth", "randomize_at", "minres", "threshold")
    ]
    _refuse(half1, half2, output, local, options | {"mtf": mtf})
    find = partial(_find, comm, console, windows, seed, threads)
    if output is None:
        return _of_run(comm, console, half1, mask, bfactor, overwrite, as_json, find)
    first, second = (half1, half2) if half2 is not None else (half1 / "half1.mrc", half1 / "half2.mrc")

    def found():
        _refuse_targets(output, overwrite, first, second, mask, mtf, None if half2 is not None else half1)
        return postprocess_files(first, second, mask, bfactor=bfactor, mtf=mtf, seed=seed, **options)

    made = run_first(comm, found)
    if local:
        local_found = find(made.local_input() if comm.rank == 0 else None)
        made = made.with_local(local_found) if comm.rank == 0 else None
    written = run_first(comm, lambda: write_half_maps(output, made))
    if comm.rank == 0:
        _print(console, made, output, written, as_json)


def _refuse(half1, half2, output, local, options) -> None:
    """Raise UserError where the arguments do not go together."""
    from mpirecon.errors import UserError

    if options["mtf_pixel_size"] is not None and options["mtf"] is None:
        raise UserError("--mtf-pixel-size is the pixel size of an MTF: give that with --mtf FILE")
    folder = half1.is_dir()
    if folder and half2 is not None:
        raise UserError(f"{half1} is a folder: give the folder of a finished run alone, or two half maps")
    if not folder and half2 is None:
        raise UserError(f"{half1} is one half map: give the other one too, or the folder of a finished run")
    if output is None and not (folder and local):
        also = (" (the local resolution of a finished run alone goes into its own folder: mpirecon postprocess OUT "
                "--local-resolution)")
        raise UserError(f"give a folder for what is made with -o FOLDER{also}")
    if output is None and (given := [name for name, value in options.items() if value is not None]):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{names}: only the local resolution is added to the folder of a run; with -o FOLDER its half "
                        f"maps are post-processed again")


def _refuse_targets(output, overwrite, first, second, mask, mtf, run) -> None:
    from mpirecon.io.inputs import given
    from mpirecon.io.run_inputs import run_inputs
    from mpirecon.api.half_maps import refuse_targets

    mask_file = None if str(mask) == "none" else mask
    read = given(half_map=first, mask=mask_file, MTF=mtf) + given(half_map=second)
    refuse_targets(output, overwrite, read + ([] if run is None else list(run_inputs(run))))


def _find(comm, console, windows, seed, threads, given):
    """The local resolution of what rank 0 gives. Collective."""
    from mpirecon.parallel.threads import default_threads
    from mpirecon.validate.local_files import shared_local_resolution
    from mpirecon.validate.windows import WindowOptions

    neighbours = comm.allgather(comm.hostname).count(comm.hostname)
    return shared_local_resolution(
        comm, given, WindowOptions(*windows), seed=seed, threads=threads or default_threads(neighbours),
        progress=lambda total, mine: console.progress(total, "local resolution", mine=mine),
    )


def _of_run(comm, console, folder, mask, bfactor, overwrite, as_json, find) -> None:
    """The local resolution of a finished run, into its folder. Collective."""
    from mpirecon.io.inputs import given
    from mpirecon.parallel.agree import run_first
    from mpirecon.api.finished_run import FinishedRun

    def opened():
        run = FinishedRun(folder, overwrite, given(mask=None if str(mask) == "none" else mask))
        return run, run.read(mask, bfactor)

    run, maps = run_first(comm, opened) or (None, None)
    found = find(maps)
    written = run_first(comm, lambda: run.add(found))
    if comm.rank:
        return
    for text in found.warnings:
        console.warn(text)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    for line in found.lines():
        console.say(line)
    console.say(f"wrote {folder}: {', '.join(path.name for path in written)}")


def _print(console, made, output, written, as_json) -> None:
    from mpirecon.validate.fsc_table import text_plot

    for text in made.warnings:
        console.warn(text)
    if as_json:
        click.echo(json.dumps(made.as_dict()))
    console.say(text_plot(made.found.fsc.true, made.comparison.box, made.comparison.pixel_size, chart_width()))
    for line in made.lines():
        console.say(line)
    console.say(f"wrote {output}: {', '.join(path.name for path in written)}")
