"""Questions with their gold answers: one file = one source, and the file's name is its name.

Beside the sources stand `options` (what a configuration says), `source` (finding a source, its
three sets), `settings` (a source's own options, checked), `rows` (a table's row becomes a problem)
and `order` (which problems come next).
"""
