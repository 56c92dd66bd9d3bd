"""`python -m benchmarks` runs every benchmark and prints its table."""

from benchmarks.structured_step import main

main()
