// Phones in a page of a browser: `call` is what a phone is to do, `next` gives what phones have seen since.
import { LiveClient, emulation } from "/pushsvc-live.js";
import { Phone } from "/live_phone.mjs";

const phones = new Map();
let events = [];
let wake = () => {};

window.add = (phone, setup) => {
  const emit = (event, value) => {
    events.push({ phone, event, value });
    wake();
  };
  phones.set(phone, new Phone({ Centrifuge: window.Centrifuge, LiveClient, emulation, emit, options: {} }, setup));
};
window.call = (phone, method, argument) => phones.get(phone).live[method](...argument).then((result) => result ?? null);
window.next = async () => {
  if (!events.length) await new Promise((resolve) => ((wake = resolve), setTimeout(resolve, 1000)));
  return events.splice(0);
};
window.ready = true;
