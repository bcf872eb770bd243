/**
 * The receiving side of pushsvc's live channel, over the official SDK `centrifuge` (centrifuge-js), which the app
 * brings along. One ES module without dependencies and without a build step, for browsers and Node 18 or later.
 *
 * Messages come from four sources that overlap: the open connection, what is sent again, history, and the copies that
 * APNs, FCM or Web Push bring. They meet here: each message is handled once, in the order of the device's stream, and
 * acknowledged after the promise of the app's handler has resolved, which is when it was shown or stored.
 *
 *     const client = new Centrifuge(endpoints, { token, getToken, emulationEndpoint: emulation(endpoints) });
 *     const live = new LiveClient(client, { onMessage: async (message) => show(message), storage: webStorage() });
 *     await live.connect();
 */

const CHANNEL = "device";
const PAGE = 100;
const UNRECOVERABLE_POSITION = 112;
const BAD_REQUEST = 107;
const NOT_FOUND = 404;

/**
 * Decides, without I/O, which steps follow from an event. Each method returns a list of steps, to be done in
 * their order: `{do: "handle", message}`, `{do: "retry", id, attempt}`, `{do: "ack", offset, epoch}`,
 * `{do: "history", since, epoch}`, `{do: "missing", count}` (null: the number is not known).
 */
export class Sequencer {
  #known = new Set(); // Ids of messages that were handled, oldest first.
  #memory;
  #epoch = "";
  #tail = null; // Everything up to here was taken, or is gone; null: where the stream begins is not known.
  #done = 0; // Everything up to here was handled.
  #acked = 0; // Everything up to here is acknowledged, as far as it is known.
  #acking = false;
  #queue = []; // Messages that were taken and are to be handled; the first is with the handler, or waits for a retry.
  #handling = false;
  #stopped = false; // Whether nothing is at the first message of the queue, nor waits to try it again.
  #attempt = 0;
  #held = []; // Publications behind a hole that history is to fill.
  #filling = false;
  #fillTo = 0;

  /** `state` is what an earlier `state` has given, `memory` the number of ids that are remembered. */
  constructor({ state = null, memory = 500 } = {}) {
    this.#memory = memory;
    if (state) {
      this.#epoch = state.epoch;
      this.#tail = this.#done = state.offset;
      this.#known = new Set(state.ids.slice(-memory));
    }
  }

