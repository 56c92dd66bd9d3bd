"""This package knows how we train: recipes, tasks, networks, the optimiser, and the loop that records them."""
