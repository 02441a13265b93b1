// The types that the page's modules share. Nothing of it is sent to a browser.

/** Pixels of the image from 0, or of the canvas; x to the right, y down. */
type Point = { x: number; y: number };
type Click = Point & { positive: boolean };
/** A word of the server's that changes with every change of an object. */
type Version = string | null;
/** What a mask is asked with. */
type Asked = { clicks: Click[]; steps: number; adaptive: boolean };
type Named = Asked & { id: string; label: string };
/** An object on the page; `colour` is an index into the palette. */
type Thing = Named & { colour: number };
/** An object as the server has it. */
type Stored = Named & { version: Version; box: number[]; png: string };
/** What undo goes back to; selected "": the next click begins an object. */
type Moment = { objects: Thing[]; selected: string };
/** What somebody has made of one image, and what the server has of it (`saved`: prints of what was last stored). */
type Sheet = Moment & {
  name: string;
  image: string;
  past: Moment[];
  future: Moment[];
  versions: Record<string, Version>;
  saved: Record<string, string>;
  conflicts: Record<string, Stored | null>;
};
/** The object that a click may begin. */
type Fresh = Omit<Thing, "clicks" | "colour">;
/** What changes a sheet; `same` of a move: it belongs to the last step, as in a drag. */
type Action =
  | { do: "add"; click: Click; fresh: Fresh }
  | { do: "move"; index: number; x: number; y: number; same: boolean }
  | { do: "remove"; index: number }
  | { do: "reset" | "new" | "undo" | "redo" }
  | { do: "delete" | "select" | "gone" | "theirs"; id: string }
  | { do: "set"; id: string; values: Partial<Fresh> }
  | { do: "stored"; id: string; version: Version; print: string }
  | { do: "conflict"; id: string; theirs: Stored | null }
  | { do: "mine"; id: string; as: string }
  | { do: "sync"; objects: Stored[] };

/** An image that is clicked: SHA-256 of its bytes, and whether the server has it in its folder. */
type Picture = { name: string; title: string; image: string; blob: Blob; folder: boolean };
type Listed = { name: string; state: "open" | "done"; objects: number; holder: string | null };
type Mask = { box: number[]; png: string; score: number; passes: number; milliseconds: number };
type Settings = {
  checkpoint: string;
  cfr: { steps: number; adaptive: boolean; clicks: number; crop: number };
  folder: boolean;
  saves: boolean;
  limits: { bytes: number; pixels: number; clicks: number; steps: number };
};

type Options = { body?: BodyInit; type?: string; signal?: AbortSignal };

/** A mask that is drawn, in its box of the image. */
type Layer = { bitmap: ImageBitmap; box: number[]; colour: number; chosen: boolean };
/** What the pointer does on the stage; `add` gives the index of the new click, `seen` comes after each drawing. */
type Acts = {
  add(click: Click): number;
  move(index: number, at: Point, same: boolean): void;
  remove(index: number): void;
  end(): void;
  seen(): void;
};
type Gesture =
  | { kind: "pan" | "pinch" }
  | { kind: "tap"; start: Point }
  | { kind: "drag"; index: number; start: Point; moved: boolean; fresh: boolean };

/** A mask and the clicks it is of (`maskKey`). */
type Drawn = { key: string; png: string; box: number[]; bitmap: ImageBitmap | null };
/** One opened image. `flights`: masks that are asked for; `refused`: keys that the server will not answer. */
type Work = {
  picture: Picture;
  key: string;
  sheet: Sheet;
  masks: Map<string, Drawn>;
  flights: Map<string, { control: AbortController; key: string; clicks: Click[] }>;
  refused: Set<string>;
  timer: number;
  saving: Promise<void>;
  holder: string | null;
};
