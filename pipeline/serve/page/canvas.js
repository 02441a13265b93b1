/**
 * The image, the masks over it and the pointer. Drawn from ImageBitmaps in halved sizes, so a 40 MP photograph moves as
 * a small one does; no pixel of the image or of a mask is ever read back.
 */

/** Okabe and Ito's palette, which people tell apart whatever their colour vision. */
export const PALETTE = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#0072b2"];
const LARGEST_MASK = 12e6; // pixels of a mask's box that are kept in memory; a larger one is drawn from half its size
const AROUND = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => [Math.cos((n * Math.PI) / 4), Math.sin((n * Math.PI) / 4)]);

/** @param {number} value @param {number} low @param {number} high */
const within = (value, low, high) => Math.max(low, Math.min(high, value));
/** @param {HTMLCanvasElement} canvas */
const context = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
/** @param {Point} one @param {Point} other */
const distance = (one, other) => Math.hypot(one.x - other.x, one.y - other.y);

/**
 * A grey PNG's bitmap whose zeros are transparent: a tRNS chunk is put behind its header.
 * @param {string} base64 @param {number[]} box @returns {Promise<ImageBitmap>}
 */
export async function decodeMask(base64, [, , width, height]) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const clear = new Uint8Array([0, 0, 0, 2, 0x74, 0x52, 0x4e, 0x53, 0, 0, 0x76, 0x93, 0xcd, 0x38]);
  const png = new Blob([bytes.subarray(0, 33), clear, bytes.subarray(33)], { type: "image/png" });
  if (width * height <= LARGEST_MASK) return createImageBitmap(png);
  return createImageBitmap(png, { resizeWidth: width >> 1, resizeHeight: height >> 1, resizeQuality: "low" });
}

export class Stage {
  /** @type {ImageBitmap[]} */ levels = [];
  /** @type {Layer[]} */ layers = [];
  /** @type {Click[]} */ clicks = [];
  /** @type {Point | null} */ cross = null;
  /** @type {Gesture | null} */ gesture = null;
  size = { width: 0, height: 0 };
  view = { scale: 1, x: 0, y: 0 };
  shown = { opacity: 0.45, contour: true, clicks: true, negative: false };
  panning = false; // the space bar is held
  #fitted = true;
  #drawing = 0;
  /** @type {Map<number, Point>} */ #touches = new Map();

  /** @param {HTMLCanvasElement} canvas @param {Acts} acts */
  constructor(canvas, acts) {
    this.canvas = canvas;
    this.acts = acts;
    this.context = context(canvas);
    this.scratch = [0, 1].map(() => context(document.createElement("canvas")));
    new ResizeObserver(() => this.#resize()).observe(canvas);
    canvas.onpointerdown = (event) => this.#down(event);
    canvas.onpointermove = (event) => this.#moved(event);
    canvas.onpointerup = canvas.onpointercancel = (event) => this.#up(event);
    canvas.oncontextmenu = (event) => event.preventDefault();
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** Rejects when the browser cannot decode it. `stale`: it is not wanted any more.
   * @param {Blob | null} blob @param {() => boolean} [stale] */
  async show(blob, stale) {
    const first = blob && (await createImageBitmap(blob));
    if (stale?.()) return first?.close();
    this.levels.forEach((level) => level.close());
    this.levels = first ? [first] : [];
    [this.layers, this.clicks, this.cross] = [[], [], null];
    this.size = { width: first?.width ?? 0, height: first?.height ?? 0 };
    this.fit();
    if (first) this.#halve(first);
  }

  /** @param {ImageBitmap} first */
  async #halve(first) {
    for (let last = first; Math.max(last.width, last.height) > 1500; ) {
      const half = { resizeWidth: last.width >> 1, resizeHeight: last.height >> 1 };
      last = await createImageBitmap(last, { ...half, resizeQuality: "medium" });
      if (this.levels[0] !== first) return last.close(); // another image was opened meanwhile
      this.levels.push(last);
    }
    this.draw();
  }

  /** By the pointer: no frame is drawn around it. */
  focus = () => this.canvas.focus(/** @type {FocusOptions} */ ({ preventScroll: true, focusVisible: false }));

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = Math.min((width - 16) / this.size.width, (height - 16) / this.size.height, 8) || 1;
    this.view = { scale, x: (width - this.size.width * scale) / 2, y: (height - this.size.height * scale) / 2 };
    this.#fitted = true;
    this.draw();
  }

