"""``mpirecon forecast``: how long, how much memory, how many ranks, before there is a particle file."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mpirecon.batch.units import clock, memory_words, parse_memory
from mpirecon.cli import reconstruct
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import COUNT, EXISTING_FILE, POSITIVE, Whole
from mpirecon.cli.reading import READING, glance, reading_of
from mpirecon.cli.terminal import fold, table_lines, width
from mpirecon.errors import UserError
from mpirecon.io.file_names import as_argument

#: options of reconstruct that memory or time depend on
SHARED = (
    "loss",
    "keep",
    "solver",
    "iterations",
    "folds",
    "group_by",
    "poses",
    "search_offset",
    "search_sigma",
    "max_resolution",
    "symmetry",
    "padding",
    "solve_iterations",
    "memory",
    "half_precision",
    "deterministic",
)


class Amount(click.ParamType):
    """``64G`` → bytes."""

    name = "size"

    def convert(self, value, param, ctx):
        try:
            return value if isinstance(value, int) else parse_memory(value, "")
        except UserError as error:
            self.fail(str(error).strip(), param, ctx)


@click.pass_context
def _run(ctx, file, particles, box, pixel_size, threads, cores, ram, read_rate, calibrate, as_json, **options):
    from mpirecon.batch.calibration import calibration
    from mpirecon.batch.dry_run import available_memory
    from mpirecon.batch.rank_table import Node, choose, rank_table
    from mpirecon.batch.site import read_site, site_file
    from mpirecon.io.formats import is_table
    from mpirecon.parallel.threads import available_cores

    if calibrate is not None:
        return _calibrate(ctx, calibrate, as_json)
    reading = reading_of({**options, "pixel_size": pixel_size} if file is not None and is_table(file) else options)
    options = {name: value for name, value in options.items() if name in SHARED}
    site = read_site(site_file())
    there = site.get("memory_per_node")
    node = Node(
        cores or site.get("cores_per_node") or available_cores(),
        ram or (parse_memory(there, "memory_per_node") if there else available_memory()), site.get("speed", 1.0),
    )  # fmt: skip
    if threads > node.cores:
        raise UserError(f"--threads {threads}: the machine has {node.cores} cores; give --cores for another")
    task_of = _task(file, particles, box, pixel_size, options, reading)
    rows = rank_table(task_of, node, threads, read_rate)
    single, several = choose(rows)
    if single and not (cores or ram or site):
        several = None  # nothing says that there are more machines like this one
    commands = _commands(ctx, file or "particles.h5", node, single, several)
    constants = calibration()
    if constants.damage:
        click.echo(f"Warning: {constants.damage}", err=True)
    if as_json:
        return _print_json(task_of(0), node, rows, commands, constants)
    _print(task_of(0), node, rows, (single, several), commands, read_rate, constants)
    return None


def _calibrate(ctx, file: str, as_json: bool) -> None:
    from mpirecon.cli.calibrating import calibrate

    given = [param.opts[0] if param.param_type_name == "option" else "FILE" for param in ctx.command.params
             if param.name not in ("calibrate", "as_json")
             and ctx.get_parameter_source(param.name) == click.core.ParameterSource.COMMANDLINE]
    if given:
        raise UserError(f"--calibrate measures this machine by runs of its own; leave out {', '.join(given)}")
    calibrate(file, as_json)


def _print(task, node, rows, chosen, commands, read_rate, constants) -> None:
    click.echo(
        fold(
            f"{task.particles} particles, box {task.box}, {task.rounds} iteration{'s' * (task.rounds > 1)}, "
            f"{task.groups} groups; nodes of {node.cores} core{'s' * (node.cores > 1)} and {memory_words(node.memory)}"
        )
    )
    click.echo("\n".join(table_lines(_HEADER, [_cells(row) for row in rows], width())))
    for line in _advice(rows, *chosen, commands):
        click.echo(line)
    click.echo(
        fold(
            f"Times are {constants.of_cores}, with images read at {memory_words(read_rate)}/s a rank (--read-rate); "
            "passes on GPUs are not modelled."
        )
    )


_HEADER = ("ranks", "threads", "time", "a rank", "in all", "nodes")


def _cells(row) -> list[str]:
    return [
        str(row.ranks),
        str(row.threads),
        _time(row.seconds),
        memory_words(row.memory),
        memory_words(row.memory_in_all),
        "-" if row.nodes is None else str(row.nodes),
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else clock(round(seconds))


def _task(file, particles, box, pixel_size, options, reading):
    """Bytes that a rank may keep images in → the Task, of a particle file or table, or of the numbers given."""
    from mpirecon.batch.forecast import Task
    from mpirecon.batch.rank_table import Size
    from mpirecon.solvers.config import Config
    from mpirecon.solvers.first_checks import check_given, refuse_limit

    config = Config(**options)
    if file is None and (particles is None or box is None):
        raise UserError("give a particle file, or --particles N and --box N")
    if file is not None:
        if (particles, box, None if "pixel_size" in reading else pixel_size) != (None, None, None):
            raise UserError(
                f"{file} says how many particles of which box there are; leave out --particles, --box and --pixel-size"
            )
        with glance(file, reading) as opened:
            check_given(opened, config)
            config = config.settled(opened)
            rows = 1.0 if config.group_by is None else opened.group_size(config.group_by)
            size = Size(len(opened), opened.box, opened.pixel_size, opened.has_truth, rows)
    else:
        size = Size(particles, box, pixel_size)
        if config.max_resolution is not None and pixel_size is None:
            raise UserError("--max-resolution is in Å: give --pixel-size too")
        if pixel_size is not None:
            refuse_limit(config, pixel_size, box, f"--pixel-size {pixel_size:g}")
        if config.group_by is not None and config.folds is None:
            raise UserError("--group-by makes 4 folds or 8, by the groups of the particle file; give that, or --folds")
        if config.group_by is not None and config.searches:
            raise UserError(f"--poses {config.poses} searches the groups of --group-by, whose sizes the particle file "
                            "has; give that")
    return lambda kept: Task.of(size, config, kept)


def _commands(ctx, file, node, single, several) -> list[str]:
    """What starts the two: mpirun here, and a batch script."""
    given = _given(ctx)
    options = shlex.join(given)
    found = []
    if single:
        usual = single.threads == (node.cores if single.ranks == 1 else 1)
        threads = [] if usual else ["--threads", str(single.threads)]
        start = f"mpirun -n {single.ranks} " if single.ranks > 1 else ""
        words = ["mpirecon", "reconstruct", as_argument(file), "-o", "run1", *threads, *given]
        found.append(f"{start}{shlex.join(words)}")
    if several:
        threads = ["--threads", str(several.threads)] if several.threads > 1 else []
        words = [
            "mpirecon",
            "job",
            "slurm",
            as_argument(file),
            "-o",
            "run1",
            "--nodes",
            str(several.nodes),
            "--ranks",
            str(several.ranks),
            *threads,
        ]
        found.append(shlex.join(words) + (f" -- {options}" if given else "") + " > run1.sh")
    return found


def _given(ctx) -> list[str]:
    """The options of reconstruct that were given, as words of its command line."""
    words = []
    for param in ctx.command.params:
        of_table = param in READING or (param.name == "pixel_size" and ctx.params["file"] is not None)
        if (param.name in SHARED
            or of_table) and ctx.get_parameter_source(param.name) == click.core.ParameterSource.COMMANDLINE:
            value = ctx.params[param.name]
            value = f"{value // 2**10}K" if param.name == "memory" and value else value
            for one in value if param.multiple else [value]:
                words += [param.opts[0]] if param.is_flag else [param.opts[0], _word(one)]
    return words


def _word(value) -> str:
    """The value of an option, as it is given."""
    if isinstance(value, Path):
        return as_argument(value)
    return "=".join(value) if isinstance(value, tuple) else str(value)


def _advice(rows, single, several, commands):
    """What to start, and how it compares with threads alone."""
    if single is None:
        least = memory_words(min(row.memory for row in rows))
        yield fold(
            "It does not fit on one node."
            if several
            else f"No rank fits: each needs {least} at least. Nodes with more memory are needed, or a smaller box."
        )
    for row, command in zip([row for row in (single, several) if row], commands, strict=True):
        yield f"take ({_time(row.seconds)}): {command}"
    whole = next((row for row in rows if row.ranks == 1 and row.threads > 1), None)
    if single and whole and single.ranks > 1 and single.seconds < whole.seconds:
        yield fold(
            f"{single.ranks} ranks are {whole.seconds / single.seconds:.1f} times as fast as 1 rank of {whole.threads} "
            f"threads, in {memory_words(single.memory_in_all)} instead of {memory_words(whole.memory)}."
        )


def _print_json(task, node, rows, commands, constants) -> None:
    import json

    click.echo(json.dumps({
        "particles": task.particles, "box": task.box, "iterations": task.rounds, "groups": task.groups,
        "node": {"cores": node.cores, "memory": int(node.memory), "speed": node.speed},
        "rows": [{"ranks": r.ranks, "threads": r.threads, "seconds": round(r.seconds, 1),
                  "memory_per_rank": int(r.memory), "nodes": r.nodes}
                 for r in rows],
        "commands": commands, "calibrated": constants.as_dict(),
    }))  # fmt: skip


_HELP = """Forecast time and memory of a reconstruction over the number of MPI ranks, and say what to start.

