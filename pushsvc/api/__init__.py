"""The HTTP API: pushes are validated completely, and accepted once they are in the store.

`routes.py` is the table of all calls. `http.dispatch` processes each request as the row of its call defines, and passes
values to its handler, which uses the ports (`ports.py`). Every refusal is sent as a problem document
(`http/problems.py`).

    http/                                       what all calls share
    pushes/ devices/ letters/ channels/ live/   the calls by subject: rows, documents, handlers
"""
