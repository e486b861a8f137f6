// The brush: a mask, painted white on a small clear canvas that is stretched over the picture. The work goes there first.

const SIDE = 512;           // pixels of the mask's longer side
const RADIUS = 24;          // CSS pixels of the brush, however near the picture is

export class Mask {
  constructor(width, height) {
    const k = Math.min(1, SIDE / Math.max(width, height));
    this.canvas = new OffscreenCanvas(Math.max(1, Math.round(width * k)), Math.max(1, Math.round(height * k)));
    this.context = this.canvas.getContext("2d");
    this.serial = 0;        // rises with every change
    this.empty = true;
  }

  // A stroke between two places of the picture, in shares of its width and height; `reach`: of a CSS pixel, in shares
  // of the width.
  stroke(from, to, reach, erase) {
    const c = this.context, { width: w, height: h } = this.canvas;
    c.globalCompositeOperation = erase ? "destination-out" : "source-over";
    c.strokeStyle = "#fff";
    c.lineCap = "round";
    c.lineWidth = Math.max(1, 2 * RADIUS * reach * w);
    c.beginPath();
    c.moveTo(from[0] * w, from[1] * h);
    c.lineTo(to[0] * w + 0.01, to[1] * h);
    c.stroke();
    this.serial++;
    this.empty &&= erase;
  }

  // In one colour, to lie over the picture.
  tinted(colour) {
    if (this.tintedOf !== this.serial + colour) {
      this.tint ||= new OffscreenCanvas(this.canvas.width, this.canvas.height);
      const t = this.tint.getContext("2d");
      t.globalCompositeOperation = "copy";
      t.drawImage(this.canvas, 0, 0);
      t.globalCompositeOperation = "source-in";
      t.fillStyle = colour;
      t.fillRect(0, 0, this.tint.width, this.tint.height);
      this.tintedOf = this.serial + colour;
    }
    return this.tint;
  }

  async file() { return new File([await this.canvas.convertToBlob()], "mask.png"); }
}
