"""Events on disk until a store has them: capture that survives `kill -9` and a store that is down.

`Recorder(store, spool=folder)` writes each event to a file before `put` returns, with one system call, and removes
the file once the store has all of it. How far the store is stands in the store itself, written in the same
transaction as the events: whoever reads the files again - the process after an outage, another one after a kill -
leaves out exactly what is there already.

A process has a folder of its own in the spool's, locked while it lives. A folder that nobody locks any more is
adopted, by one process, and delivered.
"""

from toolorch_integrations.spool.codec import FIRST_KIND, UnknownKindError, register
from toolorch_integrations.spool.folder import Spool, SpoolFullError

__all__ = ["FIRST_KIND", "Spool", "SpoolFullError", "UnknownKindError", "register"]
