/* What the page holds: ranges of places in columns of time, and which address a place is. */
"use strict";

class Trace {
  /** @param axes what payload.py writes. @param bytes the packed ranges. */
  constructor(axes, bytes) {
    Object.assign(this, axes);
    let place = 0;
    for (const band of this.bands) {
      band.place = place;
      band.pieces = band.pieces.map(([start, n, name]) => {
        const piece = { start, name, place };
        place += n;
        return piece;
      });
      band.n = place - band.place;
    }
    this.n = place;
    this.first = [0];
    for (const count of this.counts) this.first.push(this.first.at(-1) + count);
    this.unpack(bytes, this.first.at(-1));
  }

  unpack(bytes, n) {
    let at = 0;
    const next = () => {
      let value = 0, unit = 1, byte;
      do { byte = bytes[at++]; value += (byte & 127) * unit; unit *= 128; } while (byte > 127);
      return value;
    };
    this.start = new Float64Array(n);
    this.end = new Float64Array(n);
    this.fill = new Float32Array(n);
    for (let i = 0; i < n; i++) this.start[i] = next();
    for (let i = 0; i < n; i++) this.end[i] = next();
    for (let i = 0; i < n; i++) this.fill[i] = next() / 255;
    for (let c = 0; c < this.counts.length; c++) {
      let before = 0;
      for (let i = this.first[c]; i < this.first[c + 1]; i++) {
        this.start[i] += before;
        before = this.end[i] += this.start[i];
      }
    }
  }

  /** The number of the last of ascending values that is not above another; 0 when all are. */
  static last(n, valueOf, value) {
    let low = 0, high = n - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (valueOf(middle) <= value) low = middle; else high = middle - 1;
    }
    return low;
  }

  bandAt(place) { return Trace.last(this.bands.length, i => this.bands[i].place, place); }

  columnAt(time) { return Trace.last(this.counts.length, i => this.edges[i], time); }

  /** The first range of a column that ends behind a place. */
  rangeAt(column, place) {
    let low = this.first[column], high = this.first[column + 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.end[middle] > place) high = middle; else low = middle + 1;
    }
    return low;
  }

  pieceAt(place) {
    const pieces = this.bands[this.bandAt(place)].pieces;
    return pieces[Trace.last(pieces.length, i => pieces[i].place, place)];
  }

  address(place) {
    const piece = this.pieceAt(place);
    return "0x" + (BigInt(piece.start + Math.floor(place) - piece.place) * BigInt(this.pageSize)).toString(16);
  }

  /** The mapping of a place; a band may stand for several small ones. */
  nameOf(place) { return this.pieceAt(place).name || this.bands[this.bandAt(place)].name; }

  /** Pages written in [from, to) in one column, and whether that is known to the page. */
  written(column, from, to) {
    let pages = 0, exact = true;
    for (let i = this.rangeAt(column, from); i < this.first[column + 1] && this.start[i] < to; i++) {
      pages += (Math.min(this.end[i], to) - Math.max(this.start[i], from)) * this.fill[i];
      exact = exact && this.fill[i] === 1;
    }
    return { pages, exact };
  }
}

/** The packed ranges: base64, then zlib. */
async function unpacked(text) {
  const packed = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* ---- words --------------------------------------------------------------------------------- */

function bytesText(value) {
  if (value < 1000) return `${Math.round(value)} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = -1;
  do { value /= 1024; unit++; } while (value >= 999.5 && unit < units.length - 1);
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** Seconds, with as many digits as tell apart what is `step` away. */
function secondsText(seconds, step) {
  const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(step))));
  if (seconds < 120) return `${seconds.toFixed(digits)} s`;
  const whole = Math.floor(seconds + 1e-9), rest = (seconds % 60).toFixed(digits);
  const minutes = Math.floor(whole / 60);
  const padded = rest.split(".")[0].length < 2 ? `0${rest}` : rest;
  if (minutes < 60) return `${minutes}:${padded} min`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${padded} h`;
}

/** Round numbers between two values, about `n` of them. */
function ticks(low, high, n) {
  const steps = [1e-6, 1e-5, 1e-4, 1e-3, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  const step = steps.find(one => (high - low) / one <= n) || (high - low) / n;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step);
  return { step, found };
}
