"""What flat slices cost: the formula against images with curved slices, and where the command says so."""

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

import numpy as np
import pytest
from conftest import CHECKOUT

from mpirecon.cli import run
from mpirecon.validate.ewald import curvature_fsc, curvature_limit, curvature_warning


def test_formula_is_what_curved_images_give():
    """Sums over atoms at the two sidebands, no grid and no formula of ours, reconstructed as if flat."""
    loader = SourceFileLoader("ewald_tool", str(CHECKOUT / "tools" / "ewald"))
    tool = module_from_spec(spec_from_loader("ewald_tool", loader))
    loader.exec_module(tool)
    depth, curved, flat = tool.measure(150, box=28, depth_at_nyquist=4.0)
    inside = slice(3, 13)
    assert flat[inside].min() > 0.97  # so few images are enough where slices are flat
    np.testing.assert_allclose(curved[inside], flat[inside] * curvature_fsc(depth[inside]), atol=0.1)
    assert curved[13] < 0.2  # and the cost is large


def test_limits():
    assert curvature_fsc(0.0) == pytest.approx(1) and (np.diff(curvature_fsc(np.linspace(0, 2.5, 30))) < 0).all()
    at = curvature_limit(300.0, 300.0, 0.5)
    assert curvature_limit(600.0, 300.0, 0.5) == pytest.approx(at * 2**0.5)  # λ·D/d² is all that counts
    assert curvature_limit(300.0, 300.0, 0.95) > at
    assert curvature_warning(None, 300, 300) is None and curvature_warning(3.0, 300, 300) is None
    assert "1.70 Å the Ewald sphere of 300 kV is not flat across 300 Å" in curvature_warning(1.7, 300, 300)


@pytest.mark.parametrize(("more", "message"), [((), "matters beyond 1.14 Å for a particle as large as the box (85 Å)"),
                                               (("--ctf-premultiply",), "cannot be undone in CTF-premultiplied images")])
def test_the_option_is_refused_with_figures(tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    simulate = "simulate --phantom --particles 4 --box 32 --pixel-size 2.65625 --snr inf -o p.h5 -q"
    assert run([*simulate.split(), *more]) == 0
    capsys.readouterr()
    assert run(["reconstruct", "p.h5", "-o", "out", "--ewald"]) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
