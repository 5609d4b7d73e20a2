// Stream: sound, words and features as they come; at any moment the answer of what was heard. Windows
// are those of `runtime/stream/window.py`, which explains them.
import {InputError} from "./errors.js";
import {joined, RATE, zeros} from "./sound.js";

/** @typedef {"a" | "v" | "t"} Modality voice, face, words */
/** @typedef {import("./sound.js").Samples} Samples */
/** @typedef {import("./ifmmin.js").Frames} Frames */
/** @typedef {import("./ifmmin.js").Prediction} Prediction */
/** @typedef {import("./ifmmin.js").Recognizer} Recognizer */

/** @type {Modality[]} */
export const MODALITIES = ["a", "v", "t"];

let turn = Promise.resolve();
/** One call after the other: what was asked first is done first. @template T @param {() => T | Promise<T>} work */
export function inTurn(work) {
  const done = turn.then(work);
  turn = done.then(
    () => {},
    () => {},
  );
  return done;
}

export function nothingPresent(absent) {
  const reasons = Object.entries(absent)
    .map(([m, reason]) => `${m}: ${reason}`)
    .join("; ");
  return new InputError(
    `no modality is present (${reasons}); give at least one of a, v, t with a frame in it`,
  );
}

const HOPS = 4,
  CLOSE = 1e-6,
  ROUNDING = 4 * Number.EPSILON;

/** What one modality said in a stream: encoder states, one per start of a window. */
class Channel {
  /** @type {{begun: number, frames: number, early: Float32Array | null, states: any, pooled: any}[]} */
  encoders = [];
  dropped = false;
  why = "not given";
  frames = 0;
  hop = null;
  timed = null;
  newest = null;
}

