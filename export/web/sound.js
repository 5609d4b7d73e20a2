// Sound: samples in pieces -> one channel at 16 kHz, where someone speaks, and the features of ge2e.
// The same rules as `runtime/frontends/sound.py`, `speech.py` and `ge2e.py`, which explain them.
import {InputError} from "./errors.js";

/** @typedef {Float32Array | Int16Array} Samples from -1 to 1, or of 16 bits; (N, C) row by row */
/** @typedef {{data: any, dims: readonly number[]}} Array_ */
/** @typedef {{run: (given: Record<string, Array_>) => Promise<Array_[]>}} Runner a loaded graph */

/** @param {Float32Array[]} parts */
export function joined(...parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {number[]} dims */
export const zeros = (...dims) => ({data: new Float32Array(dims.reduce((a, b) => a * b, 1)), dims});
export const RATE = 16000;
const CROSSINGS = 16,
  ROLLOFF = 0.94,
  KAISER = 8,
  GROUP = 16,
  PHASES = 640;

/** The nearest fraction with a denominator of at most so much. @returns {[number, number]} */
function fraction(numerator, denominator, most) {
  let [p0, q0, p1, q1, n, d] = [0, 1, 1, 0, numerator, denominator];
  while (d) {
    const a = Math.floor(n / d),
      q2 = q0 + a * q1;
    if (q2 > most) {
      const k = Math.floor((most - q0) / q1),
        value = numerator / denominator;
      const far = [p0 + k * p1, q0 + k * q1];
      return Math.abs(p1 / q1 - value) <= Math.abs(far[0] / far[1] - value) ? [p1, q1] : [far[0], far[1]];
    }
    [p0, q0, p1, q1, n, d] = [p1, q1, p0 + a * p1, q2, d, n - a * d];
  }
  return [p1, q1];
}

/** Bessel's I0. */
function bessel(x) {
  let sum = 1,
    term = 1;
  for (let k = 1; term > 1e-17 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** A windowed sinc from a rate to 16 kHz, for blocks of outputs. */
function filterOf(rate) {
  const [down, up] = fraction(rate, RATE, PHASES),
    ratio = down / up,
    repeats = Math.ceil(GROUP / up);
  const narrow = Math.min(1, 1 / ratio),
    cutoff = narrow * ROLLOFF,
    reach = CROSSINGS / narrow,
    half = Math.ceil(reach);
  const taps = Array.from({length: up * repeats}, (_, output) => {
    const time = output * ratio + half,
      first = Math.ceil(time - reach);
    const kernel = Float64Array.from({length: Math.floor(time + reach) - first + 1}, (_, tap) => {
      const distance = first + tap - time,
        x = Math.PI * cutoff * distance;
      return (x ? Math.sin(x) / x : 1) * bessel(KAISER * Math.sqrt(Math.max(0, 1 - (distance / reach) ** 2)));
    });
    const sum = kernel.reduce((a, b) => a + b, 0);
    return {first, kernel: Float32Array.from(kernel, (value) => value / sum)};
  });
  const width = Math.floor((taps.length - 1) * ratio) + 2 * half + 1;
  return {up, down, taps, step: down * repeats, half, width};
}

/** Sound in pieces of one rate -> one channel at 16 kHz; a channel that was silent so far does not count. */
class Mono {
  rate = 0;
  channels = 1;
  taken = 0;
  given = 0;
  pending = new Float32Array(0);
  heard = new Uint8Array(0);
  /** @type {ReturnType<typeof filterOf> | null} */
  filter = null;
  /** @param {Samples} samples @param {number} rate @param {number} channels */
  feed(samples, rate, channels) {
    if (!this.rate) {
      if (!Number.isInteger(rate) || rate < 4000 || rate > 384000)
        throw new InputError(`sound: got a rate of ${rate}, wanted a whole number of Hz, 4000 to 384000`);
      if (!Number.isInteger(channels) || channels < 1 || channels > 64)
        throw new InputError(`sound: got ${channels} channels, wanted 1 to 64`);
      Object.assign(this, {
        rate,
        channels,
        heard: new Uint8Array(channels),
        filter: rate === RATE ? null : filterOf(rate),
      });
      this.pending = new Float32Array(this.filter?.half ?? 0);
    }
    if (rate !== this.rate || channels !== this.channels)
      throw new InputError(
        `sound: got ${channels} channels at ${rate} Hz, wanted pieces as the first: ${this.channels} at ${this.rate} Hz`,
      );
    const values = this.averaged(checked(samples, channels));
    this.taken += values.length;
    return this.resampled(values, Infinity);
  }
  end() {
    if (!this.filter) return new Float32Array(0);
    const {up, down, width, step} = this.filter;
    return this.resampled(new Float32Array(width + step), Math.ceil((this.taken * up) / down) - this.given);
  }
  averaged({samples, scale}) {
    const values = new Float32Array(samples.length / this.channels);
    let at = 0;
    for (let index = 0; index < values.length; index++) {
      let sum = 0,
        count = 0;
      for (let channel = 0; channel < this.channels; channel++, at++) {
        if (this.channels === 1 || (this.heard[channel] ||= +(samples[at] !== 0))) {
          sum += samples[at];
          count++;
        }
      }
      values[index] = count ? (sum * scale) / count : 0;
    }
    return values;
  }
  resampled(values, wanted) {
    if (!this.filter) {
      this.given += values.length;
      return values;
    }
    const {taps, step, width} = this.filter,
      source = joined(this.pending, values);
    const blocks = Math.max(0, Math.floor((source.length - width) / step) + 1);
    const made = new Float32Array(Math.min(wanted, blocks * taps.length));
    for (let index = 0; index < made.length; index++) {
      const {first, kernel} = taps[index % taps.length],
        start = Math.floor(index / taps.length) * step + first;
      let sum = 0;
      for (let tap = 0; tap < kernel.length; tap++) sum += source[start + tap] * kernel[tap];
      made[index] = sum;
    }
    this.pending = source.slice(blocks * step);
    this.given += made.length;
    return made;
  }
}

/** @param {Samples} samples @param {number} channels */
function checked(samples, channels) {
  const whole = samples instanceof Int16Array;
  if (!whole && !(samples instanceof Float32Array))
    throw new InputError("sound: wanted samples as a Float32Array or an Int16Array");
  if (samples.length % channels)
    throw new InputError(`sound: got ${samples.length} samples, wanted a multiple of ${channels} channels`);
  // Of a NaN the comparison does not hold.
  if (!whole && !samples.every((sample) => Math.abs(sample) <= 64))
    throw new InputError("sound: wanted finite samples from -1 to 1, or 16 bits in an Int16Array");
  return {samples, scale: whole ? 1 / 32768 : 1};
}

const HOP = 512,
  CONTEXT = 64,
  AT_ONCE = 64,
  MEMORY = 375,
  FRAME = 400,
  STEP = 160,
  TEN = 10,
  MANY = 4,
  UNITS = 256;

/** @typedef {{first: number, last: number, power: number}} Stretch frames that are kept, and the power of speech there */

/** Chooses the frames of speech as its hops become known, and follows its power. */
class Gate {
  hops = 0;
  until = -1;
  next = 0;
  speech = 0;
  power = 0;
  /** @type {[number, number][]} */
  held = [];
  constructor(margin, settle) {
    this.margin = margin;
    this.settle = settle;
  }
  /** The stretches that hops decide. @param {boolean[]} found @param {number[]} powers @returns {Stretch[]} */
  feed(found, powers, last) {
    const made = [];
    found.forEach((speech, place) => {
      if (!speech) return;
      const start = (this.hops + place) * HOP - this.margin;
      this.until = start + HOP + 2 * this.margin;
      const end = this.frame(this.until);
      this.held.push([Math.max(this.next, this.frame(start)), end]);
      this.next = end;
      this.speech++;
      this.power += (powers[place] - this.power) / Math.min(this.speech, MEMORY);
      if (this.speech >= this.settle) made.push(...this.release());
    });
    this.hops += found.length;
    if (last) made.push(...this.release());
    return made;
  }
  release() {
    return this.held.splice(0).map(([first, last]) => ({first, last, power: this.power}));
  }
  oldest() {
    return this.held[0]?.[0] ?? Math.max(this.next, this.frame(this.hops * HOP - this.margin));
  }
  frame(sample) {
    return Math.max(0, Math.ceil((sample - FRAME / 2) / STEP));
  }
}

/** The front-end ge2e: sound in pieces -> features, 10 a second of speech. */
export class Voice {
  /** @param {any} rules @param {Runner} encoder @param {Runner} detector */
  constructor(rules, encoder, detector) {
    this.rules = rules;
    this.encoder = encoder;
    this.detector = detector;
    this.mono = new Mono();
    this.gate = new Gate(Math.round(rules.margin * RATE), rules.level_hops);
    /** Of the detector. @type {{context: Float32Array, h: Array_, c: Array_}} */
    this.memory = {context: new Float32Array(CONTEXT), h: zeros(1, 1, 128), c: zeros(1, 1, 128)};
    this.samples = new Float32Array(0);
    this.offset = 0; // of the first sample kept, in all
    /** Chosen, but not all of their samples are there. @type {Stretch[]} */
    this.kept = [];
    /** Fewer than ten that wait for others, levelled. @type {Float32Array[]} */
    this.frames = [];
    this.done = 0; // frames that the encoder has taken of this chunk
    /** Of the encoder. @type {Record<string, Array_>} */
    this.state = {};
  }
  /** Frames that a piece completes, row by row. @param {Samples} samples @returns {Promise<Float32Array>} */
  async feed(samples, rate, channels, last = false) {
    const heard = [this.mono.feed(samples, rate, channels)];
    if (last) heard.push(this.mono.end());
    this.samples = joined(this.samples, ...heard);
    const end = this.offset + this.samples.length;
    if (last) this.samples = joined(this.samples, new Float32Array((HOP - (end % HOP)) % HOP));
    const from = this.gate.hops * HOP - this.offset,
      count = Math.floor((this.samples.length - from) / HOP);
    if (!count && !last) return new Float32Array(0);
    const hops = Array.from({length: count}, (_, hop) =>
      this.samples.subarray(from + hop * HOP, from + (hop + 1) * HOP),
    );
    const powers = hops.map((hop) => hop.reduce((sum, sample) => sum + sample * sample, 0) / HOP);
    this.kept.push(...this.gate.feed(await this.detect(hops), powers, last));
    this.cut(Math.max(0, Math.floor((end - FRAME) / STEP) + 1));
    const features = await this.encode();
    const oldest = Math.min(this.gate.oldest(), ...this.kept.map(({first}) => first)) * STEP;
    const used = Math.min(oldest, this.gate.hops * HOP) - this.offset;
    if (used > 0) {
      this.samples = this.samples.slice(used);
      this.offset += used;
    }
    return features;
  }
  async detect(hops) {
    const found = [];
    for (let at = 0; at < hops.length; at += AT_ONCE) {
      const part = hops.slice(at, at + AT_ONCE),
        {context, h, c} = this.memory;
      const before = [context, ...part.map((hop) => hop.slice(-CONTEXT))];
      const data = joined(...part.flatMap((hop, index) => [before[index], hop]));
      const [shares, nextH, nextC] = await this.detector.run({
        hops: {data, dims: [part.length, CONTEXT + HOP]},
        h,
        c,
      });
      this.memory = {context: before[part.length], h: nextH, c: nextC};
      found.push(...Array.from(shares.data, (share) => share > this.rules.threshold));
    }
    return found;
  }
  /** Take the frames that were chosen and whose samples are all there, brought to one level. */
  cut(complete) {
    const level = 10 ** (this.rules.level / 20);
    for (const {first, last, power} of this.kept) {
      const gain = Math.fround(level / Math.sqrt(Math.max(power, 1e-12)));
      for (let frame = first; frame < Math.min(last, complete); frame++) {
        const at = frame * STEP - this.offset;
        this.frames.push(this.samples.slice(at, at + FRAME).map((sample) => sample * gain));
      }
    }
    this.kept = this.kept
      .filter(({last}) => last > complete)
      .map((s) => ({...s, first: Math.max(s.first, complete)}));
  }
  async encode() {
    const {chunk, layers} = this.rules,
      made = [];
    while (this.frames.length >= TEN) {
      const ready = this.frames.length - (this.frames.length % TEN),
        left = this.done ? chunk - this.done : chunk;
      // Chunks know nothing of each other: many whole ones go together.
      const rows = this.done ? 1 : Math.max(1, Math.min(MANY, Math.floor(ready / chunk))),
        size = Math.min(ready, left);
      const blank = () => zeros(Math.max(...layers), rows, UNITS);
      const states = this.done ? this.state : {h: blank(), c: blank()};
      const frames = {data: joined(...this.frames.splice(0, rows * size)), dims: [rows, size, FRAME]};
      const [features, h, c] = await this.encoder.run({frames, ...states});
      made.push(features.data);
      this.done = (this.done + size) % chunk;
      this.state = {h, c};
    }
    return joined(...made);
  }
}
