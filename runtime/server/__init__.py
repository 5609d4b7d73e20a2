"""Server: a bundle over HTTP, gRPC and WebSocket, for what is not Python on the same machine."""
