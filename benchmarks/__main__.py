"""`python -m benchmarks` runs every benchmark and prints its table; `python -m benchmarks W2` one kind of step alone."""

import sys

from benchmarks import critical_dimension, structured_step, tangent_kernel

structured_step.main()
if len(sys.argv) < 2:
    tangent_kernel.main()
    critical_dimension.main()
