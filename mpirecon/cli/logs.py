"""``mpirecon logs``: join the ranks' logs of a run."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, json_option, overwrite_option
from mpirecon.cli.terminal import table_lines, width
from mpirecon.errors import UserError

_COLUMNS = ("iteration", "particle", "rank", "batch", "before", "after", "distance", "kept", "pose_error")


@click.command("logs", cls=DocumentedCommand)
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--iteration", metavar="N|last", help="List an iteration's particles: sorted where, kept or not.")
@click.option("--particle", type=int, metavar="ID", help="Follow one particle through the iterations, or in one.")
@click.option("--csv", "csv_path", type=ANY_PATH, metavar="FILE",
              help="Write the list as a table (of the last iteration, unless --iteration says another).")
@json_option
@overwrite_option
def command(folder, iteration, particle, csv_path, as_json, overwrite):
    """Join the logs that the ranks of a run wrote under OUT/logs.

    Without options: a table of what each iteration sorted and kept, and how many of the kept particles have simulated
    errors. Particles are listed only as far as reconstruct --log-particles recorded them. Sorts are of the given poses:
    those that --poses rescue keeps at found ones are counted beside them.

    \b
    Examples:
      mpirecon logs run1
      mpirecon logs run1 --iteration last --csv sorts.csv
    """
    from mpirecon.io import log_join
    from mpirecon.io.atomic import refuse_existing
    from mpirecon.io.replaced import OTHER
    from mpirecon.io.run_inputs import run_inputs

    if csv_path is not None:
        refuse_existing(csv_path, overwrite, run_inputs(folder), writes=OTHER)
    logs = log_join.open_logs(folder)
    counts = log_join.count_iterations(logs)
    console = Console()
    shown = len(logs.warnings)
    for text in logs.warnings:
        console.warn(text)
    overview = iteration is None and particle is None and csv_path is None
    if not counts and not (overview and log_join.sorts_nothing(logs)):
        raise UserError(f"{logs.folder}: no sort was recorded; a run with --loss l2 sorts nothing")
    if overview:
        _print_json(_table_json(logs, counts)) if as_json else _print_table(counts, logs.size)
        return
    if particle is not None:
        rows = _of_particle(logs, particle, iteration, counts)
    else:
        rows = log_join.read_iteration(logs, _choose_iteration(iteration, counts, logs.folder))
    for text in logs.warnings[shown:]:
        console.warn(text)
    if csv_path is not None:
        _write_csv(csv_path, rows, overwrite)
        what = "sorts of one particle" if particle is not None else f"particles of iteration {rows['iteration'][0]}"
        console.say(f"wrote {csv_path}: {len(rows)} {what}")
    elif as_json:
        _print_json([_row_json(row) for row in rows])
    else:
        _print_rows(rows)


def _of_particle(logs, particle: int, iteration: str | None, counts):
    """Where a particle was sorted, in the iteration asked for, if any."""
    from mpirecon.io import log_join

    if iteration is None:
        rows, sort = log_join.read_particle(logs, particle), "no sort"
    else:
        number = _choose_iteration(iteration, counts, logs.folder)
        rows, sort = log_join.read_iteration(logs, number), f"no sort of iteration {number}"
        rows = rows[rows["particle"] == particle]
    if not len(rows):
        raise UserError(f"{logs.folder}: {sort} lists particle {particle}; see reconstruct --log-particles")
    return rows


def _choose_iteration(text: str | None, counts, folder) -> int:
    """The iteration asked for, or the last whose particles were listed."""
    listed = sorted({c.iteration for c in counts if c.has_particles})
    if not listed:
        raise UserError(f"{folder}: the run did not list its particles; use reconstruct --log-particles last or all")
    if text in (None, "last"):
        return listed[-1]
    if not text.isdigit():
        raise click.BadParameter(f"{text!r} is neither a number nor 'last'", param_hint="'--iteration'")
    if int(text) not in listed:
        raise UserError(f"{folder}: the particles of iteration {text} are not listed; there are those of "
                        f"{', '.join(map(str, listed))} (reconstruct --log-particles all lists every iteration)")
    return int(text)


def _print_table(counts, size: int) -> None:
    parts = [list(group) for _, group in itertools.groupby(counts, lambda c: c.part)]
    if not counts:
        click.echo("no particles were sorted: the loss of this run (l2) weights all particles equally and rejects none")
        return
    searched = any(c.kept_found is not None for c in counts)
    kept = ["kept", "and at found poses"] if searched else ["kept"]
    header = ["iteration", "scope", "sorted", *kept, "wrong among kept", "wrong among all", "kept by rank"]
    for part in parts:
        if part[0].part is not None:
            click.echo(f"\nthe same on {part[0].part}, beside the run's own particles:")
        rows = [[c.iteration, c.scope, c.sorted, _share(c.kept, c.sorted),
                 *([_share(c.kept_found, c.sorted)] if searched else []), _share(c.wrong_kept, c.kept),
                 _share(c.wrong, c.sorted), _by_rank(c, size)] for c in part]
        click.echo("\n".join(table_lines(header, rows, width())))


def _share(part: int | None, whole: int) -> str:
    if part is None:
        return "-"
    return f"{part} ({100 * part / whole:.1f} %)" if whole else f"{part}"


def _by_rank(counts, size: int) -> str:
    pairs = [(counts.kept_by_rank.get(r, 0), counts.sorted_by_rank.get(r, 0)) for r in range(size)]
    if size <= 4:
        return " ".join(f"{kept}/{total}" for kept, total in pairs)
    shares = [kept / total for kept, total in pairs if total]
    return f"{100 * min(shares):.1f} … {100 * max(shares):.1f} % on {len(shares)} ranks" if shares else "-"


def _table_json(logs, counts) -> dict:
    fields = ("iteration", "scope", "sorted", "kept", "kept_found", "wrong", "wrong_kept", "sorted_by_rank",
              "kept_by_rank")
    return {
        "ranks": logs.size,
        "warnings": logs.warnings,
        "iterations": [{name: getattr(c, name) for name in fields} for c in counts if c.part is None],
        "parts": [{name: getattr(c, name) for name in ("part", *fields)} for c in counts if c.part is not None],
    }


def _cells(row) -> list:
    truth = {1: "wrong", 0: "right", -1: "-"}[int(row["pose_error"])]
    return [row["iteration"], row["particle"], row["rank"], row["batch"], row["before"], row["after"],
            f"{row['distance']:.9g}", "kept" if row["kept"] else "out", truth]


def _print_rows(rows) -> None:
    click.echo("\n".join(table_lines(_COLUMNS, [_cells(row) for row in rows], width())))


def _row_json(row) -> dict:
    from mpirecon.io.run_log import to_json

    record = {name: to_json(row[name]) for name in _COLUMNS}
    record["pose_error"] = None if row["pose_error"] < 0 else bool(row["pose_error"])
    return record


def _print_json(value) -> None:
    click.echo(json.dumps(value, indent=1))


def _write_csv(path: Path, rows, overwrite: bool) -> None:
    """kept and pose_error as 0 and 1; an empty pose_error is one not known."""
    from mpirecon.io.atomic import atomic_path

    with atomic_path(path, overwrite) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in rows:
            truth = "" if row["pose_error"] < 0 else int(row["pose_error"])
            writer.writerow([*(row[name] for name in _COLUMNS[:6]), f"{row['distance']:.9g}", int(row["kept"]), truth])
