"""The demo's load balancer: how Caddy is told to spread viewers over the nodes."""

from collections.abc import Sequence

from parallax.demo.ports import HOST


def caddyfile(port: int, checks_port: int, nodes: Sequence[tuple[int, int]]) -> str:
    """Return the configuration that spreads viewers over `nodes`, given as (public port, internal port).

    Any viewer may go to any node: no stickiness. A node that is not ready gets no new ones, and a connection to one that has
    just died is tried again on another. Readiness is on the internal ports, which differ on one machine while Caddy's
    `health_port` is the same for all; so the checks go to a site of Caddy's own, which passes each on by its header.
    """
    upstreams = " ".join(f"{HOST}:{public}" for public, _ in nodes)
    checks = "\n".join(
        f"\t@node{public} header X-Upstream {HOST}:{public}\n\thandle @node{public} {{\n\t\treverse_proxy {HOST}:{internal}\n\t}}"
        for public, internal in nodes
    )
    return f"""\
{{
	admin off
	auto_https off
	persist_config off
	log {{
		level WARN
	}}
}}

http://:{port} {{
	bind {HOST}
	reverse_proxy {upstreams} {{
		lb_policy least_conn
		lb_try_duration 5s
		lb_try_interval 100ms
		health_uri /readyz
		health_upstream {HOST}:{checks_port}
		health_headers {{
			X-Upstream {{http.reverse_proxy.active.target_upstream}}
		}}
		health_interval 500ms
		health_timeout 2s
		fail_duration 1s
	}}
}}

http://:{checks_port} {{
	bind {HOST}
{checks}
	handle {{
		respond 404
	}}
}}
"""
