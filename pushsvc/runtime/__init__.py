"""The composition root: the only package that imports both the providers and the store.

    configuration.py  the configuration of the file and the environment, with the providers' own sections
    plans.py          the configuration as the values that each part takes: pure
    store.py          the configured store, or an embedded one
    providers.py      what other parts need of the providers: their renderers, and whether credentials are usable
    parts.py          the work of one process of each part
    live.py           and that of the gateway
    state/            what runs now: figures, workers and conditions, for `/metrics`, `/readyz`, `stats` and the log
    checks/           what `pushsvc check` judges

Lifetimes are context managers: what was opened last is closed first.
"""
