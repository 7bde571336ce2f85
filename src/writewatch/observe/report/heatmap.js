/* The picture: a canvas with the mappings' names to the left and the time below. */
"use strict";

class Heatmap {
  constructor(canvas, trace, palettes) {
    this.canvas = canvas;
    this.trace = trace;
    this.palettes = palettes;
    this.byPages = false;
    this.whole = { t0: trace.edges[0], t1: trace.edges.at(-1), y0: 0, y1: 1 };
    this.view = { ...this.whole };
    this.cursor = null;
    this.weigh();
  }

  /** The height of each band, from 0 at the bottom to 1: by the square root of its pages, or by its pages. */
  weigh() {
    let below = 0;
    for (const band of this.trace.bands) {
      band.height = this.byPages ? band.n / this.trace.n : band.weight;
      band.below = below;
      below += band.height;
    }
  }

  /** @param y from 0 to 1. */
  bandAtHeight(y) {
    const bands = this.trace.bands;
    return bands[Trace.last(bands.length, i => bands[i].below, y)];
  }

  placeAt(y) {
    const band = this.bandAtHeight(y);
    const part = Math.min(1, Math.max(0, (y - band.below) / band.height));
    return Math.min(band.place + part * band.n, band.place + band.n - 1e-6);
  }

  heightOf(place) {
    const band = this.trace.bands[this.trace.bandAt(place)];
    return band.below + band.height * (place - band.place) / band.n;
  }

  resize() {
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const { clientWidth, clientHeight } = this.canvas;
    this.ratio = ratio;
    this.canvas.width = clientWidth * ratio;
    this.canvas.height = clientHeight * ratio;
    this.left = clientWidth < 640 ? 0 : 200;
    this.width = clientWidth - this.left;
    this.height = clientHeight - 26;
    this.draw();
  }

  timeOf(x) { return this.view.t0 + (x - this.left) / this.width * (this.view.t1 - this.view.t0); }
  levelOf(y) { return this.view.y1 - y / this.height * (this.view.y1 - this.view.y0); }
  xOf(time) { return this.left + (time - this.view.t0) / (this.view.t1 - this.view.t0) * this.width; }
  yOf(level) { return (this.view.y1 - level) / (this.view.y1 - this.view.y0) * this.height; }

  /** Show a part: kept inside the whole, and no smaller than a page and a thousandth of a column. */
  show(view) {
    const least = Math.min(...this.trace.bands.map(band => band.height / band.n)) * 4;
    this.view = { ...this.fitted(view.t0, view.t1, this.whole.t0, this.whole.t1, (this.whole.t1 - this.whole.t0) / 1e5, "t"),
                  ...this.fitted(view.y0, view.y1, 0, 1, least, "y") };
    this.draw();
    this.canvas.dispatchEvent(new CustomEvent("view"));
  }

  fitted(low, high, least, most, smallest, name) {
    const size = Math.min(most - least, Math.max(smallest, high - low));
    const start = Math.min(Math.max((low + high - size) / 2, least), most - size);
    return { [name + 0]: start, [name + 1]: start + size };
  }

  /** Zoom by a factor around a point of the canvas; an axis with factor 1 stays. */
  zoom(x, y, timeFactor, heightFactor) {
    const { t0, t1, y0, y1 } = this.view, time = this.timeOf(x), level = this.levelOf(y);
    this.show({ t0: time - (time - t0) * timeFactor, t1: time + (t1 - time) * timeFactor,
                y0: level - (level - y0) * heightFactor, y1: level + (y1 - level) * heightFactor });
  }

  /* ---- drawing ----------------------------------------------------------------------------- */

  draw() {
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    this.ink = style.getPropertyValue("--ink");
    this.soft = style.getPropertyValue("--soft");
    this.rule = style.getPropertyValue("--line");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const columns = Math.max(1, Math.round(this.width * this.ratio)), rows = Math.max(1, Math.round(this.height * this.ratio));
    context.putImageData(this.paint(columns, rows), Math.round(this.left * this.ratio), 0);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.font = `12px ${style.getPropertyValue("--sans")}`;
    this.drawBands(context);
    this.drawTimes(context);
    if (this.cursor) this.drawCursor(context, style.getPropertyValue("--cursor"));
  }

