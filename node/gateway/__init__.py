"""Between viewers and the engine: every websocket message is one request of a virtual session.

The engine never sees a client's id, message id or raw frame. In reading order: `handler` (the websocket), `outbox` (what waits
for a viewer), `wire` and `messages` (what a frame holds), `session` and `requests` (what one viewer may ask), `views` (what it
has), `hosted` (a table), `shared_view` and `answers` (what viewers have in common), `gateway` (all of them), `counts`.
"""

from node.gateway.gateway import Gateway

__all__ = ["Gateway"]
