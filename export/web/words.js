// Words: text -> the numbers of pieces of a vocabulary, as `runtime/frontends/wordpiece.py` has it.

const SPECIAL = ["[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]"];
const IDEOGRAPH =
  /[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/u;
// Of Unicode 8, as `runtime/frontends/wordpiece.py` says.
const LATER = (
  "61d 7fd 890-8e2 9fd-9fe a76 afa-aff b55 c04-c3c c77 c84 d00 d3b-d3c d81 eba ece 180f-1886 1abf-1add " +
  "1b7d-1b7f 1df6-1dfb 2e43-2e5d a82c a8c5 a8ff a9bd 10d24-10f89 11070-11074 110c2-110cd 111cf 1123e-11241 1133b " +
  "11380-113e2 11438-1145e 11660-1166c 116b9 1182f-11fff 12ff1-13455 16d40-16d7f 16e97-16f4f 16fe2-16fe4 1cf00-1cf46 " +
  "1e000-1e5ff 1e944-1e95f"
)
  .split(" ")
  .map((item) => item.split("-").map((code) => parseInt(code, 16)));
const isLater = (code) => LATER.some(([first, last = first]) => first <= code && code <= last);
const KNOWN = {0x166d: "P", 0x1734: "M", 0x111c9: "P"};

/** C control, Z space, M mark, P punctuation, S sign of ASCII; "" for other characters. */
function category(character) {
  const code = character.codePointAt(0);
  if (KNOWN[code]) return KNOWN[code];
  if (isLater(code)) return "";
  if (/[\p{Cc}\p{Cf}\p{Co}\ufffd]/u.test(character)) return "C";
  if (/\p{Z}/u.test(character)) return "Z";
  if (/\p{Mn}/u.test(character)) return "M";
  if (/\p{P}/u.test(character)) return "P";
  return code < 128 && /\p{S}/u.test(character) ? "S" : "";
}

/** BERT's way from text to the numbers of pieces. */
export class WordPiece {
  /** @param {string} vocabulary a piece a line @param {boolean} lower */
  constructor(vocabulary, lower) {
    this.numbers = new Map(
      vocabulary
        .replace(/\n$/, "")
        .split("\n")
        .map((piece, number) => [piece, number]),
    );
    this.longest = Math.max(...Array.from(this.numbers.keys(), (piece) => [...piece].length));
    this.lower = lower;
  }
  /** Numbers of [CLS], the pieces and [SEP], at most so many. @param {string} text @param {number} most */
  encode(text, most) {
    const [begin, end] = SPECIAL.map((piece) => this.numbers.get(piece)),
      numbers = [begin];
    const special = SPECIAL.filter((piece) => this.numbers.has(piece)).map((piece) =>
      piece.replace(/[[\]]/g, "\\$&"),
    );
    for (const part of text.split(new RegExp(`(${special.join("|")})`))) {
      if (SPECIAL.includes(part)) numbers.push(this.numbers.get(part));
      else for (const word of this.words(part)) numbers.push(...this.split(word));
    }
    return [...numbers.slice(0, most - 1), end];
  }
  words(text) {
    let clean = Array.from(text, (character) => {
      if ("\t\n\r".includes(character)) return " ";
      const kind = category(character);
      if (kind === "C") return "";
      return kind === "Z" ? " " : IDEOGRAPH.test(character) ? ` ${character} ` : character;
    }).join("");
    if (this.lower) clean = clean.normalize("NFD");
    return Array.from(clean, (character) => {
      const kind = category(character);
      if (this.lower && kind === "M") return "";
      if (kind === "P" || kind === "S") return ` ${character} `;
      return this.lower ? character.toLowerCase() : character;
    })
      .join("")
      .split(/\s+/u)
      .filter(Boolean);
  }
  /** The longest piece that a word begins with, the longest that goes on from there, ... */
  split(word) {
    const characters = [...word],
      unknown = [this.numbers.get("[UNK]")],
      numbers = [];
    if (characters.length > 100) return unknown;
    for (let start = 0; start < characters.length;) {
      let end = Math.min(characters.length, start + this.longest),
        number;
      for (; end > start; end--) {
        number = this.numbers.get((start ? "##" : "") + characters.slice(start, end).join(""));
        if (number !== undefined) break;
      }
      if (number === undefined) return unknown;
      numbers.push(number);
      start = end;
    }
    return numbers;
  }
}