  paint(columns, rows) {
    const shares = this.shares(columns, rows), lut = this.lut(), image = new ImageData(columns, rows);
    const pixels = new Uint32Array(image.data.buffer), least = this.palettes.leastShare;
    const decades = -Math.log10(least), edges = this.edgeRows(rows), edge = this.packed(this.rgbOf(this.rule));
    for (let x = 0; x < columns; x++) {
      for (let row = 0; row < rows; row++) {
        const share = shares[x * rows + row];
        // However little was written, it is not the paper's colour.
        const level = share > 0 ? 1 + Math.round(Math.log10(Math.min(1, Math.max(least, share)) / least) / decades * 254) : 0;
        // A line between two mappings is drawn where nothing was written, never over a write.
        pixels[(rows - 1 - row) * columns + x] = level || !edges[row] ? lut[level] : edge;
      }
    }
    return image;
  }

  /** Which rows begin a band that is high enough to be told apart. */
  edgeRows(rows) {
    const { y0, y1 } = this.view, found = new Uint8Array(rows), scale = rows / (y1 - y0);
    for (const band of this.trace.bands) {
      const row = Math.round((band.below - y0) * scale);
      if (row > 0 && row < rows && band.height * scale > 4 * this.ratio) found[row] = 1;
    }
    return found;
  }

  packed(colour) {
    return (255 << 24 | Math.round(colour[2]) << 16 | Math.round(colour[1]) << 8 | Math.round(colour[0])) >>> 0;
  }

  /** A colour of the style sheet, #rrggbb. */
  rgbOf(text) { return [1, 3, 5].map(at => parseInt(text.trim().slice(at, at + 2), 16)); }

  /** The written share of each cell's pages, column by column from the lowest row. */
  shares(columns, rows) {
    const { t0, t1 } = this.view, trace = this.trace, found = new Float32Array(columns * rows), profile = new Float32Array(rows);
    const scale = columns / (t1 - t0);
    for (let c = trace.columnAt(t0); c < trace.counts.length && trace.edges[c] < t1; c++) {
      if (!this.profile(c, profile)) continue;
      const from = Math.max(0, (trace.edges[c] - t0) * scale), to = Math.min(columns, (trace.edges[c + 1] - t0) * scale);
      for (let x = Math.floor(from); x < to; x++) {
        const part = Math.min(to, x + 1) - Math.max(from, x), at = x * rows;
        for (let row = 0; row < rows; row++) found[at + row] += profile[row] * part;
      }
    }
    return found;
  }

  /** One column's shares; false when nothing in view was written. */
  profile(column, out) {
    const { y0, y1 } = this.view, trace = this.trace, rows = out.length, scale = rows / (y1 - y0);
    out.fill(0);
    const high = this.placeAt(y1), last = trace.first[column + 1];
    let i = trace.rangeAt(column, this.placeAt(y0));
    if (i >= last || trace.start[i] > high) return false;
    let b = trace.bandAt(trace.start[i]);
    for (; i < last && trace.start[i] <= high; i++) {
      while (b + 1 < trace.bands.length && trace.start[i] >= trace.bands[b + 1].place) b++;
      const band = trace.bands[b], slope = band.height / band.n, share = trace.fill[i];
      const from = Math.max(0, (band.below + (trace.start[i] - band.place) * slope - y0) * scale);
      const to = Math.min(rows, (band.below + (trace.end[i] - band.place) * slope - y0) * scale);
      if (to <= from) continue;
      const first = Math.floor(from), end = Math.min(rows - 1, Math.floor(to));
      if (first === end) { out[first] += (to - from) * share; continue; }
      out[first] += (first + 1 - from) * share;
      for (let row = first + 1; row < end; row++) out[row] += share;
      out[end] += (to - end) * share;
    }
    return true;
  }

