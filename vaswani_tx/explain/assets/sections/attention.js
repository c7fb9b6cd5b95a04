// Section 3: who looks at whom. One head large, all heads of its layer small, lines between two columns, and habits.

import { SECTIONS } from "../sections.js";
import { clip, fixed, h, s, tokenElement, tokenText } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { buttons, choice, colour, drawn, explainable, figure, standalone } from "../diagram.js";
import { heatmap, weightColour, weightHint } from "../heatmap.js";

const KINDS = { encoder: "encoder self-attention", decoder: "decoder self-attention", cross: "cross-attention" };

/** Numbers that describe a head: entropy in bits, mean distance, and shares of its attention. */
export function habits(weights, head, isSelf, isCausal) {
  const [, rows, columns] = weights.shape;
  const sums = { entropy: 0, distance: 0, previous: 0, next: 0, first: 0, last: 0, self: 0 };
  for (let i = 0; i < rows; i++) {
    const row = weights.row(head, i);
    for (let j = 0; j < columns; j++) {
      if (row[j] > 0) sums.entropy -= row[j] * Math.log2(row[j]);
      sums.distance += row[j] * Math.abs(i - j);
    }
    sums.previous += i > 0 ? row[i - 1] ?? 0 : 0;
    sums.self += row[i] ?? 0;
    sums.next += i + 1 < columns ? row[i + 1] : 0;
    sums.first += row[0];
    sums.last += row[columns - 1];
  }
  const means = Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / rows]));
  const named = [
    ["looks at the first token", means.first],
    ...(isCausal ? [] : [["looks at the end", means.last]]),
    ...(isSelf ? [["looks at the previous token", means.previous], ["looks at itself", means.self]] : []),
    ...(isSelf && !isCausal ? [["looks at the next token", means.next]] : []),
  ].sort((a, b) => b[1] - a[1]);
  const habit = named.length && named[0][1] > 0.5 ? named[0][0] : means.entropy > 0.85 * Math.log2(columns) && !isCausal ? "spreads over everything" : "";
  return { ...means, habit };
}

function tokensOf(page, side) {
  return page.meta[side];
}

function renderAttention(root, page) {
  const all = page.meta.attention;
  const kinds = Object.keys(KINDS).filter((kind) => all.some((item) => item.kind === kind));
  const start = kinds.includes("cross") ? "cross" : kinds[0];
  const state = { kind: start, layer: null, head: 1, row: null, view: "matrix", ...stateOf("attention") };
  root.append(
    h("p", {}, "Each row is a token that looks; each column is a token it looks at. A row sums to 1. Choose a row to see what that token attends to (section 3.2)."),
  );
  const controls = h("div", { class: "controls" });
  const place = h("div", {});
  root.append(controls, place);

  const normalise = () => {
    if (!kinds.includes(state.kind)) state.kind = start;
    const layers = all.filter((item) => item.kind === state.kind).map((item) => item.layer);
    state.layer = layers.includes(Number(state.layer)) ? Number(state.layer) : layers[layers.length - 1];
    const item = all.find((entry) => entry.kind === state.kind && entry.layer === state.layer);
    state.head = wholeNumber(state.head, 1, item.heads, 1);
    const rows = tokensOf(page, item.rows).length;
    state.row = state.row === null ? null : wholeNumber(state.row, 1, rows, null);
    if (!["matrix", "lines"].includes(state.view)) state.view = "matrix";
    return { item, layers };
  };
  const change = (values) => {
    Object.assign(state, values);
    show();
    const { kind, layer, head, row, view } = state;
    setState("attention", { kind, layer, head, row, view: view === "matrix" ? null : view });
  };

  const show = () => {
    const { item, layers } = normalise();
    const weights = page.array(item.weights);
    controls.replaceChildren(
      buttons("Which attention", kinds.map((kind) => [kind, KINDS[kind]]), state.kind, (kind) => change({ kind, row: null })),
      choice("Layer", layers.map((layer) => [layer, `layer ${layer}`]), state.layer, (layer) => change({ layer: Number(layer) })),
      choice("Head", Array.from({ length: item.heads }, (_, i) => [i + 1, `head ${i + 1}`]), state.head, (head) => change({ head: Number(head) })),
      buttons("View", [["matrix", "matrix"], ["lines", "lines"]], state.view, (view) => change({ view })),
    );
    place.replaceChildren(
      state.view === "lines" ? lines(page, item, weights, state, change) : matrix(page, item, weights, state, change),
      reading(page, item, weights, state),
      small(page, item, weights, state, change),
    );
  };
  show();
  onState("attention", (values) => {
    Object.assign(state, { row: null, view: "matrix" }, values);
    show();
  });
}

function matrix(page, item, weights, state, change) {
  const [rows, columns] = [tokensOf(page, item.rows), tokensOf(page, item.columns)];
  const head = state.head - 1;
  const isMasked = (i, j) => item.causal && j > i;
  const map = heatmap({
    rows: rows.length, columns: columns.length, cell: rows.length > 40 ? 12 : 20, rowLabels: rows, columnLabels: columns,
    value: (i, j) => weights.at(head, i, j), colours: weightColour, masked: isMasked,
    label: `Attention weights of ${KINDS[item.kind]}, layer ${item.layer}, head ${state.head}; arrow keys move over the cells`,
    say: (i, j) => weightHint(rows[i], columns[j], weights.at(head, i, j), isMasked(i, j)),
    onrow: (i) => change({ row: state.row === i + 1 ? null : i + 1 }),
  });
  if (state.row !== null) map.chooseRow(state.row - 1);
  return figure(`${item.kind}-attention-layer${item.layer}-head${state.head}`,
    `${KINDS[item.kind]}, layer ${item.layer}, head ${state.head}. ${item.causal ? "Grey: later positions, masked." : ""}`, map, map.picture);
}

