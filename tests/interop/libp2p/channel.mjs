// A channel of docs/protocol.md over a libp2p stream: messages behind their length, an end that is said, and
// messages that are maps in deterministic CBOR.

import { decode, encode } from "cborg";

const LENGTH_BYTES = 4;
// One encoding for each value: whatever differs from it is no message.
const STRICT = {
  strict: true, allowIndefinite: false, allowUndefined: false, allowNaN: false, rejectDuplicateMapKeys: true,
};

// The channel ended without its end: what was to come did not come.
export class Broken extends Error {}

export const toHex = (bytes) => Buffer.from(bytes).toString("hex");
export const fromHex = (text) => new Uint8Array(Buffer.from(text, "hex"));

export function frame(message) {
  const framed = new Uint8Array(LENGTH_BYTES + message.length);
  new DataView(framed.buffer).setUint32(0, message.length);
  framed.set(message, LENGTH_BYTES);
  return framed;
}

// null is the same as no key, so that it need not be sent.
export const pack = (fields) =>
  encode(Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null)));

export class Channel {
  #buffer = Buffer.alloc(0);
  #broken = null;
  #hasFin = false;
  #changed = () => {};

  constructor(stream, messageBytesMax) {
    this.stream = stream;
    this.messageBytesMax = messageBytesMax;
    stream.addEventListener("message", (event) => {
      this.#buffer = Buffer.concat([this.#buffer, event.data.subarray()]);
      this.#changed();
    });
    stream.addEventListener("remoteCloseWrite", () => { this.#hasFin = true; this.#changed(); });
    stream.addEventListener("close", (event) => {
      this.#broken = event.error ?? new Error("stream closed");
      this.#changed();
    });
  }

  async sendBytes(bytes) {
    if (!this.stream.send(bytes)) await this.stream.onDrain({ signal: AbortSignal.timeout(10_000) });
  }

  send(fields) { return this.sendBytes(frame(pack(fields))); }

  // The next message, or null once the other side has said that it is done.
  async receive() {
    for (;;) {
      if (this.#buffer.length >= LENGTH_BYTES) {
        const length = this.#buffer.readUInt32BE(0);
        if (length === 0) return null;
        if (length > this.messageBytesMax) throw this.reset(`a message of ${length} bytes`);
        const end = LENGTH_BYTES + length;
        if (this.#buffer.length >= end) {
          const message = this.#buffer.subarray(LENGTH_BYTES, end);
          this.#buffer = this.#buffer.subarray(end);
          return decode(message, STRICT);
        }
      }
      if (this.#broken) throw new Broken(String(this.#broken));
      if (this.#hasFin) throw new Broken("FIN without the end");
      await new Promise((resolve) => { this.#changed = resolve; });
    }
  }

  // Everything up to the end.
  async receiveAll() {
    const messages = [];
    for (let message = await this.receive(); message !== null; message = await this.receive()) {
      messages.push(message);
    }
    return messages;
  }

  async end() {
    await this.sendBytes(new Uint8Array(LENGTH_BYTES));
    await this.stream.close({ signal: AbortSignal.timeout(10_000) });
  }

  reset(why) {
    const error = new Broken(why);
    this.stream.abort(error);
    return error;
  }
}
