"""The nouns of pushsvc: frozen values that every stage shares. Nothing here performs an action.

Times are integers: Unix milliseconds for instants (`*_at`), seconds for spans unless the name says `_ms`. A device
token is a secret: the structs that contain one leave it out of their `repr`.

How one becomes the next::

    Content --render--> Message --+
                                  +--> Push --split--> Chunk --(one a target)--> Delivery
    tokens  ------------> Target -+                                                 |
                                                                                provider
                                                                                    v
                                   Settlement <--policy.decide-- Verdict <------ Outcome
"""
