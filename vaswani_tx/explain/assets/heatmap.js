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
  const steps = Array.from({ length: 256 }, (_, step) => mix(low, high, step / 255));
  return (value) => steps[Math.round(255 * Math.sqrt(Math.max(0, Math.min(1, value))))];
}

/** Colours of numbers of both signs, `largest` at the ends. */
export function signedColour(largest) {
  const [negative, zero, positive] = [colour("--heat-negative"), colour("--heat-zero"), colour("--heat-positive")];
  const steps = Array.from({ length: 511 }, (_, step) => mix(zero, step < 255 ? negative : positive, Math.abs(step - 255) / 255));
  return (value) => steps[255 + Math.round(255 * Math.max(-1, Math.min(1, value / largest)))];
}

/** What the labels of rows and the slant of the last column label take of a heatmap's width, in pixels. */
export function besideCells() {
  return parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--label-width")) * 16 + 40;
}

function labelText(label) {
  return typeof label === "string" ? label : tokenText(label);
}

/**
 * A heatmap of rows by columns.
 *
 * options: {rows, columns} counts; value(i, j); colours() returns value -> colour; cell size in pixels (cellHeight where a
 * cell is no square); rowLabels and columnLabels (tokens or strings) or null; say(i, j) gives the hint's text, sayRow(i)
 * and sayColumn(j) those of the labels; label for screen readers; onrow(i, j) when a cell, or onrow(i) when a row label,
 * is chosen, oncolumn(j) when a column label is; cursor {i, j} where the keyboard stood in a heatmap that this one replaces.
 * The element has `update()`, which draws again, `picture()` for saving, `chooseRow(i)` and `chooseColumn(j)`.
 */
