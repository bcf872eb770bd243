"""The pure half of the live gateway: the Centrifuge client protocol without sockets, clocks or Redis.

`session` is the state machine of one connection, `window` and `recovery` what it knows of the stream, `codec` its bytes
in JSON and Protobuf, `tokens` who may connect, `slowdown` how late a refusal is answered, `heartbeat` which interval a
device and its networks can hold.

Source: https://centrifugal.dev/docs/transports/client_protocol
"""
