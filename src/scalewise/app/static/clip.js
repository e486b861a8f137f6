// The tab for a clip: one comes in, three of its frames are shown as they would be, then all of it is enlarged.

import { ask, follow } from "./api.js";
import { Viewer } from "./viewer.js";
import { bytes, count, duration, left, size } from "./words.js";

const $ = (id) => document.getElementById(`clip-${id}`);
const KEPT = "scalewise-clip";   // in the session's storage, so that a reload goes on
const FRAMES = [1, 2, 3];
const PLACES = { scale: "how-large", size: "how-large", budget: "budget", model: "model", format: "format" };

let server = null, clip = null, job = null, result = null, stop = null, frames = [], chosen = 0;
let turn = 0;        // counts what was begun or cancelled: an answer to something earlier comes too late
let viewer = null;   // made when the tab is first looked at

const checked = (name) => document.querySelector(`input[name=clip-${name}]:checked`)?.value;
const positive = (id) => { const n = Number($(id).value); return Number.isFinite(n) && n > 0 ? n : null; };

function complain(error) {
  for (const place of document.querySelectorAll("[data-clip-error]")) { place.textContent = ""; place.hidden = true; }
  if (!error) return;
  const place = document.querySelector(`[data-clip-error="${PLACES[error.field] || "go"}"]`);
  place.textContent = error.message;
  place.hidden = false;
}

function wish() {
  const minutes = positive("minutes");
  const budget = checked("by") === "share" ? `${$("budget").value}%` : minutes ? `${minutes}min` : "realtime";
  const model = $("model").value;
  return { clip: clip.id, scale: positive("factor") ?? Number(checked("factor") ?? 2), budget, model, format: $("format").value };
}

export function showClips(on) {
  document.body.classList.toggle("clips", on);
  document.querySelector(`input[name=view][value=${on ? "clip" : "pictures"}]`).checked = true;
  save();
  viewer ||= on ? new Viewer({
    look: $("look"), canvas: $("canvas"), divider: $("divider"), tagBefore: $("before"), tagAfter: $("after"),
    zoomed: () => {},
  }) : null;
}

export const isClip = (file) => file.type.startsWith("video/") || /\.(mp4|m4v|mov|mkv|webm|avi|m?2?ts|mpe?g|flv|ogv|wmv)$/i.test(file.name);

// `more`: other files came with it.
export async function takeClip(file, more = false) {
  if (!file) return;
  showClips(true);
  if (!server || server.clips.missing) return;
  forget();
  complain();
  refresh();
  $("about").textContent = `${file.name}: being read …`;
  const mine = turn;
  try {
    const told = await ask("/v1/clips", { method: "POST", form: { file } });
    if (mine !== turn) return void ask(`/v1/clips/${told.id}`, { method: "DELETE" }).catch(() => {});
    clip = told;
    if (more) complain({ message: `One clip at a time: only ${file.name} was taken.` });
  } catch (error) {
    if (mine !== turn) return;
    complain(error);
  }
  refresh();
}

function forget() {
  cancel();
  if (result) ask(`/v1/jobs/${result.id}`, { method: "DELETE" }).catch(() => {});
  if (clip) ask(`/v1/clips/${clip.id}`, { method: "DELETE" }).catch(() => {});
  clip = result = null;
  frames = [];
  expect();
  viewer?.clear();
}

async function begin(kind) {
  complain();
  cancel();
  const mine = turn;
  try {
    const told = await ask(`/v1/${kind}`, { method: "POST", form: wish() });
    if (mine !== turn) return void ask(`/v1/jobs/${told.id}`, { method: "DELETE" }).catch(() => {});
    job = { ...told, kind };
    attend();
  } catch (error) {
    if (mine !== turn) return;
    complain(error);
  }
  refresh();
}

function attend() {
  const { kind } = job;
  stop = follow(job.id, async (told) => {
    job = { ...told, kind };
    if (told.state === "failed") { complain({ message: told.problem.detail, field: told.problem.field }); job = null; }
    if (told.state === "cancelled") job = null;
    if (told.state === "done") {
      job = null;
      try {
        if (kind === "clip-previews") await arrive(told);
        else {
          if (result) ask(`/v1/jobs/${result.id}`, { method: "DELETE" }).catch(() => {});
          result = told;
          $("live").textContent = `${told.name} is done`;
        }
      } catch (error) { complain(error); }
    }
    refresh();
  });
}

