"""Our HTTP/2 client: few long connections, many requests at once, one write for all that is ready.

transport.py     connections to one host: opened, filled evenly, replaced
connection.py    one connection: settings, GOAWAY, deadlines
streams.py       the requests that are under way on it
outflow.py       what is sent, within the windows that the server grants
frames.py, hpack_fields.py, exchange.py    bytes, header fields, and a request with its answer
"""
