"""``python -m mpirecon`` is the ``mpirecon`` command."""

from mpirecon.cli import main

if __name__ == "__main__":
    main()
