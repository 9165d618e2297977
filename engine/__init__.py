"""Post-training engine: data, packed batches, losses, methods, training loop, rollouts. Imports no other package."""
