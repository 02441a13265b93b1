// The annotator's state without a browser: `node --test` runs this, started by test_page.py.

import assert from "node:assert/strict";
import test from "node:test";

import { blank, chosen, maskKey, pending, print, reduce } from "../../pipeline/serve/page/state.js";

const fresh = (id) => ({ id, label: "cat", steps: 0, adaptive: false });
const click = (x, y, positive = true) => ({ x, y, positive });
const add = (x, y, id = "a") => ({ do: "add", click: click(x, y), fresh: fresh(id) });
const after = (...actions) => actions.reduce(reduce, blank("one.jpg", "00"));
const stored = (id, version, clicks, label = "cat") => ({ ...fresh(id), label, clicks, version, box: [0, 0, 1, 1], png: "" });
const save = (sheet, id, version) =>
  reduce(sheet, { do: "stored", id, version, print: print(sheet.objects.find((one) => one.id === id)) });
const clicks = (sheet, id) => sheet.objects.find((one) => one.id === id)?.clicks.map((one) => [one.x, one.y]);

test("a click begins an object, or belongs to the chosen one", () => {
  const sheet = after(add(1, 2), add(3, 4, "never"), { do: "new" }, add(5, 6, "b"));
  assert.deepEqual(sheet.objects.map((one) => [one.id, one.clicks.length, one.colour]), [["a", 2, 0], ["b", 1, 1]]);
  assert.equal(chosen(sheet).id, "b");
  assert.equal(maskKey(sheet.objects[1]), '[[[5,6,true]],0,false]');
});

test("colours of deleted objects are used again", () => {
  const sheet = after(add(1, 1), { do: "new" }, add(2, 2, "b"), { do: "delete", id: "a" }, { do: "new" }, add(3, 3, "c"));
  assert.deepEqual(sheet.objects.map((one) => one.colour), [1, 0]);
});

test("undo and redo go through every kind of step and back", () => {
  const steps = [
    add(1, 1), add(2, 2), { do: "move", index: 0, x: 9, y: 9, same: false }, { do: "remove", index: 1 },
    { do: "set", id: "a", values: { label: "dog", steps: 2 } }, { do: "reset" }, add(3, 3), { do: "delete", id: "a" },
  ];
  const states = [blank("one.jpg", "00")];
  for (const step of steps) states.push(reduce(states.at(-1), step));
  let sheet = states.at(-1);
  for (const expected of states.slice(0, -1).reverse()) {
    sheet = reduce(sheet, { do: "undo" });
    assert.deepEqual(sheet.objects, expected.objects);
  }
  assert.equal(reduce(sheet, { do: "undo" }), sheet);
  for (const expected of states.slice(1)) {
    sheet = reduce(sheet, { do: "redo" });
    assert.deepEqual(sheet.objects, expected.objects);
  }
  assert.equal(reduce(sheet, { do: "redo" }), sheet);
});

test("a drag is one step, and a new step forgets what was undone", () => {
  const drag = [5, 6, 7].map((x) => ({ do: "move", index: 0, x, y: 1, same: true }));
  const sheet = after(add(1, 1), ...drag, { do: "undo" });
  assert.deepEqual(sheet.objects, []);
  assert.deepEqual(clicks(reduce(sheet, { do: "redo" }), "a"), [[7, 1]]);
  assert.equal(reduce(sheet, add(2, 2)).future.length, 0);
});

test("what cannot be done changes nothing", () => {
  const sheet = after(add(1, 1));
  for (const action of [
    { do: "move", index: 3, x: 0, y: 0, same: false }, { do: "remove", index: 3 }, { do: "select", id: "no" },
    { do: "delete", id: "no" }, { do: "set", id: "no", values: {} },
  ]) assert.equal(reduce(sheet, action), sheet);
});

test("what the server lacks is pending, also after undo of what was saved", () => {
  let sheet = after(add(1, 1));
  assert.deepEqual(pending(sheet).writes.map((one) => one.id), ["a"]);
  sheet = save(sheet, "a", "v1");
  assert.deepEqual(pending(sheet), { writes: [], deletes: [] });
  assert.equal(pending(reduce(sheet, { do: "set", id: "a", values: { label: "dog" } })).writes.length, 1);
  const undone = reduce(sheet, { do: "undo" });
  assert.deepEqual(pending(undone), { writes: [], deletes: ["a"] });
  assert.deepEqual(pending(reduce(undone, { do: "gone", id: "a" })), { writes: [], deletes: [] });
  assert.deepEqual(pending(reduce(sheet, { do: "reset" })).deletes, ["a"]);
});

