"""The gRPC job service, its worker, its client and its command line."""
