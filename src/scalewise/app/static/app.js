// The page: pictures come in, settings are read, jobs are started and followed, results are shown.

import { ask, follow, Problem } from "./api.js";
import { Mask } from "./brush.js";
import { isClip, showClips, startClips, takeClip } from "./clip.js";
import { Viewer } from "./viewer.js";
import { bytes, duration, left, size } from "./words.js";

const $ = (id) => document.getElementById(id);
const THUMB = 96;           // pixels of a thumbnail in the list
const AT_ONCE = 2;          // jobs at the server: the next one waits there while one runs
const SETTLE = 250;         // milliseconds after the last change of a setting until a forecast is asked for
const KEPT = "scalewise";   // in the session's storage, so that a reload goes on

const items = [];           // {key, name, file, picture, thumb, before, after, effort, problem, job, jobId, asked, stop}
let current = null, serial = 0, server = null;

const viewer = new Viewer({
  look: $("look"), canvas: $("canvas"), divider: $("divider"), tagBefore: $("tag-before"), tagAfter: $("tag-after"),
  zoomed: (scale) => { $("zoom").textContent = `${scale < 0.1 ? (scale * 100).toFixed(1) : Math.round(scale * 100)}%`; },
});

// ---- words

const NAMES = { jpg: "JPEG", jpeg: "JPEG", png: "PNG", tif: "TIFF", tiff: "TIFF", webp: "WebP", avif: "AVIF", gif: "GIF", heic: "HEIC" };
const named = (format) => NAMES[format] || format.toUpperCase();

function about(picture) {
  const pages = picture.pages > 1 ? ` · ${picture.pages} ${["gif", "webp"].includes(picture.format) ? "frames" : "pages"}` : "";
  const deep = picture.depth === "uint8" ? "" : picture.depth === "uint16" ? " · 16 bit" : " · float";
  return `${size(picture.width, picture.height)} · ${named(picture.format)}${deep}${pages} · ${bytes(picture.bytes)}`;
}

function say(text) { $("live").textContent = text; }

function complain(where, text) {
  const place = document.querySelector(`[data-error="${where}"]`);
  place.textContent = text || "";
  place.hidden = !text;
}
const PLACES = { mask: "go", scale: "how-large", size: "how-large", long_edge: "how-large", budget: "budget", model: "model", projection: "projection", format: "format" };
function complainOf(error) { complain(PLACES[error.field] || "go", error.message); }
function quiet() { for (const place of document.querySelectorAll("[data-error]")) { place.textContent = ""; place.hidden = true; } }

// ---- pictures

async function take(files) {
  const chosen = [...files], clip = chosen.find(isClip);
  if (clip) return takeClip(clip, chosen.length > 1);
  if (!chosen.length) return;
  showClips(false);
  $("intro-error").hidden = true;
  let first = null;
  for (const file of chosen) {
    const item = { key: ++serial, name: file.name || "picture", file, picture: null, thumb: null, problem: null, job: null };
    items.push(item);
    first ||= item;
    draft(item);
  }
  $("intro").hidden = true;
  $("work").hidden = false;
  choose(first);
  for (const item of items.filter((one) => chosen.includes(one.file))) await upload(item);
  await expect();
}

// What the browser itself can show is there at once; the rest as soon as the server has looked at it.
async function draft(item) {
  try {
    const image = await createImageBitmap(item.file);
    if (item.before) return;
    item.local = { image, width: image.width, height: image.height };
    item.thumb ||= image;
    if (current === item) display(item);
    draw(item);
  } catch { /* the server will make one */ }
}

async function upload(item) {
  try {
    item.picture = await ask("/v1/pictures", { method: "POST", form: { file: item.file } });
    await load(item);
  } catch (error) {
    item.problem = error.message;
    if (items.every((one) => one.problem && !one.picture) && items.length === 1) {
      remove(item);
      $("intro-error").textContent = `${item.name}: ${error.message}`;
      $("intro-error").hidden = false;
      return;
    }
  }
  draw(item);
  refresh();
  save();
}

