// Engines: what hears and answers for the page, by the server it came from or by the browser itself.
// Both have connect, begin, pushSound, setText, setFeatures, drop, restore, predict and `waiting`.
"use strict";

const EVERY = 0.4; // seconds of sound from one answer to the next: painting four a second costs as much as hearing
const FRAMES = 100; // of features in one message

/** Answers by the server that the page came from. */
class ServerEngine {
  /** `told` is called with every message of the server, `lost` when the connection ends. */
  constructor(told, lost) {
    this.told = told;
    this.lost = lost;
  }
  /** What the bundle takes: the message `ready`. */
  connect() {
    const place = new URL("v1/listen" + location.search, location.href);
    place.protocol = place.protocol.replace("http", "ws");
    return new Promise((ready, refused) => {
      this.socket = new WebSocket(place);
      this.socket.onmessage = ({data}) => {
        const message = JSON.parse(data);
        if (message.type === "ready") ready(message);
        this.told(message);
      };
      this.socket.onclose = ({reason}) => {
        refused(new Error(reason || "The server cannot be reached."));
        this.lost(reason);
      };
    });
  }
  begin(rate, channels, window) {
    this.say({type: "reset"});
    this.say({type: "start", rate, channels, window, every: EVERY});
  }
  /** Samples of 16 bits, (N, C). */
  pushSound(samples) {
    if (this.open) this.socket.send(samples);
  }
  setText(text) {
    this.say({type: "text", text});
  }
  setFace(csv) {
    this.say({type: "face", csv});
  }
  /** Frames (T, D) in place of those so far; null: none. */
  setFeatures(modality, frames) {
    this.say({type: "clear", modality});
    for (let at = 0; at < (frames?.length ?? 0); at += FRAMES)
      this.say({type: "features", modality, frames: frames.slice(at, at + FRAMES)});
  }
  drop(modality) {
    this.say({type: "drop", modality});
  }
  restore(modality) {
    this.say({type: "restore", modality});
  }
  predict() {
    this.say({type: "predict"});
  }
  /** Bytes that wait. */
  get waiting() {
    return this.socket.bufferedAmount;
  }
  get open() {
    return this.socket.readyState === WebSocket.OPEN;
  }
  say(message) {
    if (this.open) this.socket.send(JSON.stringify(message));
  }
}

/** Answers by this browser, with the files beside this page. */
class BrowserEngine {
  constructor(told) {
    this.told = told;
    this.waiting = 0;
  }
  async connect() {
    const {open} = await import("./ifmmin.js").catch(() => {
      throw new Error("ifmmin.js is absent or damaged; copy or build the folder again.");
    });
    const recognizer = (this.recognizer = await open());
    const heard = recognizer.stream_patterns.filter(
      (pattern) => pattern.length === 1 && recognizer.modalities[pattern].frontend === "ge2e",
    );
    await recognizer.preload(heard);
    this.begin(16000, 1, null);
    navigator.serviceWorker?.register("service-worker.js").catch(() => {}); // without it the page wants a network
    return {...recognizer, patterns: recognizer.stream_patterns};
  }
  begin(rate, channels, window) {
    Object.assign(this, {rate, channels, heard: 0, due: EVERY, pieces: [], seconds: 0});
    this.stream?.then(
      (stream) => stream.close(),
      () => {},
    );
    this.stream = this.recognizer.stream({window});
    this.stream.catch(({message}) => this.told({type: "error", message}));
  }
  pushSound(samples) {
    this.waiting += samples.byteLength;
    this.pieces.push(samples);
    this.seconds += samples.length / this.channels / this.rate;
    if (this.seconds < this.due - 1e-9) return;
    this.due += EVERY * Math.max(1, Math.floor((this.seconds - this.due) / EVERY));
    this.predict();
  }
  setText(text) {
    this.change("setText", text);
  }
  setFeatures(modality, frames) {
    this.do("clear", modality);
    this.change("push", modality, frames ?? []);
  }
  drop(modality) {
    this.change("drop", modality);
  }
  restore(modality) {
    this.change("restore", modality);
  }
  change(name, ...given) {
    this.hear();
    this.do(name, ...given);
    this.predict();
  }
  hear() {
    const count = this.pieces.reduce((sum, piece) => sum + piece.length, 0),
      samples = new Int16Array(count);
    let at = 0;
    for (const piece of this.pieces.splice(0)) {
      samples.set(piece, at);
      at += piece.length;
    }
    if (count)
      this.do("pushSound", samples, this.rate, this.channels).finally(() => {
        this.waiting -= samples.byteLength;
      });
  }
  /** Calls are answered one after the other. What a stream cannot take is told. */
  async do(name, ...given) {
    try {
      return await (await this.stream)[name](...given);
    } catch ({message}) {
      this.told({type: "error", message});
    }
  }
  async predict() {
    this.hear();
    const since = performance.now(),
      at = this.seconds,
      stream = await this.stream;
    const [frames, answer] = await Promise.all([stream.frames(), stream.predict().catch((error) => error)]);
    if (answer instanceof Error && answer.name !== "InputError")
      this.told({type: "error", message: answer.message});
    const found =
      answer instanceof Error
        ? {pattern: null, label: null, reason: answer.message}
        : {...answer, latency_ms: performance.now() - since};
    this.told({type: "update", at, frames, ...found});
  }
}
