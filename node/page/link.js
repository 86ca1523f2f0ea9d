/**
 * A transport for Perspective's `Client` that survives the loss of the node it is connected to.
 *
 *     import { connect } from "https://parallax.example.org/link.js";
 *     const Client = customElements.get("perspective-viewer").__wasm_module__.Client;   // or (await perspective.worker()).constructor
 *     const link = connect(Client, { url: "wss://parallax.example.org/websocket" });
 *     await viewer.load(link.client);
 *
 * Options:
 *   url       a string, or an async function that returns one: it is asked before each connection, so that it can bring a fresh token
 *   onstate   called with the `state` of the link whenever it changes
 *   onrefusal called with a table's name and a text when an edit of it failed: viewers do not say so by themselves
 *   probeMs   after so long without a word from the node it is asked whether it is there, and given half as long to answer (1000);
 *             longer each time that it did not: an answer of many megabytes may hold up everything behind it
 *
 * What it does: it keeps the requests that made each view that is alive, what was expanded and collapsed since, and all
 * subscriptions. When the connection is lost it connects again, to whichever node the load balancer chooses, makes the views
 * anew under their ids, asks again what was not answered, and tells every subscriber to look again. The `Client` above notices
 * nothing, except that:
 *   - an edit (update, replace, remove) that was sent and not confirmed fails: it may have been made or not, and is never sent twice;
 *   - a view that cannot be made any more (its table was dropped, or it is quarantined) is reported as deleted;
 *   - a subscriber to rows (`on_update(mode="row")`) gets the whole view as its next delta, then what is newer: right for a table
 *     with an index, where a row replaces the one of the same key; without an index he must start from nothing. `on_remove` is
 *     told of no row that went meanwhile.
 * No table goes back in time: the node is told how far this viewer has seen, and answers when it has come as far.
 */

const MAKE_VIEW = 6, VIEW_DELETE = 11, TO_ARROW = 16, COLLAPSE = 18, EXPAND = 19, ON_UPDATE = 21, REMOVE_ON_UPDATE = 22;
const SET_DEPTH = 23, TO_COLUMNS = 24, TABLE_ON_DELETE = 29, TABLE_REMOVE_DELETE = 30, VIEW_ON_DELETE = 34;
const VIEW_REMOVE_DELETE = 35, HOSTED = 4, HOSTED_END = 37, ON_REMOVE = 39, REMOVE_ON_REMOVE = 40, SERVER_ERROR = 50;
const EDITS = new Set([27, 28, 31, 32, 33, 38]);

const FIRST_OWN_ID = 3_000_000_000; // the Client counts from 1: it will not come here
const MOST_CHANGES = 200; // expansions that are kept for one view; beyond, the oldest are forgotten
const MOST_ROWS = 100_000; // among which a group is looked for
const FIRST_WAIT_MS = 100, LONGEST_WAIT_MS = 10_000, SLOW_WAIT_MS = 2_000, HEALTHY_MS = 5_000;
const FIRST_HELLO_MS = 3_000, LONGEST_HELLO_MS = 30_000; // how long a node may take to greet: the first one that we try, and any
const MEASURE_MS = 10_000; // the round trip is measured so often
const MOST_LENIENT = 64;
const UNCONFIRMED = "the connection was lost before this edit was confirmed: it may have been made, or not";
const CLOSED = "the connection was closed";
const LEAVING = 1012, SLOW = 4008, EXPIRED = 4401;

export function connect(Client, options) {
  return new Link(Client, options);
}

class Link {
  /** The Perspective client. It can be used at once: what is asked before the first connection is there waits for it. */
  client;

  /** { name: "connecting" | "live" | "reconnecting" | "unauthorised" | "closed", node, version, rtt (ms), stale: [tables], reason } */
  state = { name: "connecting", node: null, version: null, rtt: null, stale: [], reason: "" };

  #url;
  #onstate;
  #onrefusal;
  #probeMs;
  #socket = null;
  #isOpen = false; // the node greeted us, and all is as before
  #waitMs = 0; // before the next attempt
  #liveSince = 0;
  #helloMs = FIRST_HELLO_MS;
  #isGreeted = false; // the node answers on this connection
  #refusals = 0; // in a row: attempts that did not even open
  #heardAt = 0;
  #pingedAt = 0; // when it was asked last
  #probedAt = 0;
  #wasLate = false;
  #leniency = 1; // times the patience: a pong stands in line behind an answer that takes long on its way
  #timers = new Set();
  #views = new Map(); // id -> { table, make, changes: [], subscriptions: Map(message id -> frame) }
  #watches = new Map(); // message id -> frame: of deletions, and of the hosted tables
  #waiting = new Map(); // message id -> { frame, request, isSent }: what is not answered, in its order
  #own = new Map(); // message id -> { resolve, reject }: what we ask ourselves
  #wholes = new Map(); // message id -> what a subscriber of rows is told with the answer: all rows, which we asked for
  #nextId = FIRST_OWN_ID;
  #positions = {}; // table -> the highest that we were told
  #updatedAt = {}; // table -> when we were told of it