const bitmap = async (path) => createImageBitmap(await ask(path));
const partOf = (path) => (box, width) =>
  bitmap(`${path}/view?x=${box[0]}&y=${box[1]}&w=${box[2]}&h=${box[3]}&width=${width}`);

async function load(item) {
  const path = `/v1/pictures/${item.picture.id}`;
  const image = await bitmap(`${path}/preview`);
  item.before = { image, width: item.picture.width, height: item.picture.height, part: partOf(path) };
  item.thumb = image;
  if (current === item) display(item);
}

function display(item, keepView = false) {
  const before = item.before || item.local || null;
  if (!before) return viewer.clear();
  viewer.show(before, item.after || null, { alpha: item.picture?.alpha ?? false, effort: item.effort || null, keepView });
}

function choose(item) {
  current = item;
  display(item);
  for (const one of items) draw(one);
  refresh();
}

function remove(item) {
  item.stop?.();
  if (item.jobId) ask(`/v1/jobs/${item.jobId}`, { method: "DELETE" }).catch(() => {});
  if (item.picture) ask(`/v1/pictures/${item.picture.id}`, { method: "DELETE" }).catch(() => {});
  const at = items.indexOf(item);
  items.splice(at, 1);
  item.row?.remove();
  item.gone = true;
  if (current === item) {
    if (items.length) choose(items[Math.min(at, items.length - 1)]);
    else { current = null; viewer.clear(); $("work").hidden = true; $("intro").hidden = false; $("drop").focus(); }
  }
  quiet();
  refresh();
  save();
  expect();
}

// A row of the list; made once, then mended, so that it keeps the focus.
function draw(item) {
  if (item.gone) return;
  if (!item.row) {
    item.row = document.createElement("li");
    const pick = document.createElement("button");
    pick.type = "button"; pick.className = "pick";
    pick.append(document.createElement("canvas"), document.createElement("b"), document.createElement("small"));
    pick.addEventListener("click", () => choose(item));
    const drop = document.createElement("button");
    drop.type = "button"; drop.className = "drop-it"; drop.textContent = "×";
    drop.setAttribute("aria-label", `Remove ${item.name}`); drop.title = "Remove";
    drop.addEventListener("click", () => remove(item));
    item.row.append(pick, drop);
    $("list").append(item.row);
  }
  item.row.classList.toggle("chosen", item === current);
  const [pick] = item.row.children;
  pick.setAttribute("aria-pressed", String(item === current));
  const [canvas, name, note] = pick.children;
  name.textContent = name.title = item.name;
  const state = stateOf(item);
  note.textContent = state.text;
  note.className = state.kind;
  if (item.thumb && canvas.dataset.of !== String(item.thumb.width)) {
    canvas.width = canvas.height = THUMB;
    const { width: w, height: h } = item.thumb, side = Math.min(w, h);
    canvas.getContext("2d").drawImage(item.thumb, (w - side) / 2, (h - side) / 2, side, side, 0, 0, THUMB, THUMB);
    canvas.dataset.of = String(item.thumb.width);
  }
}

function stateOf(item) {
  const job = item.job;
  if (item.problem) return { text: item.problem, kind: "bad" };
  if (!item.picture) return { text: "being read …", kind: "" };
  if (item.waiting || job?.state === "waiting") return { text: "waits for its turn", kind: "" };
  if (job?.state === "running") return { text: `${Math.round(job.progress * 100)}% · ${left(job)}`, kind: "" };
  if (job?.state === "done") return { text: `done · ${size(job.width, job.height)} · ${bytes(job.bytes)}`, kind: "good" };
  return { text: about(item.picture), kind: "" };
}

// ---- settings

const by = () => document.querySelector("input[name=by]:checked").value;
const value = (id) => { const n = Number($(id).value); return Number.isFinite(n) && n > 0 ? n : null; };

function factor() {
  return value("factor") ?? Number(document.querySelector("input[name=factor]:checked")?.value ?? 2);
}

