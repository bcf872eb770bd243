"""The network below the providers and the webhooks: HTTP/2, dialling, proxies, TLS and addresses. It knows no push."""
