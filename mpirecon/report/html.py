"""One self-contained page about a finished run: report.html, made of nothing but the files in the run's folder.

What most readers look for stands first and together (docs/report.md lists it): two screens hold it.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path
from mpirecon.report import details, overview, pieces
from mpirecon.report.controls import controls_section
from mpirecon.report.facts import facts
from mpirecon.report.run_files import RunFiles, read_run_files
from mpirecon.report.verdict import cautions, verdict


def write_report(
    folder: Path, summary: dict, *, maps: dict | None = None, table: dict | None = None, target: Path | None = None,
    overwrite: bool = True, place: Path | None = None, logs: Path | None = None,
) -> Path:
    """Write the page into the folder of a finished run, or as `target`; returns its path. Atomic.

    summary : the content of summary.json, which itself need not be there yet
    maps, table, place, logs : of ``read_run_files``.
    Raises UserError when a file it needs is missing or is not what a run writes, or when it cannot be written.
    """
    folder = Path(folder)
    target = folder / "report.html" if target is None else Path(target)
    run = read_run_files(folder, summary, maps, place, logs, table)
    try:
        page = report_page(run)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{folder}: summary.json or particles.h5 is not what this version's reconstruct writes "
            f"({type(error).__name__}: {error}); run the reconstruction again"
        ) from error
    with atomic_path(target, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return target


def fill_page(**parts: str) -> str:
    """The house's page with these parts, HTML each:
    kind, generator, title, verdict, cautions, facts, overview, details, footer."""
    text = resources.files("mpirecon.report").joinpath("report.html").read_text(encoding="utf-8")
    return Template(text).substitute(parts)


def report_page(run: RunFiles) -> str:
    """The page as text."""
    summary = run.summary
    program = f"{summary['program']} {summary['version']}"
    warnings = cautions(summary)
    return fill_page(
        generator=escape(program),
        title=escape(f"{run.name}: {Path(summary['particles']['file']).name}"),
        kind=escape("mpirecon reconstruct · " + str(summary["started"]).replace("T", " ").replace("+00:00", " UTC")),
        verdict=escape(verdict(summary)),
        cautions=pieces.cautions(warnings),
        facts="\n".join(pieces.fact(*fact) for fact in facts(summary)),
        overview="\n".join(part for part in overview.sections(run) if part),
        details="\n".join(part for part in (*details.sections(run), controls_section(summary),
                                            *details.last_sections(run)) if part),
        footer=escape(f"Written by {program} from the files in this folder; mpirecon report writes it again."),
    )
