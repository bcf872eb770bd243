// The driver of @parse/node-apn: see libraries.py.
const readline = require("node:readline");
const apn = require("@parse/node-apn");

const [key, keyId, teamId, topic, count, atOnce] = process.argv.slice(2);
const provider = new apn.Provider({ token: { key, keyId, teamId }, production: true });
let made = 0;

function notification() {
  const note = new apn.Notification();
  note.topic = topic;
  note.alert = { title: "Order 7 shipped", body: "Arrives Friday" };
  note.sound = "default";
  return note;
}

function token() {
  return `dd${process.pid.toString(16).padStart(6, "0")}${(made++).toString(16).padStart(56, "0")}`;
}

async function send(total) {
  let sent = 0;
  for (let left = total; left > 0; left -= atOnce) {
    const tokens = Array.from({ length: Math.min(left, atOnce) }, token);
    const answer = await provider.send(notification(), tokens);
    if (answer.failed.length) console.error(answer.failed[0]);
    sent += answer.sent.length;
  }
  return sent;
}

async function main() {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  await send(Number(count) / 10);
  console.log("ready");
  await lines.next();
  console.log(`done ${await send(Number(count))}`);
  await lines.next();
  process.exit(0);
}

main();
