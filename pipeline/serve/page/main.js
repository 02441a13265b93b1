/** The page: what is done by buttons, keys and drops, and what is shown of it. */

import { decodeMask, PALETTE, Stage } from "./canvas.js";
import { blank, chosen, maskKey, pending, print, reduce, Shelf } from "./state.js";
import { Refused, Wire } from "./wire.js";

/** @template {Element} T @param {string} selector @param {new () => T} kind @param {ParentNode} [from] @returns {T} */
function the(selector, kind, from = document) {
  const found = from.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`no ${kind.name} ${selector}`);
  return found;
}
/** The buttons of a command. @param {string} id @returns {HTMLButtonElement[]} */
const buttons = (id) => [...document.querySelectorAll(/** @type {"button"} */ (`button[data-do="${id}"]`))];
const input = (/** @type {string} */ id) => the(`#${id}`, HTMLInputElement);
const text = (/** @type {string} */ id) => the(`#${id}`, HTMLElement);
/** @param {ParentNode} from @param {string} selector */
const part = (from, selector) => the(selector, HTMLElement, from);
const randomId = () =>
  [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const kept = JSON.parse(localStorage.getItem("kept") ?? "{}");
const prefs = { label: "object", who: "", client: randomId(), last: "", index: 0, ...kept.prefs };
const keepPrefs = () => localStorage.setItem("kept", JSON.stringify({ prefs, shown: stage.shown }));
const shelf = new Shelf();
const UNKEPT = "This browser keeps nothing for a reload: ";
const wire = new Wire((note) => ((text("away").textContent = note), (text("away").hidden = !note)));
/** @type {Settings} */ let settings;
const refinement = { steps: 0, adaptive: false }; // of new objects
/** @type {Work | null} */ let now = null;
/** @type {Map<string, Work>} */ const works = new Map();
let opening = 0;
let since = 0; // when the last change was made
/** @type {Mask | null} */ let arrived = null; // the mask whose time is told once it is seen

const stage = new Stage(the("#view", HTMLCanvasElement), {
  add(click) {
    if (!now) return -1;
    act({ do: "add", click, fresh: { id: randomId(), label: prefs.label, ...refinement } });
    return (chosen(now.sheet)?.clicks.length ?? 0) - 1;
  },
  move: (index, { x, y }, same) => act({ do: "move", index, x, y, same }),
  remove: (index) => act({ do: "remove", index }),
  end: () => now && (keep(now), ask(now)),
  seen() {
    text("fit").textContent = `${Math.round(stage.view.scale * 100)} %`;
    if (!arrived) return;
    const [all, server] = [performance.now() - since, arrived.milliseconds].map(Math.round);
    text("time").textContent = `Mask after ${all} ms`;
    text("detail").textContent = `forward passes: ${arrived.passes}, on the server ${server} ms`;
    arrived = null;
  },
});

Object.assign(stage.shown, kept.shown, { negative: false });

/** What went wrong, until it is closed or some time has passed. @param {unknown} error @param {string} [about] */
function say(error, about = "") {
  const note = document.createElement("p");
  note.textContent = about + (error instanceof Error ? error.message : String(error));
  note.onclick = () => note.remove();
  setTimeout(() => note.remove(), 15000);
  text("notes").append(note);
  while (text("notes").childElementCount > 3) text("notes").firstElementChild?.remove();
}

/** @param {Action} action @param {Work | null} [work] */
function act(action, work = now) {
  if (!work) return;
  const [before, asked] = [work.sheet, chosen(work.sheet)];
  work.sheet = reduce(before, action);
  if (work.sheet === before) return;
  const asks = chosen(work.sheet);
  if (work === now && asks && (!asked || maskKey(asked) !== maskKey(asks))) since = performance.now();
  if (stage.gesture?.kind !== "drag") keep(work);
  ask(work);
  render();
}

/** @param {Work} work */
const keep = (work) => shelf.ask("sheets", "put", work.sheet, work.key).catch((error) => say(error, UNKEPT));

/** Ask for the masks that are missing, one at a time for each object. @param {Work} work */
function ask(work) {
  const { objects } = work.sheet;
  const lasting = new Set(objects.filter((one) => one.clicks.length).map((one) => one.id));
  for (const [id, { control }] of work.flights) if (!lasting.has(id)) control.abort();
  for (const id of work.masks.keys()) if (!lasting.has(id)) work.masks.delete(id);
  for (const object of objects.filter((one) => lasting.has(one.id))) {
    const [key, flight] = [maskKey(object), work.flights.get(object.id)];
    if (work.masks.get(object.id)?.key === key) flight?.control.abort();
    else if (flight && flight.key !== key) {
      // The maps of the clicks so far are of use for those that follow; other clicks make them worthless.
      const follows = flight.clicks.every((click, at) => click === object.clicks[at]);
      if (!follows && stage.gesture?.kind !== "drag") flight.control.abort();
    } else if (!flight && !work.refused.has(key) && work.flights.size < 3) fly(work, object, key);
  }
  if (due(work).count) later(work);
}

/** @param {Work} work @param {Thing} object @param {string} key */
async function fly(work, object, key) {
  const [control, start] = [new AbortController(), since];
  work.flights.set(object.id, { control, key, clicks: object.clicks });
  render();
  try {
    const mask = await wire.mask(work.picture, object, control.signal);
    await take(work, object.id, key, mask);
    if (work === now && start === since) arrived = mask;
  } catch (error) {
    if (!control.signal.aborted) say(error);
    if (!control.signal.aborted) work.refused.add(key);
  }
  work.flights.delete(object.id);
  ask(work);
  render();
}

/** @param {Work} work @param {string} id @param {string} key @param {{box: number[], png: string}} mask */
async function take(work, id, key, { box, png }) {
  const bitmap = png ? await decodeMask(png, box) : null;
  work.masks.get(id)?.bitmap?.close();
  work.masks.set(id, { key, png, box, bitmap });
}

/** Save soon. @param {Work} work @param {number} [milliseconds] */
function later(work, milliseconds = 400) {
  clearTimeout(work.timer);
  work.timer = setTimeout(() => (work.saving = work.saving.then(() => save(work))), milliseconds);
}

/** What can be saved now: an object without a mask cannot. @param {Work} work */
function due(work) {
  const { writes, deletes } = settings.saves ? pending(work.sheet) : { writes: [], deletes: [] };
  const ready = writes.filter((one) => {
    const mask = work.masks.get(one.id);
    return mask?.bitmap && mask.key === maskKey(one) && !work.refused.has(print(one));
  });
  return { writes: ready, deletes, count: ready.length + deletes.length };
}

/** @param {Work} work */
async function save(work) {
  const [{ picture }, { writes, deletes }] = [work, due(work)];
  for (const object of writes) {
    const [id, version] = [object.id, work.sheet.versions[object.id] ?? null];
    try {
      const answer = await wire.save(picture, object, version);
      act({ do: "stored", id, version: answer.version, print: print(object) }, work);
    } catch (error) {
      if (error instanceof Refused && error.status === 409) await synchronise(work); // a lost answer of our own is none
      const [clash, same] = [id in work.sheet.conflicts, (work.sheet.versions[id] ?? null) === version];
      if (clash || same) say(error, "Not saved: ");
      if (!clash && same) work.refused.add(print(object)); // it is not tried again until it changes
    }
  }
  for (const id of deletes) {
    await wire.remove(picture.name, id, work.sheet.versions[id]).then(
      () => act({ do: "gone", id }, work),
      (error) => (error instanceof Refused && error.status === 409 ? synchronise(work) : say(error, "Not deleted: ")),
    );
  }
  if (settings.folder) await list(listed.start).catch(say);
}

/** What others have stored comes in. @param {Work} work */
async function synchronise(work) {
  const { objects } = await wire.results(work.picture.name);
  const after = reduce(work.sheet, { do: "sync", objects });
  for (const one of objects) {
    const [key, own] = [maskKey(one), after.objects.find((other) => other.id === one.id)];
    if (own && maskKey(own) === key && work.masks.get(one.id)?.key !== key) await take(work, one.id, key, one);
  }
  act({ do: "sync", objects }, work);
  ask(work);
}

/** Open an image in the place of the present one. @param {string} title @param {() => Promise<Picture>} load */
async function open(title, load) {
  const turn = ++opening;
  const stale = () => turn !== opening;
  if (now) later(now, 0);
  now = null;
  text("name").textContent = title;
  text("time").textContent = text("detail").textContent = "";
  text("stage").dataset.state = "loading";
  render();
  try {
    const picture = await load();
    await stage.show(picture.blob, stale).catch(async () => stage.show(await wire.shown(picture), stale)); // a TIFF
    const work = works.get(picture.name) ?? (await begin(picture));
    if (stale()) return;
    now = work;
    for (const [name, one] of works) if (!one.flights.size && !due(one).count) works.delete(name);
    works.set(picture.name, work);
    [prefs.last, since] = [picture.name, performance.now()];
    text("stage").dataset.state = "open";
    keepPrefs();
    ask(work);
    hold().catch(say);
  } catch (error) {
    if (stale()) return;
    text("stage").dataset.state = "";
    stage.show(null);
    say(error);
  }
  render();
}

/** @param {Picture} picture @returns {Promise<Work>} */
async function begin(picture) {
  const key = `${picture.name}|${picture.image}`;
  const sheet = (await shelf.ask("sheets", "get", key).catch(() => undefined)) ?? blank(picture.name, picture.image);
  const tables = { masks: new Map(), flights: new Map(), refused: new Set() };
  const work = { picture, key, sheet, ...tables, timer: 0, saving: Promise.resolve(), holder: null };
  if (settings.saves) await synchronise(work);
  return work;
}

/** Tell that this image is open here, learn who else has it open, and what others have stored. */
async function hold() {
  const work = now;
  if (!work || !settings.saves) return;
  const { holder } = await wire.hold(work.picture.name, prefs.client, prefs.who || "somebody");
  work.saving = work.saving.then(() => synchronise(work)).catch(say);
  work.holder = holder;
  render();
}

// ---- the images: dropped ones first, then some of the folder's

const COUNT = 30;
/** @type {Picture[]} */ let dropped = [];
/** What is shown of the folder. @type {{start: number, total: number, images: Listed[]}} */
let listed = { start: 0, total: 0, images: [] };
/** @type {Map<string, Promise<string>>} */ const thumbnails = new Map();

/** Show the part of the folder that holds an image. @param {number} index */
async function list(index) {
  const start = Math.floor(Math.max(0, index) / COUNT) * COUNT;
  if (settings.folder) listed = { start, ...(await wire.images(start, COUNT, prefs.client)) };
  drawStrip();
}

/** Open an image by its place: dropped ones, then the folder. @param {number} index */
async function go(index) {
  const [own, at] = [dropped[index], index - dropped.length];
  if (index < 0 || index >= dropped.length + listed.total) return;
  if (own) return open(own.title, async () => own);
  if (at < listed.start || at >= listed.start + listed.images.length) await list(at);
  const { name } = listed.images[at - listed.start];
  [prefs.last, prefs.index] = [name, at];
  await open(name, () => wire.picture(name));
}

const place = () => {
  const at = dropped.findIndex((one) => one.name === prefs.last);
  return at >= 0 ? at : dropped.length + prefs.index;
};

/** Take a dropped image off the list; what is stored of it stays. */
async function forget() {
  const index = dropped.findIndex((one) => one.name === prefs.last);
  if (index < 0) return;
  await shelf.ask("dropped", "delete", prefs.last);
  dropped.splice(index, 1);
  if (dropped.length + listed.total) await go(Math.max(0, index - 1));
  else await open("No image", async () => Promise.reject(new Error("Drop the next image.")));
  drawStrip();
}

/** Mark the image done, or open again, and go to the next open one. */
async function done() {
  const [work, at] = [now, place()];
  if (!work) return;
  if (settings.saves) {
    const one = listed.images[at - dropped.length - listed.start];
    const finished = one?.state !== "done";
    await wire.done(work.picture.name, finished);
    await list(prefs.index);
    if (!finished) return;
  }
  for (let index = at + 1; index < dropped.length + listed.total; index++) {
    const beyond = index - dropped.length;
    if (beyond >= listed.start + listed.images.length) await list(beyond);
    if (beyond < 0 || listed.images[beyond - listed.start]?.state === "open") return go(index);
  }
  say("No open image comes after this one.");
}

/** @param {Iterable<File>} files */
async function takeFiles(files) {
  let first = true;
  for (const file of [...files]) {
    try {
      const most = settings.limits.bytes;
      if (file.size > most) throw new Error(`The file is too large: at most ${most >> 20} MiB are taken here.`);
      const blob = new Blob([await file.arrayBuffer()], { type: file.type }); // the file may change on the disk
      const { image, name } = await wire.upload(blob);
      const one = { image, name, title: file.name, blob, folder: false };
      dropped = [...dropped.filter((other) => other.name !== name), one];
      shelf.ask("dropped", "put", one, name).catch((error) => say(error, UNKEPT));
      if (first) await go(dropped.length - 1);
      first = false;
    } catch (error) {
      say(error, `${file.name}: `);
    }
    drawStrip();
  }
}

function drawStrip() {
  const images = [...dropped, ...listed.images];
  const end = listed.start + listed.images.length;
  text("part").textContent = listed.total ? `${listed.start + 1}–${end} of ${listed.total}` : "";
  const rail = copies(text("rail"), "thumbnail", images.length);
  images.forEach((one, at) => fillThumbnail(rail[at], one, at < dropped.length ? at : at + listed.start));
  render();
}

/** @param {HTMLElement} made @param {Picture | Listed} one @param {number} index */
function fillThumbnail(made, one, index) {
  const { title, state, objects, holder } = { title: one.name, state: "open", objects: 0, holder: null, ...one };
  const current = String(one.name === prefs.last);
  made.title = holder ? `${title}, open with ${holder}` : title;
  made.setAttribute("aria-label", `${made.title}, ${state}, ${objects} objects`);
  if (made.ariaCurrent !== current && current === "true") made.scrollIntoView({ block: "nearest", inline: "nearest" });
  made.ariaCurrent = current;
  made.onclick = () => run(() => go(index));
  const stem = title.replace(/^.*\//, "").replace(/\.\w+$/, "");
  part(made, ".about").textContent = stem.length > 10 ? `…${stem.slice(-9)}` : stem;
  part(made, ".badge").textContent = state === "done" ? "✓" : objects ? String(objects) : "";
  if (made.dataset.name === one.name && made.dataset.state === state) return;
  Object.assign(made.dataset, { name: one.name, state });
  const image = the("img", HTMLImageElement, made);
  const load = async () => URL.createObjectURL("blob" in one ? one.blob : await wire.thumbnail(one.name));
  if (!thumbnails.has(one.name)) thumbnails.set(one.name, load().catch(() => ""));
  const png = async () => "blob" in one && (image.src = URL.createObjectURL(await wire.shown(one)));
  image.onerror = () => ((image.onerror = null), png().catch(() => {})); // a TIFF that was dropped
  thumbnails.get(one.name)?.then((address) => made.dataset.name === one.name && (image.src = address));
}

// ---- buttons, keys, files

/** @param {Partial<Fresh>} values of the chosen object, or of the next one */
function refine(values) {
  Object.assign(refinement, values);
  refinement.steps = Math.max(0, Math.min(settings.limits.steps, refinement.steps));
  if (now && now.sheet.selected) act({ do: "set", id: now.sheet.selected, values: { ...refinement } });
  render();
}

/** @param {number} by */
function turn(by) {
  const objects = now?.sheet.objects ?? [];
  const at = objects.findIndex((one) => one.id === now?.sheet.selected);
  const one = objects[(at + by + objects.length) % objects.length];
  if (one) act({ do: "select", id: one.id });
}

/** What buttons and keys do; the keys of each stand in index.html (data-keys). @type {Record<string, () => unknown>} */
const COMMANDS = {
  undo: () => act({ do: "undo" }), redo: () => act({ do: "redo" }), reset: () => act({ do: "reset" }),
  fresh: () => act({ do: "new" }), delete: () => now && act({ do: "delete", id: now.sheet.selected }),
  before: () => turn(-1), after: () => turn(1),
  rename: () => /** @type {HTMLInputElement | null} */ (document.querySelector("#objects .chosen input"))?.select(),
  finer: () => refine({ steps: refinement.steps + 1 }), coarser: () => refine({ steps: refinement.steps - 1 }),
  adaptive: () => refine({ adaptive: !refinement.adaptive }),
  sign: () => show({ negative: !stage.shown.negative }), contour: () => show({ contour: !stage.shown.contour }),
  clicks: () => show({ clicks: !stage.shown.clicks }),
  stronger: () => show({ opacity: stage.shown.opacity > 0.85 ? 0 : stage.shown.opacity + 0.15 }),
  larger: () => stage.zoom(1.4), smaller: () => stage.zoom(1 / 1.4), fit: () => stage.fit(),
  previous: () => go(place() - 1), next: () => go(place() + 1), done, forget, open: () => input("file").click(),
  earlier: () => list(listed.start - COUNT), further: () => list(listed.start + COUNT),
  panel: () => text("panel").classList.toggle("open"), help: () => the("#sheet", HTMLDialogElement).showModal(),
};

/** What goes wrong is shown. @param {() => unknown} command */
const run = (command) => Promise.resolve().then(command).catch(say);

/** @param {KeyboardEvent} event */
function key(event) {
  const from = /** @type {HTMLElement} */ (event.target);
  const typing = from instanceof HTMLInputElement && from.type === "text";
  if (typing && (event.key === "Escape" || event.key === "Enter")) stage.focus();
  if (typing || document.querySelector("dialog[open]")) return;
  if (from === stage.canvas && crosshair(event)) return event.preventDefault();
  if (event.key === " " && !from.matches("button, input")) {
    stage.panning = true;
    return event.preventDefault();
  }
  const shift = event.shiftKey && /^([a-z]|.{2,})$/i.test(event.key); // the shift of "?" is part of the key
  const name = (event.ctrlKey || event.metaKey ? "ctrl+" : "") + (shift ? "shift+" : "") + event.key.toLowerCase();
  const line = document.querySelector(`[data-keys~="${CSS.escape(name)}"]`);
  if (event.altKey || !(line instanceof HTMLElement)) return;
  event.preventDefault();
  run(COMMANDS[line.dataset.do ?? ""]);
}

/** Clicks by the keyboard. @param {KeyboardEvent} event @returns {boolean} whether the key was one of it */
function crosshair({ key, shiftKey, ctrlKey }) {
  const far = shiftKey ? 0.001 : ctrlKey ? 80 : 12; // pixels of the screen
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const [dx, dy] = ways[/** @type {keyof ways} */ (key)] ?? [0, 0];
  if (dx || dy) stage.step(dx * far, dy * far);
  else if (key === "Enter") stage.pressCross(!shiftKey);
  else if (key === "Backspace") stage.removeAtCross();
  else return false;
  if (stage.cross) text("said").textContent = `x ${stage.cross.x}, y ${stage.cross.y}`;
  return true;
}

/** @param {Partial<typeof stage.shown>} changes */
function show(changes) {
  Object.assign(stage.shown, changes);
  keepPrefs();
  render();
}

// ---- what is shown

function render() {
  const { sheet, masks, flights } = now ?? { sheet: null, masks: new Map(), flights: new Map() };
  const objects = sheet?.objects ?? [];
  const object = sheet ? chosen(sheet) : undefined;
  if (object) Object.assign(refinement, { steps: object.steps, adaptive: object.adaptive });
  stage.clicks = object?.clicks ?? [];
  stage.layers = objects.flatMap(({ id, colour }) => {
    const mask = masks.get(id);
    return mask?.bitmap ? [{ bitmap: mask.bitmap, box: mask.box, colour, chosen: id === object?.id }] : [];
  });
  stage.draw();
  const rows = copies(text("objects"), "object", objects.length);
  objects.forEach((one, at) => fillRow(rows[at], one, at));
  text("fresh-row").classList.toggle("chosen", !!sheet && !object);
  const { negative, opacity, contour, clicks } = stage.shown;
  for (const [id, on] of Object.entries({ sign: negative, contour, clicks, adaptive: refinement.adaptive })) {
    for (const one of buttons(id)) one.setAttribute("aria-pressed", String(on));
  }
  input("opacity").valueAsNumber = opacity;
  text("steps").textContent = String(refinement.steps);
  const [first, last] = [place() <= 0, place() + 1 >= dropped.length + listed.total];
  const able = {
    undo: sheet?.past.length, redo: sheet?.future.length, reset: object?.clicks.length, fresh: object, delete: object,
    done: now, forget: now && !now.picture.folder, previous: !first, next: !last,
    earlier: listed.start, further: listed.start + listed.images.length < listed.total,
  };
  for (const [id, can] of Object.entries(able)) for (const one of buttons(id)) one.disabled = !can;
  const open = listed.images[prefs.index - listed.start]?.state !== "done" || !now?.picture.folder;
  text("ending").textContent = open ? "Done" : "Open again";
  text("holder").textContent = now?.holder ? `also open with ${now.holder}` : "";
  const waiting = now ? due(now).count : 0;
  const rest = sheet && !flights.size && (pending(sheet).writes.length || Object.keys(sheet.conflicts).length);
  const stored = waiting ? "saving …" : rest ? "not all is saved" : "saved";
  text("saved").textContent = !sheet ? "" : settings.saves ? stored : "kept in this browser alone";
  document.body.dataset.busy = String(flights.size + waiting > 0);
  document.body.dataset.negative = String(negative);
}

/** @param {HTMLElement} row @param {Thing} one @param {number} at */
function fillRow(row, one, at) {
  const [id, label] = [one.id, the("input", HTMLInputElement, row)];
  const theirs = now?.sheet.conflicts[id];
  row.classList.toggle("chosen", id === now?.sheet.selected);
  row.style.setProperty("--colour", PALETTE[one.colour]);
  part(row, ".number").textContent = String(at + 1);
  part(row, ".pick").setAttribute("aria-label", `Object ${at + 1}, ${one.label}`);
  part(row, ".pick").setAttribute("aria-pressed", String(id === now?.sheet.selected));
  part(row, ".pick").onclick = () => act({ do: "select", id });
  const empty = now?.masks.get(id)?.bitmap === null;
  part(row, ".about").textContent = now?.flights.has(id) ? "…" : empty ? "empty" : `${one.clicks.length}`;
  part(row, ".bin").onclick = () => act({ do: "delete", id });
  if (label !== document.activeElement) label.value = one.label;
  label.onfocus = () => act({ do: "select", id });
  label.onchange = () => {
    prefs.label = label.value.trim() || "object";
    keepPrefs();
    act({ do: "set", id, values: { label: prefs.label } });
  };
  part(row, ".clash").hidden = theirs === undefined;
  part(row, ".clash span").textContent = `Somebody else has ${theirs ? "changed" : "deleted"} it.`;
  part(row, ".theirs").onclick = () => (act({ do: "theirs", id }), run(hold));
  part(row, ".mine").onclick = () => (act({ do: "mine", id, as: randomId() }), run(hold));
}

/** The children of a list, made as many as there are things to show.
 * @param {HTMLElement} list @param {string} template @param {number} count */
function copies(list, template, count) {
  while (list.children.length > count) list.lastElementChild?.remove();
  while (list.children.length < count) list.append(the(`#${template}`, HTMLTemplateElement).content.cloneNode(true));
  return /** @type {HTMLElement[]} */ ([...list.children]);
}

// ---- the start

for (const [id, command] of Object.entries(COMMANDS)) {
  const line = part(document.body, `#sheet [data-do="${id}"]`);
  const keys = (line.dataset.keys ?? "").split(" ").map((key) => {
    const shown = Object.assign(document.createElement("kbd"), { textContent: key.replace("page", "page ") });
    part(line, "dt").append(shown);
    return shown.textContent;
  });
  for (const one of buttons(id)) {
    one.title = `${part(line, "dd").textContent} (${keys[0]})`;
    one.onclick = () => run(command);
  }
}
document.onclick = (event) => {
  const button = event.detail && event.target instanceof Element && event.target.closest("button");
  if (button && !document.querySelector("dialog[open]")) stage.focus(); // the space bar then pans, and presses nothing
};
document.onkeydown = key;
document.onkeyup = (event) => event.key === " " && (stage.panning = false);
document.onvisibilitychange = () => now && later(now, 0);
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => (event.preventDefault(), takeFiles(event.dataTransfer?.files ?? []));
document.onpaste = (event) => takeFiles(event.clipboardData?.files ?? []);
input("file").onchange = () => (takeFiles([...(input("file").files ?? [])]), (input("file").value = ""));
input("opacity").oninput = () => show({ opacity: input("opacity").valueAsNumber });
input("who").onchange = () => ((prefs.who = input("who").value.trim()), keepPrefs(), run(hold));

async function start() {
  settings = await wire.settings();
  const { cfr, checkpoint, saves } = settings;
  Object.assign(refinement, { steps: cfr.steps, adaptive: cfr.adaptive });
  text("checkpoint").textContent = checkpoint;
  text("people").hidden = !saves;
  input("who").value = prefs.who;
  dropped = await shelf.ask("dropped", "getAll").catch(() => []);
  await list(prefs.index);
  const there = [...dropped, listed.images[prefs.index - listed.start]].some((one) => one && one.name === prefs.last);
  if (there) await go(place());
  else if (listed.total) await go(dropped.length);
}

/** Every ten seconds, but never two at a time. */
const look = () => setTimeout(() => run(hold).then(() => run(() => list(listed.start))).then(look), 10000);

run(start).then(() => (look(), now || (text("stage").dataset.state = "empty")));
