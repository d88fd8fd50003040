"""The documentation keeps up: every command and option is explained, every link leads somewhere."""

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mpirecon.cli import COMMANDS, group
from mpirecon.cli.help import GROUPS

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


def command(name: str) -> click.Command:
    return importlib.import_module(COMMANDS[name].module).command


def options(name: str) -> list[click.Option]:
    """Those that the command offers; hidden ones are answers to what users of other programs type."""
    return [parameter for parameter in command(name).params if isinstance(parameter, click.Option)
            and not parameter.hidden]


def explained_in(name: str, option: click.Option) -> str:
    """The command whose section explains an option: that of the first from which others have this very option."""
    sharing = {"reconstruct": ["import"], "null": ["import", "reconstruct"], "forecast": ["import", "reconstruct"],
               "relion": ["import", "reconstruct"], "path": ["import", "reconstruct"], "score": ["import"]}
    return next((owner for owner in sharing.get(name, []) if any(option is other for other in options(owner))), name)


def sections() -> dict[str, str]:
    """Heading of docs/commands.md → its text; the options that all share are in the first, ""."""
    parts = re.split(r"^## (.+)$", (CHECKOUT / "docs" / "commands.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name):
    assert command(name).help, f"{name} does not say what it does"
    silent = [option.opts for option in options(name) if not option.help and not option.hidden]
    assert not silent, f"{name}: no help for {silent}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_reads_like_documentation(name):
    text = CliRunner().invoke(command(name), ["--help"], prog_name=f"mpirecon {name}", terminal_width=100).output
    assert re.search(r"^  Examples?:$", text, flags=re.MULTILINE), f"{name} --help shows no example"
    examples = text.split("Example")[1].split("\n\n")[0]
    assert f"mpirecon {name} " in examples
    for option in options(name):
        if option.hidden or option.name in ("quiet", "verbose", "help", "overwrite", "as_json") or option.is_flag:
            continue
        row = text[text.index(f"{option.opts[-1]} ") :]
        assert "INTEGER" not in row.split("\n")[0], f"{name} {option.opts[-1]} does not say what it takes"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_words_as_they_are_typed(name):
    """click writes types in capitals; RANDOM|SMALL:DEG is no value of an option that takes random."""
    text = CliRunner().invoke(command(name), ["--help"], terminal_width=100).output
    shown = re.findall(r"^  (?:-\w, )?--[\w-]+(?:, --[\w-]+)? ([^\s\[]+)", text, flags=re.MULTILINE)
    for option in options(name):
        if option.metavar is None and not option.is_flag:
            assert "|" not in option.type.name, f"{name} {option.opts[-1]} shows {option.type.name.upper()}"
    assert not {"KV", "MM", "RATE", "FRACTION"} & set(shown)


@pytest.mark.parametrize("name", GROUPS)
def test_headings_of_help_name_options_that_exist(name):
    text = CliRunner().invoke(command(name), ["--help"], terminal_width=100).output
    assert "\nMore options:" not in text  # every option stands under a heading that says what it is about
    for title, spellings in GROUPS[name].items():
        known = {spelling for option in options(name) for spelling in option.opts}
        assert not known & set(spellings) or f"\n{title}:\n" in text
    for option in options(name):
        spelling = next(s for s in option.opts if s.startswith("--"))
        assert len(re.findall(rf"^  (?:-\w, )?{spelling}\b(?!-)", text, flags=re.MULTILINE)) == 1, option.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_an_example(name):
    text = sections().get(name)
    assert text, f"docs/commands.md has no section '## {name}'"
    examples = re.findall(rf"^    (?:mpirun [^\n]*?|eval \"\$\()?mpirecon {name} (.+)$", text, flags=re.MULTILINE)
    assert examples, f"docs/commands.md: no example of {name}"
    for example in examples:
        given = {word.partition("=")[0] for word in shlex.split(example.rstrip(')\"')) if word.startswith("-")}
        assert given <= {spelling for option in options(name) for spelling in option.opts}, example


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented_with_its_default(name):
    shared = sections()[""]
    for option in options(name):
        text = sections().get(explained_in(name, option), "")
        for spelling in (word for word in option.opts if word.startswith("--")):
            assert re.search(rf"`{spelling}[` ]", text), f"docs/commands.md does not explain {name} {spelling}"
            rows = [line for line in (text + shared).splitlines() if re.match(rf"\| .*`{spelling}[` ].*\|", line)]
            assert rows, f"docs/commands.md has no row for {name} {spelling}"
            if option.show_default and not option.is_flag and option.default is not None and spelling != "--seed":
                default = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
                told = f"docs/commands.md: the default of {name} {spelling} is {default}"
                assert f"Default: {default}." in rows[0], told


def test_no_option_is_documented_that_does_not_exist():
    for name, text in sections().items():
        if not name:
            continue
        assert name in COMMANDS, f"docs/commands.md explains '{name}', which is no command"
        known = {spelling for option in options(name) for spelling in option.opts}
        rows = " ".join(line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `"))
        assert set(re.findall(r"(--[\w-]+)", rows)) <= known


def test_options_in_the_other_pages_exist():
    known = {spelling for name in COMMANDS for option in options(name) for spelling in option.opts}
    known |= {"--help", "--version"} | {spelling for option in group.params for spelling in option.opts}
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            ours = re.findall(r"mpirecon (?:%s) .*" % "|".join(COMMANDS), line.partition("#")[0])
            unknown = {word for text in ours for word in re.findall(r"(?<![\w-])--[\w-]+", text)} - known
            assert not unknown, f"{page.name}: {unknown} in: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}: no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_no_part_of_a_page_is_there_twice(page):
    headings = re.findall(r"^#+ .+$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(headings) == len(set(headings))


def test_every_page_and_picture_is_linked_and_small():
    linked = {(page.parent / target.partition("#")[0]).resolve()
              for page in PAGES for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))}
    for path in [*(CHECKOUT / "docs").glob("*.md"), *(CHECKOUT / "docs" / "img").glob("*")]:
        assert path.resolve() in linked, f"nothing links to {path.relative_to(CHECKOUT)}"
    for picture in (CHECKOUT / "docs" / "img").glob("*"):
        assert picture.stat().st_size < 200_000


def test_readme_opens_with_the_two_commands():
    commands = re.findall(r"^    (\S+)", (CHECKOUT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert commands[:2] == ["./tools/demo", "./tools/test"]
    for name in ("demo", "test", "figures"):
        assert (CHECKOUT / "tools" / name).stat().st_mode & 0o111


def test_the_glossary_has_the_words_of_the_pages():
    text = (CHECKOUT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\*\*(.+?)\*\*", text, flags=re.MULTILINE)
    assert entries == sorted(entries, key=str.lower)
    bold = {word.lower() for found in re.findall(r"\*\*(.+?)\*\*", text) for word in re.split(r", | \(|\.$", found)}
    wanted = {"slab", "fold", "half set", "distance", "explained", "score", "held out", "normal equations",
              "simulated error",
              "matched filter", "whitened", "posterior", "fsc", "ctf", "junk", "residual", "rank"}
    assert wanted <= bold, wanted - bold
    for page in ("README.md", "docs/tutorial.md", "docs/commands.md", "docs/method.md", "docs/report.md"):
        assert "glossary.md" in (CHECKOUT / page).read_text(encoding="utf-8"), f"{page} does not lead to the glossary"


def test_what_it_does_not_do_is_said():
    text = (CHECKOUT / "docs" / "limits.md").read_text(encoding="utf-8").lower()
    for word in ("helical symmetry", "local resolution", "multi-body", "3-d classification", "focused",
                 "refining poses", "subtomograms"):
        assert word in text, word
    assert "# what it does not do" in text and "(docs/limits.md)" in (CHECKOUT / "README.md").read_text(
        encoding="utf-8"
    )
