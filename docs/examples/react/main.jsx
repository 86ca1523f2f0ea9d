// Two views of one table under React. React and its binding come from npm; the viewer and its link come from a node.
import { StrictMode, Suspense, use, useState, useSyncExternalStore } from "react";
import { createRoot } from "react-dom/client";
import { PerspectiveViewer } from "@perspective-dev/react";

const SERVER = "http://127.0.0.1:8080";
const link = open(); // one for the whole page, however many viewers it shows

async function open() {
  const [{ ready }, { connect }] = await Promise.all([import(`${SERVER}/perspective.js`), import(`${SERVER}/link.js`)]);
  await ready;
  const { Client } = customElements.get("perspective-viewer").__wasm_module__;
  const listeners = new Set();
  const opened = connect(Client, {
    url: `${SERVER.replace(/^http/, "ws")}/websocket`, // or an async function, which can bring a fresh token
    onstate: () => listeners.forEach((listener) => listener()),
  });
  const subscribe = (listener) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  };
  return { client: opened.client, subscribe, stateName: () => opened.state.name };
}

function Connection() {
  const { subscribe, stateName } = use(link);
  return <p role="status">{useSyncExternalStore(subscribe, stateName)}</p>;
}

function Prices({ descending }) {
  const { client } = use(link);
  return <PerspectiveViewer client={client} config={{ table: "prices", sort: [["symbol", descending ? "desc" : "asc"]] }} />;
}

function App() {
  const [descending, setDescending] = useState(false);
  const [isOpen, setOpen] = useState(true);
  return (
    <Suspense fallback={<p role="status">loading</p>}>
      <Connection />
      <button onClick={() => setDescending(!descending)}>turn round</button>
      <button onClick={() => setOpen(!isOpen)}>{isOpen ? "close" : "open"} the second</button>
      <Prices descending={descending} />
      {isOpen && <Prices descending={!descending} />}
    </Suspense>
  );
}

createRoot(document.getElementById("root")).render(<StrictMode><App /></StrictMode>);
