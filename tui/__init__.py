"""Terminal UI over the gRPC client; imports nothing of the server."""
