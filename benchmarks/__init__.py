"""The budgets and peers of the design as ratios in one run: ``python -m benchmarks`` from the checkout."""
