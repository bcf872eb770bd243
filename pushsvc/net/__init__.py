"""The network layer below providers and webhooks:

HTTP/2, dialling, proxies, TLS, addresses, and fields of Protobuf. It knows nothing of pushes.
"""
