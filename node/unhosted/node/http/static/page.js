"use strict";

// Text of models and of the node is only ever put in as text, never as HTML. A question without an answer
// does not stay in the conversation: it goes back to the box, and the next prompt does not repeat it.

const POLL_MS = 2000;
const NEAR_BOTTOM_PX = 120;
const UNREACHABLE = "The node does not answer. Look whether `unhosted serve` still runs in its terminal.";
const NEXT_BY_CODE = {
  context_length_exceeded: "Start a new chat, or send a shorter message.",
  model_not_found: "Choose another model, or get this one with `unhosted pull`.",
};

const byId = (id) => document.getElementById(id);
const pageToken = document.querySelector("meta[name=page-token]").content;
let conversation = [];
let answering = null;
let nodeName = "";
let shownModels = "";
const loadedNames = new Set();
const changing = new Map();
let stored = [];
let running = [];

class NodeFault extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

async function ask(path, value, signal, method = "POST") {
  const options = value === undefined ? {} : {
    method,
    headers: { "content-type": "application/json", "x-unhosted-page-token": pageToken },
    body: JSON.stringify(value),
    signal,
  };
  const response = await fetch(path, options).catch(lost);
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const error = body.error || { message: `the node answered ${response.status} ${response.statusText}` };
  throw new NodeFault(error.message, error.code);
}

function lost(error) {
  throw error.name === "AbortError" ? error : new NodeFault(UNREACHABLE, "unreachable");
}

function explain(error) {
  const message = error.message.charAt(0).toUpperCase() + error.message.slice(1).replace(/[^.!?]$/, "$&.");
  const next = NEXT_BY_CODE[error.code];
  return next ? `${message} ${next}` : message;
}

function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function setText(target, text) {
  // A status that is set again to the same words would be read out again.
  if (target.textContent !== text) target.textContent = text;
}

// ---- what the node has and who reads a prompt

async function refresh() {
  try {
    const [models, status] = await Promise.all(["/api/models", "/api/status"].map(
      async (path) => (await ask(path)).json(),
    ));
    stored = models.models;
    running = models.loaded;
    showStatus(status);
    showModels();
  } catch (error) {
    setText(byId("state"), explain(error));
  }
}

function showStatus(status) {
  nodeName = status.name || "";
  const canPair = Boolean(status.rings && status.rings.trusted === "on");
  if (canPair && byId("radius-box").hidden) byId("radius").value = status.radius || "trusted";
  byId("radius-box").hidden = !canPair;
  if (!canPair) byId("radius").value = "local";
  showRing(canPair, status.peers || {});
  setText(byId("state"), status.offline
    ? `Offline: the node refuses every connection outside this machine (${status.refused_connections} so far).`
    : "The node is running.");
  showReaders();
}

function showReaders() {
  const named = nodeName ? ` (${nodeName})` : "";
  const isHere = ["localhost", "[::1]"].includes(location.hostname) || location.hostname.startsWith("127.");
  const machine = isHere ? "this machine" : "the node's machine";
  let readers = byId("radius").value === "local"
    ? `Who can read this prompt: ${machine} only${named}.`
    : `Who can read this prompt: ${machine}${named}, or one that you paired with it. It costs nothing.`;
  if (!isHere && location.protocol === "http:") {
    readers += " This page came over the network without encryption: whoever can listen there reads it too.";
  }
  setText(byId("readers"), readers);
}