// The form's fields of a job for one picture: exactly one of scale, size and long_edge.
function wish(item) {
  const found = { budget: `${$("budget").value}%`, model: model(), format: $("format").value };
  if (by() === "factor") found.scale = factor();
  if (by() === "size") {
    const several = items.length > 1;   // of several pictures each keeps its own shape
    const w = value("width"), h = value("height");
    if (several && w && h) found.size = item.picture.width >= item.picture.height ? `${w}x` : `x${h}`;
    else found.size = `${w ?? ""}x${h ?? ""}`;
  }
  if (by() === "print") found.long_edge = Math.max(1, Math.round((value("cm") ?? 0) / 2.54 * (value("dpi") ?? 0)));
  if ($("sphere").checked) found.projection = "erp";
  return found;
}

// What a job was asked for, but for the format, into which a finished one is converted.
function asking(item) {
  const { format, ...rest } = wish(item);
  return JSON.stringify([rest, masked(item) ? item.mask.serial : 0]);
}

const takesMask = (item) => Boolean(item?.picture && modelNow()?.mask && item.picture.pages === 1);
const masked = (item) => takesMask(item) && item.mask && !item.mask.empty && Number($("budget").value) < 100;

// The format of the download: as chosen, else the picture's own if that can be written.
const SHORT = { jpeg: "jpg", tiff: "tif" };
function wanted(item) {
  const own = SHORT[item.picture.format] || item.picture.format;
  return $("format").value || (server.formats.includes(own) ? own : "png");
}

function model() { return $("research").value || document.querySelector("input[name=model]:checked")?.value || "fast"; }
const modelNow = () => server?.models.find((one) => one.name === model());

function showWay() {
  for (const way of document.querySelectorAll("[data-way]")) way.hidden = way.dataset.way !== by();
  $("factor").closest(".number").classList.toggle("on", value("factor") !== null);
}

function setBudget() {
  const least = Math.min(100, Math.max(1, Math.ceil((modelNow()?.least_budget ?? 0) * 100 + 0.5)));
  const slider = $("budget");
  slider.min = least;
  slider.disabled = least >= 100;
  if (Number(slider.value) < least || slider.disabled) slider.value = slider.disabled ? 100 : Math.max(least, slider.value);
}

// What the chosen picture becomes, said at once; the server's forecast corrects it.
function sizeFor(item) {
  const { width: w, height: h } = item.picture;
  const asked = wish(item);
  if (asked.scale) return [Math.round(w * asked.scale), Math.round(h * asked.scale)];
  if (asked.long_edge) { const k = asked.long_edge / Math.max(w, h); return [Math.round(w * k), Math.round(h * k)]; }
  const [sw, sh] = (asked.size || "x").split("x").map(Number);
  if (!sw && !sh) return null;
  return [sw || Math.round(w * sh / h), sh || Math.round(h * sw / w)];
}

function refresh() {
  showWay();
  setBudget();
  const item = current?.picture ? current : null;
  const becomes = item && sizeFor(item);
  $("outcome").textContent = becomes ? `${size(item.picture.width, item.picture.height)} becomes ${size(...becomes)} pixels` : "\u00a0";
  if (item) {
    const shape = item.picture.height / item.picture.width;
    $("height").placeholder = String(Math.round((value("width") ?? 2 * item.picture.width) * shape));
    $("width").placeholder = String(Math.round((value("height") ?? 2 * item.picture.height) / shape));
  }
  $("budget-words").textContent = $("budget").disabled ? "This model always does all of its work." :
    `${$("budget").value}% of the full work${current?.expected ? ` · ${current.expected.loss}` : ""}`;
  actions();
}

let settling = 0, expecting = null;
function settingsChanged() {
  quiet();
  refresh();
  save();
  clearTimeout(settling);
  settling = setTimeout(expect, SETTLE);
}

