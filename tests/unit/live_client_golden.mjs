// Plays scenarios with the Sequencer of pushsvc-live.js, and prints those that end otherwise than they should.
// usage: node live_client_golden.mjs pushsvc-live.js scenarios.json
import { readFileSync } from "node:fs";

const [module, scenarios] = process.argv.slice(2);
// Old versions of Node take a file of this name for a script.
const { Sequencer } = await import(`data:text/javascript,${encodeURIComponent(readFileSync(module, "utf8"))}`);

const publication = ({ offset, id, prev }) => ({ offset, data: { id, prev } });
const calls = {
  subscribed: (sequencer, subscription) => sequencer.subscribed(subscription),
  publication: (sequencer, came) => sequencer.publication(publication(came)),
  history: (sequencer, page) => sequencer.history(page.map(publication)),
  received: (sequencer, id) => sequencer.received(id),
  handled: (sequencer, succeeded) => sequencer.handled(succeeded),
  stopped: (sequencer) => sequencer.stopped(),
  retried: (sequencer, id) => sequencer.retried(id),
  acknowledged: (sequencer, { offset, succeeded }) => sequencer.acknowledged(offset, succeeded),
};
const words = {
  handle: ({ message }) => `handle ${message.id} ${message.offset}`,
  retry: ({ id, attempt }) => `retry ${id} ${attempt}`,
  ack: ({ offset, epoch }) => `ack ${offset} ${epoch}`,
  history: ({ since, epoch }) => `history ${since} ${epoch}`,
  missing: ({ count }) => `missing ${count ?? "?"}`,
  show: ({ id }) => `show ${id}`,
  drop: ({ id }) => `drop ${id}`,
};

for (const { name, state = null, memory, plays } of JSON.parse(readFileSync(scenarios, "utf8"))) {
  let sequencer = new Sequencer({ state, memory });
  plays.forEach(([call, argument, expected], play) => {
    let found = [];
    if (call === "restart") sequencer = new Sequencer({ state: sequencer.state, memory });
    else if (call === "state") found = sequencer.state;
    else found = calls[call](sequencer, argument).map((step) => words[step.do](step));
    if (JSON.stringify(found) !== JSON.stringify(expected)) {
      console.log(`${name}: play ${play}, ${call} ${JSON.stringify(argument)}: ${JSON.stringify(found)}`);
    }
  });
}
