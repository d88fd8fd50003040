"""Make the HTML documentation of this version: ``python docs/build.py [FOLDER]``;
tools/docs installs what it needs, and runs it.

FOLDER (docs/_build) holds one folder for each version, which keeps those of earlier releases, and index.html, which lists them.
A warning (a link that leads nowhere, a page without a heading) is an error.
"""

import html
import sys
from pathlib import Path

from packaging.version import Version
from sphinx.cmd.build import build_main

import mpirecon

HERE = Path(__file__).resolve().parent

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>mpirecon: documentation</title>
<style>body {{ font: 1.1em/1.6 sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em }}</style></head>
<body><h1>mpirecon</h1><p>Robust cryo-EM 3-D reconstruction on MPI and GPUs. Documentation of</p><ul>
{items}
</ul></body></html>
"""


def main(folder: Path) -> int:
    target = folder / mpirecon.__version__
    code = build_main(
        ["-q", "-E", "-W", "--keep-going", "-b", "html", "-d", str(folder / ".doctrees"), str(HERE), str(target)]
    )
    if code == 0:
        names = sorted((path.parent.name for path in folder.glob("*/objects.inv")), key=Version, reverse=True)
        items = "\n".join(f'<li><a href="{name}/index.html">version {html.escape(name)}</a></li>' for name in names)
        (folder / "index.html").write_text(PAGE.format(items=items), encoding="utf-8")
        print(f"wrote {target}/index.html; {folder}/index.html lists all versions")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "_build"))
