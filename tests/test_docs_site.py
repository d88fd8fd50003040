"""The HTML documentation: builds without a warning, every page is reached from the first,
every link leads somewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import CHECKOUT

import mpirecon

pytest.importorskip("sphinx", reason="needs the extra docs")
pytest.importorskip("myst_parser", reason="needs the extra docs")
pytest.importorskip("furo", reason="needs the extra docs")
pytest.importorskip("numpydoc", reason="needs the extra docs")

DOCS = CHECKOUT / "docs"


class Page(HTMLParser):
    """What a page links to and can be linked to, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.anchors, self.text = [], set(), ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.update(given[name] for name in ("id", "name") if given.get(name))
        self.links += [given[name] for name in ("href", "src") if given.get(name)]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, a page each: path → Page. An older version lies there already."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "0.0.9").mkdir()
    (folder / "0.0.9" / "objects.inv").touch()
    (folder / "0.0.9" / "index.html").write_text("<html></html>")
    done = subprocess.run([sys.executable, DOCS / "build.py", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return {path: Page(path) for path in folder.rglob("*.html")}


def first(site) -> Path:
    return next(path for path in site if path.name == "index.html" and path.parent.name == mpirecon.__version__)


def targets(path: Path, page: Page):
    """(link, file, anchor) of links that stay within the site."""
    for link in page.links:
        parts = urlsplit(link)
        if not parts.scheme and not parts.netloc:
            yield link, (path.parent / unquote(parts.path)).resolve() if parts.path else path, unquote(parts.fragment)


def test_every_link_and_picture_is_there(site):
    broken = []
    for path, page in site.items():
        for link, file, anchor in targets(path, page):
            if not file.is_file() or (anchor and file in site and anchor not in site[file].anchors):
                broken.append(f"{path.name}: {link}")
    assert not broken, "\n".join(broken)


def test_every_page_is_reached_from_the_first(site):
    start = first(site)
    reached, waiting = set(), [start]
    while waiting:
        path = waiting.pop()
        if path in site and path not in reached:
            reached.add(path)
            waiting += [file for _, file, _ in targets(path, site[path])]
    made = {path for path in site if path.parent == start.parent}
    assert made <= reached, made - reached
    sources = {path.stem for path in [*DOCS.glob("*.md"), *DOCS.glob("*.rst")]}
    assert {path.stem for path in reached} >= sources, sources - {path.stem for path in reached}


def test_every_page_is_in_the_table_of_contents(site):
    contents = {file for link, file, _ in targets(first(site), site[first(site)])}
    for source in [*DOCS.glob("*.md"), *DOCS.glob("*.rst")]:
        assert (first(site).parent / f"{source.stem}.html") in contents, (
            f"{source.name} is not in the table of contents"
        )


def test_the_first_page_has_an_entry_for_every_reader(site):
    text = site[first(site)].text
    for door in ("I come from RELION", "I come from cryoSPARC", "I develop losses", "I run a cluster"):
        assert door in text
        assert door in (CHECKOUT / "README.md").read_text(encoding="utf-8"), f"README does not say {door}"


def test_every_public_name_is_in_the_reference(site):
    anchors = site[first(site).parent / "api.html"].anchors
    for name in set(mpirecon.__all__) - {"__version__", "losses", "distances"}:
        assert f"mpirecon.{name}" in anchors, name
    assert {"mpirecon.losses.Loss", "mpirecon.losses.of_excess", "mpirecon.distances.Distance"} <= anchors
    assert {"mpirecon.Particles.images", "mpirecon.Result.kept", "mpirecon.ForwardModel.adjoint"} <= anchors


def test_every_script_is_in_the_gallery_with_its_picture(site):
    page = site[first(site).parent / "gallery.html"]
    for script in (DOCS / "gallery").glob("*.py"):
        assert any(link.endswith(f"gallery_{script.stem}.png") for link in page.links), script.name
        assert re.search(r"import mpirecon as mr",
                         page.text) and script.read_text(encoding="utf-8").splitlines()[-1] in page.text


def test_versions_are_listed_newest_first(site):
    page = next(path for path in site if path.parent == first(site).parent.parent)
    assert site[page].links == [f"{mpirecon.__version__}/index.html", "0.0.9/index.html"]