function showModels() {
  const loaded = new Map(running.map((one) => [one.model, one]));
  loadedNames.clear();
  running.filter((one) => one.state === "ready").forEach((one) => loadedNames.add(one.model));
  const rows = stored.map((one) => [one, stateText(loaded.get(one.name)), loaded.has(one.name)]);
  const local = stored.map((one) => [one.name, one.name]);
  const choices = [...local, ...modelsElsewhere(new Set(stored.map((one) => one.name)))];
  // Only a changed list is drawn anew, so that an open menu or a focused button is left alone.
  const drawn = JSON.stringify([rows, choices, [...changing]]);
  if (drawn === shownModels) return;
  shownModels = drawn;
  const chosen = byId("model").value;
  byId("model").replaceChildren(...choices.map(([name, text]) => new Option(text, name)));
  if (choices.some(([name]) => name === chosen)) byId("model").value = chosen;
  const focused = document.activeElement.dataset.model;
  byId("models").replaceChildren(...rows.map((row) => modelRow(...row)));
  if (focused) focusModel(focused);
  byId("none").hidden = choices.length > 0;
  for (const id of ["prompt", "model", "send"]) byId(id).disabled = choices.length === 0;
}

function sizeText(bytes) {
  const [value, unit] = bytes < 1e9 ? [bytes / 1e6, "MB"] : [bytes / 1e9, "GB"];
  return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
}

function stateText(running) {
  if (!running) return "not in memory";
  return running.state === "ready" ? "in memory" : running.state;
}

function modelRow(model, state, isLoaded) {
  const action = isLoaded ? "unload" : "load";
  const button = element("button", "", changing.get(model.name) || (isLoaded ? "Unload" : "Load"));
  button.type = "button";
  button.dataset.model = model.name;
  button.disabled = changing.has(model.name);
  button.setAttribute("aria-label", `${button.textContent} ${model.name}`);
  button.addEventListener("click", () => changeModel(model.name, action));
  const facts = [
    sizeText(model.size_bytes),
    `${model.context_tokens.toLocaleString("en")} tokens of context`,
    model.licence || "licence unknown",
  ];
  const lines = [["name", model.name], ["note", facts.join(" · ")], ["note", state]];
  return element("li", "", ...lines.map(([kind, text]) => element("span", kind, text)), button);
}

function focusModel(name) {
  const button = [...byId("models").querySelectorAll("button")].find((one) => one.dataset.model === name);
  if (button) button.focus();
}

async function changeModel(name, action) {
  const fault = byId("models-fault");
  fault.hidden = true;
  changing.set(name, action === "load" ? "Loading…" : "Unloading…");
  await refresh();
  try {
    await ask(`/api/models/${action}`, { model: name });
  } catch (error) {
    fault.textContent = explain(error);
    fault.hidden = false;
  }
  changing.delete(name);
  await refresh();
  if (document.activeElement === document.body) focusModel(name);
}

// ---- the conversation

function addTurn(role, who, text) {
  const said = document.createTextNode(text);
  const source = element("p", "note source");
  const turn = element("li", role, element("p", "who", who), element("div", "text", said), source);
  byId("turns").append(turn);
  scrollToEnd();
  return { turn, said, source };
}

