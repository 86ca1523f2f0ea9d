// The page: a picker of the tables that the node hosts, and the chosen one live in <perspective-viewer>.

const element = (id) => document.getElementById(id);
const [stage, picker, empty] = ["stage", "tables", "empty"].map(element);

let wanted = new URLSearchParams(location.search).get("table"); // null: whichever comes first
let shown = null; // the table on the stage

const PATIENCE_MS = 700; // a reconnection that takes less is nobody's business
let told = null; // when the pill will say what is the case

/** Show what the link says of itself: at once if it is good, after a moment if it is not. */
function say({ name, node, rtt, stale, reason }) {
  clearTimeout(told);
  const isStale = name === "live" && stale.includes(shown?.name);
  const state = isStale ? "stale" : name;
  const text = {
    live: "live",
    stale: "stale: no updates reach this node",
    unauthorised: `not allowed: ${reason}`,
    closed: "closed",
  }[state];
  const show = () => {
    const pill = element("connection");
    pill.dataset.state = state;
    pill.textContent = text ?? state;
    pill.title = [node && `node ${node}`, rtt && `${rtt.toFixed(1)} ms`].filter(Boolean).join(", ");
  };
  if (state === "live") show();
  else told = setTimeout(show, PATIENCE_MS);
}

/** Where the viewers' socket is; with the token that stands behind the # of the page's address, where no server sees it. */
function socketUrl() {
  const url = new URL("/websocket", location.href.replace(/^http/, "ws"));
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) url.searchParams.set("token", token);
  url.hash = "";
  return url.href;
}

/** Put a table on the stage, in a viewer of its own: nothing of another's layout fits, nor of a former schema's. */
async function show(client, name, again) {
  const table = await client.open_table(name);
  const viewer = document.createElement("perspective-viewer");
  const mine = { name, table, viewer, isGone: false };
  mine.watch = await table.on_delete(() => {
    mine.isGone = true; // dropped, or made anew with another schema
    again();
  });
  shown = mine;
  stage.replaceChildren(viewer);
  await viewer.load(client);
  await viewer.restore({ table: name, title: name });
}

async function leave() {
  const { table, viewer, watch, isGone } = shown;
  shown = null;
  stage.replaceChildren();
  if (!isGone) await table.remove_delete(watch);
  await viewer.delete().catch((error) => {
    if (!isGone) throw error; // else: it found its view gone
  });
}

/** Bring picker and stage to what is hosted and wanted now. */
async function follow(client, again) {
  const names = (await client.get_hosted_table_names()).sort();
  const name = [wanted ?? shown?.name, ...(wanted === null ? names : [])].find((one) => names.includes(one));
  picker.replaceChildren(...names.map((one) => new Option(one, one, false, one === name)));
  picker.disabled = names.length === 0;
  if (name === undefined) picker.selectedIndex = -1;

  document.title = name === undefined ? "Parallax" : `${name} · Parallax`;
  empty.querySelector("h2").textContent = wanted === null ? "There is no table yet" : `There is no table “${wanted}” yet`;
  empty.hidden = name !== undefined;
  stage.hidden = name === undefined;
  if (shown && (shown.name !== name || shown.isGone)) await leave();
  if (name !== undefined && !shown) await show(client, name, again);
}

async function start() {
  const bundle = await import(element("bundle").href);
  await bundle.ready;
  await customElements.whenDefined("perspective-viewer");
  const { connect } = await import(element("link").href);
  const link = connect(customElements.get("perspective-viewer").__wasm_module__.Client, {
    url: socketUrl,
    onstate: say,
  });
  const { client } = link;

  // One at a time, so that what was chosen last is shown in the end.
  let last = Promise.resolve();
  const again = () => (last = last.then(() => follow(client, again)).catch((error) => console.error(error)));
  picker.addEventListener("change", () => {
    wanted = picker.value;
    history.replaceState(null, "", `?${new URLSearchParams({ table: wanted })}${location.hash}`);
    again();
  });
  await client.on_hosted_tables_update(again);
  await again();
}

start().catch((error) => {
  console.error(error);
  say({ name: "closed" });
});
