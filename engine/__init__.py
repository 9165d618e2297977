"""Post-training engine: data, packed batches, losses, methods, the training loop, rollouts. Imports no other package."""