// What all pictures will take together; problems stand at the field they are about.
async function expect() {
  expecting?.abort();
  const mine = expecting = new AbortController();
  const asked = items.filter((item) => item.picture && !item.problem);
  let seconds = 0;
  try {
    for (const item of asked) {
      const form = { picture: item.picture.id, ...wish(item) }, text = JSON.stringify(form);
      if (item.expectedFor !== text) {
        item.expected = await ask("/v1/forecast", { method: "POST", form, signal: mine.signal });
        item.expectedFor = text;
      }
      seconds += item.expected.seconds;
    }
    $("expected").textContent = asked.length ? duration(seconds) + (asked.length > 1 ? " for all" : "") : "\u00a0";
  } catch (error) {
    if (error.name === "AbortError") return;
    for (const item of asked) item.expectedFor = "";
    $("expected").textContent = "\u00a0";
    complainOf(error);
  }
  refresh();
}

// ---- jobs

const isOver = (job) => !job || ["done", "failed", "cancelled"].includes(job.state);
const busy = () => items.some((item) => item.waiting || !isOver(item.job));
const stale = (item) => item.job?.state === "done" && item.asked !== asking(item);

function start(event) {
  event?.preventDefault();
  quiet();
  for (const item of items) {
    if (!item.picture || (item.job?.state === "done" && !stale(item))) continue;
    item.problem = null;
    item.waiting = true;
  }
  if (matchMedia("(max-width: 860px)").matches) scrollTo({ top: 0, behavior: "smooth" });
  pump();
  refresh();
}

let pumping = false;
async function pump() {
  if (pumping) return;
  pumping = true;
  try {
    for (;;) {
      const next = items.find((item) => item.waiting);
      const running = items.filter((item) => item.job && !isOver(item.job)).length;
      if (!next || running >= AT_ONCE) break;
      try {
        const asked = asking(next), form = { picture: next.picture.id, ...wish(next) };
        if (masked(next)) form.mask = await next.mask.file();
        if (next.jobId) { ask(`/v1/jobs/${next.jobId}`, { method: "DELETE" }).catch(() => {}); next.jobId = null; }
        const job = await ask("/v1/jobs", { method: "POST", form });
        if (!next.waiting) { ask(`/v1/jobs/${job.id}`, { method: "DELETE" }).catch(() => {}); continue; }
        Object.assign(next, { waiting: false, job, jobId: job.id, asked });
        save();
        attend(next);
      } catch (error) {
        if ([429, 503].includes(error.status) && error.retry) {
          $("left").textContent = error.message;
          await new Promise((go) => setTimeout(go, 1000 * error.retry));
          continue;
        }
        fail(next, error);
      }
      refresh();
      draw(next);
    }
  } finally { pumping = false; }
}

function fail(item, error) {
  item.waiting = false;
  item.problem = error.message;
  if (item === current || items.length === 1) { item.problem = items.length > 1 ? error.message : null; complainOf(error); }
  draw(item);
}

function attend(item) {
  item.stop?.();
  item.stop = follow(item.jobId, async (job) => {
    if (item.gone) return;
    item.job = job;
    if (job.state === "failed") {
      const told = job.problem || { detail: "that did not work" };
      item.job = null;
      fail(item, new Problem(told, told.status || 500));
    }
    if (job.state === "done") await arrive(item);
    draw(item);
    refresh();
    if (isOver(item.job)) { save(); pump(); }
  });
}

async function arrive(item) {
  const path = `/v1/jobs/${item.jobId}`, { job } = item;
  try {
    const [image, cells] = await Promise.all([bitmap(`${path}/preview`), bitmap(`${path}/effort-map?cells=true`)]);
    item.after = { image, width: job.width, height: job.height, part: partOf(path) };
    item.effort = cells.width * cells.height > 1 ? { image: cells, extent: job.effort_extent } : null;
  } catch (error) { fail(item, error); return; }
  if (!current?.after || current === item) { current = item; display(item, true); }
  say(`${item.name} is done: ${job.width} by ${job.height} pixels`);
}

function cancel() {
  for (const item of items) {
    const working = item.waiting || !isOver(item.job);
    item.waiting = false;
    if (!working) continue;
    item.stop?.();
    if (item.jobId) ask(`/v1/jobs/${item.jobId}`, { method: "DELETE" }).catch(() => {});
    Object.assign(item, { job: null, jobId: null });
    draw(item);
  }
  say("cancelled");
  save();
  refresh();
}