async function* chunksOf(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(lost);
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function append(shown, text) {
  const log = byId("log");
  const isFollowing = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_BOTTOM_PX;
  shown.said.appendData(text);
  // Whoever has scrolled up to read is left there.
  if (isFollowing) scrollToEnd();
}

function scrollToEnd() {
  byId("log").scrollTop = byId("log").scrollHeight;
}

function sourceText(from, speed) {
  const isElsewhere = from.ring !== "local" && from.reason;
  const facts = [`${from.ring} ring`, `served by ${from.served_by}${isElsewhere ? `: ${from.reason}` : ""}`];
  for (const name of from.resumed_on || []) facts.push(`went on at ${name}`);
  if (from.cost_micros) facts.push(`${(from.cost_micros / 1e6).toFixed(6)} USD`);
  if (speed) facts.push(speed);
  return facts.join(" · ");
}

function speedText(tokens, beganMs, firstMs, lastMs) {
  const rate = tokens > 1 && lastMs > firstMs ? `, ${((tokens - 1) * 1000 / (lastMs - firstMs)).toFixed(1)} tokens/s` : "";
  return `${tokens} tokens${rate}, first after ${((firstMs - beganMs) / 1000).toFixed(2)} s`;
}

async function stream(messages, shown, signal) {
  const beganMs = performance.now();
  let firstMs = beganMs, lastMs = beganMs, finish = null, usage = null;
  const response = await ask("/v1/chat/completions", {
    model: byId("model").value,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    unhosted: { radius: byId("radius").value },
  }, signal);
  let from = {
    ring: response.headers.get("x-unhosted-ring"),
    served_by: response.headers.get("x-unhosted-served-by"),
  };
  shown.source.textContent = sourceText(from, "");
  for await (const chunk of chunksOf(response)) {
    if (chunk.error) throw new NodeFault(chunk.error.message, chunk.error.code);
    const choice = chunk.choices[0];
    if (choice && choice.delta.content) {
      lastMs = performance.now();
      if (!shown.said.length) firstMs = lastMs;
      append(shown, choice.delta.content);
    }
    if (choice && choice.finish_reason) finish = choice.finish_reason;
    usage = chunk.usage || usage;
    from = chunk.unhosted || from;
  }
  // A connection that broke looks like the end of a stream, but without its last words.
  if (!finish) lost(new Error("the stream ended early"));
  const speed = usage ? speedText(usage.completion_tokens, beganMs, firstMs, lastMs) : "";
  shown.source.textContent = sourceText(from, speed) + (finish === "length" ? " · cut off: the context is full" : "");
  shown.source.title = [from.reason, ...(from.passed_over || [])].filter(Boolean).join("\n");
}

async function answer(prompt) {
  const turns = conversation;
  turns.push({ role: "user", content: prompt });
  addTurn("user", "You", prompt);
  const model = byId("model").value;
  const shown = addTurn("assistant", model, "");
  shown.source.textContent = loadedNames.has(model) ? "waiting for the first word…" : `loading ${model}…`;
  setAnswering(new AbortController());
  let isAnswered = true;
  try {
    await stream(turns, shown, answering.signal);
  } catch (error) {
    const isStopped = error.name === "AbortError";
    isAnswered = isStopped && shown.said.length > 0;
    if (isStopped) {
      const source = shown.source.textContent;
      shown.source.textContent = isAnswered ? `${source} · stopped` : "stopped before the first word";
    } else {
      const fault = element("p", "error");
      fault.setAttribute("role", "alert");
      shown.turn.append(fault);
      fault.textContent = `${explain(error)} ${giveBack(turns, prompt)}`;
      shown.source.textContent = "";
      scrollToEnd();
    }
    if (isStopped && !isAnswered) giveBack(turns, prompt);
  } finally {
    setAnswering(null);
  }
  if (isAnswered) turns.push({ role: "assistant", content: shown.said.data });
  else turns.pop();
  await refresh();
}

function giveBack(turns, prompt) {
  // Not after "New chat", and not over what was typed meanwhile.
  if (turns !== conversation || byId("prompt").value) return "";
  byId("prompt").value = prompt;
  return "Your message is back in the box: change it, or send it again.";
}

function setAnswering(controller) {
  answering = controller;
  const focused = document.activeElement;
  byId("send").hidden = controller !== null;
  byId("stop").hidden = controller === null;
  // Until it is no longer busy, a screen reader waits, instead of reading every word by itself.
  byId("log").setAttribute("aria-busy", String(controller !== null));
  if (focused === byId("send") || focused === byId("stop")) byId("prompt").focus();
}

function stop() {
  if (answering) answering.abort();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = byId("prompt").value.trim();
  if (!prompt || answering || !byId("model").value) return;
  byId("prompt").value = "";
  answer(prompt);
});
byId("prompt").addEventListener("keydown", (event) => {
  // While an input method composes, Enter chooses a word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("form").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) stop();
});
byId("stop").addEventListener("click", stop);
byId("clear").addEventListener("click", () => {
  stop();
  conversation = [];
  byId("turns").replaceChildren();
  byId("prompt").focus();
});
byId("radius").addEventListener("change", () => {
  showReaders();
  showModels();
});
byId("base-url").textContent = `${location.origin}/v1`;
setInterval(() => document.visibilityState === "visible" && refresh(), POLL_MS);
showReaders();
startPeers();
refresh();
