// A table of numbers between two colours as one picture: a pixel for each number, scaled to the width of the page.

import { h, s } from "../core.js";
import { colour, drawn, hideHint, showHint } from "../diagram.js";
import { signedColour } from "../heatmap.js";

const TABLE_SHADES = 255;

function tableShades() {
  const colours = signedColour(1);
  return Array.from({ length: TABLE_SHADES + 1 }, (_, i) => colours((2 * i) / TABLE_SHADES - 1).match(/\d+/g).map(Number));
}

/**
 * A canvas with a row for each position and a column for each dimension.
 *
 * options: value(i, j); width and length, the counts; used, how many rows the bar at the left marks; largest, the number of
 * the strongest colour; say(i, j), the hint; columnName(j), what a column's tick says; label for screen readers. The element has `resize(length)` and `picture()`.
 */
export function tableCanvas(options) {
  const canvas = h("canvas", { class: "table-cells", tabindex: "0", role: "img", "aria-label": options.label });
  const live = h("span", { class: "unseen", "aria-live": "polite" });
  const bar = h("div", { class: "used-bar" });
  const frame = h("div", { class: "table-frame" });
  const across = h("div", { class: "crossing", hidden: true });
  const down = h("div", { class: "crossing", hidden: true });
  const rowAxis = h("div", { class: "row-axis", "aria-hidden": "true" });
  const columnAxis = h("div", { class: "column-axis", "aria-hidden": "true" });
  const columnName = (j) => String(options.columnName?.(j) ?? j);
  let at = null;

  const draw = () => {
    const { width, length } = options;
    const shades = tableShades();
    canvas.width = width;
    canvas.height = length;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, length);
    for (let i = 0; i < length; i++) {
      for (let j = 0; j < width; j++) {
        const share = (options.value(i, j) / options.largest + 1) / 2;
        const [red, green, blue] = shades[Math.max(0, Math.min(TABLE_SHADES, Math.round(share * TABLE_SHADES)))];
        image.data.set([red, green, blue, 255], 4 * (i * width + j));
      }
    }
    context.putImageData(image, 0, 0);
    // Many rows in few pixels are averaged; few rows in many pixels keep their edges.
    canvas.classList.toggle("enlarged", length <= 300);
    bar.style.height = Math.min(100, (100 * options.used) / length) + "%";
    rowAxis.replaceChildren(...tableTicks(length, "top", String));
    columnAxis.replaceChildren(...tableTicks(width, "left", columnName));
  };
  const show = (i, j, x, y, follow = null) => {
    at = { i, j };
    across.hidden = down.hidden = false;
    Object.assign(across.style, { top: (100 * (i + 0.5)) / options.length + "%", left: "0", width: "100%", height: "1px" });
    Object.assign(down.style, { left: (100 * (j + 0.5)) / options.width + "%", top: "0", width: "1px", height: "100%" });
    showHint(options.say(i, j), x, y, follow);
  };
  const leave = () => {
    at = null;
    across.hidden = down.hidden = true;
    hideHint();
  };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const i = Math.floor(((event.clientY - box.top) / box.height) * options.length);
    const j = Math.floor(((event.clientX - box.left) / box.width) * options.width);
    if (i >= 0 && j >= 0 && i < options.length && j < options.width) show(i, j, event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-16, 0], PageDown: [16, 0], Home: [0, -Infinity], End: [0, Infinity] }[event.key];
    if (!step) return;
    event.preventDefault();
    const from = at ?? { i: 0, j: 0 };
    const i = Math.max(0, Math.min(options.length - 1, from.i + (at ? step[0] : 0)));
    const j = Math.max(0, Math.min(options.width - 1, from.j + (at ? step[1] : 0)));
    const beside = () => {
      const box = canvas.getBoundingClientRect();
      show(i, j, box.left + ((j + 0.5) * box.width) / options.width, box.top + ((i + 0.5) * box.height) / options.length, beside);
    };
    beside();
    live.textContent = options.say(i, j).map((part) => part.textContent).join("; ");
  });
  frame.append(canvas, across, down);
  drawn(draw);

  const picture = () => {
    const [width, height, left, top] = [640, 340, 60, 10];
    const svg = s("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${left + width + 20} ${top + height + 46}`, width: left + width + 20, height: top + height + 46, "font-family": "sans-serif", "font-size": 12 });
    svg.append(
      s("rect", { width: left + width + 20, height: top + height + 46, fill: colour("--paper") }),
      s("image", { href: canvas.toDataURL("image/png"), x: left, y: top, width, height, preserveAspectRatio: "none", "image-rendering": options.length <= 300 ? "pixelated" : "auto" }),
      ...tickNumbers(options.length).map((value) => s("text", { x: left - 8, y: top + ((value + 0.5) * height) / options.length + 4, "text-anchor": "end", fill: colour("--ink") }, String(value))),
      ...tickNumbers(options.width).map((value) => s("text", { x: left + ((value + 0.5) * width) / options.width, y: top + height + 18, "text-anchor": "middle", fill: colour("--ink") }, columnName(value))),
      s("text", { x: left + width / 2, y: top + height + 38, "text-anchor": "middle", fill: colour("--ink") }, "dimension"),
      s("text", { transform: `translate(14 ${top + height / 2}) rotate(-90)`, "text-anchor": "middle", fill: colour("--ink") }, "position"));
    return svg;
  };
  const resize = (length) => {
    options.length = length;
    leave();
    draw();
  };
  const body = h("div", { class: "table-map" }, h("span", { class: "row-name" }, "position"), rowAxis, bar, frame, columnAxis, h("span", { class: "column-name" }, "dimension"), live);
  return Object.assign(body, { resize, picture, canvas });
}

function tickNumbers(count) {
  const step = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].find((size) => count / size <= 8);
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
}

function tableTicks(count, side, name) {
  return tickNumbers(count).map((value) => h("span", { css: { [side]: (100 * (value + 0.5)) / count + "%" } }, name(value)));
}
