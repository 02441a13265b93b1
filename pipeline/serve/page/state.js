/**
 * What an annotator has made of one image, as plain values: `reduce` and `pending` are pure. `Shelf` keeps sheets and
 * dropped images in the browser, so that a reload loses nothing.
 */

export const COLOURS = 7;
const STEPS_KEPT = 200;

/** @param {string} name @param {string} image @returns {Sheet} */
export function blank(name, image) {
  return { name, image, objects: [], selected: "", past: [], future: [], versions: {}, saved: {}, conflicts: {} };
}

/** What a mask depends on. @param {Asked} object */
export const maskKey = ({ clicks, steps, adaptive }) =>
  JSON.stringify([clicks.map((click) => [click.x, click.y, click.positive]), steps, adaptive]);

/** What is stored of an object. @param {Named} object */
export const print = (object) => JSON.stringify([object.label, maskKey(object)]);

/** @param {Moment} sheet */
export const chosen = (sheet) => sheet.objects.find((one) => one.id === sheet.selected);

/** @param {Sheet} sheet @param {Action} action @returns {Sheet} */
export function reduce(sheet, action) {
  const object = chosen(sheet);
  switch (action.do) {
    case "add": {
      if (object) return step(sheet, replaced(sheet, { ...object, clicks: [...object.clicks, action.click] }));
      const made = { ...action.fresh, clicks: [action.click], colour: freeColour(sheet.objects) };
      return step(sheet, { objects: [...sheet.objects, made], selected: made.id });
    }
    case "move": {
      if (!object?.clicks[action.index]) return sheet;
      const { index, x, y, same } = action;
      const clicks = object.clicks.map((click, at) => (at === index ? { ...click, x, y } : click));
      const moved = replaced(sheet, { ...object, clicks });
      return same ? { ...sheet, ...moved } : step(sheet, moved);
    }
    case "remove":
      if (!object?.clicks[action.index]) return sheet;
      return step(sheet, replaced(sheet, { ...object, clicks: object.clicks.filter((_, at) => at !== action.index) }));
    case "reset":
      return object?.clicks.length ? step(sheet, replaced(sheet, { ...object, clicks: [] })) : sheet;
    case "new":
      return { ...sheet, selected: "" };
    case "delete": {
      if (!sheet.objects.some((one) => one.id === action.id)) return sheet;
      const objects = sheet.objects.filter((one) => one.id !== action.id);
      const selected = sheet.selected === action.id ? "" : sheet.selected;
      return step(without(sheet, action.id, "conflicts"), { objects, selected });
    }
    case "select":
      return sheet.objects.some((one) => one.id === action.id) ? { ...sheet, selected: action.id } : sheet;
    case "set": {
      const one = sheet.objects.find((other) => other.id === action.id);
      return one ? step(sheet, replaced(sheet, { ...one, ...action.values })) : sheet;
    }
    case "undo": {
      const before = sheet.past.at(-1);
      const future = [...sheet.future, moment(sheet)];
      return before ? { ...sheet, ...before, past: sheet.past.slice(0, -1), future } : sheet;
    }
    case "redo": {
      const after = sheet.future.at(-1);
      const past = [...sheet.past, moment(sheet)];
      return after ? { ...sheet, ...after, past, future: sheet.future.slice(0, -1) } : sheet;
    }
    case "stored": {
      const { id, version } = action;
      const known = { versions: { ...sheet.versions, [id]: version }, saved: { ...sheet.saved, [id]: action.print } };
      return { ...without(sheet, id, "conflicts"), ...known };
    }
    case "gone":
      return without(sheet, action.id, "versions", "saved", "conflicts");
    case "conflict":
      return { ...sheet, conflicts: { ...sheet.conflicts, [action.id]: action.theirs } };
    case "theirs": {
      const theirs = sheet.conflicts[action.id];
      return theirs ? adopt(sheet, theirs) : drop(sheet, action.id);
    }
    case "mine": {
      const theirs = sheet.conflicts[action.id];
      const [id, colour] = [action.as, freeColour(sheet.objects)];
      const rename = (/** @type {Thing} */ one) => (one.id === action.id ? { ...one, id, colour } : one);
      const renamed = everywhere(sheet, (all) => all.map(rename));
      const mine = without(renamed, action.id, "versions", "saved", "conflicts");
      const kept = { ...mine, selected: sheet.selected === action.id ? id : sheet.selected };
      return theirs ? adopt(kept, theirs) : kept;
    }
    case "sync":
      return sync(sheet, action.objects);
  }
}

/**
 * What the server has not yet: objects to write and ids to delete. What is in conflict waits for the person.
 * @param {Sheet} sheet @returns {{writes: Thing[], deletes: string[]}}
 */
