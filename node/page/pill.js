/** The status pill: what the link says of the connection, in a word for everybody, with its figures beside it. */

const PATIENCE_MS = 700; // a reconnection that takes less is nobody's business
const element = (id) => document.getElementById(id);
const TEXTS = {
  live: () => "live",
  stale: () => "stale: no updates reach this node",
  unauthorised: ({ reason }) => `not allowed: ${reason}`,
  closed: () => "closed",
};

/** Show a link's state from now on; `tables` returns those that are on the page. Call what it returns when either has changed. */
export function pill(link, tables) {
  let due = null; // when what is bad will be said

  const current = () => {
    const { name, stale } = link.state;
    return name === "live" && tables().some((table) => stale.includes(table)) ? "stale" : name;
  };

  const show = () => {
    clearTimeout(due);
    due = null;
    const state = current();
    const text = TEXTS[state]?.(link.state) ?? state;
    element("connection").dataset.state = state;
    if (element("connection").textContent !== text) element("connection").textContent = text; // is read out when it changes
    figures();
  };

  /** Say what is good at once, and what is not after a moment. */
  const say = () => {
    if (current() === "live") show();
    else due ??= setTimeout(show, PATIENCE_MS);
  };

  const figures = () => {
    const { node, rtt } = link.state;
    const times = tables().map((table) => link.updatedAt(table)).filter(Boolean);
    const parts = [times.length && `updated ${ago(performance.now() - Math.max(...times))}`, node, rtt && `${rtt.toFixed(1)} ms`];
    element("figures").textContent = parts.filter(Boolean).join(" · ");
    element("connection").dataset.node = node ?? "";
  };
  setInterval(figures, 1000);
  return say;
}

function ago(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 2) return "now";
  return seconds < 120 ? `${seconds} s ago` : `${Math.floor(seconds / 60)} min ago`;
}
