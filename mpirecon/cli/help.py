"""How commands explain themselves: options under headings, in the order in which they are thought of."""

from __future__ import annotations

import inspect
import re
import textwrap

import click

from mpirecon.cli.hints import explain_option, explain_value
from mpirecon.cli.needs import refuse_unused
from mpirecon.cli.reading import READING_GROUPS

#: how a table is read, in commands that take particle files too
_READING = {f"{title} (STAR, .cs)": options for title, options in READING_GROUPS.items()}

_ROWS = "Which rows, and half sets"

#: errors that simulate and import make
_ERRORS = ("--orientation-error-rate", "--orientation-error", "--offset-error", "--offset-error-rate",
           "--defocus-error", "--defocus-error-kind", "--defocus-error-rate", "--inverted-hand-rate",
           "--duplicate-rate")

#: command → heading → its options; those of no heading come last, under "More options"
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "reconstruct": {
        "Output": ("--output", "--overwrite", "--log-particles", "--no-postprocess", "--controls", "--half-map-scores",
                   "--reference"),
        "Which particles count": (
            "--loss", "--keep", "--schedule", "--distance", "--score-band", "--folds", "--group-by", "--weights",
            "--sort-scope",
            "--skip-bad",
        ),
        "Wrong poses": ("--poses", "--search-offset", "--search-sigma"),
        "Map": ("--normalise", "--symmetry", "--mask", "--diameter", "--max-resolution", "--padding", "--space"),
        "Solver": ("--solver", "--iterations", "--batch-size", "--step", "--momentum", "--solve-iterations", "--seed"),
        "Long runs": (
            "--dry-run", "--resume", "--checkpoint-every", "--checkpoint-signal", "--grace", "--stall-timeout",
        ),
        "Hardware": (
            "--backend", "--threads", "--memory", "--half-precision", "--particle-scores", "--transport",
            "--deterministic",
        ),
        **_READING,
    },
    "simulate": {
        "Specimen": ("--map", "--model", "--phantom", "--box", "--pixel-size", "--second-map", "--second-fraction"),
        "Images": ("--particles", "--snr", "--noise-cv", "--scale-cv", "--shift-sigma", "--preferred-views",
                   "--preferred-angle",
                   "--noise-colour", "--micrographs", "--neighbour-rate", "--background", "--halves", "--dtype",
                   "--seed"),
        "Simulated errors": (*_ERRORS, "--junk-rate"),
        "Microscope": ("--defocus", "--astigmatism", "--voltage", "--cs", "--amplitude-contrast", "--phase-shift",
                       "--bfactor",
                       "--no-ctf", "--ctf-premultiply", "--ctf-phase-flip"),
        "Output": ("--output", "--truth-map", "--overwrite"),
    },
    "import": {
        **READING_GROUPS, _ROWS: (*READING_GROUPS[_ROWS], "--seed"),
        "Images": ("--link", "--rescale", "--dtype"),
        "Bad images": ("--skip-bad", "--max-bad"),
        "Simulated errors": (*_ERRORS, "--error-by"),
        "Output": ("--output", "--overwrite"),
    },
    "forecast": {
        "Particles": ("--particles", "--box", "--pixel-size"),
        "Machine": ("--cores", "--ram", "--threads", "--read-rate", "--calibrate"),
        "As for reconstruct": ("--loss", "--keep", "--solver", "--iterations", "--folds", "--group-by", "--poses",
                               "--search-offset", "--search-sigma", "--symmetry", "--max-resolution",
                               "--padding", "--solve-iterations", "--memory", "--half-precision", "--deterministic"),
        **{title: tuple(o for o in options if o != "--pixel-size") for title, options in _READING.items()},
    },
    "relion": {
        "RELION's options": ("--o", "--in_parts", "--in_mask", "--in_3dref", "--in_movies", "--in_mics", "--in_coords",
                             "--j", "--pipeline_control",
                      "--job-star"),
        "How it runs": ("--ranks", "--launcher", "--overwrite"),
    },
    "job": {
        "What it needs": ("--nodes", "--ranks", "--threads", "--gpus", "--memory", "--time", "--warning"),
        "Whose it is": ("--name", "--account", "--partition", "--email"),
        "How it starts": ("--modules", "--setup", "--container", "--launcher", "--launcher-options", "--mpi", "--site"),
        "Output": ("--output",),
    },
}  # fmt: skip
GROUPS["path"] = {
    "The path": ("--schedule", "--steps", "--random-draws", "--high-pass", "--no-null"),
    **{title: tuple(o for o in options if o != "--schedule") for title, options in GROUPS["reconstruct"].items()},
}
GROUPS["relion"] |= {title: tuple(o for o in options if o not in ("--overwrite", "--threads")) for title,
                     options in GROUPS["reconstruct"].items()}
