"""The configuration: TOML and environment into frozen structs. An unknown key or a bad value stops the start.

`schema.py`, `live.py` and `webhook.py` define the keys, `loading.py` reads them, `environment.py` applies
`PUSHSVC__..`, and `pushsvc.decoding` validates the result. Providers define the structs of their own sections, which
are not known here.
"""
