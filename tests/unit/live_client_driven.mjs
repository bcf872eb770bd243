// Drives the LiveClient of pushsvc-live.js with an SDK whose answers are given, and prints the stories that went well.
// usage: node live_client_driven.mjs pushsvc-live.js
import { deepStrictEqual as same } from "node:assert";
import { readFileSync } from "node:fs";

// Old versions of Node take a file of this name for a script.
const { LiveClient, emulation, lastGoodFirst, webStorage } = await import(
  `data:text/javascript,${encodeURIComponent(readFileSync(process.argv[2], "utf8"))}`
);
const pauses = [];
globalThis.setTimeout = (call, milliseconds) => (pauses.push(milliseconds), setImmediate(call), {});
const turn = () => new Promise(setImmediate);

class Sdk {
  state = "connected";
  calls = [];
  answers = {};
  listeners = {};
  on = (event, listener) => (this.listeners[event] = listener);
  setData = (data) => this.calls.push(["data", data]);
  connect = () => this.calls.push(["connect", null]);
  disconnect = () => this.calls.push(["disconnect", null]);
  rpc = async (method, data) => ({ data: this.answer(method, data, {}) });
  history = async (_, { since }) => ({ publications: this.answer("history", since.offset, []) });

  answer(method, data, otherwise) {
    this.calls.push([method, data]);
    const answer = this.answers[method]?.shift() ?? otherwise;
    if (typeof answer === "number") throw { code: answer, message: "refused" };
    return answer;
  }

  subscribed() {
    this.listeners.connected({ transport: "sse", data: { acked: 0, unread: 1 } });
    // The offset as old versions of the SDK give it with Protobuf.
    const streamPosition = { epoch: "e", offset: { low: 0, high: 0, unsigned: true } };
    this.listeners.subscribed({ channel: "device", streamPosition, recovered: false });
  }

  published(...numbers) {
    for (const n of numbers) this.listeners.publication({ channel: "device", ...sent(n, this.more) });
  }

  acks = () => this.calls.filter(([method]) => method === "ack").map(([, { ack }]) => ack.offset);
}

const sent = (n, more = {}) => ({ offset: { low: n, high: 0 }, data: { id: `p${n}`, prev: n - 1, ...more } });

async function driven(name, story, options = {}) {
  const sdk = new Sdk();
  const seen = { message: [], missing: [], error: [] };
  const live = new LiveClient(sdk, {
    onMessage: async (message) => seen.message.push(message),
    onMissing: (count) => seen.missing.push(count),
    onError: ({ code }) => seen.error.push(code),
    heartbeat: 240,
    ...options,
  });
  await live.connect();
  sdk.subscribed();
  await story(sdk, live, seen);
  if (name) console.log(name);
}

await driven("notices", async (sdk, live, seen) => {
  sdk.more = { notice: true, size: 9000 };
  sdk.answers.fetch = [100, { id: "p1", notification: { title: "long" } }, 404];
  sdk.published(1, 2);
  await live.settled();
  await turn();
  same(seen.message.map(({ id, data }) => [id, data.notification, data.notice]), [["p1", { title: "long" }, false]]);
  same([seen.missing, seen.error, sdk.acks()], [[1], [100], [1, 2]]);
  same(sdk.calls[0], ["data", { heartbeat: 240, foreground: undefined, app_version: undefined }]);
});

await driven("acks", async (sdk, live, seen) => {
  pauses.length = 0;
  sdk.answers.ack = [100, 111, {}, 112];
  sdk.published(1);
  await live.settled();
  same([sdk.acks(), pauses], [[1, 1, 1], [1000, 2000]]);
  sdk.published(2);
  while (sdk.acks().length < 4) await turn();
  await live.disconnect();
  same([sdk.acks(), sdk.calls.at(-1)[0], seen.error], [[1, 1, 1, 2], "disconnect", [100, 111, 112]]);
});

await driven("lost", async (sdk, live, seen) => {
  sdk.answers.ack = [107];
  sdk.published(1);
  await live.settled();
  sdk.published(2);
  await live.settled();
  same([sdk.acks(), seen.error], [[1, 2], [107]]);
});

await driven("holes", async (sdk, live, seen) => {
  sdk.answers.history = [100, [sent(2), sent(3)]];
  sdk.published(1, 3);
  await live.settled();
  same(seen.message.map(({ id }) => id), ["p1", "p2", "p3"]);
  same(sdk.calls.filter(([method]) => method === "history").map(([, since]) => since), [1, 1]);
  same(sdk.acks().at(-1), 3);
});

const kept = new Map();
const items = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
const first = async (sdk, live) => {
  sdk.published(1, 2);
  await live.settled();
  same(await live.received("p4"), true);
};
await driven("", first, { storage: webStorage("live", items) });
const second = async (sdk, live, seen) => {
  sdk.published(1, 2, 3, 4); // None of the acknowledgements has arrived.
  await live.settled();
  same(seen.message.map(({ id }) => id), ["p3"]);
  const shown = [];
  for (const id of ["p1", "p3", "p4", "p5"]) shown.push(await live.received(id));
  same([shown, sdk.acks()[0], sdk.acks().at(-1)], [[false, false, false, true], 2, 4]);
};
await driven("restart", second, { storage: webStorage("live", items) });

const page = Object.assign(new EventTarget(), { visibilityState: "visible" });
globalThis.document = page;
await driven("visibility", async (sdk, live) => {
  page.visibilityState = "hidden";
  page.dispatchEvent(new Event("visibilitychange"));
  await turn();
  same(sdk.calls.filter(([method]) => method === "heartbeat"), [["heartbeat", { foreground: false }]]);
  const sent = sdk.calls.filter(([method]) => method === "data").map(([, { foreground }]) => foreground);
  same(sent, [true, false]);
  await live.disconnect();
  page.dispatchEvent(new Event("visibilitychange"));
  same(sdk.calls.at(-1)[0], "disconnect");
});

const endpoints = ["websocket", "http_stream", "sse"].map((transport) => ({
  transport,
  endpoint: `https://push.example.com/a/connection/${transport}`,
}));
const order = async (storage) => (await lastGoodFirst(endpoints, storage)).map(({ transport }) => transport);
same(await order(webStorage("live", items)), ["sse", "websocket", "http_stream"]);
same(await order(webStorage("other", items)), ["websocket", "http_stream", "sse"]);
Date.now = () => Number.MAX_SAFE_INTEGER;
same(await order(webStorage("live", items)), ["websocket", "http_stream", "sse"]);
same(emulation(endpoints), "https://push.example.com/a/emulation");
same(emulation(endpoints.slice(0, 1)), undefined);
console.log("endpoints");
