"""From a JSONL row to a packed batch: formats, validation, chat template and loss mask, mixing, packing."""
