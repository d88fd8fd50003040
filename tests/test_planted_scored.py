"""Simulated errors of several kinds are scored one by one, in tables, curves and the report."""

import json

import h5py
import numpy as np
import pytest

from mpirecon.cli import run
from mpirecon.validate.error_effects import with_effects

def test_the_signal_that_offset_and_defocus_errors_leave_is_that_of_the_images():
    """Against a map's transform that is summed explicitly:
    images whose truth is 1 at one frequency, in all directions."""
    rng = np.random.default_rng(1)
    m, resolution, wavelength = 3000, 12.0, 0.0197
    shift, change = rng.normal(0, 2.0, (m, 2)), rng.normal(0, 1500.0, m)
    weight = rng.random(m)
    columns = {
        "weight": weight, "id": np.arange(m), "pose_error": np.ones(m, bool), "planted_offset": np.ones(m, bool),
        "planted_defocus": np.ones(m, bool), "offset_error": np.linalg.norm(shift, axis=1),
        "defocus_error": np.abs(change),
    }
    rows = with_effects([{"kind": "offset"}, {"kind": "defocus"}], columns, resolution, wavelength)
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    turned = np.exp(2j * np.pi / resolution * (shift @ np.stack([np.cos(angle), np.sin(angle)]))).mean(axis=1)
    assert rows[0]["amplitude"] == pytest.approx((weight @ turned).real / weight.sum(), abs=1e-6)
    phase = rng.uniform(0, 2 * np.pi, (400, 1))  # of the oscillating CTF
    product = np.sin(phase) * np.sin(phase + np.pi * wavelength / resolution**2 * change)
    assert rows[1]["amplitude"] == pytest.approx(
        (product @ weight).sum() / ((np.sin(phase) ** 2).sum() * weight.sum()), abs=0.05
    )
    assert rows[0]["weight"] == 1


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    assert run(["simulate", "--phantom", "--particles", "500", "--box", "24", "--pixel-size", "6", "--snr", "0.5",
                "--junk-rate", "0.1",
                "--orientation-error-rate", "0.2", "--offset-error", "20", "--offset-error-rate", "0.2", "-q",
                "-o", str(folder / "p.h5")]) == 0
    assert run(["reconstruct", str(folder / "p.h5"), "-o", str(folder / "out"), "--loss", "sorted", "--keep", "0.6",
                "--iterations", "3", "-q"]) == 0
    return folder


def test_each_kind_is_scored_against_the_particles_without_error(scored):
    """By brute force: pairs counted one by one."""
    found = json.loads((scored / "out" / "summary.json").read_text())["detection"]
    with h5py.File(scored / "out" / "particles.h5") as file, h5py.File(scored / "p.h5") as truth:
        run_table = {name: file[name][...] for name in file}
        flags = {"orientation": truth["planted_orientation"][...], "offset": truth["planted_offset"][...],
                 "junk": truth["junk"][...]}
        off = np.linalg.norm(truth["shift"][...] - truth["true_shift"][...], axis=1)
    np.testing.assert_allclose(run_table["offset_error"], off, atol=1e-12)
    errors = np.sum(list(flags.values()), axis=0)
    correct = run_table["distance"][errors == 0]
    assert [row["kind"] for row in found["by_kind"]] == list(flags)
    for row in found["by_kind"]:
        mine = flags[row["kind"]]
        far = run_table["distance"][mine][:, None]
        assert row["auc"] == pytest.approx(((far > correct).mean() + (far == correct).mean() / 2))
        left = mine & ~run_table["kept"]
        assert (row["count"], row["alone"], row["kept"]) == (mine.sum(), (mine & (errors == 1)).sum(),
                                                             (mine & run_table["kept"]).sum())
        assert row["recall"] == pytest.approx(left.sum() / mine.sum())
        assert row["precision"] == pytest.approx(left.sum() / (left.sum() + ((errors == 0) & ~run_table["kept"]).sum()))
    size = {row["kind"]: (row["rms"], row["unit"]) for row in found["by_kind"]}
    assert size["offset"] == (pytest.approx(np.sqrt(np.mean(off[flags["offset"]] ** 2))),
                              "Å") and size["junk"] == (None, None)
    assert sum(row["count"] for row in found["confusion"]) == 500
    offsets = [row for row in found["confusion"] if row["kind"] == "offset"]
    assert sum(row["count"] for row in offsets) == (flags["offset"] & ~flags["orientation"]).sum()
    assert offsets[-1]["angstrom"] == [20, None] and offsets[-1]["auc"] > 0.9


def test_the_curves_have_a_column_for_each_kind(scored):
    curves = np.genfromtxt(scored / "out" / "detection.csv", delimiter=",", names=True)
    with h5py.File(scored / "out" / "particles.h5") as file:
        distance, moved = file["distance"][...], file["planted_offset"][...]
        correct = ~(file["pose_error"][...])
    for row in curves[:: len(curves) // 20][1:]:
        threshold = distance[np.argmin(np.abs(distance - row["threshold"]))]  # printed with seven digits
        out = distance >= threshold
        assert row["recall_offset"] == pytest.approx((out & moved).sum() / moved.sum(), abs=1e-6)
        hits = (out & moved).sum()
        assert row["precision_offset"] == pytest.approx(hits / max(hits + (out & correct).sum(), 1), abs=1e-6)


def test_the_report_separates_the_kinds(scored):
    page = (scored / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Simulated errors, kind by kind</h2>" in page and "offset 20 Å off or more" in page
