"""`python -m sdlab`, which torchrun starts."""

from sdlab.cli import main

main()
