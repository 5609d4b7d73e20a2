// The module of `ifmmin-bundle web` in Node: a line of JSON in is a call, a line out its answer.
import {readFile} from "node:fs/promises";
import {createInterface} from "node:readline";

if (process.argv[3] === "without SIMD") WebAssembly.validate = () => false;
const place = `file://${process.argv[2]}/`;
const {BundleError, Recognizer} = await import(`${place}ifmmin.js`);
const {WordPiece} = await import(`${place}words.js`);
const bytes = (content) => content.buffer.slice(content.byteOffset, content.byteOffset + content.length);
const read = async (url) => {
  const content = await readFile(new URL(url)).catch(() => { throw new BundleError(`${url} cannot be read`); });
  return bytes(content);
};
const KINDS = {f4: Float32Array, i2: Int16Array};
let recognizer, stream;
const pieces = {};

/** Arrays came as {"f4": base64}. */
function revive(_, value) {
  const [kind] = Object.keys(value ?? {});
  return KINDS[kind] ? new KINDS[kind](bytes(Buffer.from(value[kind], "base64"))) : value;
}

const calls = {
  open: async () => (recognizer = await Recognizer.open(place, {read})).describe(),
  recognize: (given) => recognizer.recognize(given),
  begin: (options) => { stream = recognizer.stream(options); },
  stream: (name, ...given) => stream[name](...given),
  vocabulary: (name, text, lower) => { pieces[name] = new WordPiece(text, lower); },
  encode: (name, text, most) => pieces[name].encode(text, most),
};

for await (const line of createInterface({input: process.stdin})) {
  const [name, ...given] = JSON.parse(line, revive);
  try {
    console.log(JSON.stringify({result: (await calls[name](...given)) ?? null}));
  } catch (error) {
    console.log(JSON.stringify({error: error.name, message: error.message}));
  }
}
