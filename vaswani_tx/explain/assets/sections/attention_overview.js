// Many heads at once: all heads of a layer, all layers, and a table of habits to sort.

import { fixed, h, s, tokenText } from "../core.js";
import { colour, drawn, explainable, figure, refill } from "../diagram.js";
import { weightColour } from "../heatmap.js";
import { habitColumns, habits } from "./attention_habits.js";
import { tokensOf } from "./attention.js";

function attentionThumbnail(weights, head, size) {
  const [, rows, columns] = weights.shape;
  const canvas = h("canvas", { width: columns, height: rows, "aria-hidden": "true", class: "thumbnail" });
  const scale = size / Math.max(rows, columns);
  Object.assign(canvas.style, { width: columns * scale + "px", height: rows * scale + "px", imageRendering: scale < 1 ? "auto" : "pixelated" });
  drawn(() => {
    const context = canvas.getContext("2d");
    const colours = weightColour();
    for (let i = 0; i < rows; i++) {
      const row = weights.row(head, i);
      for (let j = 0; j < columns; j++) {
        context.fillStyle = colours(row[j]);
        context.fillRect(j, i, 1, 1);
      }
    }
  }, canvas);
  return canvas;
}

function pressHeads(buttons, isPressed) {
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(isPressed(i))));
}

/** All heads of the chosen layer, with their habits; `update()` follows the choice of a head. */
export function oneLayer(item, weights, state, change) {
  const grid = h("div", { class: "multiples", role: "group", "aria-label": `All heads of layer ${item.layer}` });
  for (let head = 0; head < item.heads; head++) {
    const found = habits(weights, head, item);
    grid.append(h("button", { type: "button", class: "multiple", "data-key": `multiple ${head}`, onclick: () => change({ head: head + 1 }) },
      attentionThumbnail(weights, head, 112), h("span", {}, `head ${head + 1}`), h("span", { class: "note" }, `${fixed(found.entropy, 1)} bits`), found.habit ? h("span", { class: "habit" }, found.habit) : null));
  }
  const update = () => pressHeads([...grid.children], (head) => head + 1 === state.head);
  update();
  return Object.assign(h("div", {}, h("h3", {}, `All heads of layer ${item.layer}`), grid), { update });
}

/** Every layer and head of one kind, small: layers downwards, heads across; arrow keys move, `update()` follows the choice. */
export function allLayers(page, items, state, change) {
  const heads = Math.max(...items.map((item) => item.heads));
  const grid = h("div", { class: "overview", role: "group", "aria-label": "All layers and heads; arrow keys move", css: { gridTemplateColumns: `auto repeat(${heads}, max-content)` } });
  const cells = items.map((item) => Array.from({ length: item.heads }, (_, head) => {
    const weights = page.array(item.weights);
    const found = habits(weights, head, item);
    const summary = `layer ${item.layer}, head ${head + 1}: entropy ${fixed(found.entropy, 1)} bits${found.habit ? ", " + found.habit : ""}`;
    const button = h("button", { type: "button", class: "overview-cell", "aria-label": summary, onclick: () => change({ layer: item.layer, head: head + 1 }, true) }, attentionThumbnail(weights, head, 56));
    return explainable(button, () => summary);
  }));
  const move = (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const row = cells.findIndex((found) => found.includes(document.activeElement));
    if (!step || row < 0) return;
    event.preventDefault();
    cells[row + step[0]]?.[cells[row].indexOf(document.activeElement) + step[1]]?.focus();
  };
  grid.addEventListener("keydown", move);
  grid.append(h("span", {}), ...Array.from({ length: heads }, (_, head) => h("span", { class: "note" }, `${head + 1}`)));
  cells.forEach((row, i) => grid.append(h("span", { class: "note" }, `layer ${items[i].layer}`), ...row, ...Array.from({ length: heads - row.length }, () => h("span", {}))));
  const update = () => cells.forEach((row, i) => {
    pressHeads(row, (head) => items[i].layer === state.layer && head + 1 === state.head);
    for (const button of row) button.tabIndex = button.getAttribute("aria-pressed") === "true" ? 0 : -1;
  });
  update();
  const caption = "Layers downwards, heads across. Choose one to see it large.";
  return Object.assign(h("div", {}, h("h3", {}, "All layers"), figure(`${items[0].kind}-attention-all-layers`, caption, h("div", {}, grid), () => overviewPicture(page, items, heads))), { update });
}

