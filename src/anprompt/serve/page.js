"use strict";
const $ = (id) => document.getElementById(id);
const NAMES = { adapter: "The adapter", zeroshot: "Plain CLIP" };
let info = null, picture = null, timer = 0, running = null;

const percent = (share) => (100 * share).toFixed(1) + "\u00a0%";
const words = (name) => name.replaceAll("_", " ");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text; // never markup: names come from people
  return made;
}

async function call(path, options = {}) {
  const headers = $("token").value ? { Authorization: "Bearer " + $("token").value.trim() } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service can't be reached; is it still running?");
  }
  const answer = await response.json().catch(() => ({ error: `The service answered with status ${response.status}.` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function say(text) { $("status").textContent = text; }

function fail(error) {
  $("error").textContent = error ? error.message : "";
  $("error").hidden = !error;
  if (error) say("");
}

// --- what is served -------------------------------------------------------------------------------
async function start() {
  try {
    info = await call("/v1/info");
  } catch (error) {
    if ($("token-field").hidden || $("token").value) fail(error);
    else say("Enter the token to begin.");
    return;
  }
  fail(null);
  const plain = info.method === "zeroshot";
  $("served").textContent = plain
    ? `Plain CLIP (${info.backbone} backbone), without an adapter.`
    : `The same picture, answered by the adapter (${info.method}) and by plain CLIP (${info.backbone} backbone).`;
  for (const id of ["plain", "plain-map"]) $(id).hidden = plain;
  for (const id of ["pair", "map-pair"]) $(id).classList.toggle("one", plain);
  if (plain) { $("adapter-title").textContent = "Plain CLIP"; NAMES.adapter = "Plain CLIP"; }
  if (!$("classes").value.trim()) $("classes").value = info.classes.join("\n");
  if (!$("family").length) {
    for (const [group, names] of Object.entries(info.noise)) {
      const part = element("optgroup");
      part.label = group === "unseen" ? "other" : group;
      part.append(...names.map((name) => new Option(words(name), name)));
      $("family").append(part);
    }
  }
  about();
  if (picture) soon();
  else say("Choose, drop or paste a picture to begin.");
}

function about() {
  if (info) $("family-about").textContent = info.noise_about[$("family").value] || "";
  const severity = Number($("severity").value);
  $("severity-value").textContent = severity ? `${severity} of 5` : "0, clean";
  $("severity").setAttribute("aria-valuetext", severity ? `${severity} of 5` : "0, clean picture");
}

// --- asking ---------------------------------------------------------------------------------------
function take(file) {
  if (!file) return;
  if (info && file.size > info.limits.body - 100000) {
    fail(new Error(`This file has ${(file.size / 1e6).toFixed(1)} MB; the service takes up to ${(info.limits.body / 1e6).toFixed(0)} MB.`));
    return;
  }
  picture = file;
  $("file-hint").textContent = `Now: ${file.name || "the pasted picture"}. Choose, drop or paste another.`;
  soon(0);
}

function soon(wait = 200) {
  clearTimeout(timer);
  if (picture && info) timer = setTimeout(ask, wait);
}

async function ask() {
  if (running) running.abort();
  const mine = running = new AbortController();
  const noise = Number($("severity").value) ? `${$("family").value}:${$("severity").value}` : "";
  const form = new FormData();
  form.append("pictures", picture, "picture");
  form.append("classes", JSON.stringify($("classes").value.split("\n").filter((line) => line.trim())));
  form.append("noise", noise);
  form.append("top", "6");
  for (const key of ["zeroshot", "view"]) form.append(key, "true");
  form.append("influence", String($("influence").checked));
  $("answers").setAttribute("aria-busy", "true");
  try {
    const answer = await call("/v1/predict", { method: "POST", body: form, signal: mine.signal });
    if (running === mine) { fail(null); show(answer, noise); }
  } catch (error) {
    if (error.name !== "AbortError" && running === mine) { fail(error); $("result").hidden = true; }
  } finally {
    if (running === mine) { running = null; $("answers").setAttribute("aria-busy", "false"); }
  }
}

// --- showing --------------------------------------------------------------------------------------
function show(answer, noise) {
  const prediction = answer.predictions[0];
  const size = info.picture_size;
  $("view").src = prediction.view;
  const [family, severity] = noise.split(":");
  const disturbed = noise ? `, with ${words(family)} of severity ${severity}` : "";
  $("view-caption").textContent = `What the model gets: ${size} \u00d7 ${size} pixels${disturbed}.`;
  $("view").alt = `The picture as the model gets it${disturbed}`;
  bars($("adapter"), prediction.top);
  bars($("zeroshot"), prediction.zeroshot);
  const [first, second] = [prediction.top[0], prediction.zeroshot[0]];
  say(info.method === "zeroshot" ? `Plain CLIP says ${first.class} (${percent(first.probability)}).`
    : first.class === second.class
      ? `Both say ${first.class}: the adapter with ${percent(first.probability)}, plain CLIP with ${percent(second.probability)}.`
      : `The adapter says ${first.class} (${percent(first.probability)}), plain CLIP says ${second.class} (${percent(second.probability)}).`);
  $("maps").hidden = !prediction.influence;
  if (prediction.influence) maps(prediction);
  $("result").hidden = false;
}

function bars(list, top) {
  list.replaceChildren(...top.map((entry) => {
    const row = element("li"), rail = element("span", "rail"), fill = element("span", "fill");
    fill.style.width = `${100 * entry.probability}%`;
    rail.setAttribute("aria-hidden", "true");
    rail.append(fill);
    row.append(element("span", "name", entry.class), element("span", "share", percent(entry.probability)), rail);
    return row;
  }));
}

function maps(prediction) {
  const all = ["adapter", "zeroshot"].flatMap((key) => prediction.influence[key].change.flat().map(Math.abs));
  const scale = Math.max(0.5, ...all); // at least half a unit of log-odds, so that nothing is made of noise
  for (const key of ["adapter", "zeroshot"]) map(key, prediction.influence[key], prediction.view, scale);
}

function map(key, found, view, scale) {
  const image = element("img"), cells = element("div", "cells");
  image.src = view;
  image.alt = "";
  cells.style.gridTemplate = `repeat(${found.grid}, 1fr) / repeat(${found.grid}, 1fr)`;
  let best = [0, 0];
  found.change.forEach((row, y) => row.forEach((change, x) => {
    const cell = element("span", change > 0 ? "for" : "against");
    cell.style.opacity = (0.85 * Math.abs(change) / scale).toFixed(3);
    cells.append(cell);
    if (change > found.change[best[0]][best[1]]) best = [y, x];
  }));
  const [y, x] = best;
  const text = found.change[y][x] > 0
    ? `${NAMES[key]}: ${found.class}, ${percent(found.probability)}. It rests most on row ${y + 1}, column ${x + 1} of `
      + `${found.grid}: without that square it is ${percent(found.covered[y][x])}.`
    : `${NAMES[key]}: ${found.class}, ${percent(found.probability)}. Covering any one square makes it no less sure.`;
  $(key + "-map").replaceChildren(image, cells);
  $(key + "-map").setAttribute("aria-label", text);
  $(key + "-map-text").textContent = text;
}

// --- events ---------------------------------------------------------------------------------------
$("ask").addEventListener("submit", (event) => event.preventDefault());
$("file").addEventListener("change", () => take($("file").files[0]));
$("classes").addEventListener("input", () => soon(500));
$("family").addEventListener("change", () => { about(); soon(); });
$("severity").addEventListener("input", () => { about(); soon(); });
$("influence").addEventListener("change", () => soon(0));
$("token").addEventListener("change", start);

document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData ? event.clipboardData.files : [])].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); take(file); }
});
let inside = 0; // dragenter and dragleave also come from elements within
const over = (change) => (event) => { event.preventDefault(); inside += change; $("drop").classList.toggle("over", inside > 0); };
document.addEventListener("dragenter", over(1));
document.addEventListener("dragleave", over(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  $("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
start();
