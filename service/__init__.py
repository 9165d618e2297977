"""The gRPC job service, its worker, its client and its command line."""

import os

# Before grpc is loaded, by the client or the server: its C core writes its own log lines to stderr, over a progress bar
# or a terminal UI, and beside our own errors. What goes wrong reaches us as exceptions.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
