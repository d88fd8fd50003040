"""What scripts and notebooks use; ``import mpirecon`` has all of its names (docs/python.md)."""
