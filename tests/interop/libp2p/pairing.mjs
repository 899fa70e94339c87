// /unhosted/pair/1 of docs/protocol.md: joining by a code, and what two paired machines say at each connection.

import { ed25519 } from "@noble/curves/ed25519.js";
import { blake2b } from "@noble/hashes/blake2.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes, randomBytes, utf8ToBytes } from "@noble/hashes/utils.js";

import { Channel, fromHex, toHex } from "./channel.mjs";

export const PAIR = "/unhosted/pair/1";
export const PAIR_BYTES_MAX = 4096;
const ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const { Point } = ed25519;
const ORDER = Point.Fn.ORDER;
const M = Point.fromBytes(fromHex("15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312"));
const N = Point.fromBytes(fromHex("f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3"));

const toNumber = (bytes) => BigInt(`0x${toHex(bytes)}`) % ORDER;
const personal = (text) => utf8ToBytes(text.padEnd(16, "\0"));

// The ten characters, if they are a code of this peer.
export function readCode(text, peer) {
  const code = text.toUpperCase().replaceAll(/[\s-]/g, "").replaceAll("O", "0").replaceAll(/[IL]/g, "1");
  const values = [...code].map((one) => ALPHABET.indexOf(one));
  if (values.length !== 10 || values.includes(-1)) throw new Error("no code");
  let check = 0;
  for (const value of values.slice(0, -1)) {
    check = (check ^ value) << 1;
    if (check & 32) check ^= 0b100101;
  }
  if (check !== values[9]) throw new Error("a typing error in the code");
  const digest = blake2b(utf8ToBytes(peer), { dkLen: 2, personalization: personal("unhosted/hint/1") });
  const hint = (digest[0] << 7) | (digest[1] >> 1);
  if (hint !== (values[0] << 10 | values[1] << 5 | values[2])) throw new Error("a code of another machine");
  return code;
}

class Joiner {
  constructor(code, own, other) {
    this.ids = [own, other];
    this.password = utf8ToBytes(code);
    this.w = toNumber(hkdf(sha256, this.password, undefined, utf8ToBytes("SPAKE2 pw"), 48));
    this.x = toNumber(randomBytes(64));
    this.point = Point.BASE.multiply(this.x).add(M.multiply(this.w)).toBytes();
    this.pake = concatBytes(utf8ToBytes("A"), this.point);
  }

  take(pake) {
    if (pake.length !== 33 || pake[0] !== "B".charCodeAt(0)) throw new Error("no SPAKE2 message of side B");
    const point = Point.fromBytes(pake.subarray(1));
    if (point.is0() || !point.isTorsionFree()) throw new Error("no point of the group");
    const shared = point.subtract(N.multiply(this.w)).multiply(this.x).toBytes();
    const parts = [this.password, ...this.ids.map(utf8ToBytes)].map((one) => sha256(one));
    this.key = sha256(concatBytes(...parts, this.point, pake.subarray(1), shared));
    this.theirPake = pake;
  }

  mac(role, kind, ...texts) {
    const [own, other] = this.ids.map(utf8ToBytes);
    const fields = [own, other, this.pake, this.theirPake, ...[role, kind, ...texts].map(utf8ToBytes)];
    const behindLengths = fields.flatMap((field) => {
      const length = new Uint8Array(4);
      new DataView(length.buffer).setUint32(0, field.length);
      return [length, field];
    });
    const settings = { dkLen: 32, key: this.key, personalization: personal("unhosted/pair/1") };
    return blake2b(concatBytes(...behindLengths), settings);
  }
}

// As far as the question to both users: the other's introduction and how to accept, or what it declined with.
export async function join(node, peer, text, name, signal) {
  const joiner = new Joiner(readCode(text, peer.toString()), node.peerId.toString(), peer.toString());
  const channel = new Channel(await node.dialProtocol(peer, PAIR, { signal }), PAIR_BYTES_MAX);
  await channel.send({ k: "start", v: 1, pake: joiner.pake });
  const answer = await channel.receive();
  if (answer.k !== "answer") return { declined: answer };
  joiner.take(answer.pake);
  await channel.send({ k: "proof", mac: joiner.mac("join", "proof") });
  const theirs = await channel.receive();
  if (theirs.k !== "introduction") return { declined: theirs };
  const expected = joiner.mac("offer", "introduction", theirs.name, ...theirs.addresses);
  if (toHex(expected) !== toHex(theirs.mac)) throw channel.reset("the introduction is not proved");
  const mac = joiner.mac("join", "introduction", name);
  await channel.send({ k: "introduction", mac, name, addresses: [] });
  async function accept() {
    await channel.send({ k: "accept" });
    const last = await channel.receive();
    await channel.end();
    return last;
  }
  return { introduction: { name: theirs.name, addresses: theirs.addresses }, accept };
}

// What the other side's book says of us: none, pending or paired.
export async function resolve(node, peer, standing, signal) {
  const channel = new Channel(await node.dialProtocol(peer, PAIR, { signal }), PAIR_BYTES_MAX);
  await channel.send({ k: "resolve", v: 1, standing });
  const reply = await channel.receive();
  await channel.end();
  return reply;
}

// We answer as one that has the asker in its book. heard: told the kind of each message.
export async function answerPaired(stream, heard) {
  const channel = new Channel(stream, PAIR_BYTES_MAX);
  const message = await channel.receive();
  heard(message.k);
  if (message.k === "resolve") await channel.send({ k: "resolved", standing: "paired" });
  await channel.end();
}