// ---- what can be done now

function actions() {
  const open = items.filter((item) => item.picture && (item.job?.state !== "done" || stale(item)));
  const done = items.filter((item) => item.job?.state === "done");
  const shown = current?.job?.state === "done" ? current : null;
  const now = busy(), again = open.length && open.every((item) => item.job?.state === "done");
  $("go").hidden = now || !open.length && done.length > 0;
  $("go").disabled = !open.length;
  $("go").textContent = again ? "Enlarge again" : open.length > 1 ? `Enlarge ${open.length} pictures` : "Enlarge";
  $("expected").hidden = now || $("go").hidden && done.length > 1;
  if ($("go").hidden && !now) $("expected").textContent = "Change a setting to enlarge again.";
  const take = $("take");
  take.hidden = !shown;
  take.className = $("go").hidden ? "primary" : "second";
  if (shown) {
    const format = wanted(shown), own = format === shown.job.format;
    take.hidden = !document.querySelector("[data-error=format]").hidden;
    take.href = `/v1/jobs/${shown.jobId}/result${own ? "" : `?format=${format}`}`;
    take.download = own ? shown.job.name : shown.job.name.replace(/[^.]*$/, format);
    take.textContent = `Download ${named(format)}${own ? ` · ${bytes(shown.job.bytes)}` : ""}`;
  }
  const zip = $("zip");
  zip.hidden = done.length < 2;
  const as = $("format").value ? `&format=${$("format").value}` : "";
  zip.href = `/v1/archive?${done.map((item) => `job=${encodeURIComponent(item.jobId)}`).join("&")}${as}`;
  zip.download = "scalewise.zip";
  zip.textContent = `Download all ${done.length} (zip)`;
  $("effort").hidden = !shown?.effort;
  $("legend").hidden = !(shown?.effort && viewer.effortShown);
  brush();
  progress(now);
  numbers(shown);
}

// The brush is there where a model takes a mask; while it is in the hand, the picture is painted on and not moved.
let inHand = false;
function brush() {
  const able = takesMask(current), on = able && inHand;
  if (on) current.mask ||= new Mask(current.picture.width, current.picture.height);
  const mask = able ? current.mask ?? null : null;
  if (viewer.mask !== mask || viewer.painting !== on) viewer.showMask(mask, on);
  $("brush").hidden = !able;
  $("brush").setAttribute("aria-pressed", String(on));
  $("clear").hidden = !on || current.mask.empty;
  $("brush-words").hidden = !on;
  if (on) {
    $("legend").hidden = true;
    $("brush-words").textContent = Number($("budget").value) >= 100
      ? "With all of the work nothing comes first: move the dial towards faster."
      : "Paint what matters: the work goes there first. Shift takes paint away.";
  }
}

function progress(now) {
  $("progress").hidden = !now;
  if (!now) return;
  const jobs = items.filter((item) => item.waiting || item.job);
  const done = jobs.reduce((sum, item) => sum + (item.waiting ? 0 : item.job.state === "done" ? 1 : item.job.progress), 0);
  const share = done / Math.max(1, jobs.length), running = items.find((item) => item.job?.state === "running");
  $("fill").style.transform = `scaleX(${share})`;
  $("track").setAttribute("aria-valuenow", Math.round(share * 100));
  const first = items.find((item) => item.job && !isOver(item.job));
  const text = running ? `${Math.round(share * 100)}% · ${left(running.job)}` :
    first?.job.before ? `${first.job.before} ${first.job.before > 1 ? "jobs come" : "job comes"} before yours` : "starting …";
  $("left").textContent = jobs.length > 1 && running ? `${text} for ${running.name}` : text;
}

