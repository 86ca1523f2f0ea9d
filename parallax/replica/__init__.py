"""What node and coordinator both need to hold tables: `feed` (the subscription), `replica` (the follower's shell), `engine`
(Perspective, behind one typed facade), `snapshot` and `digest`.

Data flows one way: feed -> replica -> engine.
"""
