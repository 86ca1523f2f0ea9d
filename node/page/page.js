// The page: a picker of the tables that the node hosts, and the chosen one live in <perspective-viewer>, in as many panels as wished.

const element = (id) => document.getElementById(id);
const [stage, picker, empty, themes, note] = ["stage", "tables", "empty", "themes", "note"].map(element);
const load = (id) => import(element(id).href);
const [{ pill }, layouts] = await Promise.all([load("pill"), load("layouts")]);
const { fitting, packed, remember, remembered, save, saved, tablesOf, unpacked, withTheme, withoutThemes } = layouts;

const SETTLED_MS = 300; // a layout is kept when nothing has changed it for so long
const RELOAD_MS = 60_000; // once in so long at most for another version: a fleet that is being upgraded has two
const CHANGES = ["perspective-config-update", "perspective-layout-update"];
const NOTE_MS = 4_000;
const REFUSAL_MS = 30_000;
const RETRY_MS = 100;
const MOST_FAILURES = 6; // in a row

const address = () => new URLSearchParams(location.hash.slice(1)); // a token, a layout: what no server needs to see
let wanted = new URLSearchParams(location.search).get("table"); // null: whichever comes first
let theme = remembered("parallax.theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "Pro Dark" : "Pro Light");
let shown = null; // what is on the stage: see show()
let link, client, say;
let failures = 0;

// One at a time, so that what was chosen last is shown in the end.
let last = Promise.resolve();
const queue = (what) => (last = last.then(what).catch((error) => console.error(error)));
const again = () => queue(follow);

/** Where the viewers' socket is, with the token of the page's address. */
function socketUrl() {
  const url = new URL("/websocket", location.href.replace(/^http/, "ws"));
  const token = address().get("token");
  if (token) url.searchParams.set("token", token);
  url.hash = "";
  return url.href;
}

/** Tell something for a while. */
function tell(text, ms = NOTE_MS) {
  note.textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => (note.textContent = ""), ms);
}

// The stage ------------------------------------------------------------------------------------------------------------

/** Put a table on the stage, in a viewer of its own, with the layout of the address, or else the one that was kept for it. */
async function show(name, hosted) {
  const viewer = document.createElement("perspective-viewer");
  const shared = address().get("layout");
  const layout = (shared && (await unpacked(shared))) ?? saved(name);
  const mine = { name, viewer, watches: new Map(), isGone: false, isShared: shared !== null, missing: [], kept: "", timer: null };
  shown = mine;
  const columns = new Map();
  for (const table of new Set([name, ...(layout ? tablesOf(layout) : [])])) {
    const schema = hosted.includes(table) && (await watch(mine, table).catch(() => null));
    if (schema) {
      columns.set(table, Object.keys(schema));
    } else {
      mine.watches.delete(table); // it may have gone at this very moment
      mine.missing.push(table);
    }
  }
  stage.replaceChildren(viewer);
  stage.ariaLabel = `Table ${name}`;
  await viewer.load(client);
  const fit = layout && fitting(layout, columns);
  const isRestored = fit && (await viewer.restoreWorkspace(withTheme(fit, theme)).then(() => true, () => false));
  if (!isRestored) {
    if (layout) tell("The layout does not fit the table any more.");
    await viewer.restore({ table: name, title: name, theme });
  }
  mine.kept = JSON.stringify(withoutThemes(await viewer.saveWorkspace()));
  themes.replaceChildren(...(await viewer.getThemes()).map((one) => new Option(one)));
  dress();
  new MutationObserver(dress).observe(viewer, { attributeFilter: ["theme"] });
  const changed = () => {
    clearTimeout(mine.timer);
    mine.timer = setTimeout(() => queue(() => keep(mine)), SETTLED_MS);
  };
  for (const event of CHANGES) viewer.addEventListener(event, changed);
}

/** Notice when a table goes: dropped, or made anew with another schema. Return its schema, or fail if it has gone already. */
async function watch(mine, name) {
  const table = await client.open_table(name);
  const entry = { table, id: null };
  mine.watches.set(name, entry);
  entry.id = await table.on_delete(() => {
    mine.watches.delete(name);
    mine.isGone = true;
    again();
  });
  return table.schema(); // the client does not say that a table went before on_delete() arrived
}

/** Keep what has become of the panels and of their theme. */
async function keep(mine) {
  if (mine !== shown || mine.isGone) return;
  clearTimeout(mine.timer);
  const workspace = await mine.viewer.saveWorkspace();
  const chosen = Object.values(workspace.panels).map((panel) => panel.theme).find((one) => one && one !== theme);
  if (chosen) await wear(chosen);
  const layout = withoutThemes(workspace);
  if (JSON.stringify(layout) === mine.kept || mine.isGone) return;
  mine.kept = JSON.stringify(layout);
  if (mine.isShared) go({ layout: await packed(layout) });
  else save(mine.name, layout);
  for (const name of tablesOf(layout)) {
    if (mine.watches.has(name)) continue;
    await watch(mine, name).catch(() => {
      mine.isGone = true; // it went before we could notice
      again();
    });
  }
}

async function leave() {
  const { viewer, watches, isGone } = shown;
  if (!isGone) await keep(shown);
  clearTimeout(shown.timer);
  shown = null;
  stage.replaceChildren();
  const ends = [...watches.values()].map(({ table, id }) => table.remove_delete(id));
  const ended = await Promise.allSettled([...ends, viewer.delete()]);
  const failed = ended.find(({ status }) => status === "rejected");
  if (failed && !isGone) throw failed.reason; // else: it found its view gone
}

