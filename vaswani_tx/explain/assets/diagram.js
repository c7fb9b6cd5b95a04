// What all diagrams share: hints on hover, focus and tap, controls with labels, and pictures to save.

import { h, s } from "./core.js";

let hint;
// Shows the hint again at the place of the focused element, while the page scrolls; null where the pointer called it.
let followed = null;

function hintBox() {
  if (!hint) {
    hint = h("div", { class: "hint", role: "tooltip", id: "hint", hidden: true });
    document.body.append(hint);
    addEventListener("keydown", (event) => event.key === "Escape" && hideHint());
    addEventListener("scroll", () => (followed ? followed() : hideHint()), { passive: true });
  }
  return hint;
}

/** Show `content` (a string or nodes) beside a point of the window; `follow` shows it again after a scroll. */
export function showHint(content, x, y, follow = null) {
  const box = hintBox();
  followed = follow;
  box.replaceChildren(...[content].flat());
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const left = Math.min(Math.max(8, x + 14), innerWidth - width - 8);
  const top = y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18;
  box.style.left = left + "px";
  box.style.top = top + "px";
}

/** Take the hint away. */
export function hideHint() {
  followed = null;
  if (hint) hint.hidden = true;
}

/** Let `element` explain itself on hover, keyboard focus and tap; `content()` gives a string or nodes. */
export function explainable(element, content) {
  const beside = () => {
    const box = element.getBoundingClientRect();
    showHint(content(), box.left + box.width / 2, box.top + box.height / 2, beside);
  };
  if (!element.hasAttribute("tabindex") && !/^(button|a|input|select)$/i.test(element.tagName)) {
    element.setAttribute("tabindex", "0");
  }
  element.setAttribute("aria-describedby", "hint");
  element.addEventListener("pointermove", (event) => showHint(content(), event.clientX, event.clientY));
  element.addEventListener("pointerleave", hideHint);
  element.addEventListener("focus", beside);
  element.addEventListener("blur", hideHint);
  element.addEventListener("click", beside);
  return element;
}

/** A select with a label; `options` are [value, text] pairs. */
export function choice(label, options, value, onchange) {
  const select = h(
    "select",
    { onchange: () => onchange(select.value), "data-key": label },
    options.map(([key, text]) => h("option", { value: key }, text)),
  );
  select.value = String(value);
  return Object.assign(h("label", { class: "control" }, h("span", {}, label), select), { input: select });
}

/** A slider with a label and its value as text. */
export function slider(label, { min, max, step = 1, value, show = String }, oninput) {
  const output = h("output", {}, show(value));
  const input = h("input", {
    type: "range", min, max, step, value, "data-key": label,
    oninput: () => {
      output.textContent = show(Number(input.value));
      oninput(Number(input.value));
    },
  });
  const element = h("label", { class: "control slider" }, h("span", {}, label), input, output);
  const set = (number) => {
    input.value = number;
    output.textContent = show(Number(input.value));
  };
  return Object.assign(element, { input, set });
}

/** A group of buttons of which one is pressed. */
export function buttons(label, options, value, onchange) {
  const group = h("div", { class: "buttons", role: "group", "aria-label": label });
  const set = (chosen) => {
    for (const button of group.children) button.setAttribute("aria-pressed", String(button.dataset.value === String(chosen)));
  };
  for (const [key, text] of options) {
    group.append(
      h("button", {
        type: "button", "data-value": key, "data-key": `${label}=${key}`,
        onclick: () => {
          set(key);
          onchange(key);
        },
      }, text),
    );
  }
  set(value);
  return Object.assign(group, { set });
}

/** The value of a colour of the style sheet, such as "--accent". */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const drawings = new Set();
addEventListener("themechange", () => drawings.forEach((drawing) => drawing.draw()));

/** Call `draw` now and after every change of the theme; with `element`, until that has left the page. */
export function drawn(draw, element = null) {
  for (const drawing of drawings) {
    if (drawing.element?.isConnected) drawing.shown = true;
    else if (drawing.shown) drawings.delete(drawing);
  }
  drawings.add({ draw, element, shown: false });
  draw();
}