function overviewPicture(page, items, heads) {
  const [size, gap, left, top] = [72, 8, 64, 24];
  const [width, height] = [left + heads * (size + gap), top + items.length * (size + gap)];
  const drawing = s("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height, "font-family": "sans-serif", "font-size": 12 },
    s("rect", { width, height, fill: colour("--paper") }));
  const colours = weightColour();
  for (let head = 0; head < heads; head++) drawing.append(s("text", { x: left + head * (size + gap), y: 16, fill: colour("--ink") }, `head ${head + 1}`));
  items.forEach((item, layer) => {
    const weights = page.array(item.weights);
    const [count, rows, columns] = weights.shape;
    const cell = size / Math.max(rows, columns);
    drawing.append(s("text", { x: left - 8, y: top + layer * (size + gap) + 14, "text-anchor": "end", fill: colour("--ink") }, `layer ${item.layer}`));
    for (let head = 0; head < count; head++) {
      const part = s("g", { transform: `translate(${left + head * (size + gap)} ${top + layer * (size + gap)})` });
      for (let i = 0; i < rows; i++) {
        weights.row(head, i).forEach((weight, j) => part.append(s("rect", { x: j * cell, y: i * cell, width: cell, height: cell, fill: colours(weight) })));
      }
      drawing.append(part);
    }
  });
  return drawing;
}

/** The habits of all heads of one kind; a heading sorts by its column, a row leads to its head. */
export function habitTable(page, items, state, change) {
  const columns = habitColumns(items[0]);
  const rows = items.flatMap((item) => Array.from({ length: item.heads }, (_, head) => ({ layer: item.layer, head: head + 1, ...habits(page.array(item.weights), head, item) })));
  if (state.row !== null && state.column !== null) {
    const [i, j] = [state.row - 1, state.column - 1];
    const [from, to] = [tokensOf(page, items[0].rows)[i], tokensOf(page, items[0].columns)[j]];
    columns.unshift(["pair", [h("bdi", {}, tokenText(from)), " \u2192 ", h("bdi", {}, tokenText(to))], 4, "The weight of the chosen cell in each head"]);
    for (const row of rows) row.pair = page.array(items.find((item) => item.layer === row.layer).weights).at(row.head - 1, i, j);
  }
  const largest = Object.fromEntries(columns.map(([name]) => [name, Math.max(...rows.map((row) => row[name]), 1e-9)]));
  const body = h("tbody", {});
  const head = h("tr", {});
  const sortBy = (name) => {
    state.sort = state.sort === name ? `-${name}` : name;
    draw();
  };
  const draw = () => {
    const [name, sign] = state.sort.startsWith("-") ? [state.sort.slice(1), -1] : [state.sort, 1];
    const first = name === "layer" || name === "habit" ? 1 : -1; // numbers: largest first
    const compare = (a, b) => (name === "habit" ? (b.habit !== "") - (a.habit !== "") || a.habit.localeCompare(b.habit) : a[name] - b[name]);
    const ordered = [...rows].sort((a, b) => sign * first * compare(a, b) || a.layer - b.layer || a.head - b.head);
    const heading = ([key, text, , what]) => {
      const button = h("button", { type: "button", class: "sort", "data-key": `sort ${key}`, onclick: () => sortBy(key) }, text, h("span", { "aria-hidden": "true" }, name !== key ? "" : sign * first < 0 ? " \u2193" : " \u2191"));
      return h("th", { scope: "col", "aria-sort": name !== key ? "none" : sign * first < 0 ? "descending" : "ascending" }, what ? explainable(button, () => what) : button);
    };
    refill(head, heading(["layer", "head"]), columns.map(heading), heading(["habit", "habit"]));
    refill(body, ordered.map((row) => {
      const here = row.layer === state.layer && row.head === state.head;
      return h("tr", { class: here ? "here" : "" },
        h("th", { scope: "row" }, h("button", { type: "button", class: "jump", "data-key": `jump ${row.layer} ${row.head}`, "aria-current": here ? "true" : null, onclick: () => change({ layer: row.layer, head: row.head }, true) }, `layer ${row.layer}, head ${row.head}`)),
        columns.map(([key, , digits]) => h("td", { class: "number bar", css: { backgroundSize: `${(100 * row[key]) / largest[key]}% 100%` } }, fixed(row[key], digits))),
        h("td", { class: "habit" }, row.habit));
    }));
  };
  if (!["layer", "-layer", "habit", "-habit"].includes(state.sort) && !columns.some(([name]) => name === state.sort.replace("-", ""))) state.sort = "layer";
  draw();
  return [
    h("h3", {}, "Habits of all heads"),
    h("p", { class: "note" }, "A heading sorts: what are the heads that look at the previous token, or at the end? Choose a cell of the matrix, and its weight in every head becomes a column."),
    h("div", { class: "scroll habit-table", tabindex: "0", role: "region", "aria-label": "Habits of all heads" }, h("table", {}, h("thead", {}, head), body)),
  ];
}
