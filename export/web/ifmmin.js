// Emotion from voice, face and words in a browser, with a folder of `ifmmin-bundle web`: the graphs
// of a bundle in ONNX Runtime Web, and its front-ends. Nothing is sent anywhere.
//
//   import {open} from "./ifmmin.js";
//   const recognizer = await open();
//   const answer = await recognizer.recognize({sound: samples, rate: 48000, text: "How dare you"});
//
// Numbers are those of `ifmmin.runtime`: Recognizer, RecognizerStream, Prediction.to_dict().

/** @typedef {import("./stream.js").Modality} Modality */
/** @typedef {import("./sound.js").Samples} Samples */
/** @typedef {import("./sound.js").Array_} Array_ */
/** @typedef {Float32Array | number[][]} Frames (T, D): row by row, or rows */
/**
 * @typedef {object} Prediction
 * @property {string} pattern what was used, such as `a_t`
 * @property {string} label the class with the largest probability
 * @property {Record<string, number>} probabilities
 * @property {number[]} logits in the order of the bundle's labels
 * @property {string} backend
 * @property {string} requested
 * @property {string} precision
 * @property {Record<string, number>} placement
 * @property {number} seconds of front-ends and network
 * @property {Record<string, string>} absent why the other modalities were not used
 * @property {Record<string, number>} dropped_frames
 */
/**
 * @typedef {object} Given what is to be recognised
 * @property {Samples} [sound]
 * @property {number} [rate] of the sound, in Hz
 * @property {number} [channels] of the sound
 * @property {string} [text] what is said
 * @property {Partial<Record<Modality, Frames>>} [features] of other extractors
 * @property {string} [pattern] use these modalities only
 */

import {BundleError, InputError, UnavailableError} from "./errors.js";
import {joined, RATE, Voice} from "./sound.js";
import {inTurn, MODALITIES, nothingPresent, Stream} from "./stream.js";
import {WordPiece} from "./words.js";

export {BundleError, InputError, Stream, UnavailableError};

const SCHEMA = 4;
const WORD = {a: "voice", v: "face", t: "words"};
const HOME = new URL("./", import.meta.url);
const CODE = ["ifmmin.js", "errors.js", "sound.js", "stream.js", "words.js"];

/** @param {string} url */
async function fetched(url) {
  const answer = await fetch(url).catch(() => null);
  if (!answer?.ok) throw new BundleError(`${url} cannot be read (${answer?.status ?? "no network"})`);
  return answer.arrayBuffer();
}

/** The files of a folder: none is used that is not byte for byte what `files.json` lists. */
class Files {
  /** @param {URL} place @param {(url: string) => Promise<ArrayBuffer>} fetch @param {Record<string, string>} listed */
  constructor(place, fetch, listed) {
    this.place = place;
    this.fetch = fetch;
    this.listed = listed;
  }
  /** @param {URL} place @param {(url: string) => Promise<ArrayBuffer>} fetch */
  static async open(place, fetch) {
    if (!globalThis.crypto?.subtle) {
      throw new UnavailableError(
        "Open this page by https, or at localhost: only there a browser can check files.",
      );
    }
    const files = new Files(
      place,
      fetch,
      jsonOf("files.json", await fetch(new URL("files.json", place).href)),
    );
    await Promise.all(CODE.map((name) => files.read(name)));
    return files;
  }
  /** @param {string} name @returns {Promise<ArrayBuffer>} */
  async read(name) {
    const wanted = this.listed[name];
    if (!wanted) throw new BundleError(`${name} is not in files.json; build the folder again`);
    const content = await this.fetch(new URL(name, this.place).href);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== wanted) {
      throw new BundleError(
        `${name} is damaged: its sha256 is not that of files.json; copy or build the folder again`,
      );
    }
    return content;
  }
}

/** @param {string} name @param {ArrayBuffer} content */
function jsonOf(name, content) {
  try {
    return JSON.parse(new TextDecoder("utf-8", {fatal: true}).decode(content));
  } catch (error) {
    throw new BundleError(`${name} is damaged (${error.message}); copy or build the folder again`);
  }
}

// A function that makes a vector of zeros: what browsers without SIMD refuse.
const SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
];
/** @type {any} */
let ort = null;

/** @param {Files} files */
async function startRuntime(files) {
  if (!globalThis.WebAssembly?.validate(new Uint8Array(SIMD))) {
    throw new UnavailableError(
      "This browser has no WebAssembly with SIMD: take Chrome 91, Firefox 89, Safari 16.4 or a later one.",
    );
  }
  const code = "onnxruntime/ort.wasm.bundle.min.js",
    wasm = "onnxruntime/ort-wasm-simd-threaded.wasm";
  const [, binary] = await Promise.all([files.read(code), files.read(wasm)]);
  ort ??= await import(new URL(code, files.place).href);
  Object.assign(ort.env.wasm, {numThreads: 1, wasmBinary: binary});
}

