"""A WebSocket: its handshake, and the tunnel that it becomes."""
