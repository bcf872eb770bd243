"""The network layer below providers and webhooks:

HTTP/2, dialling, proxies, TLS and addresses. It knows nothing of pushes.
"""
