// Section 3: who looks at whom. One head large, as a matrix or as lines; its layer and all layers small; habits to sort.

import { SECTIONS } from "../sections.js";
import { fixed, h, tokenElement, tokenText } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { buttons, choice, drawn, explainable, figure, refill } from "../diagram.js";
import { besideCells, heatmap, weightColour, weightHint } from "../heatmap.js";
import { habits } from "./attention_habits.js";
import { attentionLines } from "./attention_lines.js";
import { allLayers, habitTable, oneLayer } from "./attention_overview.js";

export const KINDS = { encoder: "encoder self-attention", decoder: "decoder self-attention", cross: "cross-attention" };
// Beyond this many tokens cells are too small for labels: the hint names the tokens.
const MOST_ATTENTION_LABELS = 100;

/** The tokens of a side, "source" or "target". */
export function tokensOf(page, side) {
  return page.meta[side];
}

/** The kinds of attention that `items` hold, in the order of the story. */
export function kindsOf(items) {
  return Object.keys(KINDS).filter((kind) => items.some((item) => item.kind === kind));
}

/** The entry of this kind and layer; where the address names none, the last layer of the kind. */
export function chosenAttention(items, state, fallback) {
  if (!items.some((item) => item.kind === state.kind)) state.kind = fallback;
  const layers = items.filter((item) => item.kind === state.kind).map((item) => item.layer);
  state.layer = layers.includes(Number(state.layer)) ? Number(state.layer) : layers[layers.length - 1];
  const item = items.find((entry) => entry.kind === state.kind && entry.layer === state.layer);
  state.head = wholeNumber(state.head, 1, item.heads, 1);
  return { item, layers };
}

/** The selects of a layer and a head. */
export function placeControls(item, layers, state, change) {
  return [
    choice("Layer", layers.map((layer) => [layer, `layer ${layer}`]), state.layer, (layer) => change({ layer: Number(layer) })),
    choice("Head", Array.from({ length: item.heads }, (_, i) => [i + 1, `head ${i + 1}`]), state.head, (head) => change({ head: Number(head) })),
  ];
}

function renderAttention(root, page) {
  const all = page.meta.attention;
  const kinds = kindsOf(all);
  const start = kinds.includes("cross") ? "cross" : kinds[0];
  // Patches of an image stand in rows, so the one before in the sequence is no neighbour that means something.
  for (const item of all) item.isSequence = page.meta.family !== "image";
  const defaults = { row: null, column: null, view: "matrix", heads: "one", from: null };
  const state = { kind: start, layer: null, head: 1, sort: "layer", ...defaults, ...stateOf("attention") };
  root.append(
    h("p", {}, "Each row is a token that looks; each column is a token it looks at. A row sums to 1. Choose a row to read what that token attends to, or a cell to ask which head makes that link (section 3.2)."),
  );
  const [controls, place, reading, small, overview, table] = Array.from({ length: 6 }, () => h("div", {}));
  controls.className = "controls";
  const shown = { item: null };
  root.append(controls, place, reading, small, overview, table);

  const normalise = () => {
    const found = chosenAttention(all, state, start);
    const [rows, columns] = [found.item.rows, found.item.columns].map((side) => tokensOf(page, side).length);
    state.row = state.row === null ? null : wholeNumber(state.row, 1, rows, null);
    state.column = state.row === null || state.column === null ? null : wholeNumber(state.column, 1, columns, null);
    if (!["matrix", "lines"].includes(state.view)) state.view = "matrix";
    return found;
  };
  const change = (values, above = false) => {
    Object.assign(state, values);
    show();
    const { kind, layer, head, row, column, view, heads, from } = state;
    const ofLines = view === "lines" ? { view, heads: heads === "all" ? heads : null, from } : {};
    setState("attention", { kind, layer, head, row, column, ...ofLines });
    if (above) place.scrollIntoView({ block: "nearest" });
  };
  const show = () => {
    const { item, layers } = normalise();
    const weights = page.array(item.weights);
    const items = all.filter((entry) => entry.kind === item.kind);
    refill(controls,
      buttons("Which attention", kinds.map((kind) => [kind, KINDS[kind]]), state.kind, (kind) => change({ kind, row: null, column: null })),
      placeControls(item, layers, state, change),
      buttons("View", [["matrix", "matrix"], ["lines", "lines"]], state.view, (view) => change({ view })),
    );
    const cursor = place.contains(document.activeElement);
    refill(place, state.view === "lines" ? attentionLines(page, item, weights, state, change, place.clientWidth) : attentionMatrix(page, item, weights, state, change, place.clientWidth, cursor));
    refill(reading, attentionReading(page, item, weights, state, change));
    if (shown.item === item) small.firstChild.update();
    else refill(small, oneLayer(item, weights, state, change));
    if (shown.item?.kind === item.kind) overview.firstChild?.update();
    else refill(overview, items.length > 1 ? allLayers(page, items, state, change) : null);
    shown.item = item;
    refill(table, habitTable(page, items, state, change));
  };
  show();
  onState("attention", (values) => {
    Object.assign(state, defaults, values);
    show();
  });
}

