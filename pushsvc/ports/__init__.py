"""The few Protocols by which the stages meet the world. Runtime joins the two sides.

Every method that talks to Redis raises `StoreUnavailable` when it cannot, and nothing else on purpose.
"""
