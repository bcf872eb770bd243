"""An HTTP/2 client: few long-lived connections, many concurrent requests, one write for everything that is ready.

transport.py connections to one host: opened, filled evenly, replaced connection.py one connection: settings, GOAWAY,
deadlines streams.py the open requests of a connection outflow.py outgoing data, within the windows that the server
grants frames.py, hpack_fields.py, exchange.py bytes, header fields, and a request with its answer
"""
