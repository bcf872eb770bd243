"""The stages. Each reads what the one before has written and writes for the next; none imports another.

expand     an audience becomes deliveries in the lanes
dispatch   deliveries go to the providers, and their outcomes into the queue
feedback   outcomes become pruned tokens, suppressions and events
webhooks   events are sent to receivers
replay     dead letters go back into the lanes
erase      what is kept of a user goes
cleanup    what has outlived its use is removed

What they share stands beside them: `outage.py`, work that is tried again until Redis is back, and
`walk.py`, a way through the store in steps with rests.
"""
