"""One HTML page about a cluster: where the time went, and when it was there.

`model` says what the page is made of, `gather` fills it from nodes' answers and traces, `findings` says what stands out; then
text: `markup`, `scales` and `charts` are the means, a module a section, `page` puts them together. `command` is `kvctl report`.
"""
