// Publishes prices from Node.js: `PARALLAX_REDIS_URL=redis://127.0.0.1:6379 node publish.mjs`.
// It speaks to Redis by itself, so that it runs with nothing installed. With the npm package `redis` it is three lines:
//
//   import { createClient } from "redis";
//   const redis = await createClient({ url }).connect();
//   await redis.xAdd("parallax:{prices}:in", "*", { op: "update", format: "json", data: JSON.stringify(rows) });
import net from "node:net";

const url = new URL(process.env.PARALLAX_REDIS_URL ?? "redis://127.0.0.1:6379");
const socket = net.connect(Number(url.port || 6379), url.hostname);
const waiting = []; // who asked, in order
let received = Buffer.alloc(0);

socket.on("error", (error) => waiting.splice(0).forEach(({ reject }) => reject(error)));
socket.on("data", (data) => {
    received = Buffer.concat([received, data]);
    for (let answer; (answer = next()) !== undefined; ) {
        const { resolve, reject } = waiting.shift();
        answer instanceof Error ? reject(answer) : resolve(answer);
    }
});

/** Take one whole answer out of what was received: a string, a number, or an error. */
function next() {
    const end = received.indexOf("\r\n");
    if (end < 0) return undefined;
    const line = received.toString("utf8", 1, end);
    const length = received[0] === 36 /* $ */ ? Number(line) : -1;
    const last = length < 0 ? end + 2 : end + 2 + length + 2;
    if (received.length < last) return undefined;
    const body = length < 0 ? line : received.toString("utf8", end + 2, last - 2);
    const isError = received[0] === 45; /* - */
    received = received.subarray(last);
    return isError ? new Error(body) : body;
}

/** Send one command and wait for its answer. */
function command(...parts) {
    const pieces = [Buffer.from(`*${parts.length}\r\n`)];
    for (const part of parts.map((part) => Buffer.from(part))) {
        pieces.push(Buffer.from(`$${part.length}\r\n`), part, Buffer.from("\r\n"));
    }
    socket.write(Buffer.concat(pieces));
    return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
}

/** Write one entry, again and again while Redis is full: the coordinator is catching up. */
async function publish(table, fields) {
    const entry = Object.entries(fields).flat();
    for (;;) {
        try {
            return await command("XADD", `parallax:{${table}}:in`, "*", ...entry);
        } catch (error) {
            if (!error.message.startsWith("OOM")) throw error;
            await new Promise((resolve) => setTimeout(resolve, 500));
        }
    }
}

if (url.password) await command("AUTH", ...(url.username ? [url.username] : []), url.password);

const rows = [
    { symbol: "JS-A", price: 10.5, size: 100, at: new Date(Date.UTC(2026, 0, 1, 12, 30)) }, // a Date becomes ISO 8601
    { symbol: "JS-B", price: null },
];
await publish("prices", { op: "update", format: "json", data: JSON.stringify(rows) });
await publish("prices", { op: "update", format: "columns", data: JSON.stringify({ symbol: ["JS-C", "JS-D"], size: [1, 2] }) });
await publish("prices", { op: "remove", format: "json", data: JSON.stringify([{ symbol: "JS-D" }]) });

// A producer that counts its entries may send one again after a doubt: what was taken already is dropped.
const numbered = { op: "update", format: "json", data: '[{"symbol": "JS-E", "price": 1}]', producer: "publish.mjs", seq: `${Date.now()}` };
await publish("prices", numbered);
await publish("prices", numbered);
socket.end();