function numbers(item) {
  $("numbers").hidden = !item;
  if (!item) return;
  const { report } = item.job, rows = [
    ["Size", `${size(item.job.width, item.job.height)} pixels`], ["File", `${item.job.name}, ${bytes(item.job.bytes)}`],
    ["Time", `${report.seconds.toFixed(2)} s`], ["Work done", `${(100 * report.share).toFixed(1)}% of the full model`],
    ["Multiply-adds", `${(report.macs / 1e9).toFixed(1)} billion`], ["Memory", bytes(report.peak_bytes)],
    ...report.notes.map((note) => ["Note", note]),
  ];
  $("report").replaceChildren(...rows.flatMap(([name, text]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name; dd.textContent = text;
    return [dt, dd];
  }));
}

// ---- a reload goes on where it was

function save() {
  const settings = { by: by(), factor: factor(), width: $("width").value, height: $("height").value, cm: $("cm").value,
    dpi: $("dpi").value, budget: $("budget").value, model: model(), sphere: $("sphere").checked, format: $("format").value };
  const kept = items.filter((item) => item.picture).map(({ name, picture, jobId, asked }) => ({ name, id: picture.id, jobId, asked }));
  sessionStorage.setItem(KEPT, JSON.stringify({ settings, kept }));
}

function setSettings(held) {
  document.querySelector(`input[name=by][value=${held.by}]`)?.click();
  const chip = document.querySelector(`input[name=factor][value="${held.factor}"]`);
  if (chip) chip.checked = true; else setFactor(held.factor);
  for (const id of ["width", "height", "cm", "dpi", "budget", "format"]) if (held[id] !== undefined) $(id).value = held[id];
  $("sphere").checked = Boolean(held.sphere);
  const card = document.querySelector(`input[name=model][value="${held.model}"]`);
  if (card) card.checked = true; else setResearch(held.model);
}

const before = sessionStorage.getItem(KEPT);   // of the page before the reload

async function restore() {
  let held;
  try { held = JSON.parse(before); } catch { held = null; }
  if (!held || items.length) return;            // somebody was quicker
  setSettings(held.settings);
  for (const { name, id, jobId, asked } of held.kept || []) {
    try {
      const picture = await ask(`/v1/pictures/${id}`);
      const item = { key: ++serial, name, file: null, picture, thumb: null, problem: null, job: null, jobId: null, asked };
      items.push(item);
      $("intro").hidden = true;
      $("work").hidden = false;
      await load(item);
      if (jobId) {
        try { item.job = await ask(`/v1/jobs/${jobId}`); item.jobId = jobId; attend(item); } catch { /* its time is over */ }
      }
      draw(item);
    } catch { /* its time is over */ }
  }
  if (items.length) choose(items[0]);
  refresh();
  expect();
}

// ---- wiring

function setFactor(number) {
  for (const chip of document.querySelectorAll("input[name=factor]")) chip.checked = false;
  $("factor").value = number;
}

function setResearch(name) {
  $("research").value = name;
  if ($("research").value) for (const card of document.querySelectorAll("input[name=model]")) card.checked = false;
}

async function ownWeights(file) {
  complain("own", "");
  const most = server.limits.max_weight_bytes;
  if (file.size > most) return complain("own", `${file.name} has ${bytes(file.size)}; a weight file may have ${bytes(most)} here`);
  $("own").disabled = true;
  try {
    const found = await ask("/v1/weights", { method: "POST", form: { file } });
    server.models = server.models.filter((one) => !one.name.startsWith("own:"));
    for (const option of [...$("research").options]) if (option.value.startsWith("own:")) option.remove();
    server.models.push({ ...found, research: true });
    $("research").append(new Option(found.title, found.name));
    setResearch(found.name);
    $("own-words").textContent = `${found.title}: ${found.summary}`;
    $("own-words").hidden = false;
    settingsChanged();
  } catch (error) { complain("own", error.message); }
  $("own").disabled = false;
}

function fillModels() {
  for (const one of server.models) {
    if (one.research) { $("research").append(new Option(one.name, one.name)); continue; }
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "model", value: one.name, checked: one.name === "fast" });
    const span = document.createElement("span"), title = document.createElement("b");
    title.textContent = one.title;
    span.append(title, one.words);
    label.append(input, span);
    $("models").append(label);
  }
  for (const name of server.formats) $("format").append(new Option(named(name), name));
}

