"use strict";

// Text from models is only ever put in as text, never as HTML.

const byId = (id) => document.getElementById(id);
const pageToken = document.querySelector("meta[name=page-token]").content;
const conversation = [];
let answering = null;

async function getJson(path, options) {
  const response = await fetch(path, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ? body.error.message : response.statusText);
  return body;
}

function postJson(path, value, signal) {
  return fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-unhosted-page-token": pageToken },
    body: JSON.stringify(value),
    signal,
  });
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function addTurn(role, text) {
  const turn = element("li", "", role);
  const body = element("div", text, "text");
  const source = element("div", "", "source");
  turn.append(body, source);
  byId("turns").append(turn);
  turn.scrollIntoView({ block: "nearest" });
  return { turn, body, source };
}

function showModels(stored, loaded) {
  const chosen = byId("model").value;
  const inMemory = new Map(loaded.map((one) => [one.model, one]));
  byId("none").hidden = stored.length > 0;
  byId("model").replaceChildren(...stored.map((one) => new Option(one.name, one.name)));
  if (stored.some((one) => one.name === chosen)) byId("model").value = chosen;
  byId("models").replaceChildren(...stored.map((one) => {
    const row = document.createElement("tr");
    const running = inMemory.get(one.name);
    const change = element("button", running ? "Unload" : "Load");
    change.type = "button";
    change.addEventListener("click", () => changeModel(change, one.name, running ? "unload" : "load"));
    const memory = document.createElement("td");
    memory.append(running ? `${running.state}, ${running.slots_busy} of ${running.slots} busy ` : "", change);
    row.append(
      element("td", one.name),
      element("td", `${(one.size_bytes / 1e6).toFixed(0)} MB`),
      element("td", one.context_tokens.toLocaleString()),
      element("td", one.licence || "unknown"),
      memory,
    );
    return row;
  }));
}

async function changeModel(button, model, action) {
  button.disabled = true;
  try {
    const response = await postJson(`/api/models/${action}`, { model });
    if (!response.ok) throw new Error((await response.json()).error.message);
    await refresh();
  } catch (error) {
    button.disabled = false;
    byId("state").textContent = error.message;
  }
}

async function refresh() {
  try {
    const [models, status] = await Promise.all([getJson("/api/models"), getJson("/api/status")]);
    showModels(models.models, models.loaded);
    byId("state").textContent = status.offline
      ? "Offline: nothing leaves this machine."
      : "This node is running.";
  } catch (error) {
    byId("state").textContent = `The node does not answer: ${error.message}`;
  }
}

function showReaders() {
  byId("readers").textContent = byId("radius").value === "local"
    ? "Only this machine reads what you send."
    : "This machine, or one that you paired, reads what you send. It costs nothing.";
}

async function* eventsOf(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function sourceText(unhosted) {
  const cost = unhosted.cost_micros ? `, ${(unhosted.cost_micros / 1e6).toFixed(6)} USD` : "";
  return `${unhosted.ring} ring, served by ${unhosted.served_by}${cost}: ${unhosted.reason}`;
}

async function answer(prompt) {
  conversation.push({ role: "user", content: prompt });
  addTurn("user", prompt);
  const shown = addTurn("assistant", "");
  answering = new AbortController();
  byId("send").disabled = true;
  byId("stop").hidden = false;
  let text = "";
  try {
    const request = {
      model: byId("model").value,
      messages: conversation,
      stream: true,
      unhosted: { radius: byId("radius").value },
    };
    const response = await postJson("/v1/chat/completions", request, answering.signal);
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const chunk of eventsOf(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const said = chunk.choices.length ? chunk.choices[0].delta.content : "";
      text += said || "";
      shown.body.textContent = text;
      if (chunk.unhosted) shown.source.textContent = sourceText(chunk.unhosted);
    }
    conversation.push({ role: "assistant", content: text });
  } catch (error) {
    if (error.name === "AbortError") {
      shown.source.textContent = "stopped";
      conversation.push({ role: "assistant", content: text });
    } else {
      // The question is not part of the next prompt, because it was not answered.
      conversation.pop();
      shown.turn.classList.add("fault");
      shown.source.textContent = error.message;
    }
  } finally {
    answering = null;
    byId("send").disabled = false;
    byId("stop").hidden = true;
  }
  await refresh();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = byId("prompt").value.trim();
  if (!prompt || answering) return;
  byId("prompt").value = "";
  answer(prompt);
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("form").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => answering && answering.abort());
byId("clear").addEventListener("click", () => {
  if (answering) answering.abort();
  conversation.length = 0;
  byId("turns").replaceChildren();
});
byId("radius").addEventListener("change", showReaders);
showReaders();
refresh();
