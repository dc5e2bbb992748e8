"""The schema of a trace store, as alembic revisions: new stores and old ones take the same way.

A new table or column goes into `schema.py` and into a new file of `versions/`; a test compares the two. Alembic is
imported only where a store has to be made or upgraded.
"""
