// A phone with the official SDK and pushsvc-live.js, for Node and for a page in a browser. `emit` takes what it sees.

/** Returns the classes of the SDK for both formats: the vendored build has that for JSON as the base of the other. */
export function clients(Centrifuge) {
  return { protobuf: Centrifuge, json: Object.getPrototypeOf(Centrifuge) };
}

export class Phone {
  constructor({ Centrifuge, LiveClient, emulation, emit, options }, { format, endpoints, tokens, storage, fails }) {
    const client = new (clients(Centrifuge)[format])(endpoints, {
      token: tokens.shift(),
      getToken: async () => {
        emit("token", true);
        return tokens.shift();
      },
      emulationEndpoint: emulation(endpoints),
      minReconnectDelay: 50,
      maxReconnectDelay: 200,
      ...options,
    });
    client.on("connected", ({ transport }) => emit("connected", transport));
    client.on("subscribed", ({ recovered }) => emit("recovered", recovered));
    client.on("disconnected", ({ code }) => emit("ended", code));
    client.on("error", ({ error }) => emit("trouble", error));
    this.live = new LiveClient(client, {
      onMessage: async (message) => {
        emit("handling", message.id);
        if (fails-- > 0) throw new Error("the handler fails");
        emit("shown", message);
      },
      onMissing: (count) => emit("missing", count),
      onUnread: (count) => emit("unread", count),
      onError: (error) => emit("error", { code: error.code, message: String(error.message) }),
      storage: storage && { load: () => null, save: (state) => emit("saved", state) },
      heartbeat: 30,
    });
  }
}