/** A graph, loaded at its first use. */
class Graph {
  /** @type {Promise<any> | undefined} */
  session;
  /** @param {Files} files @param {string} name */
  constructor(files, name) {
    this.files = files;
    this.name = name;
  }
  load() {
    return (this.session ??= this.open());
  }
  async open() {
    const content = new Uint8Array(await this.files.read(`bundle/${this.name}`));
    try {
      return await ort.InferenceSession.create(content, {executionProviders: ["wasm"], logSeverityLevel: 3});
    } catch (error) {
      throw new BundleError(`${this.name} is no graph that ONNX Runtime Web can run (${error.message})`);
    }
  }
  /** Outputs in order, of float32 inputs by name. @param {Record<string, Array_>} given @returns {Promise<Array_[]>} */
  async run(given) {
    const session = await this.load(),
      inputs = {};
    for (const [name, {data, dims}] of Object.entries(given)) {
      inputs[name] = new ort.Tensor(data instanceof BigInt64Array ? "int64" : "float32", data, dims);
    }
    const outputs = await session.run(inputs);
    return session.outputNames.map((name) => outputs[name]);
  }
}

/** Recognises emotion in sound, sentences and features of other extractors. */
export class Recognizer {
  /** @param {Files} files @param {any} manifest */
  constructor(files, manifest) {
    this.files = files;
    this.manifest = manifest;
    /** The classes, in the order of logits. @type {string[]} */
    this.labels = manifest.labels;
    /** @type {Map<string, any>} */
    this.graphs = new Map();
    for (const entry of manifest.graphs) {
      this.graphs.set(`${entry.shape} ${entry.subject}`, {...entry, graph: new Graph(files, entry.file)});
    }
    /** Encoder and detector of the front-end for sound. @type {Graph[] | null} */
    this.hearing = null;
    /** @type {{pieces: WordPiece, graph: Graph} | null} */
    this.reading = null;
  }
  /**
   * @param {string | URL} [place] of the folder that `ifmmin-bundle web` wrote; default: that of this module
   * @param {{read?: (url: string) => Promise<ArrayBuffer>}} [options] read: how files are had; default: by fetch
   */
  static async open(place = HOME, {read = fetched} = {}) {
    const files = await Files.open(new URL(place, HOME), read);
    const manifest = jsonOf("bundle/manifest.json", await files.read("bundle/manifest.json"));
    if (manifest.schema !== SCHEMA) {
      const which = manifest.schema > SCHEMA ? "a newer" : "another";
      throw new BundleError(
        `the bundle is of ${which} version of ifmmin (schema ${manifest.schema}, wanted ${SCHEMA}); build the folder again with one version`,
      );
    }
    await startRuntime(files);
    return new Recognizer(files, manifest);
  }
  /** What it is, as plain data: labels, modalities, patterns, licence. */
  describe() {
    const subjects = (shape) =>
      this.manifest.graphs.filter((entry) => entry.shape === shape).map((entry) => entry.subject);
    const modalities = Object.entries(this.manifest.modalities).map(([m, {dim, frontend}]) => {
      const files = Object.values(frontend?.files ?? {});
      return [
        m,
        {
          name: WORD[m],
          dim,
          frontend: frontend?.kind ?? null,
          bytes: files.reduce((sum, file) => sum + file.bytes, 0),
        },
      ];
    });
    return {
      labels: this.labels,
      modalities: Object.fromEntries(modalities),
      patterns: subjects("latency"),
      stream_patterns: subjects("head"),
      licence: this.manifest.licence,
    };
  }
  /** The emotion of one utterance. @param {Given} given @returns {Promise<Prediction>} */
  recognize(given) {
    return inTurn(async () => {
      const started = performance.now(),
        {sound, rate = RATE, channels = 1, text, features = {}, pattern} = given;
      const found = {},
        absent = {};
      for (const m of Object.keys(features))
        if (features[m] != null) found[m] = this.framesOf(m, features[m]);
      if (sound != null) found.a = await this.voice().feed(sound, rate, channels, true);
      if (text != null) found.t = await this.statesOf(text);
      const nothing = {
        a: sound == null ? "empty" : "no speech was found in it",
        v: "empty",
        t: text == null ? "empty" : "no words are in it",
      };
      const wanted = pattern?.split("_");
      for (const m of MODALITIES) {
        if (wanted && m in found && !wanted.includes(m)) absent[m] = `left out by pattern ${pattern}`;
        else if (!found[m]?.length) absent[m] = m in found ? nothing[m] : "not given";
      }
      /** @type {string[]} */
      const used = MODALITIES.filter((m) => !(m in absent)),
        missing = wanted?.find((m) => !used.includes(m));
      if (missing)
        throw new InputError(
          `pattern ${pattern} needs modality ${missing}, which is missing (${absent[missing] ?? "not given"})`,
        );
      if (!used.length) throw nothingPresent(absent);
      const entry = this.entry("latency", used.join("_")),
        inputs = {};
      for (const m of used) {
        const {dim, minimum_length: least} = this.manifest.modalities[m],
          length = Math.max(least, found[m].length / dim);
        inputs[m] = {
          data: joined(found[m], new Float32Array(length * dim - found[m].length)),
          dims: [length, dim],
        };
      }
      const [logits] = await entry.graph.run(inputs);
      return this.prediction(entry, logits.data, absent, started);
    });
  }
  /** Sound, words and features as they come. @param {{window?: number | null, hop?: number}} [options] seconds that an answer looks back; null: all */
  stream(options = {}) {
    return new Stream(this, options);
  }
  /** Have the graphs of a stream of these modalities ready. @param {Modality[]} modalities */
  preload(modalities) {
    return inTurn(async () => {
      for (const m of modalities) {
        if (m === "a") {
          this.voice();
          for (const graph of this.hearing) await graph.load();
        }
        for (const shape of ["step", "summary"]) await this.entry(shape, m).graph.load();
      }
    });
  }
  /** @param {string} shape @param {string} subject */
  entry(shape, subject) {
    const found = this.graphs.get(`${shape} ${subject}`);
    if (found) return found;
    const known = [...this.graphs.values()]
      .filter((entry) => entry.shape === shape)
      .map((entry) => entry.subject);
    throw new BundleError(
      `the folder has no ${shape} graph of ${subject}; it has ${known.join(", ") || "none"}; build it anew with ifmmin-bundle web`,
    );
  }
  /** A modality's frames, row by row; empty where all are NaN. @param {string} m @param {Frames} given @returns {Float32Array} */
  framesOf(m, given) {
    const spec = this.manifest.modalities[m];
    if (!spec)
      throw new InputError(
        `this bundle knows no modality ${m}; it knows ${Object.keys(this.manifest.modalities).join(", ")}`,
      );
    const rows = given instanceof Float32Array ? null : Array.from(given);
    if (rows?.some((row) => row?.length !== spec.dim))
      throw new InputError(
        `modality ${m} (${WORD[m]}): wanted frames of ${spec.dim} numbers: ${spec.features}`,
      );
    const frames = rows
      ? Float32Array.from(rows.flatMap((row) => Array.from(row)))
      : /** @type {Float32Array} */ (given);
    if (frames.length % spec.dim)
      throw new InputError(
        `modality ${m} (${WORD[m]}): got ${frames.length} numbers, wanted frames of ${spec.dim}: ${spec.features}`,
      );
    if (frames.every(Number.isNaN)) return new Float32Array(0);
    const wrong = frames.findIndex((value) => !Number.isFinite(value));
    if (wrong >= 0)
      throw new InputError(
        `modality ${m} (${WORD[m]}): ${frames[wrong]} at frame ${Math.floor(wrong / spec.dim)}, column ${wrong % spec.dim}; features must be finite in float32`,
      );
    return frames;
  }
  frontend(m, kinds, what) {
    const spec = this.manifest.modalities[m]?.frontend;
    if (!spec) throw new BundleError(`this folder takes no ${what}: it has no front-end for it`);
    if (!kinds.includes(spec.kind) || spec.version !== 1)
      throw new BundleError(
        `the front-end ${spec.kind} ${spec.version} does not run in a browser; give features`,
      );
    return spec;
  }
  /** A front-end for sound that has heard nothing yet. */
  voice() {
    const {settings, files} = this.frontend("a", ["ge2e"], "sound");
    this.hearing ??= ["graph", "detector"].map((role) => new Graph(this.files, files[role].file));
    return new Voice(settings, this.hearing[0], this.hearing[1]);
  }
  /** States (T, D) of the pieces of a text, row by row; empty for a text of no words. @param {string} text */
  async statesOf(text) {
    const {settings, files} = this.frontend("t", ["minilm", "bert"], "words");
    if (typeof text !== "string" || /\p{Cs}/u.test(text)) throw new InputError("words: wanted text");
    if (!this.reading) {
      const vocabulary = new TextDecoder().decode(await this.files.read(`bundle/${files.vocabulary.file}`));
      this.reading = {
        pieces: new WordPiece(vocabulary, settings.lower_case),
        graph: new Graph(this.files, files.graph.file),
      };
    }
    const numbers = this.reading.pieces.encode(text, settings.longest);
    if (numbers.length <= 2) return new Float32Array(0);
    const [states] = await this.reading.graph.run({
      ids: {data: BigInt64Array.from(numbers, BigInt), dims: [numbers.length]},
    });
    return states.data;
  }
  /** @returns {Prediction} */
  prediction(entry, logits, absent, started) {
    const values = Array.from(logits, Number),
      top = Math.max(...values),
      powers = values.map((value) => Math.exp(value - top));
    const total = powers.reduce((a, b) => a + b, 0);
    if (!(total > 0))
      throw new InputError(
        "the answer is not a number: the features are finite, but too large; see that they are of the scale that the network was trained on",
      );
    return {
      pattern: entry.subject,
      label: this.labels[values.indexOf(top)],
      probabilities: Object.fromEntries(this.labels.map((label, index) => [label, powers[index] / total])),
      logits: values.map((value) => (Number.isFinite(value) ? value : null)),
      backend: "onnxruntime-web",
      requested: "onnxruntime-web",
      precision: entry.precision,
      placement: {},
      seconds: (performance.now() - started) / 1000,
      absent,
      dropped_frames: {},
    };
  }
}