export function heatmap(options) {
  const { rows, columns, cell = 18, cellHeight = cell, rowLabels = null, columnLabels = null } = options;
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": options.label, class: "cells", "data-key": options.label });
  const live = h("span", { class: "unseen", "aria-live": "polite" });
  const cursor = { i: 0, j: 0, ...options.cursor, active: Boolean(options.cursor) };
  const chosen = { row: null, column: null };
  const labels = { rows: [], columns: [] };
  let hovered = null;

  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(columns * cell * ratio);
    canvas.height = Math.round(rows * cellHeight * ratio);
    canvas.style.width = columns * cell + "px";
    canvas.style.height = rows * cellHeight + "px";
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const [colours, masked] = [options.colours(), colour("--masked")];
    const gap = cell >= 10 ? 1 : 0;
    const gapBelow = cellHeight >= 10 ? 1 : 0;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        context.fillStyle = options.masked?.(i, j) ? masked : colours(options.value(i, j));
        context.fillRect(j * cell, i * cellHeight, cell - gap, cellHeight - gapBelow);
      }
    }
    context.strokeStyle = colour("--accent");
    context.lineWidth = 2;
    if (chosen.row !== null) context.strokeRect(1, chosen.row * cellHeight, columns * cell - 2, cellHeight - gapBelow);
    if (chosen.column !== null) context.strokeRect(chosen.column * cell, 1, cell - gap, rows * cellHeight - 2);
    const at = hovered ?? (cursor.active ? cursor : null);
    if (at) context.strokeRect(at.j * cell, at.i * cellHeight, cell - gap, cellHeight - gapBelow);
    labels.rows.forEach((label, i) => label.classList.toggle("at", i === at?.i || i === chosen.row));
    labels.columns.forEach((label, j) => label.classList.toggle("at", j === at?.j || j === chosen.column));
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
    if (!at) return;
    options.onrow?.(at.i, at.j);
    tell(at.i, at.j, event.clientX, event.clientY); // a tap moves no pointer
  });
  canvas.addEventListener("keydown", (event) => {
    const step = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -columns], End: [0, columns],
      PageUp: [-rows, 0], PageDown: [rows, 0],
    }[event.key];
    if (event.key === "Enter" && cursor.active) options.onrow?.(cursor.i, cursor.j);
    if (!step) return;
    event.preventDefault();
    cursor.i = Math.max(0, Math.min(rows - 1, cursor.i + (cursor.active ? step[0] : 0)));
    cursor.j = Math.max(0, Math.min(columns - 1, cursor.j + (cursor.active ? step[1] : 0)));
    cursor.active = true;
    draw();
    const beside = () => {
      const box = canvas.getBoundingClientRect();
      tell(cursor.i, cursor.j, box.left + (cursor.j + 0.5) * cell, box.top + (cursor.i + 0.5) * cellHeight, beside);
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

  const sayAt = ({ type, currentTarget: label }, content) => {
    const show = () => {
      const box = label.getBoundingClientRect();
      showHint(content, box.right - 8, box.top, type === "focus" ? show : null);
    };
    if (content) show();
  };
  const fontSize = (size) => Math.min(12.8, size * 0.95) + "px";
  const element = h("div", { class: "heatmap" });
  if (columnLabels) {
    labels.columns = columnLabels.map((token, j) =>
      h("span", {
        css: { width: cell + "px", fontSize: fontSize(cell) }, "data-column": j, onclick: () => options.oncolumn?.(j),
        onpointermove: (event) => options.sayColumn && sayAt(event, options.sayColumn(j)), onpointerleave: hideHint,
      }, h("bdi", {}, clip(labelText(token), 12))));
    element.append(h("div", { class: "column-labels", "aria-hidden": "true", css: { marginInlineStart: rowLabels ? "var(--label-width)" : "0" } }, labels.columns));
  }
  const body = h("div", { class: "heatmap-body" });
  if (rowLabels) {
    const enter = (i) => (event) => {
      options.onrowhover?.(i);
      if (options.sayRow) sayAt(event, options.sayRow(i));
    };
    const leave = () => {
      options.onrowhover?.(null);
      hideHint();
    };
    labels.rows = rowLabels.map((token, i) =>
      h(options.onrow || options.sayRow ? "button" : "span", {
        type: "button", css: { height: cellHeight + "px", fontSize: fontSize(cellHeight) }, "data-row": i, "data-key": `${options.label} row ${i}`,
        onclick: () => options.onrow?.(i), onpointerenter: enter(i), onpointermove: enter(i), onfocus: enter(i), onpointerleave: leave, onblur: leave,
      }, h("bdi", {}, clip(labelText(token), 14))));
    body.append(h("div", { class: "row-labels" }, labels.rows));
  }
  body.append(canvas, live);
  element.append(body);
  drawn(draw, element);

  const picture = () => {
    const left = rowLabels ? 110 : 0;
    const top = columnLabels ? 90 : 0;
    const [width, height] = [left + columns * cell + 8, top + rows * cellHeight + 8];
    const drawing = s("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height,
      "font-family": "sans-serif", "font-size": 12 });
    drawing.append(s("rect", { width, height, fill: colour("--paper") }));
    const [colours, masked] = [options.colours(), colour("--masked")];
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        const fillColour = options.masked?.(i, j) ? masked : colours(options.value(i, j));
        drawing.append(s("rect", { x: left + j * cell, y: top + i * cellHeight, width: cell >= 10 ? cell - 1 : cell, height: cellHeight - 1, fill: fillColour }));
      }
    }
    rowLabels?.forEach((token, i) =>
      drawing.append(s("text", { x: left - 6, y: top + (i + 0.7) * cellHeight, "text-anchor": "end", fill: colour("--ink") }, clip(labelText(token), 14))));
    columnLabels?.forEach((token, j) =>
      drawing.append(s("text", { transform: `translate(${left + (j + 0.65) * cell} ${top - 6}) rotate(-60)`, fill: colour("--ink") }, clip(labelText(token), 12))));
    return drawing;
  };
  const chooseRow = (i) => {
    chosen.row = i;
    draw();
  };
  const chooseColumn = (j) => {
    chosen.column = j;
    draw();
  };
  return Object.assign(element, { update: draw, picture, chooseRow, chooseColumn, canvas });
}

/** The hint of an attention weight: who looks at whom, and how much. */
export function weightHint(from, to, weight, isMasked) {
  return [
    h("div", {}, h("strong", {}, tokenText(from)), " \u2192 ", h("strong", {}, tokenText(to))),
    h("div", { class: "number" }, isMasked ? "masked: 0" : fixed(weight, 4)),
  ];
}