export function pending({ objects, versions, saved, conflicts }) {
  const alive = objects.filter((one) => one.clicks.length > 0);
  const writes = alive.filter((one) => !(one.id in conflicts) && saved[one.id] !== print(one));
  const gone = Object.keys(versions).filter((id) => !alive.some((one) => one.id === id));
  return { writes, deletes: gone.filter((id) => !(id in conflicts)) };
}

/** What others have stored comes in; what was changed on both sides is a conflict.
 * @param {Sheet} sheet @param {Stored[]} theirs @returns {Sheet} */
function sync(sheet, theirs) {
  let result = sheet;
  for (const one of theirs) {
    const { id, version } = one;
    const own = sheet.objects.find((other) => other.id === id && other.clicks.length > 0);
    const known = id in sheet.versions && sheet.versions[id] === version;
    const unsaved = own !== undefined && sheet.saved[id] !== print(own);
    if (own && print(own) === print(one)) result = reduce(result, { do: "stored", id, version, print: print(one) });
    else if (!known) result = unsaved ? reduce(result, { do: "conflict", id, theirs: one }) : adopt(result, one);
  }
  for (const id of Object.keys(sheet.versions).filter((known) => !theirs.some((one) => one.id === known))) {
    const own = sheet.objects.find((one) => one.id === id && one.clicks.length > 0);
    const unsaved = own !== undefined && sheet.saved[id] !== print(own);
    result = unsaved ? reduce(result, { do: "conflict", id, theirs: null }) : drop(result, id);
  }
  return result;
}

/** Their object in the place of mine, also in what undo goes back to: undoing mine never undoes theirs.
 * @param {Sheet} sheet @param {Stored} theirs @returns {Sheet} */
function adopt(sheet, { version, box: _, png: __, ...theirs }) {
  const { id } = theirs;
  const made = { ...theirs, colour: sheet.objects.find((one) => one.id === id)?.colour ?? freeColour(sheet.objects) };
  const taken = everywhere(sheet, (all) =>
    all.some((one) => one.id === id) ? all.map((one) => (one.id === id ? made : one)) : [...all, made],
  );
  return reduce(taken, { do: "stored", id, version, print: print(made) });
}

/** @param {Sheet} sheet @param {string} id */
function drop(sheet, id) {
  const left = everywhere(sheet, (all) => all.filter((one) => one.id !== id));
  return reduce({ ...left, selected: sheet.selected === id ? "" : sheet.selected }, { do: "gone", id });
}

/** @param {Sheet} sheet @param {(objects: Thing[]) => Thing[]} change @returns {Sheet} */
function everywhere(sheet, change) {
  const changed = (/** @type {Moment[]} */ all) => all.map((one) => ({ ...one, objects: change(one.objects) }));
  return { ...sheet, objects: change(sheet.objects), past: changed(sheet.past), future: changed(sheet.future) };
}

/** @param {Moment} sheet @returns {Moment} */
const moment = ({ objects, selected }) => ({ objects, selected });

/** @param {Sheet} sheet @param {Partial<Moment>} changes @returns {Sheet} */
const step = (sheet, changes) => ({
  ...sheet, past: [...sheet.past, moment(sheet)].slice(-STEPS_KEPT), future: [], ...changes,
});

/** @param {Sheet} sheet @param {Thing} object */
const replaced = (sheet, object) => ({ objects: sheet.objects.map((one) => (one.id === object.id ? object : one)) });

/** @param {Sheet} sheet @param {string} id @param {("versions" | "saved" | "conflicts")[]} tables @returns {Sheet} */
function without(sheet, id, ...tables) {
  const left = { ...sheet };
  for (const table of tables) left[table] = Object.fromEntries(Object.entries(left[table]).filter(([k]) => k !== id));
  return left;
}

/** @param {Thing[]} objects */
function freeColour(objects) {
  const free = [...Array(COLOURS).keys()].find((colour) => !objects.some((one) => one.colour === colour));
  return free ?? objects.length % COLOURS;
}

/** What the browser keeps: `sheets` by name and hash of the image, and `dropped` images with their bytes by name. */
export class Shelf {
  /** @type {Promise<IDBDatabase> | undefined} */ #opened;

  /** @param {"sheets" | "dropped"} store @param {"get" | "getAll" | "put" | "delete"} method @param {any[]} values
   * @returns {Promise<any>} */
  async ask(store, method, ...values) {
    const answer = (/** @type {IDBRequest} */ request) =>
      new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    if (!this.#opened) {
      const request = indexedDB.open("cfr-icl", 1);
      request.onupgradeneeded = () => ["sheets", "dropped"].forEach((one) => request.result.createObjectStore(one));
      this.#opened = answer(request);
    }
    const /** @type {any} */ place = (await this.#opened).transaction(store, "readwrite").objectStore(store);
    return answer(place[method](...values));
  }
}
