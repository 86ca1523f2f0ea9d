"""The coordinator: puts each table's updates in order.

An update's way, in reading order: `take.lua` (what is in ingest), `validate` (does it fit its table), `batch` (what can travel
together), `sequencer` (its place in the history) with `append.lua` (the only writer of a log). Around it: `lease` (who may),
`snapshots` with `snap.lua` and `discard.lua` (what a replica starts from), `tables` (which tables there are), `server` (the process).
"""
