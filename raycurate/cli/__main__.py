"""``python -m raycurate.cli``."""

from raycurate.cli.main import main

main()