Of --particles and --box alone, or of a FILE (particle file, STAR or .cs); with reconstruct's own options, as far as time and memory depend
on them. "nodes" are the machines that so many ranks take: by default machines like this one, or those of the site file.

\b
Examples:
  mpirecon forecast --particles 300000 --box 360 --loss posterior
  mpirecon forecast --particles 300000 --box 360 --cores 64 --ram 250G
  mpirecon forecast particles.h5 --symmetry D2
  mpirecon forecast --calibrate
"""

command = DocumentedCommand(
    "forecast",
    params=[
        click.Argument(["file"], metavar="[FILE]", required=False, type=EXISTING_FILE),
        click.Option(["--particles"], type=Whole(1, 10**9), metavar="N", help="Number of particle images."),
        click.Option(["--box"], type=Whole(4, 4096), metavar="N", help="Side of the images, pixels."),
        click.Option(["--pixel-size"], type=POSITIVE, metavar="Å",
                     help="Pixel size, which --max-resolution counts in."),
        click.Option(["--threads"], type=COUNT, default=1, show_default=True, metavar="N",
                     help="Threads of each rank."),
        click.Option(["--cores"], type=COUNT, metavar="N",
                     help="Cores of a node.  [default: the site file's, else those here]"),
        click.Option(["--ram"], type=Amount(), metavar="64G",
                     help="Memory of a node.  [default: the site file's, else what is free here]"),
        click.Option(["--read-rate"], type=Amount(), default="100M", show_default=True, metavar="SIZE",
                     help="What each rank reads from the disk in a second."),
        *(p for p in reconstruct.command.params if p.name in SHARED),
        *(p for p in READING if p.name != "pixel_size"),
        click.Option(["--calibrate"], is_flag=False, flag_value="", metavar="[FILE]",
                     help="Measure the constants of forecasts by short runs on this machine (two minutes), and keep "
                          "them.  [default: $MPIRECON_MACHINE, ~/.config/mpirecon/machine.json]"),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of a table."),
    ],
    callback=_run,
    help=_HELP,
    short_help="Forecast time and memory over the number of ranks.",
)  # fmt: skip
