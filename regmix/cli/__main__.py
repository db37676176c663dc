"""``python -m regmix.cli``."""

from regmix.cli import main

main()