function wire() {
  const pickFiles = () => $("file").click();
  $("drop").addEventListener("click", pickFiles);
  $("add").addEventListener("click", pickFiles);
  $("file").addEventListener("change", () => { take($("file").files); $("file").value = ""; });
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", async () => {
      const name = button.dataset.example;
      take([new File([await ask(`/static/${name}`)], name)]);
    });
  }
  addEventListener("paste", (event) => { if (event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files); } });
  let inside = 0;
  const over = (on) => { $("over").hidden = !on; document.body.classList.toggle("dragging", on); };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { if (hasFiles(event)) { inside++; over(true); event.preventDefault(); } });
  addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  addEventListener("dragleave", (event) => { if (hasFiles(event) && --inside <= 0) { inside = 0; over(false); } });
  addEventListener("drop", (event) => { inside = 0; over(false); if (hasFiles(event)) { event.preventDefault(); take(event.dataTransfer.files); } });

  $("panel").addEventListener("submit", start);
  $("panel").addEventListener("input", (event) => {
    const { target } = event;
    if (target.name === "factor") $("factor").value = "";
    if (target.id === "factor") {
      if (value("factor")) setFactor(target.value);
      else document.querySelector("input[name=factor][value='2']").checked = true;
    }
    if (target.name === "model") $("research").value = "";
    if (target.id === "research") {
      if (target.value) setResearch(target.value);
      else document.querySelector("input[name=model][value=fast]").checked = true;
    }
    if (target.id === "width" && items.length === 1) $("height").value = "";
    if (target.id === "height" && items.length === 1) $("width").value = "";
    settingsChanged();
  });
  $("own").addEventListener("click", () => $("weights").click());
  $("weights").addEventListener("change", () => { const [file] = $("weights").files; $("weights").value = ""; if (file) ownWeights(file); });
  const paint = () => { inHand = !inHand; refresh(); };
  $("brush").addEventListener("click", paint);
  $("look").addEventListener("keydown", (event) => { if (event.key === "b" && !$("brush").hidden) paint(); });
  $("clear").addEventListener("click", () => { current.mask = new Mask(current.picture.width, current.picture.height); $("brush").focus(); refresh(); });
  viewer.painted = () => { clearTimeout(settling); settling = setTimeout(refresh, SETTLE); };
  $("cancel").addEventListener("click", cancel);
  $("fit").addEventListener("click", () => viewer.fit());
  $("whole").addEventListener("click", () => viewer.zoomTo(1));
  $("zoom-in").addEventListener("click", () => viewer.zoomBy(1.5));
  $("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.5));
  const effort = () => {
    viewer.showEffort(!viewer.effortShown);
    $("effort").setAttribute("aria-pressed", String(viewer.effortShown));
    refresh();
  };
  $("effort").addEventListener("click", effort);
  $("look").addEventListener("keydown", (event) => { if (event.key === "e" && !$("effort").hidden) effort(); });
}

async function enter() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    history.replaceState(null, "", location.pathname);
    await ask("/v1/session", { method: "POST", token: given }).catch(() => {});
  }
  for (;;) {
    try {
      server = await ask("/v1/models");
      return;
    } catch (error) {
      if (error.status !== 401) throw error;
      $("ask").showModal();
      await new Promise((go) => $("ask").addEventListener("close", go, { once: true }));
      try {
        await ask("/v1/session", { method: "POST", token: $("token").value });
      } catch (wrong) { $("ask-error").textContent = wrong.message; $("ask-error").hidden = false; }
    }
  }
}

wire();
const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
$("private").textContent = here ? "Nothing leaves this machine." : `Pictures go to ${location.hostname} and nowhere else.`;
try {
  await enter();
  fillModels();
  await startClips(server);
  await restore();
} catch (error) {
  $("intro-error").textContent = error.message;
  $("intro-error").hidden = false;
}
refresh();
