"""A node: holds a replica of every table and serves viewers.

An update's way: `parallax.replica` (feed, replica, engine) brings it into the engine, `gateway` tells the sessions and answers
them. Around it: `pages` (what a browser loads), `server` (the process).
"""