/** Replace the children of `parent`; the focus goes to the new element with the `data-key` of the one that had it. */
export function refill(parent, ...children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : null;
  parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (key) parent.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** Whether the reader asked for less motion. */
export function lessMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/**
 * A figure with a caption and buttons that save it.
 * `picture()` returns an SVG element that is complete in itself: sizes, fonts and colours as attributes.
 */
export function figure(name, caption, body, picture) {
  const bar = picture
    ? h("div", { class: "save", role: "group", "aria-label": "Save this diagram" },
        ["svg", "png", "pdf"].map((kind) =>
          h("button", { type: "button", "data-save": kind, onclick: () => savePicture(picture(), name, kind) }, kind.toUpperCase())))
    : null;
  return h("figure", { class: "diagram", "data-name": name }, body, h("figcaption", {}, h("span", {}, caption), bar));
}

/** Copy an SVG of the page with the computed colours and fonts as attributes, so that it is complete outside of it. */
export function standalone(element) {
  const copy = element.cloneNode(true);
  const names = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "text-anchor"];
  const originals = [element, ...element.querySelectorAll("*")];
  const copies = [copy, ...copy.querySelectorAll("*")];
  originals.forEach((original, i) => {
    const style = getComputedStyle(original);
    for (const name of names) copies[i].setAttribute(name, style.getPropertyValue(name));
    for (const gone of ["class", "tabindex", "aria-describedby", "role"]) copies[i].removeAttribute(gone);
  });
  const box = element.viewBox.baseVal;
  copy.setAttribute("width", box.width);
  copy.setAttribute("height", box.height);
  copy.insertBefore(s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, fill: colour("--paper") }), copy.firstChild);
  return copy;
}

async function savePicture(picture, name, kind) {
  const text = new XMLSerializer().serializeToString(picture);
  const vector = new Blob([text], { type: "image/svg+xml" });
  if (kind === "svg") return download(vector, name + ".svg");
  const width = Number(picture.getAttribute("width"));
  const height = Number(picture.getAttribute("height"));
  const canvas = h("canvas", { width: Math.round(width * 3), height: Math.round(height * 3) });
  const image = new Image();
  image.src = URL.createObjectURL(vector);
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  const type = kind === "png" ? "image/png" : "image/jpeg";
  const pixels = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.95));
  download(kind === "png" ? pixels : await pdf(pixels, canvas, width, height), name + "." + kind);
}

/** A PDF of one page that holds one JPEG, `width` by `height` in points. */
async function pdf(jpeg, canvas, width, height) {
  const drawing = `q ${width} 0 0 ${height} 0 0 cm /I Do Q`;
  const objects = [
    ["<</Type/Catalog/Pages 2 0 R>>"],
    ["<</Type/Pages/Kids[3 0 R]/Count 1>>"],
    [`<</Type/Page/Parent 2 0 R/MediaBox[0 0 ${width} ${height}]/Contents 4 0 R/Resources<</XObject<</I 5 0 R>>>>>>`],
    [`<</Length ${drawing.length}>>stream\n${drawing}\nendstream`],
    [
      `<</Type/XObject/Subtype/Image/Width ${canvas.width}/Height ${canvas.height}/ColorSpace/DeviceRGB` +
        `/BitsPerComponent 8/Filter/DCTDecode/Length ${jpeg.size}>>stream\n`,
      await jpeg.arrayBuffer(),
      "\nendstream",
    ],
  ];
  const parts = ["%PDF-1.4\n"];
  const offsets = [];
  let length = parts[0].length;
  const put = (part) => {
    parts.push(part);
    length += part.byteLength ?? part.length;
  };
  objects.forEach((body, i) => {
    offsets.push(length);
    [`${i + 1} 0 obj\n`, ...body, "\nendobj\n"].forEach(put);
  });
  const entries = offsets.map((offset) => String(offset).padStart(10, "0") + " 00000 n \n").join("");
  const start = length;
  put(`xref\n0 6\n0000000000 65535 f \n${entries}trailer<</Size 6/Root 1 0 R>>\nstartxref\n${start}\n%%EOF\n`);
  return new Blob(parts, { type: "application/pdf" });
}

function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