  /** What is to be stored. */
  get state() {
    return { epoch: this.#epoch, offset: this.#done, ids: [...this.#known] };
  }

  /** Where the stream has been handled up to. */
  get position() {
    return { epoch: this.#epoch, offset: this.#done };
  }

  /** Whether nothing waits to be handled, acknowledged or filled in. */
  get settled() {
    return !this.#queue.length && !this.#acking && !this.#filling;
  }

  /** The connection stands. `acked` and `missing` are those of the connect reply's data. */
  subscribed({ epoch, offset, recovered, acked = null, missing = 0 }) {
    const steps = [];
    this.#acking = this.#filling = false;
    this.#held = [];
    if (epoch !== this.#epoch) {
      if (this.#epoch) steps.push({ do: "missing", count: null });
      else if (missing) steps.push({ do: "missing", count: missing });
      this.#epoch = epoch;
      this.#tail = acked;
      this.#done = this.#acked = acked ?? 0;
    } else {
      if (missing) steps.push({ do: "missing", count: missing });
      this.#acked = acked ?? 0;
      if (acked !== null) this.#tail = Math.max(this.#tail ?? acked, acked);
      if (!this.#queue.length) this.#done = Math.max(this.#done, this.#acked);
      // The SDK asked from further on than what has come here.
      if (recovered && this.#tail !== null && offset > this.#tail) this.#fill(steps, offset);
    }
    if (this.#stopped) this.#next(steps);
    else this.#acknowledge(steps);
    return steps;
  }

  /** A publication came over the connection, for the first time or again. */
  publication({ offset, data }) {
    const steps = [];
    const prev = data.prev ?? 0;
    if (this.#tail !== null && offset <= this.#tail) {
      if (offset <= this.#done) {
        this.#acked = Math.min(this.#acked, offset - 1); // The acknowledgement has not arrived.
        this.#acknowledge(steps);
      }
    } else if (this.#filling) {
      this.#held.push({ offset, data });
    } else if (this.#tail !== null && prev > this.#tail) {
      this.#held.push({ offset, data });
      this.#fill(steps, prev);
    } else {
      this.#take(steps, offset, data);
    }
    return steps;
  }

  /** The page of history that was asked for; an empty one means that there is nothing more. */
  history(publications) {
    const steps = [];
    if (!this.#filling) return steps;
    for (const each of publications) this.#takeBehind(steps, each);
    if (publications.length && this.#tail < this.#fillTo) {
      this.#fill(steps, this.#fillTo);
      return steps;
    }
    this.#filling = false;
    const held = this.#held.sort((one, other) => one.offset - other.offset);
    this.#held = [];
    for (const each of held) this.#takeBehind(steps, each);
    return steps;
  }

  /** A copy came by a provider: `{do: "show"}` if the app is to show it, `{do: "drop"}` if it was or is being shown. */
  received(id) {
    const head = this.#queue[0];
    if (this.#known.has(id) || (this.#handling && head.id === id)) return [{ do: "drop", id }];
    const steps = [{ do: "show", id }];
    this.#remember(id);
    if (head && head.id === id) this.#next(steps);
    return steps;
  }

  /** The handler of the message that was given out last has ended. */
  handled(succeeded) {
    const steps = [];
    const head = this.#queue[0];
    this.#handling = false;
    if (succeeded) {
      this.#remember(head.id);
      this.#next(steps);
    } else {
      this.#attempt += 1;
      steps.push({ do: "retry", id: head.id, attempt: this.#attempt });
    }
    return steps;
  }

  /** The time of a retry has come. */
  retried(id) {
    const steps = [];
    if (!this.#handling && this.#queue.length && this.#queue[0].id === id) this.#next(steps);
    return steps;
  }

  /**
   * The handler and the wait for a retry have ended without a result; the next connection begins with their message.
   * `LiveClient` does not need it: nothing can end a promise.
   */
  stopped() {
    this.#handling = false;
    this.#stopped = true;
    this.#attempt = 0;
    return [];
  }

  /**
   * An acknowledgement was answered; one that failed is sent again. One that is refused, because the stream does not
   * reach so far, has succeeded: there is nothing to acknowledge.
   */
  acknowledged(offset, succeeded) {
    const steps = [];
    this.#acking = false;
    if (succeeded) this.#acked = Math.max(this.#acked, offset);
    this.#acknowledge(steps);
    return steps;
  }

  #take(steps, offset, data) {
    this.#tail = offset;
    this.#queue.push({ id: data.id, offset, epoch: this.#epoch, data });
    if (this.#queue.length === 1) this.#next(steps);
  }

  #takeBehind(steps, { offset, data }) {
    if (offset <= this.#tail) return;
    const lost = (data.prev ?? 0) - this.#tail;
    if (lost > 0) steps.push({ do: "missing", count: lost });
    this.#take(steps, offset, data);
  }

  #fill(steps, to) {
    this.#filling = true;
    this.#fillTo = to;
    steps.push({ do: "history", since: this.#tail, epoch: this.#epoch });
  }

  /** Gives out the first message that is not known, and counts those before it as handled. */
  #next(steps) {
    this.#stopped = false;
    while (this.#queue.length && this.#known.has(this.#queue[0].id)) {
      const { epoch, offset } = this.#queue.shift();
      if (epoch === this.#epoch) this.#done = Math.max(this.#done, offset);
      this.#attempt = 0;
    }
    this.#acknowledge(steps);
    if (this.#queue.length) {
      this.#handling = true;
      steps.push({ do: "handle", message: this.#queue[0] });
    }
  }

  #acknowledge(steps) {
    if (this.#acking || this.#done <= this.#acked) return;
    this.#acking = true;
    steps.push({ do: "ack", offset: this.#done, epoch: this.#epoch });
  }

  #remember(id) {
    this.#known.add(id);
    if (this.#known.size > this.#memory) this.#known.delete(this.#known.values().next().value);
  }
}

/**
 * Joins a client of the SDK with a `Sequencer`.
 *
 * Options, all but the first optional:
 * - `onMessage(message)`: shows or stores one message: `id`, `offset`, `data` (`notification`, `data`, `at`, ..). It is
 *   called for one message at a time. What it rejects is tried again, after 1 s at first and 60 s at most, and nothing
 *   behind it is handled meanwhile; to give a message up, resolve.
 * - `onMissing(count)`: up to `count` messages are lost (`null`: how many is not known).
 * - `onUnread(count)`: the number of messages of the user that are unread.
 * - `onError(error)`: what failed and is tried again.
 * - `storage`: `{load(): state | null, save(state)}`, which may return promises; see `webStorage`. Without it,
 *   only the server's own position keeps a restarted app from showing a message again.
 * - `memory`: ids that are remembered.
 * - `heartbeat`: the requested seconds between pings.
 * - `foreground`: whether the app is seen; by default a page follows its own visibility.
 * - `appVersion`.
 * - `protobuf`: whether the client speaks it.
 */
export class LiveClient {
  #client;
  #options;
  #protobuf;
  #sequencer;
  #loaded;
  #reply = {};
  #good; // The transport that connected last, and when.
  #generation = 0; // Of the connection, so that late answers of an earlier one are dropped.
  #waiting = []; // Those who wait until everything is settled.
  #saving = Promise.resolve();
  #acking = Promise.resolve();
  #heartbeat;
  #page; // Whose visibility decides whether the app counts as seen.
  #follow = () => this.heartbeat({ foreground: this.#page.visibilityState === "visible" }).catch(() => {});

  constructor(client, options) {
    if (typeof options?.onMessage !== "function") throw new TypeError("LiveClient: `onMessage` is missing");
    this.#client = client;
    this.#options = options;
    this.#protobuf = options.protobuf ?? false;
    this.#heartbeat = { seconds: options.heartbeat, foreground: options.foreground };
    if (options.foreground === undefined) this.#page = globalThis.document;
    client.on("connected", (context) => this.#connected(context));
    client.on("subscribed", (context) => this.#subscribed(context));
    client.on("publication", (context) => this.#published(context));
    client.on("message", (context) => this.#unread(this.#decode(context.data)));
  }

  /** Loads what was stored, and connects. */
  async connect() {
    await this.#load();
    this.#page?.addEventListener("visibilitychange", this.#follow);
    if (this.#page) this.#heartbeat.foreground = this.#page.visibilityState === "visible";
    this.#describe();
    this.#client.connect();
  }

  /** Waits for the acknowledgement that is on its way, and disconnects. */
  async disconnect() {
    await this.#acking;
    this.#page?.removeEventListener("visibilitychange", this.#follow);
    this.#generation += 1;
    this.#client.disconnect();
  }

  /** Resolves when everything that has come was handled and acknowledged. */
  async settled() {
    await this.#load();
    while (!this.#sequencer.settled) await new Promise((resolve) => this.#waiting.push(resolve));
    await this.#saving;
  }

  /** Returns whether the app is to show a copy that a provider brought: each message is shown once. */
  async received(id) {
    await this.#load();
    const show = this.#run(this.#sequencer.received(id)).do === "show";
    if (show) await this.#save();
    return show;
  }

  /** Notes that the user has read everything up to a message, by default all that was shown; returns what is unread. */
  async read(message = undefined) {
    await this.#load();
    const { offset, epoch } = message ?? this.#sequencer.position;
    return this.#unread(await this.#call("read", { offset, epoch }));
  }

  /** Reports `arrived`, `shown`, `opened` or `dismissed` of a push, whichever channel it came by. */
  async event(id, event, at = new Date()) {
    return (await this.#call("event", { id, event, at: at.toISOString() })).counted;
  }

  /** Requests another interval between pings, or reports whether the app is seen; returns the seconds now in force. */
  async heartbeat(requested) {
    Object.assign(this.#heartbeat, requested);
    this.#describe();
    if (this.#client.state !== "connected") return undefined;
    return (await this.#call("heartbeat", requested)).heartbeat;
  }

  /** Returns a page of the stream: of older messages, newest first, or of newer ones. */
  async history({ before = undefined, since = undefined, limit = PAGE } = {}) {
    await this.#load();
    const from = before ?? since;
    const { epoch } = this.#sequencer.position;
    const page = await this.#client.history(CHANNEL, {
      limit,
      reverse: since === undefined,
      ...(from === undefined ? {} : { since: { offset: from, epoch } }),
    });
    const publications = page.publications.map((each) => this.#publication(each));
    return publications.map(({ offset, data }) => ({ id: data.id, offset, epoch, data }));
  }

  /** Returns the whole content of a message that came as a notice. */
  async fetch(id) {
    return this.#call("fetch", { id });
  }

  #load() {
    this.#loaded ??= (async () => {
      const state = (await this.#options.storage?.load()) ?? null;
      this.#sequencer = new Sequencer({ state, memory: this.#options.memory });
    })();
    return this.#loaded;
  }

  #connected(context) {
    if (!this.#sequencer) throw new Error("LiveClient: call its `connect()`, not that of the SDK's client");
    this.#protobuf ||= context.data instanceof Uint8Array;
    this.#good = { transport: context.transport, at: Date.now() };
    this.#save();
    this.#reply = this.#decode(context.data) ?? {};
    this.#unread(this.#reply);
  }

  #subscribed({ channel, streamPosition, recovered }) {
    if (channel !== CHANNEL) return;
    this.#generation += 1;
    const { acked = null, missing = 0 } = this.#reply;
    const { offset, epoch } = streamPosition;
    this.#run(this.#sequencer.subscribed({ epoch, offset: number(offset), recovered, acked, missing }));
  }

  #published(context) {
    if (context.channel !== CHANNEL) return;
    const publication = this.#publication(context);
    this.#unread(publication.data);
    this.#run(this.#sequencer.publication(publication));
  }

  #publication({ offset, data }) {
    const decoded = this.#decode(data);
    if (decoded.notification?.badge === "unread" && decoded.unread !== undefined) {
      decoded.notification.badge = decoded.unread;
    }
    return { offset: number(offset), data: decoded };
  }

  /** @param {{unread?: number}} reply */
  #unread({ unread }) {
    if (unread !== undefined) notify(this.#options.onUnread, unread);
    return unread;
  }

  /** Does the steps, and returns the first. */
  #run(steps) {
    for (const step of steps) {
      if (step.do === "handle") this.#handle(step.message);
      else if (step.do === "retry") this.#after(step.attempt, () => this.#run(this.#sequencer.retried(step.id)));
      else if (step.do === "ack") this.#acking = this.#ack(step, this.#generation);
      else if (step.do === "history") this.#fill(step, this.#generation);
      else if (step.do === "missing") notify(this.#options.onMissing, step.count);
    }
    if (this.#sequencer.settled) this.#waiting.splice(0).forEach((resolve) => resolve());
    return steps[0];
  }

  async #handle(message) {
    let succeeded = true;
    try {
      const shown = { ...message };
      if (shown.data.notice) shown.data = { ...message.data, ...(await this.fetch(message.id)), notice: false };
      await this.#options.onMessage(shown);
    } catch (error) {
      if (message.data.notice && error?.code === NOT_FOUND) {
        notify(this.#options.onMissing, 1);
      } else {
        succeeded = false;
        this.#failed(error);
      }
    }
    this.#run(this.#sequencer.handled(succeeded));
  }

  async #ack({ offset, epoch }, generation, attempt = 1) {
    await this.#save();
    try {
      await this.#call("ack", { ack: { offset, epoch } });
    } catch (error) {
      this.#refused(error);
      if (error?.code === UNRECOVERABLE_POSITION) return;
      // After a bad request there is nothing to repeat: the stream does not reach so far, Redis has lost its end.
      if (error?.code !== BAD_REQUEST) {
        this.#after(attempt, () => {
          if (generation === this.#generation) this.#acking = this.#ack({ offset, epoch }, generation, attempt + 1);
        });
        return;
      }
    }
    if (generation === this.#generation) this.#run(this.#sequencer.acknowledged(offset, true));
  }

  async #fill({ since, epoch }, generation, attempt = 1) {
    try {
      const page = await this.#client.history(CHANNEL, { limit: PAGE, since: { offset: since, epoch } });
      if (generation !== this.#generation) return;
      this.#run(this.#sequencer.history(page.publications.map((each) => this.#publication(each))));
    } catch (error) {
      this.#refused(error);
      // The gateway ends the connection, and the next one reports it.
      if (error?.code === UNRECOVERABLE_POSITION) return;
      this.#after(attempt, () => {
        if (generation === this.#generation) this.#fill({ since, epoch }, generation, attempt + 1);
      });
    }
  }

  #save() {
    const { storage } = this.#options;
    if (storage) {
      const state = { ...this.#sequencer.state, good: this.#good };
      this.#saving = this.#saving.then(() => storage.save(state)).catch((error) => this.#failed(error));
    }
    return this.#saving;
  }

  /** What ended with its connection is no failure: the next connection does it again. */
  #refused(error) {
    if (this.#client.state === "connected") this.#failed(error);
  }

  #failed(error) {
    notify(this.#options.onError, error);
  }

  #after(attempt, call) {
    /** @type {any} */
    const timer = setTimeout(call, Math.min(1000 * 2 ** (attempt - 1), 60_000));
    timer.unref?.(); // In Node it does not keep the process alive.
  }

  /** Sets the data that the SDK sends at its next connect. */
  #describe() {
    const { seconds, foreground } = this.#heartbeat;
    const data = { heartbeat: seconds, foreground, app_version: this.#options.appVersion };
    if (Object.values(data).some((each) => each !== undefined)) this.#client.setData?.(this.#encode(data));
  }

  async #call(method, data) {
    return this.#decode((await this.#client.rpc(method, this.#encode(data))).data);
  }

  #encode(data) {
    return this.#protobuf ? new TextEncoder().encode(JSON.stringify(data)) : data;
  }

  #decode(data) {
    return data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data;
  }
}

/** The address that `Centrifuge` needs as `emulationEndpoint`, for endpoints of another host than the page's. */
export function emulation(endpoints) {
  const found = endpoints.find(({ transport }) => transport === "http_stream" || transport === "sse");
  return found?.endpoint.replace(/\/connection\/[^/]*$/, "/emulation");
}

/** The endpoints in the server's order, but first the transport that has connected in the last day. */
export async function lastGoodFirst(endpoints, storage) {
  const good = (await storage.load())?.good;
  if (!good || Date.now() - good.at > 86_400_000) return endpoints;
  const first = endpoints.filter(({ transport }) => transport === good.transport);
  return [...first, ...endpoints.filter((each) => !first.includes(each))];
}

/** Keeps the state in `localStorage`, or another storage like it. */
export function webStorage(key = "pushsvc-live", storage = globalThis.localStorage) {
  if (!storage) {
    throw new Error("webStorage: no localStorage here; pass a storage of your own: { load(), save(state) }");
  }
  return {
    load: () => JSON.parse(storage.getItem(key)),
    save: (state) => storage.setItem(key, JSON.stringify(state)),
  };
}

/** Calls a listener of the app, whose own errors do not disturb the order of steps. */
function notify(listener, value) {
  Promise.resolve(value).then(listener);
}

/** An offset as a number: old versions of the SDK give objects of Protobuf's 64-bit integers. */
function number(offset) {
  if (typeof offset === "object" && offset !== null && "low" in offset) {
    return (offset.high >>> 0) * 2 ** 32 + (offset.low >>> 0);
  }
  return Number(offset ?? 0);
}