  constructor(Client, { url, onstate = () => {}, onrefusal = () => {}, probeMs = 1000 }) {
    this.#url = typeof url === "function" ? url : () => url;
    this.#onstate = onstate;
    this.#onrefusal = onrefusal;
    this.#probeMs = probeMs;
    this.client = new Client(
      async (frame) => this.#ask(frame.slice()), // a copy: what we are given lies in wasm memory
      async () => this.close(),
    );
    const every = Math.max(50, probeMs / 8);
    const probing = setInterval(() => this.#probe(every), every);
    this.#timers.add(probing);
    this.#connect();
  }

  /** End the connection for good; whatever waits for an answer, or asks from now on, fails. */
  close() {
    this.#tell({ name: "closed", reason: "" });
    for (const timer of this.#timers) clearTimeout(timer);
    this.#drop();
    for (const { request } of this.#waiting.values()) this.#fail(request, CLOSED);
    this.#waiting.clear();
  }

  /** Return when a table last changed under one of the views, by performance.now(), or undefined. */
  updatedAt(table) {
    return this.#updatedAt[table];
  }

  // The connection -----------------------------------------------------------------------------------------------------

  async #connect() {
    if (this.state.name === "closed") return;
    let socket;
    try {
      const url = await this.#url();
      if (this.state.name === "closed") return;
      socket = new WebSocket(url);
    } catch (error) {
      this.#again(`${error}`);
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    let wasOpen = false;
    const lost = (code, reason) => {
      if (this.#socket !== socket) return;
      this.#drop();
      if (!wasOpen && ++this.#refusals > 1) this.#askWhy(socket.url); // once may be chance
      this.#again(reason, code);
    };
    const patience = this.#later(this.#helloMs, () => lost(0, "no node answers"));
    this.#helloMs = Math.min(LONGEST_HELLO_MS, this.#helloMs * 2);
    socket.onopen = () => {
      wasOpen = true;
      this.#heardAt = performance.now();
      socket.send(JSON.stringify({ hello: { positions: this.#positions } }));
    };
    socket.onmessage = ({ data }) => {
      if (this.#socket !== socket) return;
      this.#heardAt = performance.now();
      if (typeof data !== "string") this.#receive(new Uint8Array(data));
      else this.#hear(JSON.parse(data), () => this.#forget(patience));
    };
    socket.onclose = ({ code, reason }) => {
      this.#forget(patience);
      lost(code, reason);
    };
  }

  /** Let go of the socket, whatever it does, and settle what depended on it. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#isOpen = this.#isGreeted = false;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    for (const { reject } of this.#own.values()) reject(new Error("the connection was lost"));
    this.#own.clear();
    this.#wholes.clear();
    for (const [id, { request, isSent }] of this.#waiting) {
      if (isSent && EDITS.has(request.number)) {
        this.#waiting.delete(id);
        this.#fail(request, UNCONFIRMED);
        this.#onrefusal(request.entity, UNCONFIRMED);
      }
    }
  }

  /** Send, and say whether that was possible: a socket may be closing before it says so. */
  #send(message) {
    const isPossible = this.#socket?.readyState === WebSocket.OPEN;
    if (isPossible) this.#socket.send(message);
    return isPossible;
  }

  #again(reason, code = 0) {
    if (this.state.name === "closed") return;
    if (this.state.name === "live" || this.state.name === "connecting") this.#tell({ name: "reconnecting", reason });
    const wasHealthy = this.#liveSince && performance.now() - this.#liveSince > HEALTHY_MS;
    this.#liveSince = 0;
    if (wasHealthy || code === LEAVING || code === EXPIRED) this.#waitMs = 0;
    if (code === SLOW) this.#waitMs = Math.max(this.#waitMs, SLOW_WAIT_MS);
    const wait = this.#waitMs ? this.#waitMs * (0.5 + Math.random()) : 20 * Math.random();
    this.#waitMs = Math.min(LONGEST_WAIT_MS, Math.max(FIRST_WAIT_MS, this.#waitMs * 2));
    this.#later(wait, () => this.#connect());
  }

  /** A browser does not tell why a socket did not open; the same address asked by HTTP does. */
  async #askWhy(url) {
    const answer = await fetch(url.replace(/^ws/, "http")).catch(() => null);
    if (answer?.status === 401 && !this.#isOpen && this.state.name !== "closed") {
      this.#tell({ name: "unauthorised", reason: (await answer.text()).trim() });
    }
  }

  #probe(every) {
    const now = performance.now();
    const isLate = now - this.#probedAt > 4 * every; // this page stood still: what the node said may wait to be heard
    const isForgiven = isLate && !this.#wasLate;
    [this.#probedAt, this.#wasLate] = [now, isLate];
    if (!this.#isGreeted) return;
    const isAsked = this.#pingedAt > this.#heardAt; // and has not said a word since
    const patience = Math.max(this.#probeMs / 2, 4 * (this.state.rtt ?? 0)) * this.#leniency;
    if (isAsked && !isForgiven && now - this.#pingedAt > patience) {
      this.#leniency = Math.min(MOST_LENIENT, 2 * this.#leniency);
      this.#drop();
      this.#again("the node does not answer");
    } else if ((isAsked && isForgiven) || (!isAsked && (now - this.#heardAt > this.#probeMs || now - this.#pingedAt > MEASURE_MS))) {
      this.#pingedAt = now;
      this.#send(`{"ping": ${now}}`);
    }
  }

  #later(ms, what) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      what();
    }, ms);
    this.#timers.add(timer);
    return timer;
  }

  #forget(timer) {
    clearTimeout(timer);
    this.#timers.delete(timer);
  }

  #tell(change) {
    if (Object.keys(change).every((name) => this.state[name] === change[name])) return;
    this.state = { ...this.state, ...change };
    this.#onstate(this.state);
  }

  // What the client asks -------------------------------------------------------------------------------------------------

  #ask(frame) {
    if (this.state.name === "closed") throw new Error(CLOSED);
    const request = decode(frame);
    const { id, entity, number, body } = request;
    const view = this.#views.get(entity);
    switch (number) {
      case MAKE_VIEW: {
        const viewId = text(fields(body).get(1));
        this.#views.set(viewId, { table: entity, make: body, isMade: false, changes: [], subscriptions: new Map() });
        break;
      }
      case VIEW_DELETE:
        this.#views.delete(entity);
        break;
      case COLLAPSE:
      case EXPAND:
      case SET_DEPTH:
        if (view) this.#note(view, request);
        break;
      case ON_UPDATE:
      case ON_REMOVE:
        view?.subscriptions.set(id, frame);
        break;
      case REMOVE_ON_UPDATE:
      case REMOVE_ON_REMOVE:
        view?.subscriptions.delete(fields(body).get(1) ?? 0);
        break;
      case HOSTED:
        if (fields(body).get(1)) this.#watches.set(id, frame);
        break;
      case TABLE_ON_DELETE:
      case VIEW_ON_DELETE:
        this.#watches.set(id, frame);
        break;
      case TABLE_REMOVE_DELETE:
      case VIEW_REMOVE_DELETE:
      case HOSTED_END:
        this.#watches.delete(fields(body).get(1) ?? 0);
        break;
    }
    const isSent = this.#isOpen && this.#send(frame);
    const isAnswered = ![ON_UPDATE, ON_REMOVE, TABLE_ON_DELETE, VIEW_ON_DELETE].includes(number);
    if (isAnswered) this.#waiting.set(id, { frame, request, isSent });
  }

  /** Keep a change of a view's state. A row's number means something else later: what is kept is the path of its group. */
  #note(view, request) {
    if (request.number === SET_DEPTH) {
      view.changes = [{ number: SET_DEPTH, body: request.body }];
      return;
    }
    const change = { number: request.number, body: request.body, path: null };
    view.changes.push(change);
    if (view.changes.length > MOST_CHANGES) view.changes.shift();
    if (!this.#isOpen) return; // it is sent when the view is there again, with the number that it has
    const row = fields(request.body).get(1) ?? 0;
    this.#paths(request.entity, row, row + 1).then(
      ([path]) => (change.path = path),
      () => {}, // the connection is gone, and the request itself was not answered either
    );
  }

  /** Return of which groups some rows are: `[]` is the total's. */
  async #paths(viewId, first, end) {
    const viewport = [...number(1, first), ...number(2, 0), ...number(3, end), ...number(4, 0)];
    const answer = await this.#askOwn(viewId, TO_COLUMNS, bytes(1, viewport));
    return JSON.parse(text(fields(answer).get(1))).__ROW_PATH__ ?? [];
  }

  #askOwn(entity, kind, body) {
    const id = this.#nextOwnId();
    return new Promise((resolve, reject) => {
      if (this.#send(encode({ id, entity, number: kind, body }))) this.#own.set(id, { resolve, reject });
      else reject(new Error("the connection is lost"));
    });
  }

  #nextOwnId() {
    if (this.#nextId >= 4_000_000_000) this.#nextId = FIRST_OWN_ID;
    return this.#nextId++;
  }

  // What the node says ---------------------------------------------------------------------------------------------------

  #receive(frame) {
    const response = decode(frame);
    if (this.#wholes.has(response.id)) return this.#handWhole(response);
    if ([...this.#wholes.values()].some(({ id }) => id === response.id)) return;
    const own = this.#own.get(response.id);
    if (own) {
      this.#own.delete(response.id);
      if (response.number === SERVER_ERROR) own.reject(new Refused(errorText(response)));
      else own.resolve(response.body);
      return;
    }
    const asked = this.#waiting.get(response.id);
    this.#waiting.delete(response.id);
    if (EDITS.has(asked?.request.number) && response.number === SERVER_ERROR) {
      this.#onrefusal(asked.request.entity, errorText(response));
    } else if (asked?.request.number === MAKE_VIEW) {
      const viewId = text(fields(asked.request.body).get(1));
      if (response.number === SERVER_ERROR) this.#views.delete(viewId);
      else if (this.#views.has(viewId)) this.#views.get(viewId).isMade = true;
    } else if (response.number === VIEW_ON_DELETE) {
      this.#views.delete(response.entity);
      this.#watches.delete(response.id);
    } else if (response.number === TABLE_ON_DELETE) {
      this.#watches.delete(response.id);
    }
    this.#hand(frame);
  }

  #hear(message, greeted) {
    if (message.hello) {
      greeted();
      this.#isGreeted = true;
      this.#refusals = 0;
      this.#pingedAt = -MEASURE_MS; // this node's round trip is not known yet
      this.#tell({ stale: [] });
      const { node, version, behind } = message.hello;
      for (const table of behind) delete this.#positions[table]; // of a history that is not there any more, or we have waited enough
      this.#restore(node, version, this.#socket);
    } else if (message.position) {
      for (const [table, position] of Object.entries(message.position)) {
        this.#updatedAt[table] = performance.now();
        if (!(table in this.#positions) || isLater(position, this.#positions[table])) this.#positions[table] = position;
      }
    } else if (message.pong) {
      this.#leniency = 1;
      this.#tell({ rtt: performance.now() - message.pong });
    } else if (message.stale) {
      this.#tell({ stale: message.stale });
    }
  }

  #hand(frame) {
    Promise.resolve(this.client.handle_response(frame)).catch((error) => console.error(error));
  }

  #fail({ id, entity }, message) {
    this.#hand(encode({ id, entity, number: SERVER_ERROR, body: bytes(1, new TextEncoder().encode(message)) }));
  }

  // After a loss -----------------------------------------------------------------------------------------------------------

  /** Make everything on a new connection as it was on the last one. */
  async #restore(node, version, socket) {
    const made = [...this.#views].filter(([, view]) => view.isMade);
    const results = await Promise.allSettled(made.map(([id, view]) => this.#remake(id, view)));
    if (this.#socket !== socket) return; // lost again meanwhile
    for (const [position, { status, reason }] of results.entries()) {
      if (status === "rejected") this.#bury(made[position][0], reason);
    }
    for (const [id, view] of made) if (this.#views.get(id) === view) this.#subscribe(id, view);
    for (const frame of this.#watches.values()) this.#send(frame);
    this.#isOpen = true;
    for (const [id, one] of this.#waiting) {
      if (one.request.number === VIEW_DELETE) {
        this.#waiting.delete(id); // on this connection, it never was there
        this.#hand(encode({ ...one.request, body: new Uint8Array() }));
      } else if (!this.#watches.has(id)) {
        one.isSent = this.#send(one.frame);
      }
    }
    this.#liveSince = performance.now();
    this.#helloMs = FIRST_HELLO_MS;
    this.#tell({ name: "live", node, version, reason: "" });
  }

  async #remake(id, view) {
    await this.#askOwn(view.table, MAKE_VIEW, view.make);
    for (const change of view.changes) {
      if (change.number === SET_DEPTH) {
        await this.#askOwn(id, SET_DEPTH, change.body);
      } else if (change.path) {
        const wanted = JSON.stringify(change.path);
        const row = (await this.#paths(id, 0, MOST_ROWS)).findIndex((path) => JSON.stringify(path) === wanted);
        if (row >= 0) await this.#askOwn(id, change.number, number(1, row));
      }
    }
  }

  /**
   * Subscribe as before, and tell subscribers to look again: everything may have changed.
   * Those of rows get all rows as their next delta; what else comes before it is among them.
   */
  #subscribe(id, view) {
    for (const [message, frame] of view.subscriptions) {
      this.#send(frame);
      const { number: kind, body } = decode(frame);
      if (kind !== ON_UPDATE) continue;
      const news = { id: message, entity: id, number: ON_UPDATE, body: new Uint8Array() };
      if (!fields(body).has(1)) {
        this.#hand(encode(news));
        continue;
      }
      const own = this.#nextOwnId();
      this.#wholes.set(own, news);
      this.#send(encode({ id: own, entity: id, number: TO_ARROW, body: new Uint8Array() }));
    }
  }

  /** Hand over all rows, and from now on those that change. */
  #handWhole(response) {
    const news = this.#wholes.get(response.id);
    this.#wholes.delete(response.id);
    if (response.number === SERVER_ERROR) console.error(errorText(response));
    else this.#hand(encode({ ...news, body: response.body }));
  }

  /** Let go of a view that cannot be made any more. */
  #bury(id, error) {
    console.warn(`the view ${id} is gone: ${error.message}`);
    this.#views.delete(id);
    for (const [message, frame] of this.#watches) {
      const watch = decode(frame);
      if (watch.number === VIEW_ON_DELETE && watch.entity === id) {
        this.#watches.delete(message);
        this.#hand(encode({ id: message, entity: id, number: VIEW_ON_DELETE, body: new Uint8Array() }));
      }
    }
  }
}

class Refused extends Error {}

/** Compare positions, `term-offset`, whose numbers are larger than those of JavaScript. */
function isLater(one, other) {
  const [a, b] = [one, other].map((position) => position.split("-").map(BigInt));
  return a[0] === b[0] ? a[1] > b[1] : a[0] > b[0];
}

// Protocol buffers, as far as we look into them: a Request or a Response is 1: message id, 2: entity, N: the body ------------

/** Return the fields of a message: numbers as numbers, everything else as bytes. */
function fields(message) {
  const found = new Map();
  let at = 0;
  const varint = () => {
    let value = 0, factor = 1, byte;
    do {
      byte = message[at++];
      value += (byte & 127) * factor;
      factor *= 128;
    } while (byte > 127);
    return value;
  };
  while (at < message.length) {
    const key = varint();
    const kind = key % 8;
    if (kind === 0) found.set(Math.floor(key / 8), varint());
    else {
      const size = kind === 2 ? varint() : kind === 1 ? 8 : 4;
      found.set(Math.floor(key / 8), message.subarray(at, at + size));
      at += size;
    }
  }
  return found;
}

function decode(frame) {
  const found = fields(frame);
  const result = { id: found.get(1) ?? 0, entity: text(found.get(2) ?? new Uint8Array()), number: 0, body: new Uint8Array() };
  for (const [kind, body] of found) if (kind > 2) Object.assign(result, { number: kind, body });
  return result;
}

function encode({ id, entity, number: kind, body }) {
  const name = new TextEncoder().encode(entity);
  const head = [...number(1, id), ...(name.length ? bytes(2, name) : []), ...key(kind, 2), ...size(body.length)];
  return join(head, body);
}

function join(head, body) {
  const frame = new Uint8Array(head.length + body.length);
  frame.set(head);
  frame.set(body, head.length);
  return frame;
}

const size = (value) => {
  const parts = [];
  for (; value > 127; value = Math.floor(value / 128)) parts.push((value % 128) + 128);
  return [...parts, value];
};
const key = (field, kind) => size(field * 8 + kind);
const number = (field, value) => [...key(field, 0), ...size(value)];
const bytes = (field, value) => join([...key(field, 2), ...size(value.length)], value);
const text = (value) => new TextDecoder().decode(value);
const errorText = ({ body }) => text(fields(body).get(1) ?? new Uint8Array());
