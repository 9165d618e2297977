"""Model registry: versions, lineage, aliases, promotions, artifacts. Imports only pure modules of engine and evals."""
