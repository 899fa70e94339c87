"use strict";

// The machines that are paired with this one, and pairing another one. `page.js` starts it and gives it `ask`,
// `byId` and the like. What the other machines say of themselves is only ever put in as text.

const TAIL_CHARS = 6;
const MODELS_SHOWN = 3;
let peers = [];
let shownPeers = "";
let shownNotes = "";
let events = null;
let isRingOn = false;
let pairing = null;
let expiresAtMs = 0;

const tailOf = (peer) => `…${peer.slice(-TAIL_CHARS)}`;
const isPaired = (peer) => peer.state === "paired";

// ---- who is there

function showRing(isOn, own) {
  isRingOn = isOn;
  const pause = own.accepting === false ? [`This machine takes nothing from others now: ${own.why_not}`] : [];
  const notes = [...pause, ...(own.problems || []), ...(own.notices || [])];
  if (notes.join() !== shownNotes) {
    shownNotes = notes.join();
    byId("peers-notes").replaceChildren(...notes.map((text) => element("li", "", text)));
  }
  byId("peers-box").hidden = !isOn;
  byId("to-peers").hidden = !isOn;
  listen();
}

function listen() {
  // A browser opens few connections to one place: a window that nobody sees holds none of them.
  const isWanted = isRingOn && document.visibilityState === "visible";
  if (isWanted && !events) {
    events = new EventSource("/api/events");
    events.addEventListener("peers", (event) => {
      peers = JSON.parse(event.data).peers;
      showPeers();
      showModels();
      lookAtPairing();
    });
  } else if (!isWanted && events) {
    events.close();
    events = null;
  }
}

function modelsElsewhere(here) {
  // [name, text] of models that only paired machines have, when they may be asked.
  if (byId("radius").value === "local") return [];
  const owners = new Map();
  for (const peer of peers.filter((one) => isPaired(one) && one.reachable && one.facts)) {
    for (const model of peer.facts.models) {
      if (here.has(model.name) || !model.generates) continue;
      owners.set(model.name, [...(owners.get(model.name) || []), peer.name]);
    }
  }
  return [...owners].map(([name, names]) => [name, `${name} (on ${names.join(", ")})`]);
}

function showPeers() {
  const drawn = JSON.stringify(peers.map((peer) => [peer.peer, peer.name, peer.state, factsOf(peer)]));
  if (drawn === shownPeers) return;
  shownPeers = drawn;
  const focused = document.activeElement.dataset.peer;
  byId("peers").replaceChildren(...peers.map(peerRow));
  byId("no-peers").hidden = peers.some(isPaired);
  const button = [...byId("peers").querySelectorAll("button")].find((one) => one.dataset.peer === focused);
  if (button) button.focus();
}

function peerRow(peer) {
  const name = element("span", "name", peer.name, " ", element("span", "note", tailOf(peer.peer)));
  const row = element("li", peer.state, name, ...factsOf(peer).map((fact) => element("span", "note", fact)));
  if (peer.state === "seen") return row;
  const button = element("button", "", "Unpair");
  button.type = "button";
  button.dataset.peer = peer.peer;
  button.setAttribute("aria-label", `Unpair ${peer.name}`);
  button.addEventListener("click", () => unpair(peer));
  row.append(button);
  return row;
}

function factsOf(peer) {
  if (peer.state === "seen") return [peer.why_not || "seen on this network, not paired"];
  if (!peer.reachable) return [`not reachable: ${peer.why_not}`];
  const millis = peer.round_trip_s === null ? "" : `, ${(1000 * peer.round_trip_s).toFixed(1)} ms`;
  const facts = [`reachable (${peer.path}${millis})`];
  if (!peer.facts) return facts;
  const names = peer.facts.models.map((model) => model.name);
  const more = names.length > MODELS_SHOWN ? ` and ${names.length - MODELS_SHOWN} more` : "";
  facts.push(names.length ? `has ${names.slice(0, MODELS_SHOWN).join(", ")}${more}` : "has no models");
  if (!peer.facts.accepting) facts.push(peer.facts.why_not || "takes nothing now");
  return facts;
}

async function unpair(peer) {
  const fault = byId("peers-fault");
  fault.hidden = true;
  if (!confirm(`End the pairing with ${peer.name} (${tailOf(peer.peer)})? It ends there too.`)) return;
  try {
    await ask(`/api/peers/${encodeURIComponent(peer.peer)}`, {}, undefined, "DELETE");
    byId("pair").focus();
  } catch (error) {
    fault.textContent = explain(error);
    fault.hidden = false;
  }
}

// ---- pairing with another one

