/* What people do with the picture: point, drag, turn the wheel, press keys. */
"use strict";

class Page {
  constructor(heatmap) {
    this.heatmap = heatmap;
    this.trace = heatmap.trace;
    this.canvas = heatmap.canvas;
    this.tip = document.getElementById("tip");
    this.box = document.getElementById("box");
    this.listen();
    heatmap.resize();
    this.say();
  }

  listen() {
    const { canvas, heatmap } = this, on = (name, act) => document.getElementById(name).addEventListener("click", act);
    new ResizeObserver(() => heatmap.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => heatmap.draw());
    canvas.addEventListener("view", () => this.say());
    canvas.addEventListener("pointerdown", event => this.press(event));
    canvas.addEventListener("pointermove", event => this.move(event));
    canvas.addEventListener("pointerup", event => this.release(event));
    canvas.addEventListener("pointercancel", () => this.drop());
    canvas.addEventListener("pointerleave", () => { if (!this.from) this.hide(); });
    canvas.addEventListener("dblclick", event => heatmap.zoom(event.offsetX, event.offsetY, .5, .5));
    canvas.addEventListener("wheel", event => this.turn(event), { passive: false });
    canvas.addEventListener("keydown", event => this.key(event));
    canvas.addEventListener("blur", () => this.hide());
    on("in", () => this.step(.5));
    on("out", () => this.step(2));
    on("all", () => heatmap.show(heatmap.whole));
    on("size", event => this.toggleHeights(event.currentTarget));
    on("theme", () => this.toggleTheme());
    for (const button of document.querySelectorAll("button[data-band]"))
      button.addEventListener("click", () => this.showBand(Number(button.dataset.band)));
  }

  /* ---- pointer ------------------------------------------------------------------------------- */

  at(event) {
    const box = this.canvas.getBoundingClientRect(), { left, width, height } = this.heatmap;
    return { x: Math.min(left + width - .01, Math.max(left, event.clientX - box.left)),
             y: Math.min(height - .01, Math.max(0, event.clientY - box.top)) };
  }

  press(event) {
    if (event.button || event.pointerType === "touch") return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.from = { ...this.at(event), pans: event.shiftKey, view: { ...this.heatmap.view } };
  }

  move(event) {
    const now = this.at(event), { from, box } = this;
    if (!from) { this.point(now); return; }
    if (from.pans) { this.pan(from.view, now.x - from.x, now.y - from.y); return; }
    this.hide();
    box.hidden = false;
    const area = this.area(from, now);
    for (const side of ["left", "top", "width", "height"]) box.style[side] = `${area[side]}px`;
  }

  /** The box between two points. One that is flat or narrow stands for all addresses, or all of the time. */
  area(a, b) {
    const { left, width, height } = this.heatmap;
    const across = Math.abs(a.x - b.x) > 8, down = Math.abs(a.y - b.y) > 8;
    return { left: across ? Math.min(a.x, b.x) : left, width: across ? Math.abs(a.x - b.x) : width,
             top: down ? Math.min(a.y, b.y) : 0, height: down ? Math.abs(a.y - b.y) : height, any: across || down };
  }

  release(event) {
    const { from, heatmap } = this;
    this.drop();
    if (!from || from.pans) return;
    const area = this.area(from, this.at(event));
    if (area.any) heatmap.show({ t0: heatmap.timeOf(area.left), t1: heatmap.timeOf(area.left + area.width),
                                 y0: heatmap.levelOf(area.top + area.height), y1: heatmap.levelOf(area.top) });
    else this.point(this.at(event));
  }

  drop() { this.from = null; this.box.hidden = true; }

  pan(view, dx, dy) {
    const { width, height } = this.heatmap;
    const time = dx / width * (view.t1 - view.t0), level = dy / height * (view.y1 - view.y0);
    this.heatmap.show({ t0: view.t0 - time, t1: view.t1 - time, y0: view.y0 + level, y1: view.y1 + level });
  }

