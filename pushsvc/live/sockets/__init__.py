"""The sockets of the live gateway: HTTP/1.1, WebSocket, HTTP streaming and server-sent events on one port."""
