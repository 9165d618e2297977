"""Training speed and memory of the engine against TRL, on equal work. See benchmarks/README.md."""