function openPairing() {
  pairing = null;
  byId("code").value = "";
  showPairing();
  byId("pairing").showModal();
}

async function begin(body) {
  byId("pairing-fault").hidden = true;
  pairing = null;
  try {
    take(await (await ask("/api/pair", body)).json());
  } catch (error) {
    failPairing(error);
  }
}

async function lookAtPairing() {
  if (!pairing || isOver(pairing)) return;
  try {
    take(await (await ask(`/api/pair/${pairing.pairing_id}`)).json());
  } catch (error) {
    failPairing(error);
  }
}

async function sayWhether(accept) {
  try {
    take(await (await ask(`/api/pair/${pairing.pairing_id}/confirm`, { accept })).json());
  } catch (error) {
    failPairing(error);
  }
}

function take(view) {
  // An answer that comes after the dialog was closed, or another pairing began, belongs to nothing here.
  if (!byId("pairing").open) cancel(view);
  if (!byId("pairing").open || (pairing && pairing.pairing_id !== view.pairing_id)) return;
  pairing = view;
  expiresAtMs = performance.now() + 1000 * view.expires_in_s;
  showPairing();
}

function failPairing(error) {
  pairing = null;
  showPairing();
  byId("pairing-fault").textContent = explain(error);
  byId("pairing-fault").hidden = false;
}

function isOver(view) {
  return view.state === "paired" || view.state === "failed";
}

function showPairing() {
  const state = pairing ? pairing.state : "";
  const hasFailed = state === "failed";
  byId("pairing-start").hidden = Boolean(pairing) && !hasFailed;
  const isShown = state === "waiting" && pairing.code !== null;
  if (isShown && byId("pairing-code").hidden) {
    byId("shown-code").textContent = pairing.code;
    byId("address-code").textContent = pairing.address_code || "";
    byId("elsewhere").hidden = !pairing.address_code;
    if (pairing.address_code) byId("qr").src = `/api/pair/${pairing.pairing_id}/qr.svg`;
  }
  byId("pairing-code").hidden = !isShown;
  if (!isShown) byId("qr").removeAttribute("src");
  byId("pairing-fault").hidden = !hasFailed;
  if (hasFailed) byId("pairing-fault").textContent = `Not paired: ${pairing.reason}.`;
  const wasAsked = !byId("accept").hidden;
  byId("accept").hidden = byId("decline").hidden = state !== "confirm";
  if (state === "confirm" && !wasAsked) byId("decline").focus();
  byId("pairing-close").textContent = !pairing || isOver(pairing) ? "Close" : "Cancel";
  setText(byId("pairing-state"), stateWords());
  showLeft();
}

function showLeft() {
  // Apart from the state, which is read out whenever it changes: this does so every second.
  const isWaiting = pairing && !isOver(pairing) && pairing.state !== "confirm";
  const left = Math.max(0, Math.ceil((expiresAtMs - performance.now()) / 1000));
  const clock = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} left`;
  byId("pairing-left").textContent = isWaiting ? clock : "";
  if (isWaiting && left === 0) lookAtPairing();
}

function stateWords() {
  if (!pairing || pairing.state === "failed") return "";
  const other = `${pairing.other_name} (${tailOf(pairing.other_peer || "")})`;
  switch (pairing.state) {
    case "waiting": return `Waiting for the other machine; ${pairing.tries_left} tries are left.`;
    case "confirm": return `Pair with ${other}? Compare the name with the other screen.`;
    case "confirmed": return `Waiting until ${other} says yes.`;
    default: return `Paired with ${other}.`;
  }
}

function closePairing() {
  const left = pairing;
  pairing = null;
  byId("qr").removeAttribute("src");
  byId("pair").focus();
  // Whoever closes the dialog has not said yes: nothing stays open behind it.
  if (left && !isOver(left)) cancel(left);
}

function cancel(view) {
  // If the node cannot be told, its code ends by itself.
  ask(`/api/pair/${view.pairing_id}`, {}, undefined, "DELETE").catch(() => {});
}

function startPeers() {
  byId("pair").addEventListener("click", openPairing);
  byId("offer").addEventListener("click", () => begin({}));
  byId("join").addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("code").value.trim()) begin({ code: byId("code").value.trim() });
  });
  byId("accept").addEventListener("click", () => sayWhether(true));
  byId("decline").addEventListener("click", () => sayWhether(false));
  byId("pairing-close").addEventListener("click", () => byId("pairing").close());
  byId("pairing").addEventListener("close", closePairing);
  document.addEventListener("visibilitychange", listen);
  setInterval(() => pairing && showLeft(), 1000);
}
