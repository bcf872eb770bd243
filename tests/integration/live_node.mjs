// Phones that read on the standard input what to do, a line of JSON each, and write on the output what they see.
// usage: node live_node.mjs centrifuge.protobuf.js pushsvc-live.js
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import vm from "node:vm";

import { Phone } from "./live_phone.mjs";

/** Node has no EventSource without a flag: the part of it that the SDK uses, over fetch. */
class EventSource {
  #ended = new AbortController();

  constructor(url) {
    this.#read(url).catch((error) => this.#ended.signal.aborted || this.onerror(error));
  }

  async #read(url) {
    const answer = await fetch(url, { headers: { Accept: "text/event-stream" }, signal: this.#ended.signal });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    this.onopen();
    let text = "";
    for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
      text += chunk.replaceAll("\r", "");
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const lines = text.slice(0, end).split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) this.onmessage({ data: lines.map((line) => line.slice(5).trimStart()).join("\n") });
      }
    }
    throw new Error("the stream has ended");
  }

  close() {
    this.#ended.abort();
  }
}

const [sdk, module] = process.argv.slice(2);
vm.runInThisContext(readFileSync(sdk, "utf8"));
// Old versions of Node take a file of this name for a script.
const { LiveClient, emulation } = await import(`data:text/javascript,${encodeURIComponent(readFileSync(module, "utf8"))}`);
const { Centrifuge } = globalThis;
const options = {
  websocket: globalThis.WebSocket ?? createRequire(import.meta.url)("ws"),
  eventsource: EventSource,
  fetch,
  readableStream: ReadableStream,
};
const report = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const phones = new Map();
for await (const line of createInterface({ input: process.stdin })) {
  const { phone, call, argument, number } = JSON.parse(line);
  if (call === "new") {
    const emit = (event, value) => report({ phone, event, value });
    phones.set(phone, new Phone({ Centrifuge, LiveClient, emulation, emit, options }, argument));
  } else {
    Promise.resolve(phones.get(phone).live[call](...argument)).then(
      (result) => report({ number, result: result ?? null }),
      (error) => report({ number, error: `${call}: ${error.code ?? ""} ${error.message}` }),
    );
  }
}
process.exit(0);