GROUPS["score"] = {
    "Tables": ("--output", "--star", "--cs", "--overwrite"),
    "Scores": ("--no-filter", "--mask", "--diameter", "--distance", "--score-band", "--max-resolution", "--weights",
               "--normalise", "--padding", "--skip-bad"),
    "Where it runs": ("--backend", "--threads", "--memory", "--half-precision", "--transport"),
    **{title: tuple(o for o in options if o not in ("--cs", "--new-halves")) for title, options in _READING.items()},
}
GROUPS["null"] = {title: options for title, options in GROUPS["reconstruct"].items()}

#: columns for an option and what it takes
_COLUMN = 26

#: the same everywhere, and last
_LAST = ("--json", "--quiet", "--verbose", "--help")


class DocumentedCommand(click.Command):
    """A command whose ``--help`` puts options under the headings of GROUPS, and uses a wide terminal."""

    def __init__(self, *args, **settings) -> None:
        settings["context_settings"] = {"max_content_width": 100, **(settings.get("context_settings") or {})}
        super().__init__(*args, **settings)

    def parse_args(self, ctx, args):
        words = list(args)  # click empties the list it is given
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise explain_option(error, ctx) from None
        except click.BadParameter as error:
            raise explain_value(error, self, ctx, words) from None

    def invoke(self, ctx):
        refuse_unused(ctx)
        return super().invoke(ctx)

    def format_help_text(self, ctx, formatter) -> None:
        """click's, with the lines of examples broken as a shell takes them where the terminal is narrow."""
        width = formatter.width - formatter.current_indent - formatter.indent_increment
        paragraphs = inspect.cleandoc(self.help or "").split("\n\n")
        text = "\n\n".join(_broken(p, width) if p.startswith("\b\n") else p for p in paragraphs)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)

    def format_options(self, ctx, formatter) -> None:
        named = {spelling: p for p in self.get_params(ctx) if isinstance(p, click.Option) for spelling in p.opts}
        left = list(dict.fromkeys(named.values()))
        groups = GROUPS.get(self.name, {})
        for title, spellings in groups.items():
            chosen = [named[s] for s in spellings if s in named]
            left = [option for option in left if option not in chosen]
            self._write(ctx, formatter, title, chosen)
        common = [named[s] for s in _LAST if s in named and named[s] in left]
        self._write(ctx, formatter, "More options" if groups else "Options", [p for p in left if p not in common])
        self._write(ctx, formatter, "In every command", common)

    @staticmethod
    def _write(ctx, formatter, title: str, options: list[click.Option]) -> None:
        records = [record for record in (option.get_help_record(ctx) for option in options) if record]
        # the same column under every heading
        records = [(_divided(spelled, formatter.width - 2).ljust(_COLUMN), words) for spelled, words in records]
        if records:
            with formatter.section(title):
                formatter.write_dl(records, col_max=_COLUMN)


def _divided(spelled: str, width: int) -> str:
    """An option with its choices, in lines no wider than that; divided between choices."""
    lines = [""]
    for piece in re.findall(r"[^|]+\|?", spelled):
        if len(lines[-1]) + len(piece) > width:
            lines.append("      ")
        lines[-1] += piece
    return "\n".join(lines)


def _broken(block: str, width: int) -> str:
    """Lines of commands no wider than that: comments go before their command, a backslash where it continues."""
    lines = []
    for line in block.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        command, hash_, comment = line.partition("  # ") if len(line) > width else (line, "", "")
        if hash_:
            lines += textwrap.wrap(f"# {comment.strip()}", width, initial_indent=indent,
                                   subsequent_indent=f"{indent}# ")
            command = command.rstrip()
        pieces = [command]
        if len(command) > width:
            pieces = textwrap.wrap(command, width - 2, subsequent_indent=f"{indent}    ", break_long_words=False,
                                   break_on_hyphens=False)
        lines.append(" \\\n".join(pieces))
    return "\n".join(lines)