/** Bring picker and stage to what is hosted and wanted now; once more if a table goes just then, and the viewer fails with it. */
async function follow() {
  try {
    await arrange();
    failures = 0;
  } catch (error) {
    if (failures >= MOST_FAILURES) throw error;
    if (shown) shown.isGone = true;
    setTimeout(again, RETRY_MS * 2 ** failures++);
  }
}

async function arrange() {
  const names = (await client.get_hosted_table_names()).sort();
  const name = [wanted ?? shown?.name, ...(wanted === null ? names : [])].find((one) => names.includes(one));
  picker.replaceChildren(...names.map((one) => new Option(one, one, false, one === name)));
  picker.disabled = names.length === 0;
  if (name === undefined) picker.selectedIndex = -1;
  element("panels").replaceChildren(...names.map(adder));

  document.title = name === undefined ? "Parallax" : `${name} · Parallax`;
  empty.querySelector("h2").textContent = wanted === null ? "There is no table yet" : `There is no table “${wanted}” yet`;
  empty.hidden = name !== undefined;
  stage.hidden = element("tools").hidden = name === undefined;
  if (shown && (shown.name !== name || shown.isGone || shown.missing.some((one) => names.includes(one)))) await leave();
  if (name !== undefined && !shown) await show(name, names);
  say();
}

/** Make the address say which table is shown, and nothing else but a layout and the token. */
function go({ layout }) {
  const token = address().get("token");
  const hash = new URLSearchParams({ ...(token && { token }), ...(layout && { layout }) });
  const search = wanted === null ? "" : `?${new URLSearchParams({ table: wanted })}`;
  history.replaceState(null, "", `${location.pathname}${search}${hash.size ? `#${hash}` : ""}`);
}

// What people do -------------------------------------------------------------------------------------------------------

function adder(name) {
  const button = document.createElement("button");
  button.textContent = name;
  button.onclick = () => {
    element("panels").hidePopover();
    queue(() => shown?.viewer.addPanel({ table: name, title: name, theme }));
  };
  return button;
}

/** Put on a theme, on all panels and the page around them. */
async function wear(name) {
  theme = name;
  remember("parallax.theme", theme);
  if (shown) await Promise.all(shown.viewer.getPanelNames().map((panel) => shown.viewer.restore({ theme }, { panel })));
  dress();
}

/** Give the page the colours of its viewer. */
function dress() {
  themes.value = theme;
  let isDark = theme.endsWith("Dark");
  if (shown) {
    const [red, green, blue, opacity = 1] = getComputedStyle(shown.viewer).backgroundColor.match(/[\d.]+/g);
    isDark = opacity > 0 && 0.3 * red + 0.6 * green + 0.1 * blue < 128; // light ones have none
  }
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
}

/** Copy a link to this layout. The token stays here. */
async function share() {
  const { name, viewer } = shown;
  const url = new URL(location.pathname, location);
  url.search = new URLSearchParams({ table: name });
  url.hash = new URLSearchParams({ layout: await packed(withoutThemes(await viewer.saveWorkspace())) });
  try {
    await navigator.clipboard.writeText(url.href);
    tell("The link is copied.");
  } catch {
    prompt("A link to this layout:", url.href); // the clipboard is out of reach
  }
}

/** Forget the layout and begin anew. */
async function reset() {
  if (!shown) return;
  clearTimeout(shown.timer);
  save(shown.name, null);
  go({});
  shown.kept = JSON.stringify(withoutThemes(await shown.viewer.saveWorkspace())); // so that leaving does not keep it
  await leave();
  await follow();
}

/**
 * Keep the viewer brisk: it draws less often the longer its last drawings took, and one that waited for the next node must not count.
 * It stays so: setThrottle(null) was seen to begin with a pause of 5 s.
 */
function pace(isLive) {
  if (!isLive) shown?.viewer.setThrottle(0);
}

/** Load the page of the node's version, with the layout as it is. */
async function upgrade() {
  const before = Number(sessionStorage.getItem("parallax.reloaded"));
  if (Date.now() - before < RELOAD_MS) return;
  sessionStorage.setItem("parallax.reloaded", Date.now());
  if (shown) await keep(shown);
  location.reload();
}

async function start() {
  const sent = new URLSearchParams(location.search).get("layout"); // by a redirect, which would have lost the token behind a # of its own
  if (sent) go({ layout: sent });
  dress();
  const bundle = await load("bundle");
  await bundle.ready;
  await customElements.whenDefined("perspective-viewer");
  const { connect } = await load("link");
  let version = document.querySelector("meta[name=version]").content;
  const onstate = (state) => {
    say?.();
    pace(state.name === "live");
    if (state.name !== "live" || state.version === version) return;
    version = state.version;
    queue(upgrade);
  };
  const onrefusal = (table, text) => tell(`Edit of ${table}: ${text}`, REFUSAL_MS);
  link = connect(customElements.get("perspective-viewer").__wasm_module__.Client, { url: socketUrl, onstate, onrefusal });
  client = link.client;
  say = pill(link, () => [...(shown?.watches.keys() ?? [])]);
  say();

  picker.addEventListener("change", () => {
    wanted = picker.value;
    queue(async () => {
      if (shown && !shown.isGone) await keep(shown);
      go({});
      await follow();
    });
  });
  themes.addEventListener("change", () => queue(() => wear(themes.value)));
  element("configure").addEventListener("click", () => shown?.viewer.toggleConfig());
  element("share").addEventListener("click", () => queue(share));
  element("reset").addEventListener("click", () => queue(reset));
  addEventListener("hashchange", () => location.reload()); // a link was put into the address
  await client.on_hosted_tables_update(again);
  await again();
}

start().catch((error) => {
  console.error(error);
  element("connection").dataset.state = "closed";
  element("connection").textContent = "closed";
});
