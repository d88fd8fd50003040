"""Batch script templates, one a scheduler, and what all of them end with (body.sh); filled by ``mpirecon job``.

``@{name}`` stands for a value; a line whose value was not given is left out. docs/batch.md lists the values.
"""