/** Two columns of tokens with a line for each weight that can be seen. */
function lines(page, item, weights, state, change) {
  const [rows, columns] = [tokensOf(page, item.rows), tokensOf(page, item.columns)];
  const head = state.head - 1;
  const [step, width, edge] = [22, 420, 130];
  const height = Math.max(rows.length, columns.length) * step + 10;
  const drawing = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "lines", role: "group", width, height,
    "aria-label": "Lines between the tokens that look, left, and the tokens they look at, right" });
  const draw = () => {
    drawing.replaceChildren();
    const y = (i) => (i + 0.5) * step + 5;
    rows.forEach((_, i) => columns.forEach((_, j) => {
      const weight = weights.at(head, i, j);
      if (weight < 0.01 || (state.row !== null && state.row !== i + 1)) return;
      drawing.append(s("line", { x1: edge, x2: width - edge, y1: y(i), y2: y(j), stroke: colour("--second"), "stroke-width": 1 + 3 * weight, opacity: Math.max(0.06, weight) }));
    }));
    rows.forEach((token, i) => {
      const label = s("text", { x: edge - 6, y: y(i) + 4, "text-anchor": "end", "font-size": 13, class: state.row === i + 1 ? "chosen" : "", tabindex: 0, role: "button",
        onclick: () => change({ row: state.row === i + 1 ? null : i + 1 }),
        onkeydown: (event) => event.key === "Enter" && change({ row: state.row === i + 1 ? null : i + 1 }) }, clip(tokenText(token), 15));
      explainable(label, () => strongest(columns, weights.row(head, i)));
      drawing.append(label);
    });
    columns.forEach((token, j) => drawing.append(s("text", { x: width - edge + 6, y: y(j) + 4, "font-size": 13 }, clip(tokenText(token), 15))));
  };
  drawn(draw);
  return figure(`${item.kind}-lines-layer${item.layer}-head${state.head}`, "Left: the token that looks. Right: what it looks at. Choose a token on the left to see its lines alone.",
    h("div", {}, drawing), () => standalone(drawing));
}

function strongest(columns, row) {
  const order = row.map((weight, j) => [weight, j]).sort((a, b) => b[0] - a[0]).slice(0, 4);
  return order.map(([weight, j]) => h("div", {}, h("span", { class: "number" }, fixed(weight, 4)), " ", h("strong", {}, tokenText(columns[j]))));
}

/** The chosen row as a sentence whose tokens are coloured by their weight. */
function reading(page, item, weights, state) {
  const [rows, columns] = [tokensOf(page, item.rows), tokensOf(page, item.columns)];
  const found = habits(weights, state.head - 1, item.kind !== "cross", item.causal);
  const facts = h("p", { class: "note habits" },
    `Entropy ${fixed(found.entropy)} bits of at most ${fixed(Math.log2(columns.length))}`,
    item.kind === "cross" ? "" : `; mean distance ${fixed(found.distance, 1)} tokens`, found.habit ? `; this head ${found.habit}.` : ".");
  if (state.row === null) return facts;
  const row = weights.row(state.head - 1, state.row - 1);
  const sentence = h("p", { class: "reading" });
  const draw = () => {
    sentence.replaceChildren(tokenElement(rows[state.row - 1], { class: "chosen" }), " looks at: ",
      ...columns.map((token, j) => {
        const element = tokenElement(token, { class: "weighted", css: { backgroundColor: weightColour()(row[j]) } });
        if (row[j] > 0.3) element.classList.add("strong");
        return explainable(element, () => weightHint(rows[state.row - 1], token, row[j], false));
      }));
  };
  drawn(draw);
  return h("div", {}, sentence, facts);
}

/** All heads of the layer, small; and every layer's heads as a table of habits. */
function small(page, item, weights, state, change) {
  const [, rows, columns] = weights.shape;
  const cell = Math.max(1, Math.min(8, Math.floor(110 / Math.max(rows, columns))));
  const grid = h("div", { class: "multiples", role: "group", "aria-label": `All heads of layer ${item.layer}` });
  for (let head = 0; head < item.heads; head++) {
    const found = habits(weights, head, item.kind !== "cross", item.causal);
    const canvas = h("canvas", { width: columns * cell, height: rows * cell, "aria-hidden": "true" });
    drawn(() => {
      const context = canvas.getContext("2d");
      const colours = weightColour();
      for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
        context.fillStyle = colours(weights.at(head, i, j));
        context.fillRect(j * cell, i * cell, cell, cell);
      }
    });
    grid.append(h("button", { type: "button", class: "multiple", "aria-pressed": String(head + 1 === state.head), onclick: () => change({ head: head + 1 }) },
      canvas, h("span", {}, `head ${head + 1}`), h("span", { class: "note" }, `${fixed(found.entropy, 1)} bits`), found.habit ? h("span", { class: "habit" }, found.habit) : null));
  }
  return h("div", {}, h("h3", {}, `All heads of layer ${item.layer}`), grid);
}

SECTIONS.push({ id: "attention", title: "Attention matrices", applies: (page) => page.meta.attention.length > 0, render: renderAttention });