const STREAM = ["pushSound", "push", "setText", "clear", "drop", "restore", "reset", "frames", "predict"];

/** @typedef {"pushSound" | "push" | "setText" | "clear" | "drop" | "restore" | "reset" | "frames" | "predict"} Method */
/** @typedef {Pick<Stream, Method> & {close: () => Promise<void>}} RemoteStream */

/**
 * A recognizer in a Worker: the same, but everything is a promise, and the page never waits.
 * @param {string | URL} [place] as of `Recognizer.open`
 */
export async function open(place = HOME) {
  const worker = new Worker(import.meta.url, {type: "module", name: "ifmmin"}),
    waiting = new Map(),
    kinds = {InputError, BundleError, UnavailableError};
  let last = 0;
  const settle = (number, what, value) => {
    waiting.get(number)?.[what](value);
    waiting.delete(number);
  };
  worker.onmessage = ({data: {number, result, error}}) => {
    if (error) settle(number, "refuse", new (kinds[error.name] ?? Error)(error.message));
    else settle(number, "answer", result);
  };
  worker.onerror = ({message}) => {
    for (const number of [...waiting.keys()])
      settle(
        number,
        "refuse",
        new BundleError(`ifmmin.js cannot be started (${message ?? "it cannot be read"})`),
      );
  };
  const ask = (target, name, given) =>
    new Promise((answer, refuse) => {
      waiting.set(++last, {answer, refuse});
      worker.postMessage({number: last, target, name, given});
    });
  const about = await ask(0, "open", [new URL(place, HOME).href]).catch((error) => {
    worker.terminate();
    throw error;
  });
  return {
    ...about,
    /** @param {Given} given @returns {Promise<Prediction>} */
    recognize: (given) => ask(0, "recognize", [given]),
    /** @param {Modality[]} modalities */
    preload: (modalities) => ask(0, "preload", [modalities]),
    /** @param {{window?: number | null, hop?: number}} [options] @returns {Promise<RemoteStream>} */
    stream: async (options = {}) => {
      const target = await ask(0, "stream", [options]);
      const methods = STREAM.map((name) => [name, (...given) => ask(target, name, given)]);
      return /** @type {any} */ ({...Object.fromEntries(methods), close: () => ask(0, "close", [target])});
    },
    /** Ends the Worker, and with it all streams. */
    close: () => worker.terminate(),
  };
}

if ("WorkerGlobalScope" in globalThis && self.name === "ifmmin") {
  /** @type {any[]} */
  const targets = [];
  const work = async (target, name, given) => {
    if (name === "open") {
      targets[0] = await Recognizer.open(...given);
      return targets[0].describe();
    }
    if (name === "stream") return targets.push(targets[0].stream(...given)) - 1;
    if (name === "close") {
      delete targets[given[0]];
      return null;
    }
    return targets[target][name](...given);
  };
  self.onmessage = ({data: {number, target, name, given}}) => {
    work(target, name, given).then(
      (result) => postMessage({number, result}),
      (error) => postMessage({number, error: {name: error.name, message: error.message}}),
    );
  };
}
