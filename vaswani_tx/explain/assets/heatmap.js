// Heatmaps: a canvas for the cells, text beside it, a number under the pointer or the arrow keys.

import { clip, fixed, h, s, tokenText } from "./core.js";
import { colour, drawn, hideHint, showHint } from "./diagram.js";

function channels(hex) {
  const value = hex.replace("#", "");
  return [0, 2, 4].map((i) => parseInt(value.slice(i, i + 2), 16));
}

/** A colour between two colours of the style sheet, as rgb(). */
export function mix(low, high, share) {
  const [a, b] = [channels(low), channels(high)];
  const part = Math.max(0, Math.min(1, share));
  return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * part)).join(",")})`;
}

/** Colours of weights between 0 and 1: darker (or, on dark paper, brighter) is more. Square roots make small weights visible. */
export function weightColour() {
  const [low, high] = [colour("--heat-low"), colour("--heat-high")];
  return (value) => mix(low, high, Math.sqrt(value));
}

/** Colours of numbers of both signs, `largest` at the ends. */
export function signedColour(largest) {
  const [negative, zero, positive] = [colour("--heat-negative"), colour("--heat-zero"), colour("--heat-positive")];
  return (value) => (value < 0 ? mix(zero, negative, -value / largest) : mix(zero, positive, value / largest));
}

/**
 * A heatmap of rows by columns.
 *
 * options: {rows, columns} counts; value(i, j); colours() returns value -> colour; cell size in pixels; rowLabels and
 * columnLabels (tokens) or null; say(i, j) gives the hint's text; label for screen readers; onrow(i) when a row is chosen.
 * The element has `update()`, which draws again, `picture()` for saving and `chooseRow(i)`.
 */
export function heatmap(options) {
  const { rows, columns, cell = 18, rowLabels = null, columnLabels = null } = options;
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": options.label, class: "cells" });
  const live = h("span", { class: "unseen", "aria-live": "polite" });
  const cursor = { i: 0, j: 0, active: false };
  let chosen = null;
  let hovered = null;

  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(columns * cell * ratio);
    canvas.height = Math.round(rows * cell * ratio);
    canvas.style.width = columns * cell + "px";
    canvas.style.height = rows * cell + "px";
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const colours = options.colours();
    const gap = cell >= 10 ? 1 : 0;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        context.fillStyle = options.masked?.(i, j) ? colour("--masked") : colours(options.value(i, j));
        context.fillRect(j * cell, i * cell, cell - gap, cell - gap);
      }
    }
    context.strokeStyle = colour("--accent");
    context.lineWidth = 2;
    if (chosen !== null) context.strokeRect(1, chosen * cell, columns * cell - 2, cell - gap);
    const at = hovered ?? (cursor.active ? cursor : null);
    if (at) context.strokeRect(at.j * cell, at.i * cell, cell - gap, cell - gap);
  };

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const i = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const j = Math.floor(((event.clientX - box.left) / box.width) * columns);
    return i >= 0 && j >= 0 && i < rows && j < columns ? { i, j } : null;
  };
  const tell = (i, j, x, y, follow = null) => {
    showHint(options.say(i, j), x, y, follow);
    options.onhover?.(i, j);
  };
  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    if (!at) return;
    if (!hovered || hovered.i !== at.i || hovered.j !== at.j) {
      hovered = at;
      draw();
    }
    tell(at.i, at.j, event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", () => {
    hovered = null;
    hideHint();
    draw();
    options.onleave?.();
  });
  canvas.addEventListener("click", (event) => {
    const at = place(event);
    if (at) options.onrow?.(at.i, at.j);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter" && cursor.active) options.onrow?.(cursor.i, cursor.j);
    if (!step) return;
    event.preventDefault();
    cursor.i = Math.max(0, Math.min(rows - 1, cursor.i + (cursor.active ? step[0] : 0)));
    cursor.j = Math.max(0, Math.min(columns - 1, cursor.j + (cursor.active ? step[1] : 0)));
    cursor.active = true;
    draw();
    const beside = () => {
      const box = canvas.getBoundingClientRect();
      tell(cursor.i, cursor.j, box.left + (cursor.j + 0.5) * cell, box.top + (cursor.i + 0.5) * cell, beside);
    };
    beside();
    const said = options.say(cursor.i, cursor.j);
    live.textContent = [said].flat().map((part) => part.textContent ?? part).join(" ");
  });
  canvas.addEventListener("blur", () => {
    cursor.active = false;
    hideHint();
    draw();
  });

  const element = h("div", { class: "heatmap" });
  if (columnLabels) {
    element.append(
      h("div", { class: "column-labels", "aria-hidden": "true", css: { marginInlineStart: rowLabels ? "var(--label-width)" : "0" } },
        columnLabels.map((token) => h("span", { css: { width: cell + "px" } }, h("bdi", { title: tokenText(token) }, clip(tokenText(token), 12))))),
    );
  }
  const body = h("div", { class: "heatmap-body" });
  if (rowLabels) {
    body.append(
      h("div", { class: "row-labels" },
        rowLabels.map((token, i) =>
          h("button", {
            type: "button", css: { height: cell + "px" }, title: tokenText(token), "data-row": i,
            onclick: () => options.onrow?.(i), onpointerenter: () => options.onrowhover?.(i), onfocus: () => options.onrowhover?.(i),
            onpointerleave: () => options.onrowhover?.(null), onblur: () => options.onrowhover?.(null),
          }, h("bdi", {}, clip(tokenText(token), 14))))),
    );
  }
  body.append(canvas, live);
  element.append(body);
  drawn(draw);

  const picture = () => {
    const left = rowLabels ? 110 : 0;
    const top = columnLabels ? 90 : 0;
    const [width, height] = [left + columns * cell + 8, top + rows * cell + 8];
    const drawing = s("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height,
      "font-family": "sans-serif", "font-size": 12 });
    drawing.append(s("rect", { width, height, fill: colour("--paper") }));
    const colours = options.colours();
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        const fillColour = options.masked?.(i, j) ? colour("--masked") : colours(options.value(i, j));
        drawing.append(s("rect", { x: left + j * cell, y: top + i * cell, width: cell - 1, height: cell - 1, fill: fillColour }));
      }
    }
    rowLabels?.forEach((token, i) =>
      drawing.append(s("text", { x: left - 6, y: top + (i + 0.7) * cell, "text-anchor": "end", fill: colour("--ink") }, clip(tokenText(token), 14))));
    columnLabels?.forEach((token, j) =>
      drawing.append(s("text", { transform: `translate(${left + (j + 0.65) * cell} ${top - 6}) rotate(-60)`, fill: colour("--ink") }, clip(tokenText(token), 12))));
    return drawing;
  };
  const chooseRow = (i) => {
    chosen = i;
    draw();
  };
  return Object.assign(element, { update: draw, picture, chooseRow, canvas });
}

/** The hint of an attention weight: who looks at whom, and how much. */
export function weightHint(from, to, weight, isMasked) {
  return [
    h("div", {}, h("strong", {}, tokenText(from)), " \u2192 ", h("strong", {}, tokenText(to))),
    h("div", { class: "number" }, isMasked ? "masked: 0" : fixed(weight, 4)),
  ];
}
