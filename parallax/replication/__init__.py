"""The pure contract that publishers, coordinators and nodes share: what a table is, how its history is written and followed.

Nothing here does IO, and nothing here imports tornado, redis, perspective or asyncio. Read in this order: `spec` (what a
table is), `position` and `record` (one entry of its history), `window` (which producers' writes are in it), `keys` (where
all that is in Redis), `events` and `follower` (how a replica
stays on it).
"""
