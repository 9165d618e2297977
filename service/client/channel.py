"""How a channel to the server is made: where to, which calls are tried again."""

from __future__ import annotations

import ipaddress
import json
from typing import Final

import grpc

from posttrain.service.client.errors import ClientError

# Reads, and writes that a request id makes idempotent, are tried again while a server restarts.
_RETRIED: Final = {
    "Jobs": ["CreateJob", "GetJob", "ListJobs", "ListJobEvents", "ListJobLogs", "ListJobMetrics"],
    "Datasets": ["GetDatasetVersion", "ListDatasetVersions"],
    "Models": ["GetModelVersion", "ListModelVersions", "GetLineage", "ListAliases", "ListAliasHistory"],
    "Evaluations": ["GetEvalRun", "ListEvalRuns", "ListEvalRows", "ListSuites"],
    "Gates": ["CreateGateRun", "GetGateRun", "ListGateRuns"],
    "Promotions": ["CreatePromotion", "GetPromotion", "ListPromotions"],
}
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": f"posttrain.v1.{service}", "method": method}
                    for service, methods in _RETRIED.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_CHANNEL_OPTIONS: Final = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5000),
]


def check_address(address: str) -> str:
    """The address as host:port, if it is on this machine.

    Raises:
        ClientError: INVALID_ARGUMENT; without TLS and authentication only loopback is spoken to.
    """
    host, colon, port = address.rpartition(":")
    bare = host.strip("[]")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise ClientError(
            "INVALID_ARGUMENT", "BAD_ADDRESS", f"{address!r} is not HOST:PORT", [("address", "HOST:PORT")]
        )
    try:
        is_loopback = bare == "localhost" or ipaddress.ip_address(bare).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ClientError(
            "INVALID_ARGUMENT",
            "ADDRESS_NOT_LOOPBACK",
            f"{address} is not on this machine, and there is no TLS yet",
            [("address", "must be a loopback address")],
            hint="forward the port: ssh -L 50061:127.0.0.1:50061 HOST, then use 127.0.0.1:50061",
        )
    return address


def open_channel(address: str) -> grpc.aio.Channel:
    """A plain-text channel to an address of this machine."""
    return grpc.aio.insecure_channel(check_address(address), options=_CHANNEL_OPTIONS)
