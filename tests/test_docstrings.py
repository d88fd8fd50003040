"""The public names of mpirecon/api are documented as numpydoc wants it:
what goes in, of which type, and what comes out."""

import inspect

import pytest

import mpirecon

validate = pytest.importorskip("numpydoc.validate", reason="needs the extra docs").validate

#: no docstring; unknown, misordered, untyped or undescribed parameters;
#: of functions also missing parameters and returns
ALWAYS = {"GL08", "PR02", "PR03", "PR04", "PR07", "PR10"}
OF_FUNCTIONS = ALWAYS | {"PR01", "RT01", "RT03"}

NAMES = [name for name in mpirecon.__all__
         if getattr(getattr(mpirecon, name), "__module__", "").startswith("mpirecon.api.")]


def documented(name: str):
    """(full name, checks) of a public name, and of a class's public methods and properties."""
    value = getattr(mpirecon, name)
    yield f"mpirecon.{name}", ALWAYS if inspect.isclass(value) else OF_FUNCTIONS
    for member, attribute in vars(value).items() if inspect.isclass(value) else ():
        if not member.startswith("_") and (callable(attribute) or inspect.isdatadescriptor(attribute)):
            yield f"mpirecon.{name}.{member}", ALWAYS


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_documented(name):
    found = [f"{full}: {code} {text}" for full, checks in documented(name)
             for code, text in validate(full)["errors"] if code in checks]
    assert not found, "\n".join(found)