function cancel() {
  turn += 1;
  stop?.();
  if (job) ask(`/v1/jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
  job = stop = null;
}

async function arrive(told) {
  const path = `/v1/jobs/${told.id}/frames`, of = clip, asked = JSON.stringify(wish());
  const image = async (name) => createImageBitmap(await ask(`${path}/${name}`));
  const found = await Promise.all(FRAMES.map(async (number) => {
    const [before, after] = await Promise.all([image(`${number}?before=true`), image(`${number}`)]);
    const layer = (it) => ({ image: it, width: it.width, height: it.height });
    return { before: layer(before), after: layer(after), time: told.report.times[number - 1] };
  }));
  ask(`/v1/jobs/${told.id}`, { method: "DELETE" }).catch(() => {});
  if (clip !== of) return;   // another one was chosen
  frames = found;
  if (asked === JSON.stringify(wish())) expect(told.report.seconds);
  $("live").textContent = "three frames are there";
  choose(0);
}

// What all of it takes, as long as nothing else is asked for.
function expect(seconds = null) {
  $("expected").textContent = seconds === null ? "\u00a0" : `All of it takes ${duration(seconds)}.`;
}

function choose(number) {
  chosen = number;
  viewer.show(frames[number].before, frames[number].after, { keepView: true });
  refresh();
}

function refresh() {
  const missing = server?.clips.missing;
  $("missing").hidden = !missing;
  $("missing").textContent = missing ? `Clips cannot be enlarged here: ${missing}.` : "";
  $("steps").hidden = $("go-area").hidden = Boolean(missing);
  $("hint").hidden = frames.length > 0 || Boolean(missing);
  for (const number of FRAMES) {
    const button = $(`frame-${number}`), frame = frames[number - 1];
    button.disabled = !frame;
    button.setAttribute("aria-pressed", String(Boolean(frame) && chosen === number - 1));
    button.textContent = frame ? `${frame.time.toFixed(1)} s` : `Frame ${number}`;
  }
  $("factor").closest(".number").classList.toggle("on", positive("factor") !== null);
  for (const way of document.querySelectorAll("[data-clip-way]")) way.hidden = way.dataset.clipWay !== checked("by");
  if (clip) {
    const length = clip.seconds ? ` · ${clip.seconds.toFixed(1)} s` : "";
    $("about").textContent = `${clip.name}: ${size(clip.width, clip.height)} · ${count(clip.frames)} frames${length} · ${bytes(clip.bytes)}`;
    const { scale } = wish(), even = (n) => 2 * Math.round(Math.round(n * scale) / 2);
    $("outcome").textContent = `Frames become ${size(even(clip.width), even(clip.height))} pixels`;
  } else {
    const limits = server && !missing ? `, at most ${Math.round(server.clips.seconds / 6) / 10} min and ${bytes(server.limits.max_bytes)}` : "";
    $("about").textContent = `Or drop it here: MP4, MKV, MOV, WebM, AVI${limits}`;
    $("outcome").textContent = "\u00a0";
  }
  $("add").className = clip ? "add" : "primary";
  $("add").textContent = clip ? "Choose another clip" : "Choose a clip";
  $("budget-words").textContent = `${$("budget").value}% of the full work`;
  const now = Boolean(job);
  $("show").hidden = $("go").hidden = now;
  $("show").disabled = $("go").disabled = !clip;
  $("progress").hidden = !now;
  if (now) {
    $("fill").style.transform = `scaleX(${job.progress})`;
    $("track").setAttribute("aria-valuenow", Math.round(job.progress * 100));
    $("left").textContent = job.before ? `${job.before} before yours` : `${Math.round(job.progress * 100)}% · ${left(job)}`;
  }
  $("take").hidden = !result || now;
  $("go").className = result ? "second" : "primary";
  if (result) {
    $("take").href = `/v1/jobs/${result.id}/result`;
    $("take").download = result.name;
    $("take").textContent = `Download ${result.format.toUpperCase()} · ${bytes(result.bytes)}`;
  }
  save();
}

function save() {
  if (!server) return;   // what was kept is not read yet
  const on = document.body.classList.contains("clips");
  sessionStorage.setItem(KEPT, JSON.stringify({ on, clip: clip?.id, job: job && { id: job.id, kind: job.kind }, result: result?.id }));
}

async function restore(held) {
  if (!held?.clip) return;
  clip = await ask(`/v1/clips/${held.clip}`);
  if (held.result) result = await ask(`/v1/jobs/${held.result}`).catch(() => null);
  const told = held.job && await ask(`/v1/jobs/${held.job.id}`).catch(() => null);
  if (told) { job = { ...told, kind: held.job.kind }; attend(); }
}

export async function startClips(told) {
  let held = null;
  try { held = JSON.parse(sessionStorage.getItem(KEPT)); } catch { /* nothing that can be gone on with */ }
  server = told;
  for (const one of server.models) $("model").append(new Option(one.research ? one.name : one.title, one.name, false, one.name === "fast"));
  await restore(held).catch(() => {});   // its time is over
  if (held?.on) showClips(true);
  refresh();
}

for (const input of document.querySelectorAll("input[name=view]")) {
  input.addEventListener("change", () => showClips(input.value === "clip"));
}
$("add").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { const [file] = $("file").files; $("file").value = ""; takeClip(file); });
$("show").addEventListener("click", () => begin("clip-previews"));
$("panel").addEventListener("submit", (event) => { event.preventDefault(); begin("clip-jobs"); });
$("cancel").addEventListener("click", () => { cancel(); refresh(); });
$("panel").addEventListener("input", (event) => {
  const chips = [...document.querySelectorAll("input[name=clip-factor]")];
  if (event.target.name === "clip-factor") $("factor").value = "";
  if (event.target.id === "clip-factor") chips.forEach((chip) => { chip.checked = chip.value === "2" && !positive("factor"); });
  complain();
  expect();
  refresh();
});
for (const number of FRAMES) $(`frame-${number}`).addEventListener("click", () => choose(number - 1));
$("fit").addEventListener("click", () => viewer.fit());
$("whole").addEventListener("click", () => viewer.zoomTo(1));