/** The size of a cell that lets a matrix fit into a width, large enough to be pointed at. */
export function attentionCell(rows, columns, available) {
  if (Math.max(rows, columns) > MOST_ATTENTION_LABELS) return Math.max(4, Math.floor(available / columns));
  return Math.max(12, Math.min(28, Math.floor(available / columns)));
}

/** Where the keyboard's cursor was in a matrix that is drawn again. */
const attentionCursor = { i: 0, j: 0 };

function attentionMatrix(page, item, weights, state, change, width, hadFocus) {
  const [rows, columns] = [tokensOf(page, item.rows), tokensOf(page, item.columns)];
  const head = state.head - 1;
  const isMasked = (i, j) => item.causal && j > i;
  const labelled = Math.max(rows.length, columns.length) <= MOST_ATTENTION_LABELS;
  const choose = (i, j = null) => {
    const [row, column] = [i + 1, j === null ? null : j + 1];
    Object.assign(attentionCursor, { i, j: j ?? 0 });
    change(state.row === row && state.column === column ? { row: null, column: null } : { row, column });
  };
  const map = heatmap({
    rows: rows.length, columns: columns.length, cell: attentionCell(rows.length, columns.length, (width || 900) - besideCells() - 30),
    rowLabels: labelled ? rows : null, columnLabels: labelled ? columns : null,
    value: (i, j) => weights.at(head, i, j), colours: weightColour, masked: isMasked, cursor: hadFocus ? attentionCursor : null,
    label: `Attention weights of ${KINDS[item.kind]}; arrow keys move over the cells, Enter chooses one`,
    say: (i, j) => weightHint(rows[i], columns[j], weights.at(head, i, j), isMasked(i, j)),
    sayRow: (i) => strongestHint([tokenText(rows[i]), " looks at"], columns, weights.row(head, i)),
    sayColumn: (j) => strongestHint([tokenText(columns[j]), " is looked at by"], rows, rows.map((_, i) => weights.at(head, i, j))),
    onrow: choose,
  });
  if (state.row !== null) map.chooseRow(state.row - 1);
  if (state.column !== null) map.chooseColumn(state.column - 1);
  return figure(`${item.kind}-attention-layer${item.layer}-head${state.head}`,
    `${KINDS[item.kind]}, layer ${item.layer}, head ${state.head}. ${item.causal ? "Grey: later positions, masked. " : ""}A stronger colour is more, by the square root of the weight, so that small weights can be seen.`, map, map.picture);
}

/** The strongest few of a row or a column, for a hint. */
export function strongestHint(title, tokens, values) {
  const order = values.map((value, j) => [value, j]).sort((a, b) => b[0] - a[0]).slice(0, 4);
  return [
    h("div", {}, title),
    ...order.map(([value, j]) => h("div", {}, h("span", { class: "number" }, fixed(value, 4)), " ", h("strong", {}, h("bdi", {}, tokenText(tokens[j]))))),
  ];
}

/** A sentence whose tokens are coloured by their weight. */
export function weightedSentence(from, tokens, row, onchoose = null) {
  const sentence = h("span", { class: "weighted-sentence" });
  drawn(() => {
    const colours = weightColour();
    sentence.replaceChildren(...tokens.map((token, j) => {
      const element = tokenElement(token, { class: row[j] > 0.3 ? "weighted strong" : "weighted", css: { backgroundColor: colours(row[j]) }, onclick: onchoose && (() => onchoose(j)) });
      return explainable(element, () => weightHint(from, token, row[j], false));
    }));
  }, sentence);
  return sentence;
}

/** What the chosen row looks at, and the numbers that describe the head. */
function attentionReading(page, item, weights, state, change) {
  const [rows, columns] = [tokensOf(page, item.rows), tokensOf(page, item.columns)];
  const found = habits(weights, state.head - 1, item);
  const facts = h("p", { class: "note habits" },
    `Entropy ${fixed(found.entropy)} bits of at most ${fixed(found.most)}`,
    item.kind === "cross" || !item.isSequence ? "" : `; mean distance ${fixed(found.distance, 1)} tokens`, found.habit ? `; this head ${found.habit}.` : ".");
  if (state.row === null) return [facts];
  const [i, head] = [state.row - 1, state.head - 1];
  const pair = state.column === null ? null
    : h("p", { class: "note pair" }, tokenElement(rows[i]), " \u2192 ", tokenElement(columns[state.column - 1]), ` has weight ${fixed(weights.at(head, i, state.column - 1), 4)} here. The table below compares all heads at this cell.`);
  return [
    h("p", { class: "reading" }, tokenElement(rows[i], { class: "chosen" }), " looks at: ",
      weightedSentence(rows[i], columns, weights.row(head, i), (j) => change({ column: j + 1 }))),
    pair, facts,
  ];
}

SECTIONS.push({ id: "attention", title: "Attention matrices", applies: (page) => page.meta.attention.length > 0, render: renderAttention });
