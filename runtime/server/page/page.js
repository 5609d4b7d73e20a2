// The page of ifmmin-serve and of ifmmin-bundle web. The same file is the worklet that takes the
// microphone's samples.
"use strict";

if (typeof registerProcessor === "function") {
  // In the thread of the sound: pieces of 100 ms as 16-bit samples.
  registerProcessor(
    "pieces",
    class extends AudioWorkletProcessor {
      constructor() {
        super();
        this.piece = new Int16Array(Math.round(sampleRate / 10));
        this.filled = 0;
      }
      process([[samples]]) {
        for (const sample of samples || []) {
          this.piece[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
          if (this.filled === this.piece.length) {
            this.port.postMessage(this.piece.slice());
            this.filled = 0;
          }
        }
        return true;
      }
    },
  );
} else {
  const WINDOW = 8; // seconds that an answer to live sound looks back
  const KEPT = 240; // answers on the timeline
  const PIECE = 8192; // samples of a recording that are sent at once
  // What browsers make of a voice for telephony, the network was not trained on.
  const AS_IT_IS = {
    channelCount: 1,
    echoCancellation: false,
    noiseSuppression: false,
    autoGainControl: false,
  };
  // Nothing is played, and answers are asked for five times a second: no need to wake up often.
  const UNHURRIED = {latencyHint: "playback", sinkId: {type: "none"}};
  const NAMES = {a: "voice", v: "face", t: "words"};
  const COLOURS = ["ang", "hap|joy", "neu", "sad", "fear", "disg", "surp", "."]; // of names that begin so
  const at = (id) => document.getElementById(id);

  const here = document.documentElement.dataset.engine === "browser";
  const engine = here ? new BrowserEngine(hear) : new ServerEngine(hear, lose);
  const history = [];
  const off = new Set();
  const features = new Map(); // frames of a file, by modality
  let labels = [],
    colours = [],
    modalities = {},
    microphone = null,
    face = null,
    spoken = "",
    retry = 1000,
    known = "";
  let turn = 0; // counts what is heard: a microphone or recording whose turn is over sends no more

  function say(text, wrong = false) {
    at("status").textContent = text;
    at("status").className = wrong ? "wrong" : "";
  }

  async function connect() {
    try {
      const ready = await engine.connect();
      retry = 1000;
      const same = JSON.stringify(ready) === known;
      if (!same) build(ready);
      const ways = [
        !at("sound").hidden && "press Listen, open a recording",
        !at("words").hidden && "type words",
        !at("face").hidden && "open a CSV of OpenFace",
        !at("features").hidden && "open a file of features",
      ].filter(Boolean);
      say(`${same ? "Connected again" : "Ready"}${ways.length ? `: ${ways.join(", or ")}` : ""}.`);
      resume();
      if (same) engine.predict(); // what was heard before is gone
    } catch (error) {
      if (here) say(error.message, true); // of a server `lose` says it, and tries again
    }
  }

  function lose(reason) {
    const why = reason ? ` (${reason})` : "";
    turn++;
    if (known && !microphone && retry === 1000) say("Connecting again.");
    else if (known) say(`The connection is lost${why}; trying again.`, true);
    else
      say(
        `The server takes no connection${why}; trying again. If it wants a token, open this page with ?token= and the token.`,
        true,
      );
    stop();
    setTimeout(connect, retry);
    retry = Math.min(2 * retry, 15000);
  }

  function build(ready) {
    known = JSON.stringify(ready);
    labels = ready.labels;
    const free = new Set(COLOURS.keys());
    colours = labels.map((name) => COLOURS.findIndex((start) => new RegExp(`^(${start})`, "i").test(name)));
    colours.forEach((colour) => colour < COLOURS.length - 1 && free.delete(colour));
    colours = colours.map((colour, number) => {
      if (colour < COLOURS.length - 1) return `--c${colour}`;
      const [next = number % COLOURS.length] = [...free].reverse();
      free.delete(next);
      return `--c${next}`;
    });
    modalities = ready.modalities;
    at("bars").replaceChildren(
      ...labels.map((name, number) => {
        const bar = element("div", "bar");
        bar.style.background = `var(${colours[number]})`;
        const track = element("div", "track", "", [bar]);
        return element("li", "", "", [element("span", "name", name), track, element("span", "share", "0 %")]);
      }),
    );
    at("modalities").replaceChildren(
      ...Object.keys(modalities).map((letter) => {
        const button = element("button", "", NAMES[letter]);
        button.type = "button";
        button.id = `switch-${letter}`;
        button.setAttribute("role", "switch");
        button.setAttribute("aria-checked", String(!off.has(letter)));
        button.addEventListener("click", () => toggle(letter));
        const why = element("span", "why", "nothing yet");
        why.id = `why-${letter}`;
        button.setAttribute("aria-describedby", why.id);
        return element("li", "", "", [button, why]);
      }),
    );
    at("sound").hidden = !modalities.a?.frontend;
    at("words").hidden = !modalities.t?.frontend;
    at("face").hidden = modalities.v?.frontend !== "openface";
    const others = Object.keys(modalities).filter((letter) => !modalities[letter].frontend);
    at("features").hidden = !others.length;
    at("features").replaceChildren(...others.map(featuresOf));
    const bytes = here && modalities.t?.bytes;
    at("words-label").textContent = bytes ? `Words (the first take ${Math.round(bytes / 1e6)} MB)` : "Words";
    at("licence").textContent = ready.licence ? `Licence of the weights: ${ready.licence}.` : "";
    draw();
  }

  function element(name, kind = "", text = "", children = []) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text) made.textContent = text;
    made.append(...children);
    return made;
  }

  /** What takes a file of features of one modality, and forgets it. */
  function featuresOf(letter) {
    const input = element("input", "hidden"),
      forget = element("button", "", `Forget features of ${NAMES[letter]}`);
    Object.assign(input, {type: "file", id: `features-${letter}`, accept: ".npy,.csv"});
    input.addEventListener("change", ({target}) => {
      if (target.files[0]) openFeatures(letter, target.files[0]);
      target.value = "";
    });
    forget.type = "button";
    forget.addEventListener("click", () => {
      features.delete(letter);
      engine.setFeatures(letter, null);
    });
    const label = element("label", "button", `Open features of ${NAMES[letter]}`);
    label.htmlFor = input.id;
    return element("div", "", "", [label, input, forget]);
  }

  /** Tell a stream that began anew what still holds. */
  function resume() {
    for (const letter of off) if (letter in modalities) engine.drop(letter);
    hold();
  }

  /** Words and face that this page shows count, however long it has listened. */
  function hold() {
    if (at("text").value) engine.setText(at("text").value);
    if (face) engine.setFace(face);
    for (const [letter, frames] of features) engine.setFeatures(letter, frames);
  }

  function toggle(letter) {
    const was = off.has(letter);
    if (was) {
      off.delete(letter);
      engine.restore(letter);
    } else {
      off.add(letter);
      engine.drop(letter);
    }
    at(`switch-${letter}`).setAttribute("aria-checked", String(was));
  }

  function hear(message) {
    if (message.type === "error") say(message.message, true);
    if (message.type === "update") show(message);
  }

  /** Set a text where it is another: the same one again would be laid out and painted anew. */
  function put(place, text) {
    if (place.textContent !== text) place.textContent = text;
  }

  function show(update) {
    const shares = labels.map((name) => update.probabilities?.[name] ?? 0);
    [...at("bars").children].forEach((row, number) => {
      row.querySelector(".bar").style.transform = `scaleX(${shares[number]})`;
      put(row.querySelector(".share"), `${Math.round(100 * shares[number])} %`);
    });
    const sure = Math.max(...shares);
    put(at("label"), update.label ?? "Nothing to answer from");
    put(at("confidence"), update.label ? `Confidence ${Math.round(100 * sure)} %` : (update.reason ?? ""));
    const names = update.pattern?.split("_").map((letter) => NAMES[letter]);
    put(at("pattern"), names?.join(", ") ?? "none");
    put(at("latency"), update.latency_ms === undefined ? "" : `${update.latency_ms.toFixed(1)} ms`);
    put(at("heard"), `${update.at.toFixed(1)} s`);
    for (const letter of Object.keys(modalities)) {
      const used = update.pattern?.split("_").includes(letter);
      const why = off.has(letter) ? "switched off" : (update.absent?.[letter] ?? "nothing yet");
      put(at(`why-${letter}`), used ? `used, ${update.frames[letter]} frames` : `missing: ${why}`);
    }
    if (update.label && update.label !== spoken) {
      spoken = update.label;
      at("spoken").textContent = `${update.label}, ${Math.round(100 * sure)} percent`;
    }
    history.push(update.label ? shares : null);
    if (history.length > KEPT) history.shift();
    draw();
  }

  /** Shares on top of each other, the newest at the right. */
  function draw() {
    const canvas = at("timeline"),
      pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const {width, height} = canvas,
      step = width / Math.max(history.length, KEPT / 4);
    const edges = history.map((_, index) => Math.round(width - (history.length - index) * step));
    const tops = history.map(() => height);
    pen.clearRect(0, 0, width, height);
    colours.forEach((colour, number) => {
      pen.fillStyle = style.getPropertyValue(colour);
      history.forEach((shares, index) => {
        if (!shares) return;
        const high = shares[number] * height;
        tops[index] -= high;
        pen.fillRect(edges[index], tops[index], (edges[index + 1] ?? width) - edges[index], high);
      });
    });
  }

  function begin(rate, channels, window) {
    history.length = 0;
    engine.begin(rate, channels, window);
    resume();
    return ++turn;
  }

  async function listen() {
    if (microphone) {
      stop();
      say("Stopped. Nothing was stored.");
      return;
    }
    if (!navigator.mediaDevices || !window.AudioWorkletNode) {
      say("This browser gives pages no microphone here; open the page by https, or at localhost.", true);
      return;
    }
    const asked = ++turn,
      context = new AudioContext(UNHURRIED);
    let source;
    let holding = 0;
    const release = () => {
      clearInterval(holding);
      source?.getTracks().forEach((track) => track.stop());
      context.close();
    };
    try {
      source = await navigator.mediaDevices.getUserMedia({audio: AS_IT_IS});
      await context.audioWorklet.addModule("page.js");
      await context.resume();
    } catch (error) {
      release();
      say(
        error.name === "NotFoundError"
          ? "No microphone was found; connect one."
          : error.name === "NotAllowedError"
            ? "The microphone was refused; allow it for this page to be heard."
            : `The microphone cannot be used: ${error.message}`,
        true,
      );
      return;
    }
    if (turn !== asked) {
      release();
      return;
    }
    microphone = {release};
    holding = setInterval(hold, (1000 * WINDOW) / 2);
    const node = new AudioWorkletNode(context, "pieces", {numberOfOutputs: 0});
    const own = begin(context.sampleRate, 1, WINDOW);
    node.port.onmessage = ({data}) => {
      if (turn === own) engine.pushSound(data);
    };
    context.createMediaStreamSource(source).connect(node);
    source.getTracks()[0].addEventListener("ended", () => {
      stop();
      say("The microphone went away; connect it and press Listen.", true);
    });
    at("listen").className = "on";
    at("listen").textContent = "Stop";
    say("Listening.");
  }

  function stop() {
    if (!microphone) return;
    turn++;
    microphone.release();
    microphone = null;
    at("listen").className = "";
    at("listen").textContent = "Listen";
  }

  async function open(file) {
    stop();
    const asked = ++turn,
      context = new OfflineAudioContext(1, 1, 16000);
    let sound;
    try {
      sound = await context.decodeAudioData(await file.arrayBuffer());
    } catch (error) {
      say(`${file.name} is no sound that this browser can read.`, true);
      return;
    }
    if (turn !== asked) return;
    say(`Hearing ${file.name}.`);
    const channels = Array.from({length: Math.min(8, sound.numberOfChannels)}, (_, number) =>
      sound.getChannelData(number),
    );
    const own = begin(sound.sampleRate, channels.length, sound.duration > 12 ? WINDOW : null);
    for (let first = 0; first < sound.length; first += PIECE) {
      const count = Math.min(PIECE, sound.length - first),
        piece = new Int16Array(count * channels.length);
      for (let index = 0; index < piece.length; index++) {
        const sample = channels[index % channels.length][first + Math.floor(index / channels.length)];
        piece[index] = Math.max(-1, Math.min(1, sample)) * 32767;
      }
      engine.pushSound(piece);
      while (turn === own && engine.waiting > 1 << 18) await new Promise((go) => setTimeout(go, 20));
      if (turn !== own) return;
    }
    engine.predict();
    say(`${file.name}: ${sound.duration.toFixed(1)} seconds were ${here ? "heard" : "sent"}.`);
  }

  async function openFace(file) {
    // Of hundreds of columns those that count: the answer is the same, and the message small.
    const [head, ...rows] = (await file.text())
      .split(/\r?\n/)
      .filter(Boolean)
      .map((line) => line.split(","));
    const kept =
      head?.flatMap((name, index) => (/^\s*(face_id|success|AU\d\d_[rc])\s*$/.test(name) ? [index] : [])) ??
      [];
    face =
      [head ?? [], ...rows].map((cells) => kept.map((index) => cells[index] ?? "").join(",")).join("\n") +
      "\n";
    engine.setFace(face);
    say(`${file.name} was sent.`);
  }

  async function openFeatures(letter, file) {
    const {dim} = modalities[letter];
    try {
      const frames = rowsOf(await file.arrayBuffer());
      if (!frames.length || frames.some((row) => row.length !== dim))
        throw new Error(`wanted ${dim} numbers in every frame`);
      features.set(letter, frames);
      engine.setFeatures(letter, frames);
      say(`${file.name}: ${frames.length} frames.`);
    } catch (error) {
      say(
        `${file.name} holds no features of ${NAMES[letter]} (${error.message}); open an .npy of (frames, ${dim}), or a CSV with a frame a line.`,
        true,
      );
    }
  }

  /** Frames of an .npy of floats, or of a CSV with or without a line of names. */
  function rowsOf(content) {
    const [first] = new Uint8Array(content.slice(0, 1)),
      NPY = 0x93;
    if (first !== NPY) {
      const rows = new TextDecoder()
        .decode(content)
        .split(/\r?\n/)
        .filter(Boolean)
        .map((line) => line.split(",").map(Number));
      return rows[0]?.some(Number.isNaN) ? rows.slice(1) : rows;
    }
    const view = new DataView(content),
      wide = view.getUint8(6) > 1;
    const begins = wide ? 12 : 10,
      size = wide ? view.getUint32(8, true) : view.getUint16(8, true);
    const head = new TextDecoder("latin1").decode(content.slice(begins, begins + size));
    const [, bytes, order, rows, columns] =
      head.match(/'<f([48])'.*'fortran_order': (True|False).*\((\d+), (\d+)\)/) ?? [];
    if (order !== "False") throw new Error("the array is not of two dimensions of floats, row by row");
    const values = new (bytes === "4" ? Float32Array : Float64Array)(content.slice(begins + size));
    if (values.length !== rows * columns) throw new Error("it is cut off");
    return Array.from({length: rows}, (_, row) =>
      Array.from(values.subarray(row * columns, (row + 1) * columns)),
    );
  }

  let typed = 0;
  at("listen").addEventListener("click", listen);
  at("recording").addEventListener("change", ({target}) => {
    if (target.files[0]) open(target.files[0]);
    target.value = "";
  });
  at("openface").addEventListener("change", ({target}) => {
    if (target.files[0]) openFace(target.files[0]);
    target.value = "";
  });
  at("forget-face").addEventListener("click", () => engine.setFace((face = null)));
  at("text").addEventListener("input", ({target}) => {
    clearTimeout(typed);
    typed = setTimeout(() => engine.setText(target.value || null), 150);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (!file) return;
    const table = /\.csv$/i.test(file.name);
    if (at(table ? "face" : "sound").hidden)
      say(`${file.name}: this bundle takes no ${table ? "CSV of OpenFace" : "sound"}.`, true);
    else (table ? openFace : open)(file);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  connect();
}