  /** @param {number} factor @param {Point} [at] what stays where it is; the middle if not given */
  zoom(factor, at = { x: this.canvas.clientWidth / 2, y: this.canvas.clientHeight / 2 }) {
    const least = Math.min(1, 100 / Math.max(1, this.size.width, this.size.height));
    const scale = within(this.view.scale * factor, least, 40);
    const by = scale / this.view.scale;
    this.#place(scale, at.x - (at.x - this.view.x) * by, at.y - (at.y - this.view.y) * by);
  }

  /** The keyboard's crosshair goes on, by at least one pixel of the image. @param {number} dx @param {number} dy */
  step(dx, dy) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const start = this.cross ?? this.#pixel({ x: width / 2, y: height / 2 });
    const far = (/** @type {number} */ d) => Math.sign(d) * Math.max(1, Math.round(Math.abs(d) / this.view.scale));
    this.cross = this.#inside({ x: start.x + far(dx), y: start.y + far(dy) });
    const { x, y } = this.#screen(this.cross);
    const [away, down] = [within(x, 30, width - 30) - x, within(y, 30, height - 30) - y];
    if (away || down) this.#place(this.view.scale, this.view.x + away, this.view.y + down);
    this.draw();
  }

  /** A click by the keyboard. @param {boolean} positive */
  pressCross(positive) {
    if (this.cross) this.acts.add({ ...this.cross, positive: positive && !this.shown.negative });
  }

  removeAtCross() {
    const index = this.cross ? this.hit(this.#screen(this.cross)) : -1;
    if (index >= 0) this.acts.remove(index);
  }

  draw() {
    this.canvas.dataset.view = `${this.view.scale} ${this.view.x} ${this.view.y}`;
    this.#drawing ||= requestAnimationFrame(() => this.#paint());
  }

  /** @param {number} scale @param {number} x @param {number} y */
  #place(scale, x, y) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const held = (/** @type {number} */ start, /** @type {number} */ side, /** @type {number} */ room) =>
      within(start, 80 - side * scale, room - 80); // so much of the image stays in sight
    this.view = { scale, x: held(x, this.size.width, width), y: held(y, this.size.height, height) };
    this.#fitted = false;
    this.draw();
  }

  #resize() {
    const ratio = devicePixelRatio;
    for (const { canvas } of [this.context, ...this.scratch]) {
      canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    }
    if (this.#fitted) this.fit();
    this.#paint(); // at once: the canvas is empty now
  }

  #paint() {
    cancelAnimationFrame(this.#drawing);
    this.#drawing = 0;
    const { context: to, canvas, view } = this;
    const ratio = canvas.width / (canvas.clientWidth || 1);
    const [scale, left, top] = [view.scale * ratio, view.x * ratio, view.y * ratio];
    to.setTransform(1, 0, 0, 1, 0, 0);
    to.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.levels.length) return;
    const level = this.levels.findLast((one) => one.width / this.size.width >= scale) ?? this.levels[0];
    to.imageSmoothingEnabled = scale < 3;
    to.drawImage(level, left, top, scale * this.size.width, scale * this.size.height);
    for (const layer of [...this.layers].sort((a, b) => Number(a.chosen) - Number(b.chosen))) {
      this.#paintMask(layer, scale, left, top, ratio);
    }
    to.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.shown.clicks) this.clicks.forEach((click, index) => this.#paintClick(click, index));
    if (this.cross) this.#paintCross(this.#screen(this.cross));
    this.acts.seen();
  }

  /** @param {Layer} layer @param {number} scale @param {number} left @param {number} top @param {number} ratio */
  #paintMask({ bitmap, box: [x, y, width, height], colour, chosen }, scale, left, top, ratio) {
    const [stencil, ring] = this.scratch;
    const margin = 4 * ratio;
    const x0 = Math.max(0, Math.floor(left + x * scale - margin));
    const y0 = Math.max(0, Math.floor(top + y * scale - margin));
    const w = Math.min(this.canvas.width, Math.ceil(left + (x + width) * scale + margin)) - x0;
    const h = Math.min(this.canvas.height, Math.ceil(top + (y + height) * scale + margin)) - y0;
    if (w <= 0 || h <= 0) return;
    stencil.clearRect(0, 0, w + margin, h + margin); // beyond, as the ring's fractions of a pixel look there
    stencil.imageSmoothingEnabled = scale < 1;
    stencil.drawImage(bitmap, left + x * scale - x0, top + y * scale - y0, width * scale, height * scale);
    const tinted = (/** @type {string} */ paint, /** @type {number} */ alpha, /** @type {number} */ radius) => {
      ring.globalCompositeOperation = "source-over";
      ring.clearRect(0, 0, w, h);
      const at = radius ? AROUND : [[0, 0]];
      for (const [dx, dy] of at) ring.drawImage(stencil.canvas, 0, 0, w, h, dx * radius, dy * radius, w, h);
      ring.globalCompositeOperation = "source-in";
      ring.fillStyle = paint;
      ring.fillRect(0, 0, w, h);
      ring.globalCompositeOperation = "destination-out";
      if (radius) ring.drawImage(stencil.canvas, 0, 0, w, h, 0, 0, w, h);
      this.context.globalAlpha = alpha;
      this.context.drawImage(ring.canvas, 0, 0, w, h, x0, y0, w, h);
      this.context.globalAlpha = 1;
    };
    if (this.shown.opacity) tinted(PALETTE[colour], this.shown.opacity, 0);
    if (!this.shown.contour) return;
    if (chosen) tinted("#000", 0.7, 3 * ratio);
    tinted(PALETTE[colour], 1, (chosen ? 2 : 1.2) * ratio);
  }

  /** @param {Click} click @param {number} index */
  #paintClick(click, index) {
    const { x, y } = this.#screen(click);
    const radius = this.gesture?.kind === "drag" && this.gesture.index === index ? 9 : 7;
    const disk = (/** @type {number} */ by, /** @type {string} */ paint) => {
      this.context.beginPath();
      this.context.arc(x, y, radius + by, 0, 2 * Math.PI);
      this.context.fillStyle = paint;
      this.context.fill();
    };
    disk(2, "#000a");
    disk(1, "#fff");
    disk(-1, click.positive ? "#00704f" : "#b23c00");
    this.context.fillStyle = "#fff";
    this.context.fillRect(x - 3.5, y - 1, 7, 2); // a plus or a minus: the colour alone does not tell
    if (click.positive) this.context.fillRect(x - 1, y - 3.5, 2, 7);
  }

  /** @param {Point} at */
  #paintCross({ x, y }) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    for (const [half, paint] of /** @type {const} */ ([[1.5, "#000"], [0.5, "#fff"]])) {
      this.context.fillStyle = paint;
      for (const [a, b] of [[0, y - 6], [y + 6, height]]) this.context.fillRect(x - half, a, half * 2, b - a);
      for (const [a, b] of [[0, x - 6], [x + 6, width]]) this.context.fillRect(a, y - half, b - a, half * 2);
    }
  }

  /** The pixel of the image below a place of the canvas, which may be outside. @param {Point} at @returns {Point} */
  #pixel({ x, y }) {
    return { x: Math.floor((x - this.view.x) / this.view.scale), y: Math.floor((y - this.view.y) / this.view.scale) };
  }

  /** The nearest pixel of the image. @param {Point} pixel @returns {Point} */
  #inside = ({ x, y }) => ({ x: within(x, 0, this.size.width - 1), y: within(y, 0, this.size.height - 1) });

  /** A pixel's middle on the canvas. @param {Point} pixel @returns {Point} */
  #screen({ x, y }) {
    return { x: (x + 0.5) * this.view.scale + this.view.x, y: (y + 0.5) * this.view.scale + this.view.y };
  }

  /** Index of the click at a place of the canvas, -1 if there is none. @param {Point} at @param {number} [reach] */
  hit(at, reach = 9) {
    const far = this.clicks.map((click) => distance(this.#screen(click), at));
    const near = far.indexOf(Math.min(...far));
    return this.shown.clicks && far[near] <= reach ? near : -1;
  }

  /** @param {MouseEvent} event @returns {Point} */
  #at = (event) => ({ x: event.offsetX, y: event.offsetY });

  /** Index of the new click, -1 outside of the image. @param {Point} at @param {boolean} positive */
  #press(at, positive) {
    const pixel = this.#pixel(at);
    return distance(pixel, this.#inside(pixel)) ? -1 : this.acts.add({ ...pixel, positive });
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (!this.levels.length) return;
    const start = this.#at(event);
    const touch = event.pointerType === "touch";
    this.focus();
    event.preventDefault(); // no scrolling by the middle button, no text chosen
    this.canvas.setPointerCapture(event.pointerId);
    this.#touches.set(event.pointerId, start);
    this.cross = null;
    if (this.#touches.size > 1) {
      if (touch) this.gesture = { kind: "pinch" };
      return;
    }
    const index = event.button === 0 && !this.panning ? this.hit(start, touch ? 20 : 9) : -1;
    if (event.button === 1 || this.panning) this.gesture = { kind: "pan" };
    else if (index >= 0) this.gesture = { kind: "drag", index, start, moved: false, fresh: false };
    else if (touch) this.gesture = { kind: "tap", start };
    else if (event.button === 0 || event.button === 2) {
      const key = event.altKey || event.ctrlKey || event.metaKey || event.button === 2;
      const made = this.#press(start, !key && !this.shown.negative);
      if (made >= 0) this.gesture = { kind: "drag", index: made, start, moved: false, fresh: true };
    }
    this.draw();
  }

  /** @param {PointerEvent} event */
  #moved(event) {
    const [at, before] = [this.#at(event), this.#touches.get(event.pointerId)];
    if (!before) {
      this.canvas.dataset.cursor = this.panning ? "pan" : this.hit(at) >= 0 ? "click" : "";
      return;
    }
    const [other] = [...this.#touches].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    this.#touches.set(event.pointerId, at);
    const { gesture, view } = this;
    const slipped = gesture && "start" in gesture && distance(at, gesture.start) > 4;
    if (gesture?.kind === "tap" && slipped) this.gesture = { kind: "pan" };
    if (gesture?.kind === "pan") this.#place(view.scale, view.x + at.x - before.x, view.y + at.y - before.y);
    if (gesture?.kind === "pinch" && other) {
      this.#place(view.scale, view.x + (at.x - before.x) / 2, view.y + (at.y - before.y) / 2);
      const spread = Math.max(10, distance(at, other)) / Math.max(10, distance(before, other));
      this.zoom(spread, { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 });
    }
    if (gesture?.kind === "drag" && (gesture.moved || slipped)) {
      this.acts.move(gesture.index, this.#inside(this.#pixel(at)), gesture.moved || gesture.fresh);
      gesture.moved = true;
    }
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const { gesture } = this;
    this.#touches.delete(event.pointerId);
    if (this.#touches.size) return; // the other finger of a pinch
    this.gesture = null;
    if (gesture?.kind === "tap" && event.type === "pointerup") this.#press(gesture.start, !this.shown.negative);
    if (gesture?.kind === "drag") {
      const pixel = this.#pixel(this.#at(event));
      const away = distance(pixel, this.#inside(pixel)) * this.view.scale;
      if (gesture.moved && away > 24) this.acts.remove(gesture.index); // dropped beside the image
      this.acts.end();
    }
    this.draw();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 33 : 1;
    this.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), this.#at(event));
  }
}
