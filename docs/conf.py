"""How Sphinx makes the HTML documentation: of the Markdown pages beside this file as they are, the docstrings of the
public names, and the scripts of the gallery. build.py runs it.

Nothing is listed twice: pages that no table of contents of index.md names, public names and scripts are found here.
"""

import importlib
import inspect
from itertools import groupby
from pathlib import Path

import mpirecon

HERE = Path(__file__).parent

project = "mpirecon"
copyright = "the mpirecon developers"
version = release = mpirecon.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_templates"]
default_role = "py:obj"  # `Particles` in a docstring leads to its entry
highlight_language = "none"  # indented blocks are mostly commands; Python is marked as such

myst_heading_anchors = 4  # links to headings are those that GitHub understands

autodoc_typehints = "none"  # types, shapes and units are in the docstrings
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

html_theme = "furo"
templates_path = ["_templates"]
html_sidebars = {
    "**": [f"sidebar/{part}.html" for part in ("brand", "search", "scroll-start", "navigation", "scroll-end")]
    + ["versions.html"]
}
html_title = f"mpirecon {release}"
html_show_sphinx = False
html_copy_source = False


def more_pages(text: str) -> str:
    """index.md with the pages that its tables of contents do not name, in place of MORE_PAGES."""
    pages = sorted(path.stem for path in HERE.iterdir() if path.suffix in source_suffix and path.stem != "index")
    lines = text.splitlines()
    return text.replace("MORE_PAGES", "\n".join(name for name in pages if name not in lines))


def api(text: str) -> str:
    """api.rst with every public name of ``import mpirecon``, a section for each module that they are from."""
    names = [(module, name) for name, module in mpirecon._NAMES.items()]
    parts = [text]
    for module, group in groupby(names, lambda pair: pair[0]):
        title = inspect.getdoc(importlib.import_module(module)).splitlines()[0].rstrip(".")
        parts += [f"\n{title}\n{'-' * len(title)}\n"]
        for _, name in group:
            parts += [_directive(f"mpirecon.{name}", getattr(mpirecon, name))]
    return "\n".join(parts)


def _directive(name: str, value) -> str:
    if inspect.ismodule(value):
        kinds, named = (inspect.isclass, inspect.isfunction), vars(value).get("__all__", ())
        own = [n for n, v in vars(value).items() if not n.startswith("_") and any(kind(v) for kind in kinds)
               and (v.__module__ == value.__name__ or n in named)]
        return "\n".join(_directive(f"{name}.{n}", getattr(value, n)) for n in own)
    if inspect.isclass(value):
        return f".. autoclass:: {name}\n   :members:\n"
    return f".. autofunction:: {name}\n"


def gallery(text: str) -> str:
    """gallery.rst with every script of docs/gallery: what it is, the picture that it makes, and the script."""
    parts = [text]
    for script in sorted((HERE / "gallery").glob("*.py")):
        title = script.stem.replace("_", " ").capitalize()
        about = script.read_text(encoding="utf-8").split('"""')[1].strip()
        parts += [
            f"\n{title}\n{'-' * len(title)}\n\n{about}\n",
            f".. image:: img/gallery_{script.stem}.png\n   :alt: {about.splitlines()[0]}\n",
            f".. literalinclude:: gallery/{script.name}\n   :language: python\n",
        ]
    return "\n".join(parts)


def fill_in(app, page: str, source: list[str]) -> None:
    made = {"index": more_pages, "api": api, "gallery": gallery}.get(page)
    if made:
        source[0] = made(source[0])
    for link, there in (("../README.md", "index.md"), ("../packaging/README.md", "packaging.rst")):
        source[0] = source[0].replace(f"]({link})", f"]({there})")


def setup(app) -> None:
    app.connect("source-read", fill_in)
