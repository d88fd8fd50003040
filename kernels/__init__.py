"""Compute kernels, one subject a file: the CPU twin (.py, Numba) beside the CUDA source (.cu) where there is one.

Kernels see plain arrays in pixel units; poses, Å and files belong to the layers above.
"""