test("objects of others come in, and undo of mine leaves them", () => {
  let sheet = save(after(add(1, 1), add(2, 2)), "a", "v1");
  sheet = reduce(sheet, { do: "sync", objects: [stored("a", "v1", [click(1, 1), click(2, 2)]), stored("b", "w1", [click(8, 8)])] });
  assert.deepEqual(pending(sheet), { writes: [], deletes: [] });
  sheet = reduce(sheet, { do: "undo" });
  assert.deepEqual([clicks(sheet, "a"), clicks(sheet, "b")], [[[1, 1]], [[8, 8]]]);
});

test("what I have not touched is replaced by theirs, and removed with theirs", () => {
  let sheet = save(after(add(1, 1)), "a", "v1");
  sheet = reduce(sheet, { do: "sync", objects: [stored("a", "v2", [click(4, 4)])] });
  assert.deepEqual([clicks(sheet, "a"), sheet.versions.a], [[[4, 4]], "v2"]);
  assert.deepEqual(reduce(sheet, { do: "sync", objects: [] }).objects, []);
});

test("what both have changed is a conflict, which the person decides", () => {
  const mine = reduce(save(after(add(1, 1)), "a", "v1"), add(2, 2));
  const sheet = reduce(mine, { do: "sync", objects: [stored("a", "v2", [click(4, 4)])] });
  assert.deepEqual(pending(sheet), { writes: [], deletes: [] });
  assert.deepEqual(clicks(sheet, "a"), [[1, 1], [2, 2]]);

  const theirs = reduce(sheet, { do: "theirs", id: "a" });
  assert.deepEqual([clicks(theirs, "a"), theirs.conflicts, pending(theirs).writes], [[[4, 4]], {}, []]);

  const both = reduce(sheet, { do: "mine", id: "a", as: "n" });
  assert.deepEqual([clicks(both, "a"), clicks(both, "n"), both.selected], [[[4, 4]], [[1, 1], [2, 2]], "n"]);
  assert.deepEqual([pending(both).writes.map((one) => one.id), pending(both).deletes, both.versions], [["n"], [], { a: "v2" }]);
});

test("what they deleted while I changed it is a conflict too", () => {
  const mine = reduce(save(after(add(1, 1)), "a", "v1"), add(2, 2));
  const sheet = reduce(mine, { do: "sync", objects: [] });
  assert.deepEqual(sheet.conflicts, { a: null });
  assert.deepEqual(reduce(sheet, { do: "theirs", id: "a" }).objects, []);
  assert.deepEqual(pending(reduce(sheet, { do: "mine", id: "a", as: "n" })).writes.map((one) => one.id), ["n"]);
});

test("my unsaved change of what nobody else touched stays, and my deletion too", () => {
  const sheet = save(after(add(1, 1)), "a", "v1");
  const objects = [stored("a", "v1", [click(1, 1)])];
  assert.deepEqual(clicks(reduce(reduce(sheet, add(2, 2)), { do: "sync", objects }), "a"), [[1, 1], [2, 2]]);
  const deleted = reduce(reduce(sheet, { do: "delete", id: "a" }), { do: "sync", objects });
  assert.deepEqual([deleted.objects, pending(deleted).deletes], [[], ["a"]]);
  const changed = reduce(reduce(sheet, { do: "delete", id: "a" }), { do: "sync", objects: [stored("a", "v2", [click(3, 3)])] });
  assert.deepEqual([clicks(changed, "a"), pending(changed).deletes], [[[3, 3]], []]);
});

test("a saving whose answer was lost is no conflict", () => {
  const sheet = reduce(save(after(add(1, 1)), "a", "v1"), add(2, 2));
  const synced = reduce(sheet, { do: "sync", objects: [stored("a", "v2", [click(1, 1), click(2, 2)])] });
  assert.deepEqual([synced.conflicts, synced.versions.a, pending(synced).writes], [{}, "v2", []]);
});
