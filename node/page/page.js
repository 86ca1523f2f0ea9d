// The page: a picker of the tables that the node hosts, and the chosen one live in <perspective-viewer>.

const element = (id) => document.getElementById(id);
const tables = element("tables");
const viewer = element("viewer");
const empty = element("empty");

let wanted = new URLSearchParams(location.search).get("table"); // null: whichever comes first
let shown = null;

function say(state, text = state) {
  element("connection").dataset.state = state;
  element("connection").textContent = text;
}

/** Return a Client over a websocket to where the page came from, and the socket itself, once that is open. */
async function connect(Client) {
  const url = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/websocket`;
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  const client = new Client(
    async (request) => socket.send(request.slice()), // a copy: what we are given lies in wasm memory
    async () => socket.close(),
  );
  socket.addEventListener("message", (event) => client.handle_response(event.data));
  await new Promise((opened, failed) => {
    socket.addEventListener("open", opened);
    socket.addEventListener("close", () => failed(new Error(`${url} cannot be reached`)));
  });
  return { client, socket };
}

async function show(name) {
  document.title = `${name} · Parallax`;
  empty.hidden = true;
  viewer.hidden = false;
  if (shown === name) return;
  if (shown !== null) await viewer.reset(true); // nothing of the last table's layout fits the next one
  shown = name;
  await viewer.restore({ table: name, title: name, settings: false });
}

function showNothing() {
  empty.querySelector("h2").textContent = wanted === null ? "There is no table yet" : `There is no table “${wanted}” yet`;
  empty.hidden = false;
  viewer.hidden = true;
}

async function follow(client) {
  const names = (await client.get_hosted_table_names()).sort();
  const name = [wanted ?? shown, ...(wanted === null ? names : [])].find((one) => names.includes(one));
  tables.replaceChildren(...names.map((one) => new Option(one, one, false, one === name)));
  tables.disabled = names.length === 0;
  if (name === undefined) tables.selectedIndex = -1;
  await (name === undefined ? showNothing() : show(name));
}

async function start() {
  const bundle = await import(element("bundle").href);
  await bundle.ready;
  await customElements.whenDefined("perspective-viewer");
  const { client, socket } = await connect(customElements.get("perspective-viewer").__wasm_module__.Client);
  socket.addEventListener("close", () => say("disconnected"));
  say("live");
  await viewer.load(client);

  // One at a time: what is chosen last is shown last.
  let last = Promise.resolve();
  const follows = () => (last = last.then(() => follow(client)).catch((error) => console.error(error)));
  tables.addEventListener("change", () => {
    wanted = tables.value;
    history.replaceState(null, "", `?${new URLSearchParams({ table: wanted })}`);
    follows();
  });
  await client.on_hosted_tables_update(follows);
  await follows();
}

start().catch((error) => {
  console.error(error);
  say("disconnected");
});