/** A conversation as it goes on; made by `Recognizer.stream`. */
export class Stream {
  /** @param {Recognizer} recognizer @param {{window?: number | null, hop?: number}} options */
  constructor(recognizer, {window = null, hop = (window ?? 0) / HOPS}) {
    if (window !== null && !(window > 0 && Math.abs(window / hop - Math.round(window / hop)) < 1e-6))
      throw new InputError(`window: got ${window} seconds and hops of ${hop}, wanted a whole number of hops`);
    this.recognizer = recognizer;
    this.window = window;
    this.seconds = hop;
    this.count = window === null ? 1 : Math.round(window / hop);
    this.empty();
  }
  empty() {
    this.heard = 0;
    /** @type {number | null} */
    this.now = null;
    /** @type {import("./sound.js").Voice | null} */
    this.voice = null;
    this.channels = Object.fromEntries(
      Object.keys(this.recognizer.manifest.modalities).map((m) => [m, new Channel()]),
    );
  }
  /** The next samples. @param {Samples} samples @param {number} [rate] in Hz @param {number} [channels] */
  pushSound(samples, rate = RATE, channels = 1) {
    return inTurn(async () => {
      const fresh = this.voice ?? this.recognizer.voice();
      const found = await fresh.feed(samples, rate, channels);
      this.voice = fresh;
      this.heard += samples.length / channels / rate;
      if (found.length) await this.hear("a", found, this.heard);
      this.now = this.heard;
    });
  }
  /** The next frames of a modality. @param {Modality} modality @param {Frames} frames @param {number | null} [at] time of the newest, in seconds */
  push(modality, frames, at = null) {
    return inTurn(async () => {
      const found = this.recognizer.framesOf(modality, frames);
      if (at !== null && !Number.isFinite(at))
        throw new InputError(`time: got ${at}, wanted a finite number of seconds`);
      if (found.length) await this.hear(modality, found, at ?? this.now);
    });
  }
  /** What is said, in place of the text so far; null and an empty one clear it. @param {string | null} text */
  setText(text) {
    return inTurn(async () => {
      const found = text === null ? new Float32Array(0) : await this.recognizer.statesOf(text);
      this.forget("t", text === null ? "cleared" : "empty");
      if (found.length) await this.hear("t", found, this.now, true);
    });
  }
  /** Forget what a modality said. @param {Modality} modality */
  clear(modality) {
    return inTurn(() => this.forget(modality, "cleared"));
  }
  /** Leave a modality out, until `restore`; it goes on listening. @param {Modality} modality */
  drop(modality) {
    return inTurn(() => {
      this.channel(modality).dropped = true;
    });
  }
  /** @param {Modality} modality */
  restore(modality) {
    return inTurn(() => {
      this.channel(modality).dropped = false;
    });
  }
  /** Forget everything, as if the stream had just begun. */
  reset() {
    return inTurn(() => this.empty());
  }
  /** Frames per modality that an answer is of now. @returns {Promise<Record<string, number>>} */
  frames() {
    return inTurn(() =>
      Object.fromEntries(Object.entries(this.channels).map(([m, c]) => [m, this.answering(c)?.frames ?? 0])),
    );
  }
  /** The answer now. @returns {Promise<Prediction>} */
  predict() {
    return inTurn(async () => {
      const started = performance.now(),
        {recognizer} = this,
        absent = {},
        counting = [];
      for (const m of MODALITIES) {
        const channel = this.channels[m],
          encoder = channel && this.answering(channel);
        if (!channel) absent[m] = "not given";
        else if (channel.hop === null) absent[m] = channel.why;
        else if (channel.dropped) absent[m] = "dropped";
        else if (!encoder) absent[m] = "nothing in the window";
        else counting.push([m, encoder.pooled]);
      }
      if (!counting.length) throw nothingPresent(absent);
      const head = recognizer.entry("head", counting.map(([m]) => m).join("_")),
        inputs = {};
      for (const [m, pooled] of counting)
        [inputs[m]] = await recognizer.entry("summary", m).graph.run({pooled});
      const [logits] = await head.graph.run(inputs);
      return recognizer.prediction(head, logits.data, absent, started);
    });
  }
  channel(m) {
    if (this.channels[m]) return this.channels[m];
    throw new InputError(
      `this bundle knows no modality ${m}; it knows ${Object.keys(this.channels).join(", ")}`,
    );
  }
  forget(m, why) {
    Object.assign(this.channel(m), {encoders: [], why, frames: 0, hop: null, timed: null, newest: null});
  }
  /** @param {Modality} m @param {Float32Array} frames @param {number | null} at @param {boolean} [whole] all of one moment */
  async hear(m, frames, at, whole = false) {
    const channel = this.channel(m),
      {dim, frame_rate: rate} = this.recognizer.manifest.modalities[m],
      count = frames.length / dim;
    let hops = new Array(count).fill(0);
    if (at !== null && channel.newest !== null && at < channel.newest - ROUNDING * (at + channel.newest))
      throw new InputError(
        `modality ${m}: frames of ${at} s came after those of ${channel.newest} s; push in order of time`,
      );
    if (this.window !== null) {
      if (channel.timed !== null && channel.timed !== (at !== null))
        throw new InputError(`modality ${m}: give every push of a modality a time, or none`);
      if (at === null && !rate && !whole)
        throw new InputError(
          `modality ${m} has no frame rate, and a window needs times; push it with a time, or replace it with setText`,
        );
      if (whole) hops.fill(at === null ? 0 : this.hopAt(at));
      else
        hops = hops.map((_, n) =>
          at === null
            ? this.hopAt((channel.frames + n) / rate, 0)
            : this.hopAt(at - (rate ? (count - 1 - n) / rate : 0), at),
        );
      hops.forEach((hop, n) => {
        hops[n] = Math.max(hop, hops[n - 1] ?? channel.hop ?? hop);
      });
    }
    let encoders = channel.encoders;
    for (let start = 0, end; start < count; start = end) {
      for (end = start; hops[end] === hops[start]; end++);
      if (this.window !== null) encoders = encoders.filter(({begun}) => begun > hops[start] - this.count);
      if (!encoders.length || (this.window !== null && encoders.at(-1).begun !== hops[start]))
        encoders = [...encoders, {begun: hops[start], frames: 0, early: null, states: null, pooled: null}];
      const chunk = frames.subarray(start * dim, end * dim),
        moved = [];
      for (const encoder of encoders) moved.push(await this.advance(m, encoder, chunk));
      encoders = moved;
    }
    Object.assign(channel, {
      encoders,
      frames: channel.frames + count,
      hop: hops[count - 1],
      timed: at !== null,
      newest: at,
    });
    if (at !== null) this.now = Math.max(at, this.now ?? at);
  }
  /** An encoder state with new frames behind it; the old one is left as it is. */
  async advance(m, encoder, chunk) {
    const {dim, minimum_length: least} = this.recognizer.manifest.modalities[m],
      {graph, states, outputs} = this.recognizer.entry("step", m);
    let given = encoder.early ? joined(encoder.early, chunk) : chunk,
      early = null;
    if (!encoder.states && given.length < least * dim) {
      early = given.slice();
      given = joined(given, new Float32Array(least * dim - given.length));
    }
    const first = () =>
      Object.fromEntries(
        states.map(({name, initial, initial_shape: shape}) => {
          const blank = zeros(...shape.map((size) => (size === "B" ? 1 : size)));
          blank.data.fill(initial);
          return [name, blank];
        }),
      );
    const made = await graph.run({
      frames: {data: given, dims: [1, given.length / dim, dim]},
      ...(encoder.states ?? first()),
    });
    const byName = Object.fromEntries(outputs.map(({name}, index) => [name, made[index]]));
    const next = early ? null : Object.fromEntries(states.map(({name, output}) => [name, byName[output]]));
    return {
      begun: encoder.begun,
      frames: encoder.frames + chunk.length / dim,
      early,
      states: next,
      pooled: byName.pooled,
    };
  }
  hopAt(since, at = since) {
    return Math.floor((since + ROUNDING * Math.abs(at) + ROUNDING * Math.abs(since)) / this.seconds + CLOSE);
  }
  /** The oldest encoder state in the window. */
  answering(channel) {
    if (this.window === null) return channel.encoders[0];
    const hop = channel.timed && this.now !== null ? this.hopAt(this.now) : channel.hop;
    return channel.encoders.find(({begun}) => begun > hop - this.count);
  }
}
