// /unhosted/infer/1 of docs/protocol.md, both sides, with what it needs and nothing else.

import { Channel } from "./channel.mjs";

export const INFER = "/unhosted/infer/1";
const FROM_ANSWERER_BYTES_MAX = 8 << 20;
const FROM_ASKER_BYTES_MAX = 18 << 20;

// Many requests over one channel; each result is what came for it: ids, text, finish, usage, refused.
export class Asker {
  #requests = new Map();

  constructor(channel) {
    this.channel = channel;
    this.facts = new Promise((resolve, reject) => { this.gotFacts = resolve; this.noFacts = reject; });
    this.facts.catch(() => {});
    this.ended = this.#read();
    this.ended.catch((error) => {
      this.noFacts(error);
      for (const request of this.#requests.values()) request.fail(error);
    });
  }

  static async open(node, peer, signal) {
    const channel = new Channel(await node.dialProtocol(peer, INFER, { signal }), FROM_ANSWERER_BYTES_MAX);
    await channel.send({ k: "hello", v: 1, name: "a node in JavaScript", version: "1" });
    return new Asker(channel);
  }

  // cancelAfter: ids to wait for before the request is cancelled; its result is then what has come.
  ask({ cancelAfter = null, k = "ask", ...fields }) {
    const request = { cancelAfter, seen: { accepted: false, ids: [], text: "", messages: 0 } };
    this.#requests.set(fields.id, request);
    const result = new Promise((resolve, reject) => { request.settle = resolve; request.fail = reject; });
    result.catch(() => {});
    this.channel.send({ k, ...fields }).catch(request.fail);
    return result;
  }

  async close() {
    await this.channel.end();
    await this.ended;
  }

  async #read() {
    for (let message = await this.channel.receive(); message !== null; message = await this.channel.receive()) {
      await this.#take(message);
    }
    if (this.#requests.size) throw new Error("the answerer was done with requests under way");
  }

  async #take(message) {
    if (message.k === "facts") this.gotFacts(message);
    if (message.k === "accepted") this.#with(message.id, (request) => { request.seen.accepted = true; });
    if (message.k === "refused") this.#end(message.id, { refused: message });
    if (message.k === "counted" || message.k === "embedded") this.#end(message.id, { reply: message });
    if (message.k !== "deltas") return;
    for (const entry of message.d) await this.#delta(entry);
  }

  async #delta([id, ids, text, logprobs = null, finish = null, stopText = null, usage = null]) {
    const request = this.#requests.get(id);
    if (!request) return; // on its way when the request was cancelled
    request.seen.ids.push(...ids);
    request.seen.text += text;
    request.seen.messages += 1;
    if (logprobs) (request.seen.logprobs ??= []).push(...logprobs);
    if (finish) this.#end(id, { finish, stopText, usage });
    else if (request.cancelAfter !== null && request.seen.ids.length >= request.cancelAfter) {
      this.#end(id, { cancelled: true });
      await this.channel.send({ k: "cancel", id });
    }
  }

  #with(id, act) {
    const request = this.#requests.get(id);
    if (request) act(request);
  }

  #end(id, outcome) {
    this.#with(id, (request) => {
      this.#requests.delete(id);
      request.settle({ ...request.seen, ...outcome });
    });
  }
}

// Answers every ask with the same words, a token each, and tells facts of one model. asked: takes the asks.
export async function answer(stream, { model, words }, asked) {
  const channel = new Channel(stream, FROM_ASKER_BYTES_MAX);
  await channel.receive();
  await channel.send({ k: "hello", v: 1, name: model.name, version: "1" });
  const facts = { name: model.name, version: "1", accepting: true, why_not: "", models: [model] };
  await channel.send({ k: "facts", ...facts });
  for (let message = await channel.receive(); message !== null; message = await channel.receive()) {
    if (message.k !== "ask") continue;
    asked.push(message);
    await channel.send({ k: "accepted", id: message.id });
    for (const [index, word] of words.entries()) {
      const last = [null, "stop", null, [3, 0, words.length]];
      const entry = [message.id, [index], word, ...(index + 1 < words.length ? [] : last)];
      await channel.send({ k: "deltas", d: [entry] });
    }
  }
  await channel.end();
}
