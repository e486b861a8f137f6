// The canvas: original and enlarged picture on each other with a divider, the effort map, zoom and pan.
//
// A view is the place of the picture's centre and its width on the screen, in CSS pixels; both pictures are stretched to
// the same rectangle. What the server first sends may be smaller than the picture: the visible part is fetched pixel by
// pixel when it is looked at closely.

const CHECK = 12;       // CSS pixels of a square under transparency
const CLOSEST = 32;     // screen pixels that a picture's pixel may have
const MARGIN = 16;      // CSS pixels around a picture that fits
const PATIENCE = 160;   // milliseconds until a part is fetched after the last movement

class Layer {
  constructor(image, width, height, part) {
    Object.assign(this, { image, width, height, part, detail: null, wanted: "" });
  }
  get coarse() { return this.image.width < this.width; }
}

export class Viewer {
  constructor({ look, canvas, divider, tagBefore, tagAfter, zoomed }) {
    Object.assign(this, { look, canvas, divider, tagBefore, tagAfter, zoomed });
    this.context = canvas.getContext("2d");
    this.before = this.after = this.effort = null;
    this.alpha = false;
    this.cut = 0.5;             // of the stage's width
    this.peek = false;          // the original alone
    this.effortShown = false;
    this.mask = null;           // a Mask to be seen, and painted on while `painting`
    this.painting = false;
    this.x = this.y = this.width = 0;
    this.fitted = true;
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(look);
  }

  // ---- what is shown

  // `layer`: {image, width, height, part(box, width) → Promise of an ImageBitmap}
  show(before, after = null, { alpha = false, effort = null, keepView = false } = {}) {
    const layer = (it) => it && new Layer(it.image, it.width, it.height, it.part);
    this.before = layer(before);
    this.after = layer(after);
    this.effort = effort;       // {image, extent: [width, height] over the picture's}
    this.alpha = alpha;
    this.peek = false;
    this.divider.hidden = this.tagAfter.hidden = !after;
    if (keepView && !this.fitted) this.clamp(); else this.fit();
    this.moveCut(this.cut);
  }

  clear() { this.before = this.after = this.effort = null; this.divider.hidden = this.tagAfter.hidden = true; this.draw(); }

  get picture() { return this.after || this.before; }
  get scale() { return this.picture ? this.width * this.dpr / this.picture.width : 1; }  // screen pixels of one pixel
  get height() { return this.picture ? this.width * this.picture.height / this.picture.width : 0; }
  get dpr() { return window.devicePixelRatio || 1; }

  // ---- the view

  fit() {
    if (!this.picture) return this.draw();
    const box = this.look.getBoundingClientRect();
    const room = Math.min((box.width - 2 * MARGIN) / this.picture.width, (box.height - 2 * MARGIN) / this.picture.height);
    this.width = this.picture.width * Math.max(room, 1e-6);
    this.x = box.width / 2;
    this.y = box.height / 2;
    this.fitted = true;
    this.changed();
  }

  // Screen pixels for each of the picture's, around a place of the stage that stays where it is.
  zoomTo(scale, x = this.look.clientWidth / 2, y = this.look.clientHeight / 2) {
    if (!this.picture) return;
    const box = this.look.getBoundingClientRect();
    const least = 0.5 * Math.min(1, this.dpr * Math.min(box.width / this.picture.width, box.height / this.picture.height));
    const width = Math.min(CLOSEST, Math.max(least, scale)) * this.picture.width / this.dpr;
    const grown = width / this.width;
    this.x = x + (this.x - x) * grown;
    this.y = y + (this.y - y) * grown;
    this.width = width;
    this.fitted = false;
    this.clamp();
  }

  zoomBy(factor, x, y) { this.zoomTo(this.scale * factor, x, y); }

  pan(dx, dy) { this.x += dx; this.y += dy; this.fitted = false; this.clamp(); }

  // A picture that is smaller than the stage stays whole in it; of a larger one no edge comes inside.
  clamp() {
    const { clientWidth: w, clientHeight: h } = this.look;
    const held = (centre, size, room) => size <= room - 2 * MARGIN
      ? room / 2
      : Math.min(size / 2 + MARGIN, Math.max(room - size / 2 - MARGIN, centre));
    this.x = held(this.x, this.width, w);
    this.y = held(this.y, this.height, h);
    this.changed();
  }

