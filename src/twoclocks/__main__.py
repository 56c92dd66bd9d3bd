"""Run the command line as `python -m twoclocks`."""

from twoclocks.cli import main

main()