  lut() {
    const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    const { ramp, paper } = this.palettes[dark ? "dark" : "light"], lut = new Uint32Array(256);
    lut[0] = this.packed(paper);
    for (let level = 1; level < 256; level++) {
      const at = (level - 1) / 254 * (ramp.length - 1), low = Math.min(ramp.length - 2, Math.floor(at)), part = at - low;
      lut[level] = this.packed([0, 1, 2].map(n => ramp[low][n] * (1 - part) + ramp[low + 1][n] * part));
    }
    return lut;
  }

  drawBands(context) {
    const labels = [];
    for (const band of this.trace.bands) {
      const top = Math.max(0, this.yOf(band.below + band.height)), bottom = Math.min(this.height, this.yOf(band.below));
      if (bottom <= 0 || top >= this.height) continue;
      labels.push({ band, middle: (top + bottom) / 2, size: bottom - top, top, bottom });
    }
    labels.sort((a, b) => b.size - a.size);
    const taken = [];
    for (const label of labels) {
      if (taken.some(at => Math.abs(at - label.middle) < 14)) continue;
      taken.push(label.middle);
      this.drawName(context, label);
      if (this.left && label.size > this.height * .7) this.drawAddresses(context, label, taken);
    }
  }

  lineAt(context, y, from, to) {
    context.beginPath();
    context.moveTo(from, y);
    context.lineTo(to, y);
    context.stroke();
  }

  drawName(context, { band, middle }) {
    const y = Math.min(this.height - 7, Math.max(8, middle));
    context.textBaseline = "middle";
    context.fillStyle = this.ink;
    if (this.left) {
      context.textAlign = "right";
      context.fillText(this.shortened(context, band.label, this.left - 12), this.left - 8, y);
    } else {
      context.textAlign = "left";
      context.lineWidth = 3;
      context.strokeStyle = getComputedStyle(this.canvas).getPropertyValue("--paper");
      const name = this.shortened(context, band.label, this.width * .6);
      context.strokeText(name, 6, y);
      context.fillText(name, 6, y);
    }
  }

  drawAddresses(context, { top, bottom }, taken) {
    context.fillStyle = this.soft;
    for (let at = 1; at < 10; at++) {
      const y = top + (bottom - top) * at / 10;
      if (taken.some(other => Math.abs(other - y) < 16)) continue;
      context.fillText(this.trace.address(this.placeAt(this.levelOf(y))), this.left - 8, y);
    }
  }

  shortened(context, text, width) {
    if (context.measureText(text).width <= width) return text;
    let kept = text.length;
    while (kept > 4 && context.measureText("…" + text.slice(-kept)).width > width) kept--;
    return "…" + text.slice(-kept);
  }

  drawTimes(context) {
    const { step, found } = ticks(this.view.t0, this.view.t1, Math.max(2, this.width / 110));
    context.fillStyle = this.soft;
    context.strokeStyle = this.soft;
    context.textBaseline = "top";
    for (const time of found) {
      const x = this.xOf(time), text = secondsText(time, step), half = context.measureText(text).width / 2;
      context.textAlign = x - half < this.left ? "left" : x + half > this.left + this.width ? "right" : "center";
      context.beginPath();
      context.moveTo(x, this.height);
      context.lineTo(x, this.height + 5);
      context.stroke();
      context.fillText(text, x, this.height + 9);
    }
    this.lineAt(context, this.height + .5, this.left, this.left + this.width);
  }

  drawCursor(context, colour) {
    const { x, y } = this.cursor;
    context.strokeStyle = colour;
    context.lineWidth = 1;
    this.lineAt(context, Math.round(y) + .5, this.left, this.left + this.width);
    context.beginPath();
    context.moveTo(Math.round(x) + .5, 0);
    context.lineTo(Math.round(x) + .5, this.height);
    context.stroke();
  }
}