  turn(event) {
    // Until the picture was clicked the wheel scrolls the page, as everywhere else.
    if (document.activeElement !== this.canvas && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const { x, y } = this.at(event), factor = Math.exp(Math.sign(event.deltaY || event.deltaX) * .25);
    this.heatmap.zoom(x, y, event.altKey ? 1 : factor, event.shiftKey ? 1 : factor);
    this.point({ x, y });
  }

  /* ---- keys ---------------------------------------------------------------------------------- */

  key(event) {
    const { heatmap } = this, step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (step && event.shiftKey) this.pan(heatmap.view, -step[0] * heatmap.width / 4, -step[1] * heatmap.height / 4);
    else if (step) this.moveCursor(...step);
    else if (event.key === "+" || event.key === "=") this.step(.5);
    else if (event.key === "-" || event.key === "_") this.step(2);
    else if (event.key === "0" || event.key === "Home") heatmap.show(heatmap.whole);
    else if (event.key === "Escape") this.hide();
    else return;
    event.preventDefault();
  }

  /** The middle of the picture, unless there is a cursor. */
  middle() {
    const { left, width, height } = this.heatmap;
    return this.heatmap.cursor || { x: left + width / 2, y: height / 2 };
  }

  step(factor) {
    const { x, y } = this.middle();
    this.heatmap.zoom(x, y, factor, factor);
    if (this.heatmap.cursor) this.point(this.heatmap.cursor);
  }

  moveCursor(right, down) {
    const { left, width, height } = this.heatmap, { x, y } = this.middle();
    this.point({ x: Math.min(left + width - 1, Math.max(left, x + right * 8)), y: Math.min(height - 1, Math.max(0, y + down * 8)) });
  }

  /* ---- telling ------------------------------------------------------------------------------- */

  point(cursor) {
    const { heatmap, tip } = this;
    if (cursor.y >= heatmap.height || cursor.x < heatmap.left) { this.hide(); return; }
    heatmap.cursor = cursor;
    requestAnimationFrame(() => heatmap.draw());
    tip.replaceChildren(...this.words(cursor));
    tip.hidden = false;
    const right = cursor.x + 18 + tip.offsetWidth > this.canvas.clientWidth;
    tip.style.left = `${Math.max(0, right ? cursor.x - 18 - tip.offsetWidth : cursor.x + 18)}px`;
    tip.style.top = `${Math.min(cursor.y + 14, Math.max(0, heatmap.height - tip.offsetHeight))}px`;
  }

  hide() {
    this.tip.hidden = true;
    if (this.heatmap.cursor) { this.heatmap.cursor = null; this.heatmap.draw(); }
  }

  /** The cell under a point: its mapping, its pages, its time, and what was written. */
  words({ x, y }) {
    const { heatmap, trace } = this, pixel = 1 / heatmap.ratio;
    const row = Math.floor(y / pixel) * pixel, column = heatmap.left + Math.floor((x - heatmap.left) / pixel) * pixel;
    const low = heatmap.placeAt(heatmap.levelOf(row + pixel)), top = heatmap.placeAt(heatmap.levelOf(row));
    const band = trace.bands[trace.bandAt((low + top) / 2)];
    const from = Math.max(band.place, Math.floor(low + 1e-9)), to = Math.min(band.place + band.n, Math.max(from + 1, Math.ceil(top - 1e-9)));
    const first = trace.columnAt(heatmap.timeOf(column)), last = Math.max(first, trace.columnAt(heatmap.timeOf(column + pixel) - 1e-9));
    const line = (text, name = "") => Object.assign(document.createElement("span"), { textContent: text, className: name });
    const name = Object.assign(document.createElement("b"), { textContent: trace.nameOf(from) });
    const pages = to - from === 1 ? `page ${trace.address(from)}` : `${(to - from).toLocaleString("en")} pages from ${trace.address(from)}`;
    return [name, line(`${band.kind || "several kinds"} · ${band.process} (${band.pid})`, "soft"), line(pages, "mono"),
            line(this.timeText(first, last), "soft"), line(this.writtenText(first, last, from, to))];
  }

  timeText(first, last) {
    const { edges, rates } = this.trace, step = (edges[first + 1] - edges[first]) / 10;
    const rate = first === last ? ` · all mappings ${bytesText(rates[first])}/s` : "";
    return `${secondsText(edges[first], step)} to ${secondsText(edges[last + 1], step)}${rate}`;
  }

  writtenText(first, last, from, to) {
    let most = 0, exact = true, times = 0;
    for (let column = first; column <= last; column++) {
      const found = this.trace.written(column, from, to);
      most = Math.max(most, found.pages);
      exact = exact && found.exact;
      times += found.pages > 0;
    }
    if (!most) return "not written";
    const when = first === last ? "" : ` in ${times} of ${last - first + 1} columns`;
    if (to - from === 1) return exact ? `written${when}` : `perhaps written: about ${Math.max(1, Math.round(most * 100))} % of the pages around it were`;
    const count = Math.max(1, Math.round(most)).toLocaleString("en");
    return `${exact ? "" : "about "}${count} of ${(to - from).toLocaleString("en")} pages written${first === last ? "" : " at most"}${when}`;
  }

  say() {
    const { t0, t1, y0, y1 } = this.heatmap.view, { bands } = this.trace, step = (t1 - t0) / 100;
    const shown = bands.filter(band => band.below + band.height > y0 + 1e-12 && band.below < y1 - 1e-12);
    const where = shown.length === 1 ? shown[0].name : shown.length === bands.length ? "all addresses" : `${shown.length} of ${bands.length} bands`;
    document.getElementById("shown").textContent = `${secondsText(t0, step)} to ${secondsText(t1, step)}, ${where}`;
  }

  showBand(number) {
    const band = this.trace.bands[number], { t0, t1 } = this.heatmap.whole;
    this.heatmap.show({ t0, t1, y0: band.below, y1: band.below + band.height });
    this.canvas.scrollIntoView({ block: "center" });
    this.canvas.focus({ preventScroll: true });
  }

  toggleHeights(button) {
    const { heatmap } = this;
    heatmap.byPages = !heatmap.byPages;
    button.setAttribute("aria-pressed", String(heatmap.byPages));
    heatmap.weigh();
    heatmap.show(heatmap.whole);
  }

  toggleTheme() {
    const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    this.heatmap.draw();
  }
}

(async () => {
  const axes = JSON.parse(document.getElementById("axes").textContent);
  const bytes = await unpacked(document.getElementById("ranges").textContent.trim());
  document.documentElement.classList.add("script");
  window.page = new Page(new Heatmap(document.getElementById("map"), new Trace(axes, bytes), axes.palettes));
})();
