"""From spans to answers: where the time of a request went.

`read` makes spans of files and live nodes, `store` keeps and queries them, `tree` makes a trace of spans, `critical_path` says
which of them the request waited for, `explain` says it in a sentence. Depends on nothing of the server but the names of its
spans and attributes.
"""
