// The numbers of the page, and the few helpers that make elements. Text only ever becomes a text node or an attribute.

const VIEWS = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, uint32: Uint32Array, int32: Int32Array };

/** A packed array: whole numbers, each a multiple of 10^-decimals. */
export class Numbers {
  constructor(entry, data) {
    this.shape = entry.shape;
    this.decimals = entry.decimals;
    this.data = data;
    this.unit = 10 ** -entry.decimals;
  }

  /** The number at these indices. */
  at(...indices) {
    let offset = 0;
    for (let axis = 0; axis < indices.length; axis++) offset = offset * this.shape[axis] + indices[axis];
    return this.data[offset] / 10 ** this.decimals;
  }

  /** The last axis at these leading indices, as ordinary numbers. */
  row(...indices) {
    const width = this.shape[this.shape.length - 1];
    let offset = 0;
    for (let axis = 0; axis < indices.length; axis++) offset = offset * this.shape[axis] + indices[axis];
    return Array.from(this.data.subarray(offset * width, (offset + 1) * width), (value) => value / 10 ** this.decimals);
  }
}

/** Read the packed block: see packing.py for its layout. */
export async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  let start = 4 + new DataView(raw.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(raw.subarray(4, start)));
  const arrays = new Map();
  for (const entry of header.arrays) {
    const View = VIEWS[entry.type];
    const width = View.BYTES_PER_ELEMENT;
    const count = entry.shape.reduce((product, size) => product * size, 1);
    const bytes = new Uint8Array(count * width);
    for (let plane = 0; plane < width; plane++) {
      for (let i = 0; i < count; i++) bytes[i * width + plane] = raw[start + plane * count + i];
    }
    arrays.set(entry.name, new Numbers(entry, new View(bytes.buffer)));
    start += count * width;
  }
  return { meta: header.meta, arrays };
}

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "css") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element: h("p", {class: "note"}, "text", child); `css` sets style properties, `onclick` a listener. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element, as `h`. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A number with a fixed count of digits; a true minus sign, so columns line up. */
export function fixed(value, digits = 2) {
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
}

/** 1234567 as 1,234,567. */
export function grouped(value) {
  return value.toLocaleString("en-US");
}

// Characters that nothing shows: control, format and separator characters, lone surrogates, variation selectors.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}\p{Cs}\u115F\u1160\u3164\uFFA0\uFE00-\uFE0F]|(?! )\p{Zs}/u;
// Inside a word or an emoji these do their work, so they stay: joiners and variation selectors beside other characters.
const JOINS = /[\u200C\u200D\uFE0E\uFE0F]/u;

/** The text of a token as characters to show: [{text, mark}], `mark` for what would be invisible. */
export function tokenPieces(token) {
  const pieces = [];
  const chars = Array.from(token.text);
  for (const char of chars) {
    const joined = JOINS.test(char) && chars.length > 1;
    if (char === " ") pieces.push({ text: "\u00b7", mark: true });
    else if (INVISIBLE.test(char) && !joined) {
      pieces.push({ text: "U+" + char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0"), mark: true });
    } else if (pieces.length && !pieces[pieces.length - 1].mark) pieces[pieces.length - 1].text += char;
    else pieces.push({ text: char, mark: false });
  }
  return pieces.length ? pieces : [{ text: "\u2205", mark: true }];
}

/** A token as plain text for labels of canvases, SVG and screen readers. */
export function tokenText(token) {
  return tokenPieces(token).map((piece) => piece.text).join("");
}

/** A token as an element: spaces and invisible characters are faint marks, any script keeps its own direction. */
export function tokenElement(token, attributes = {}) {
  const kind = token.special ? " special" : token.partial ? " partial" : "";
  return h(
    "bdi",
    { ...attributes, class: "token" + kind + (attributes.class ? " " + attributes.class : "") },
    tokenPieces(token).map((piece) => (piece.mark ? h("span", { class: "mark" }, piece.text) : piece.text)),
  );
}

/** The token of an id that the page names (predictions, beams). */
export function word(page, id) {
  const text = page.meta.words[String(id)] ?? String(id);
  return { id, text, special: /^<.*>$/.test(text), partial: false };
}

const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** Fewer characters of a long text, with an ellipsis; an emoji of several code points is one character. */
export function clip(text, length) {
  const chars = Array.from(graphemes.segment(text), (found) => found.segment);
  return chars.length <= length ? text : chars.slice(0, length - 1).join("") + "\u2026";
}
