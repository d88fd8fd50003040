"""The nouns: arrays, poses, optics and particle sets that check their own shapes, dtypes and units."""

from mpirecon.model.arrays import Img, Stack, Volume
from mpirecon.model.optics import CTF_DTYPE, electron_wavelength, make_ctf
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose

__all__ = ["CTF_DTYPE", "Img", "ParticleSet", "Pose", "Stack", "Volume", "electron_wavelength", "make_ctf"]
