"use strict";

// Shows deposits that wait, and lets the browser's wallet sign one. The page never sees a key, and what it sends
// to the node is the signature alone: the node compares it with what it asked for.

const UNREACHABLE = "The node does not answer. Look whether `unhosted serve` still runs in its terminal.";
const USER_SAID_NO = 4001;

const byId = (id) => document.getElementById(id);
const pageToken = document.querySelector("meta[name=page-token]").content;
let isSigning = false;

async function ask(path, value) {
  const options = value === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json", "x-unhosted-page-token": pageToken },
    body: JSON.stringify(value),
  };
  const response = await fetch(path, options).catch(() => {
    throw new Error(UNREACHABLE);
  });
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const error = body.error || { message: `the node answered ${response.status} ${response.statusText}` };
  throw new Error(error.message.charAt(0).toUpperCase() + error.message.slice(1));
}

function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

async function load() {
  try {
    const { deposits } = await ask("/api/wallet/funding");
    const chosen = location.hash.slice(1);
    const sorted = [...deposits].sort((one, other) => (other.id === chosen) - (one.id === chosen));
    byId("deposits").replaceChildren(...sorted.map(card));
    byId("none").hidden = deposits.length > 0;
    byId("no-wallet").hidden = Boolean(window.ethereum) || deposits.every((one) => one.is_signed);
    byId("state").textContent = deposits.length === 1 ? "1 deposit waits" : `${deposits.length} deposits wait`;
  } catch (error) {
    byId("state").textContent = "";
    tell(error.message);
  }
}

function card(deposit) {
  const made = element("li", "", element("h2", "", `Deposit ${deposit.id}`));
  made.append(...deposit.what.map((line) => element("p", "", line)));
  const raw = element("pre", "", element("code", "", JSON.stringify(deposit.typed_data.message, null, 1)));
  made.append(element("details", "", element("summary", "", "What your wallet shows"), raw));
  made.append(deposit.is_signed ? done(deposit) : signButton(deposit));
  return made;
}

function done(deposit) {
  const command = element("code", "", `unhosted wallet fund --send ${deposit.id}`);
  return element("p", "done", "Signed. Send it in a terminal on the node: ", command);
}

function signButton(deposit) {
  const button = element("button", "", "Sign with the browser's wallet");
  button.type = "button";
  button.disabled = !window.ethereum;
  button.addEventListener("click", () => sign(deposit, button));
  return button;
}

async function sign(deposit, button) {
  if (isSigning) return;
  isSigning = true;
  button.disabled = true;
  byId("fault").hidden = true;
  try {
    const account = await ownerAccount(deposit);
    await useChain(deposit);
    const data = JSON.stringify(deposit.typed_data);
    const signature = await window.ethereum.request({ method: "eth_signTypedData_v4", params: [account, data] });
    const taken = await ask(`/api/wallet/funding/${encodeURIComponent(deposit.id)}`, { signature });
    button.replaceWith(done(taken.deposit));
    byId("state").textContent = "Signed";
  } catch (error) {
    tell(error.code === USER_SAID_NO ? "You said no in the wallet; nothing was signed." : error.message);
    button.disabled = false;
  } finally {
    isSigning = false;
  }
}

async function ownerAccount(deposit) {
  const accounts = await window.ethereum.request({ method: "eth_requestAccounts" });
  const found = accounts.find((one) => one.toLowerCase() === deposit.owner.toLowerCase());
  if (found) return found;
  throw new Error(`Your wallet offers ${accounts.join(", ") || "no account"}. Choose ${deposit.owner} in it, whose USDC this is.`);
}

async function useChain(deposit) {
  // A wallet refuses to sign for another chain than the one it is on, and some do so without a word.
  const wanted = `0x${deposit.chain_id.toString(16)}`;
  const isThere = async () => BigInt(await window.ethereum.request({ method: "eth_chainId" })) === BigInt(wanted);
  if (await isThere()) return;
  try {
    await window.ethereum.request({ method: "wallet_switchEthereumChain", params: [{ chainId: wanted }] });
  } catch (error) {
    if (error.code === USER_SAID_NO) throw error;
  }
  if (await isThere()) return;
  throw new Error(`Switch your wallet to ${deposit.chain_title} (chain ${deposit.chain_id}), then try again.`);
}

function tell(message) {
  byId("fault").textContent = message;
  byId("fault").hidden = false;
}

addEventListener("hashchange", load);
load();