  changed() {
    this.zoomed?.(this.scale);
    this.draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.sharpen(), PATIENCE);
  }

  moveCut(cut) {
    this.cut = Math.min(1, Math.max(0, cut));
    this.divider.style.left = `${this.cut * 100}%`;
    this.divider.setAttribute("aria-valuenow", Math.round(this.cut * 100));
    this.divider.setAttribute("aria-valuetext", `${Math.round(this.cut * 100)}% original`);
    this.draw();
  }

  togglePeek(on = !this.peek) {
    if (!this.after) return;
    this.peek = on;
    this.divider.hidden = this.tagAfter.hidden = on;
    this.draw();
  }

  showMask(mask, painting) {
    this.mask = mask;
    this.painting = painting;
    this.look.classList.toggle("painting", painting);
    this.draw();
  }

  // Paint between two places of the stage.
  brush(from, to, erase = false) {
    const share = ([x, y]) => [(x - this.x) / this.width + 0.5, (y - this.y) / this.height + 0.5];
    this.mask.stroke(share(from), share(to), 1 / this.width, erase);
    this.draw();
    this.painted?.();
  }

  showEffort(on) { this.effortShown = on; this.draw(); }

  // ---- drawing

  resize() {
    const { clientWidth: w, clientHeight: h } = this.look;
    if (!w || !h) return;
    this.canvas.width = Math.round(w * this.dpr);
    this.canvas.height = Math.round(h * this.dpr);
    if (this.fitted) this.fit(); else this.clamp();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const { context: c, canvas, dpr } = this;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.picture) return;
    c.setTransform(dpr, 0, 0, dpr, 0, 0);
    const rect = [this.x - this.width / 2, this.y - this.height / 2, this.width, this.height];
    if (this.alpha) this.paintChecks(rect);
    const stage = [this.look.clientWidth, this.look.clientHeight];
    const cut = this.after && !this.peek ? this.cut * stage[0] : stage[0];
    if (this.before) this.clipped(0, cut, stage[1], () => this.paintLayer(this.before, rect, true));
    if (this.after && !this.peek) this.clipped(cut, stage[0], stage[1], () => this.paintLayer(this.after, rect, this.scale < 2));
    if (this.mask && (this.painting || !this.after)) {
      c.globalAlpha = 0.5;
      c.imageSmoothingEnabled = true;
      c.drawImage(this.mask.tinted(getComputedStyle(document.documentElement).getPropertyValue("--brush")), ...rect);
      c.globalAlpha = 1;
    }
    if (this.effort && this.effortShown) {
      c.globalAlpha = 0.5;
      c.imageSmoothingEnabled = false;
      c.save();
      c.beginPath(); c.rect(...rect); c.clip();
      c.drawImage(this.effort.image, rect[0], rect[1], rect[2] * this.effort.extent[0], rect[3] * this.effort.extent[1]);
      c.restore();
      c.globalAlpha = 1;
    }
  }

  clipped(from, to, height, paint) {
    const c = this.context;
    c.save(); c.beginPath(); c.rect(from, 0, to - from, height); c.clip();
    paint();
    c.restore();
  }

  paintLayer(layer, rect, smooth) {
    const c = this.context;
    c.imageSmoothingEnabled = smooth;
    c.imageSmoothingQuality = "high";
    c.drawImage(layer.image, ...rect);
    if (!layer.detail) return;
    const { box: [x, y, w, h], image } = layer.detail;
    const kx = rect[2] / layer.width, ky = rect[3] / layer.height;
    const place = [rect[0] + x * kx, rect[1] + y * ky, w * kx, h * ky];
    if (this.alpha) {                 // what lies below would shine through
      c.clearRect(...place);
      c.save(); c.beginPath(); c.rect(...place); c.clip(); this.paintChecks(rect); c.restore();
      c.imageSmoothingEnabled = smooth;
    }
    c.drawImage(image, ...place);
  }

  paintChecks([x, y, w, h]) {
    const c = this.context, style = getComputedStyle(document.documentElement);
    const tile = new OffscreenCanvas(2 * CHECK, 2 * CHECK), t = tile.getContext("2d");
    t.fillStyle = style.getPropertyValue("--check-a"); t.fillRect(0, 0, 2 * CHECK, 2 * CHECK);
    t.fillStyle = style.getPropertyValue("--check-b"); t.fillRect(0, 0, CHECK, CHECK); t.fillRect(CHECK, CHECK, CHECK, CHECK);
    c.fillStyle = c.createPattern(tile, "repeat");
    c.fillRect(x, y, w, h);
  }

  // Fetch the visible part of what is coarser than the screen.
  async sharpen() {
    for (const layer of [this.before, this.after]) {
      if (!layer || !layer.part || !layer.coarse) continue;
      const perPixel = this.width * this.dpr / layer.width;
      if (perPixel <= 1.05 * layer.image.width / layer.width) { layer.detail = null; continue; }
      const kx = layer.width / this.width, ky = layer.height / this.height;
      const left = this.x - this.width / 2, top = this.y - this.height / 2;
      const x0 = Math.max(0, Math.floor(-left * kx)), y0 = Math.max(0, Math.floor(-top * ky));
      const x1 = Math.min(layer.width, Math.ceil((this.look.clientWidth - left) * kx));
      const y1 = Math.min(layer.height, Math.ceil((this.look.clientHeight - top) * ky));
      if (x1 <= x0 || y1 <= y0) continue;
      const box = [x0, y0, x1 - x0, y1 - y0], wanted = `${box}/${perPixel}`;
      if (layer.wanted === wanted) continue;
      layer.wanted = wanted;
      try {
        const image = await layer.part(box, Math.ceil(Math.min(1, perPixel) * box[2]));
        if (layer.wanted === wanted) { layer.detail = { box, image }; this.draw(); }
      } catch { layer.wanted = ""; }
    }
  }

  // ---- hands

  listen() {
    const { look, divider } = this;
    const place = (event) => {
      const box = look.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };

    look.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.pointers.set(event.pointerId, place(event));
      look.setPointerCapture(event.pointerId);
      if (this.painting && this.pointers.size === 1) this.brush(place(event), place(event), event.shiftKey);
    });
    look.addEventListener("pointermove", (event) => {
      const last = this.pointers.get(event.pointerId);
      if (!last) return;
      const now = place(event), before = [...this.pointers.values()];
      this.pointers.set(event.pointerId, now);
      const after = [...this.pointers.values()];
      if (after.length === 2) {
        const middle = (p) => [(p[0][0] + p[1][0]) / 2, (p[0][1] + p[1][1]) / 2];
        const apart = (p) => Math.hypot(p[0][0] - p[1][0], p[0][1] - p[1][1]);
        const [from, to] = [middle(before), middle(after)];
        this.pan(to[0] - from[0], to[1] - from[1]);
        this.zoomBy(apart(after) / Math.max(1, apart(before)), ...to);
      } else if (this.painting) {
        this.brush(last, now, event.shiftKey);
      } else {
        this.pan(now[0] - last[0], now[1] - last[1]);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      look.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    const wheel = (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 18 : 1;
      this.zoomBy(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016)), ...place(event));
    };
    look.addEventListener("wheel", wheel, { passive: false });
    divider.addEventListener("wheel", wheel, { passive: false });
    look.addEventListener("dblclick", (event) => { if (!this.painting) this.toggleWhole(...place(event)); });

    divider.addEventListener("pointerdown", (event) => { divider.setPointerCapture(event.pointerId); event.preventDefault(); divider.focus(); });
    divider.addEventListener("pointermove", (event) => {
      if (divider.hasPointerCapture(event.pointerId)) this.moveCut(place(event)[0] / look.clientWidth);
    });
    divider.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 }[event.key];
      if (step) this.moveCut(this.cut + step);
      else if (event.key === "Home") this.moveCut(0);
      else if (event.key === "End") this.moveCut(1);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    look.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const far = 60, keys = {
        "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25), "-": () => this.zoomBy(0.8),
        "0": () => this.fit(), "1": () => this.zoomTo(1), " ": () => this.togglePeek(),
        ArrowLeft: () => this.pan(far, 0), ArrowRight: () => this.pan(-far, 0),
        ArrowUp: () => this.pan(0, far), ArrowDown: () => this.pan(0, -far),
      };
      if (this.painting && event.key === "Enter") {
        const middle = [look.clientWidth / 2, look.clientHeight / 2];
        this.brush(middle, middle, event.shiftKey);
        event.preventDefault();
      }
      if (!keys[event.key]) return;
      keys[event.key]();
      event.preventDefault();
    });
  }

  // Pixel for pixel at a place, or back to the whole picture.
  toggleWhole(x, y) { if (Math.abs(this.scale - 1) < 0.01) this.fit(); else this.zoomTo(1, x, y); }
}
