// js-libp2p nodes that a test drives: a command as JSON on each line of stdin, its result on one of stdout.

import { noise } from "@chainsafe/libp2p-noise";
import { yamux } from "@chainsafe/libp2p-yamux";
import { generateKeyPairFromSeed } from "@libp2p/crypto/keys";
import { identify } from "@libp2p/identify";
import { ping } from "@libp2p/ping";
import { tcp } from "@libp2p/tcp";
import { multiaddr } from "@multiformats/multiaddr";
import { createLibp2p } from "libp2p";
import { createInterface } from "node:readline";

import { Broken, Channel, frame, fromHex } from "./channel.mjs";
import { Asker, INFER, answer } from "./infer.mjs";
import { PAIR, answerPaired, join, resolve } from "./pairing.mjs";

const TIMEOUT_MS = 15_000;
const nodes = new Map();
const bounded = () => AbortSignal.timeout(TIMEOUT_MS);

function within(promise) {
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error("late")), TIMEOUT_MS).unref();
  });
  return Promise.race([promise, late]);
}

const connectionTo = (node, peer) =>
  node.getConnections().find((one) => one.remotePeer.toString() === peer && one.status === "open");

const commands = {
  async create({ who, seed, listens, answers }) {
    const node = await createLibp2p({
      privateKey: await generateKeyPairFromSeed("Ed25519", new Uint8Array(32).fill(seed)),
      addresses: { listen: listens ? ["/ip4/127.0.0.1/tcp/0"] : [] },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      services: { identify: identify({ agentVersion: "js-tester/1" }), ping: ping() },
    });
    const asked = [];
    const heard = new EventTarget();
    const kinds = new Set();
    nodes.set(who, { node, asked, heard, kinds });
    const hear = (kind) => { kinds.add(kind); heard.dispatchEvent(new Event(kind)); };
    await node.handle(PAIR, (stream) => answerPaired(stream, hear).catch(() => {}));
    if (answers) await node.handle(INFER, (stream) => answer(stream, answers, asked).catch(() => {}));
    return {
      peer: node.peerId.toString(),
      addresses: node.getMultiaddrs().map((one) => one.toString().split("/p2p/")[0]),
    };
  },

  async dial({ node, address }) {
    const { direction, encryption, multiplexer } = await node.dial(multiaddr(address), { signal: bounded() });
    return { direction, encryption, muxer: multiplexer };
  },

  // The connection that `peer` opened to us, as soon as there is one.
  async dialled({ node, peer }) {
    const found = () => node.getConnections().find(
      (one) => one.remotePeer.toString() === peer && one.direction === "inbound",
    );
    await within(new Promise((done) => {
      node.addEventListener("connection:open", () => { if (found()) done(); });
      if (found()) done();
    }));
    return { direction: found().direction };
  },

  // Until `peer` has closed its connection to us.
  async left({ node, peer }) {
    await within(new Promise((done) => {
      const look = () => { if (!connectionTo(node, peer)) done(); };
      node.addEventListener("connection:close", look);
      look();
    }));
  },

  async ping({ node, peer }) {
    return node.services.ping.ping(connectionTo(node, peer).remotePeer, { signal: bounded() });
  },

  async identify({ node, peer }) {
    const seen = await node.services.identify.identify(connectionTo(node, peer), { signal: bounded() });
    return {
      peer: seen.peerId.toString(), agent: seen.agentVersion, protocols: seen.protocols,
      addresses: seen.listenAddrs.map(String), observed: seen.observedAddr?.toString(),
    };
  },

  async facts({ node, peer }) {
    const asker = await Asker.open(node, connectionTo(node, peer).remotePeer, bounded());
    const facts = await within(asker.facts);
    await within(asker.close());
    return facts;
  },

  // apart: a channel for each request, all open at once. endsFirst: say that we are done before the answers.
  async ask({ node, peer, requests, apart = false, endsFirst = false }) {
    const remote = connectionTo(node, peer).remotePeer;
    const groups = apart ? requests.map((one) => [one]) : [requests];
    const results = await Promise.all(groups.map(async (group) => {
      const asker = await Asker.open(node, remote, bounded());
      const asked = group.map((one) => asker.ask(readable(one)));
      if (endsFirst) await asker.channel.end();
      const done = await within(Promise.all(asked));
      await within(endsFirst ? asker.ended : asker.close());
      return done;
    }));
    return results.flat();
  },

  // What a stream says to these bytes: the messages, and then "end" or "broken". message: hex, goes framed.
  // until: the kind of message that is enough; the channel is then reset.
  async raw({ node, peer, protocol, parts, fin = false, until = null }) {
    const remote = connectionTo(node, peer).remotePeer;
    const stream = await node.dialProtocol(remote, protocol, { signal: bounded() });
    const channel = new Channel(stream, 8 << 20);
    const messages = [];
    try {
      for (const { message, bytes } of parts) {
        await channel.sendBytes(bytes === undefined ? frame(fromHex(message)) : fromHex(bytes));
      }
      if (fin) await stream.close({ signal: bounded() });
      for (;;) {
        const message = await within(channel.receive());
        if (message === null) break;
        messages.push(message);
        if (message.k === until) throw new Broken("enough");
      }
    } catch (error) {
      channel.reset(error.message);
      return { messages, last: error.message === "late" ? "late" : "broken" };
    }
    await channel.end();
    return { messages, last: "end" };
  },

  // Join by a code, as far as the question to the user; `accept` says yes.
  async join({ who, node, peer, code }) {
    const joined = await within(join(node, connectionTo(node, peer).remotePeer, code, who, bounded()));
    nodes.get(who).accept = joined.accept;
    return joined.declined ?? joined.introduction;
  },

  accept: ({ accept }) => within(accept()),

  // Until a message of this kind of the pairing protocol has come.
  async heard({ heard, kinds, kind }) {
    await within(new Promise((done) => {
      heard.addEventListener(kind, done, { once: true });
      if (kinds.has(kind)) done();
    }));
  },

  // What the node was asked to answer.
  asked: ({ asked }) => asked,

  resolve: ({ node, peer, standing }) =>
    within(resolve(node, connectionTo(node, peer).remotePeer, standing, bounded())),
};

// JSON has no byte strings: a seed comes as hex.
function readable(request) {
  const sampling = request.sampling;
  if (!sampling?.seed) return request;
  return { ...request, sampling: { ...sampling, seed: fromHex(sampling.seed) } };
}

function shown(_, value) {
  if (typeof value === "bigint") return Number(value);
  return value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value;
}

async function obey(line) {
  const { command, who, ...rest } = JSON.parse(line);
  try {
    return { result: await commands[command]({ who, ...nodes.get(who), ...rest }) ?? null };
  } catch (error) {
    return { error: error.name, message: error.stack };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await obey(line), shown) + "\n");
}
process.exit(0);
