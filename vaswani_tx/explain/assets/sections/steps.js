// Section 2: one token followed through attention, step by step, every step with the numbers of this pass.

import { SECTIONS } from "../sections.js";
import { clip, fixed, h, s, tokenElement, tokenText } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { buttons, choice, colour, figure, refill } from "../diagram.js";
import { besideCells, heatmap, signedColour } from "../heatmap.js";
import { KINDS, chosenAttention, kindsOf, placeControls, tokensOf } from "./attention.js";
import { maskStep, scoresStep, softmaxStep } from "./steps_scores.js";
import { concatenationStep, sumStep } from "./steps_sum.js";

/** As many digits, at most `most`, as a number has whose error is at most `error`. */
export function honestDigits(error, most = 2) {
  let digits = most;
  while (digits > 0 && error > 0.5 * 10 ** -digits) digits--;
  return digits;
}

/** The largest size among numbers, never 0. */
export function largestOf(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
}

/** Length of a vector. */
export function lengthOf(vector) {
  return Math.hypot(...vector);
}

/** Sum of the products of two vectors. */
export function dotOf(a, b) {
  return a.reduce((sum, value, d) => sum + value * b[d], 0);
}

/** A number inside a formula: a negative one in brackets. */
export function bracketed(value, digits) {
  return value < 0 ? `(${fixed(value, digits)})` : fixed(value, digits);
}

/** A row of formula text. */
export function stepFormula(...parts) {
  return h("p", { class: "steps-formula" }, parts);
}

/** Several heatmaps with their titles in one picture, from left to right. */
function sidePictures(maps) {
  const [gap, top] = [16, 24];
  const pictures = maps.map((map) => map.picture());
  const widths = pictures.map((picture) => Number(picture.getAttribute("width")));
  const width = widths.reduce((sum, one) => sum + one + gap, -gap);
  const height = top + Math.max(...pictures.map((picture) => Number(picture.getAttribute("height"))));
  const drawing = s("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height, "font-family": "sans-serif", "font-size": 13 }, s("rect", { width, height, fill: colour("--paper") }));
  let x = 0;
  pictures.forEach((picture, i) => {
    drawing.append(s("text", { x: x + 4, y: 16, fill: colour("--ink") }, maps[i].heading));
    picture.setAttribute("x", x);
    picture.setAttribute("y", top);
    drawing.append(picture);
    x += widths[i] + gap;
  });
  return drawing;
}

function renderSteps(root, page) {
  const all = page.meta.attention.filter((item) => item.vectors);
  const kinds = kindsOf(all);
  const start = kinds[0];
  const defaults = { token: null, key: null, dim: 1, part: 1, dot: null };
  const state = { kind: start, layer: null, head: 1, ...defaults, ...stateOf("steps") };
  const [controls, place] = [h("div", { class: "controls" }), h("div", { class: "steps" })];
  const follow = h("div", { class: "steps-follow" });
  root.append(
    h("p", {}, "Attention lets every token ask all others a question and take in a mixture of their answers: ",
      h("strong", {}, "Attention(Q, K, V) = softmax(QK", h("sup", {}, "T"), " / \u221ad", h("sub", {}, "k"), ") V"),
      " (section 3.2.1, equation 1). Follow one token through it. All numbers are those of this model on this sentence."),
    controls, ...vectorsLeftOut(page, all), follow, place,
  );
  const change = (values) => {
    Object.assign(state, values);
    show();
    const { kind, layer, head, token, key, dim, part, dot } = state;
    setState("steps", { kind, layer, head, token, key, dim: dim === 1 ? null : dim, part: part === 1 ? null : part, dot });
  };
  const show = () => {
    state.layer ??= all.find((item) => item.kind === (kinds.includes(state.kind) ? state.kind : start)).layer;
    const { item, layers } = chosenAttention(all, state, start);
    const [rows, columns] = [tokensOf(page, item.rows), tokensOf(page, item.columns)];
    state.token = wholeNumber(state.token ?? "", 1, rows.length, Math.ceil(rows.length / 2));
    const strongest = page.array(item.weights).row(state.head - 1, state.token - 1);
    state.key = wholeNumber(state.key ?? "", 1, columns.length, strongest.indexOf(Math.max(...strongest)) + 1);
    const context = stepsContext(page, item, state, rows, columns, change, Math.max(240, place.clientWidth - 40));
    refill(controls,
      buttons("Which attention, step by step", kinds.map((kind) => [kind, KINDS[kind]]), state.kind, (kind) => change({ kind, layer: null, token: null, key: null })),
      placeControls(item, layers, state, change));
    refill(follow, tokenPicker("Follow", rows, state.token, (token) => change({ token, key: item.columns === item.rows ? state.key : null })), tokenPicker("looking at", columns, state.key, (key) => change({ key })));
    refill(place, embeddingStep(context), vectorsStep(context), scoresStep(context), maskStep(context), softmaxStep(context), sumStep(context), concatenationStep(context));
  };
  show();
  onState("steps", (values) => {
    Object.assign(state, defaults, values);
    show();
  });
}

function vectorsLeftOut(page, all) {
  const missing = page.meta.attention.filter((item) => !all.includes(item));
  if (!missing.length) return [];
  return [h("p", { class: "note" }, "To keep this page small, queries, keys and values of some layers are left out; their attention is in the next section.")];
}

/** A select of a token with buttons to the one before and the one after. */
export function tokenPicker(label, tokens, value, onchange) {
  const options = tokens.map((token, i) => [i + 1, `${i + 1} ${clip(tokenText(token), 16)}`]);
  const step = (by, text, name) =>
    h("button", { type: "button", disabled: value + by < 1 || value + by > tokens.length, "aria-label": `${label}: ${name} token`, "data-key": `${label} ${by}`, onclick: () => onchange(value + by) }, text);
  const select = choice(label, options, value, (chosen) => onchange(Number(chosen)));
  return h("div", { class: "steps-picker" }, step(-1, "\u2039", "previous"), select, step(1, "\u203a", "next"));
}

/** Everything that the steps share: the vectors of the head, the row of scores, and how many digits are right. */
function stepsContext(page, item, state, rows, columns, change, width) {
  const [query, key, value, weights] = ["query", "key", "value"].map((name) => page.array(name + item.id)).concat(page.array(item.weights));
  const [head, i, j] = [state.head - 1, state.token - 1, state.key - 1];
  const queries = rows.map((_, t) => query.row(head, t));
  const keys = columns.map((_, t) => key.row(head, t));
  const values = columns.map((_, t) => value.row(head, t));
  const size = (vectors) => Math.max(...vectors.map((vector) => vector.reduce((sum, one) => sum + Math.abs(one), 0)));
  // Each number is rounded by half a unit at most, so a product q k is off by |q| and |k| times that.
  const productError = 0.5 * (size(queries) * key.unit + size(keys) * query.unit);
  return {
    page, item, state, rows, columns, change, width, head, i, j, queries, keys, values,
    weights: weights.row(head, i),
    allWeights: rows.map((_, t) => weights.row(head, t)),
    products: keys.map((vector) => dotOf(queries[i], vector)),
    scores: queries.map((one) => keys.map((vector) => dotOf(one, vector) * item.scaling)),
    productError, productDigits: honestDigits(productError), scoreDigits: honestDigits(productError * item.scaling), vectorDigits: query.decimals, valueDigits: value.decimals,
    isMasked: (row, column) => item.causal && column > row,
    scaleText: stepsScale(item.scaling, query.shape[2]),
  };
}

function stepsScale(scaling, width) {
  if (Math.abs(scaling * Math.sqrt(width) - 1) < 1e-6) return ["/ \u221a", h("span", {}, String(width))];
  return [scaling === 1 ? "(this model does not scale)" : `\u00d7 ${fixed(scaling, 4)}`];
}

/** A heading of a step with what it does and the tokens that are followed. */
export function stepHeading(number, title, ...text) {
  return [h("h3", { class: "steps-heading" }, h("span", { class: "steps-number", "aria-hidden": "true" }, String(number)), title), h("p", {}, text)];
}

/** A strip: rows of numbers, one cell a dimension. */
export function vectorStrip(options) {
  const cell = Math.max(2, Math.min(20, Math.floor((options.width - besideCells()) / options.columns)));
  return heatmap({ cellHeight: 22, cell, ...options });
}

/** What enters the stack of the followed tokens; undefined where that is not recorded. */
function firstVectors(page, item, rows) {
  const side = page.meta.family === "encoder-decoder" ? (item.rows === "source" ? "encoder" : "decoder") : page.meta.family === "decoder" ? "decoder" : "encoder";
  const stack = page.meta.stacks[side];
  return stack && page.array(stack.embeddings).shape[0] === rows.length ? { side, stack } : {};
}

function embeddingStep({ page, item, state, rows, i, change, width }) {
  const { side, stack } = firstVectors(page, item, rows);
  const heading = (...text) => stepHeading(1, "A token becomes a vector", ...text);
  if (!stack) {
    return h("div", { class: "step" }, heading("How this model makes its first vectors is not recorded (that is done for models of this library), so the numbers begin with queries, keys and values."));
  }
  const [embedding, position] = [page.array(stack.embeddings).row(i), page.array(stack.positions).row(i)];
  const sum = embedding.map((value, d) => value * stack.scale + position[d]);
  const digits = honestDigits(0.5 * page.array(stack.embeddings).unit * stack.scale + 0.5 * page.array(stack.positions).unit);
  const lines = [embedding.map((value) => value * stack.scale), embedding.map((value) => value * stack.scale), position, sum];
  const scale = fixed(stack.scale, 3);
  const labels = ["embedding", `\u00d7 ${scale}`, "position", "sum"];
  const [most, small] = [largestOf(lines.flat()), largestOf(embedding)];
  const d = wholeNumber(state.dim, 1, embedding.length, 1) - 1;
  const decimals = page.array(stack.embeddings).decimals;
  const say = (line, k) => [
    h("div", {}, `dimension ${k + 1}, ${labels[line]}`),
    h("div", { class: "number" }, line === 0 ? fixed(embedding[k], decimals) : line === 1 ? `${fixed(embedding[k], decimals)} \u00d7 ${scale} = ${fixed(lines[1][k], digits)}`
      : line === 2 ? fixed(position[k], 3) : `${fixed(lines[1][k], digits)} + ${bracketed(position[k], 3)} = ${fixed(sum[k], digits)}`),
  ];
  const map = vectorStrip({ width, rows: 4, columns: embedding.length, rowLabels: labels, value: (line, k) => lines[line][k], colours: () => signedColour(most),
    label: "Embedding, scaled embedding, position and their sum; arrow keys move over the dimensions", say, onrow: (_, k) => k !== undefined && change({ dim: k + 1 }) });
  map.chooseColumn(d);
  const learned = page.meta.model.traits.position_embedding === "learned";
  return h("div", { class: "step" },
    page.meta.family === "image" ? heading("A learned matrix turns the pixels of patch ", tokenElement(rows[i]), ` (row, column) into ${embedding.length} numbers, and the ${learned ? "learned vector" : "sinusoids"} of position ${i} ${learned ? "is" : "are"} added (section 3.5), so that attention knows where the patch was.`)
      : heading("The model looks up the row of its embedding matrix for ", tokenElement(rows[i]), `: ${embedding.length} learned numbers. They are multiplied by `,
      stack.scale === 1 ? "1 (this model does not scale them)" : `\u221ad_model = ${scale} (section 3.4)`, `, and the ${learned ? "learned vector" : "sinusoids"} of position ${i} ${learned ? "is" : "are"} added (section 3.5). Without that sum, attention would not know the order of the words.`),
    figure(`${side}-vector-of-token${i + 1}`, `The embedding is drawn larger, so that its numbers (at most ${fixed(small, 3)}) can be seen. Choose a dimension to write it out.`, map, map.picture),
    stepFormula(`dimension ${d + 1}: `, h("span", { class: "number" }, `${fixed(embedding[d], decimals)} \u00d7 ${scale} + ${bracketed(position[d], 3)} = ${fixed(sum[d], digits)}`)));
}

function vectorsStep(context) {
  const { page, item, rows, columns, queries, keys, values, i, j, change, width, vectorDigits, valueDigits } = context;
  const one = (name, title, vectors, tokens, chosen, digits, onrow) => {
    const count = vectors[0].length;
    const long = tokens.length > 40;
    const most = largestOf(vectors.flat());
    const map = heatmap({ rows: tokens.length, columns: count, cell: Math.max(2, Math.floor(190 / count)), cellHeight: long ? 7 : 16, rowLabels: long ? null : tokens,
      value: (t, d) => vectors[t][d], colours: () => signedColour(most), label: `${title} of all tokens; arrow keys move over the numbers`,
      say: (t, d) => [h("div", {}, name, " of ", h("strong", {}, h("bdi", {}, tokenText(tokens[t]))), `, number ${d + 1}`), h("div", { class: "number" }, fixed(vectors[t][d], digits))], onrow });
    map.chooseRow(chosen);
    return Object.assign(h("div", {}, h("h4", {}, title), map), { heading: title, picture: map.picture });
  };
  const maps = [
    one("query", "Q, queries", queries, rows, i, vectorDigits, (t) => change({ token: t + 1 })),
    one("key", "K, keys", keys, columns, j, vectorDigits, (t) => change({ key: t + 1 })),
    one("value", "V, values", values, columns, j, valueDigits, (t) => change({ key: t + 1 })),
  ];
  const from = item.kind === "cross"
    ? "The queries come from the decoder, the keys and values from the encoder\u2019s output: here the target reads the source (section 3.2.3)."
    : "All three come from the same vectors, hence self-attention.";
  const [dk, dv] = [queries[0].length, values[0].length];
  const normed = page.meta.model.traits.norm_order === "pre";
  const entering = page.has(`input${item.id}`) ? page.array(`input${item.id}`).row(i) : null;
  return h("div", { class: "step" },
    stepHeading(2, "Query, key and value", `Head ${context.state.head} multiplies its vectors by three learned matrices (section 3.2.2). The query says what a token looks for, the key what it can be found by, the value what it hands over: ${dk}, ${dk} and ${dv} numbers a token. ${from}`),
    entering && (item.layer > 1 || item.kind === "cross" || normed || !firstVectors(page, item, rows).stack) ? enteringStrip(context, entering, normed) : null,
    figure(`${item.kind}-queries-keys-values-layer${item.layer}-head${context.state.head}`, ["Lengths: query of ", tokenElement(rows[i]), ` ${fixed(lengthOf(queries[i]))}, key of `, tokenElement(columns[j]), ` ${fixed(lengthOf(keys[j]))}, its value ${fixed(lengthOf(values[j]))}. A row of Q chooses the token to follow.`],
      h("div", { class: "steps-three" }, maps), () => sidePictures(maps)));
}

function enteringStrip({ item, rows, i, width, page }, vector, normed) {
  const most = largestOf(vector);
  const digits = page.array(`input${item.id}`).decimals;
  const map = vectorStrip({ width, rows: 1, columns: vector.length, rowLabels: [tokenText(rows[i])], value: (_, d) => vector[d], colours: () => signedColour(most),
    label: `What enters layer ${item.layer} for this token; arrow keys move over the dimensions`, say: (_, d) => [h("div", {}, `dimension ${d + 1}`), h("div", { class: "number" }, fixed(vector[d], digits))] });
  const before = item.kind === "cross" ? "the masked self-attention of its layer and all layers below have" : item.layer === 2 ? "layer 1 has" : `layers 1 to ${item.layer - 1} have`;
  const after = normed ? ", after the layer norm" : "";
  const told = item.kind !== "cross" && item.layer === 1 ? `This is what enters layer 1${after}:` : `By now ${before} worked on the first vector. This is what comes out${after}:`;
  return h("div", {}, h("p", { class: "note" }, told), figure(`${item.kind}-input-layer${item.layer}-token${i + 1}`, "The vector that the query is made from.", map, map.picture));
}

SECTIONS.push({ id: "steps", title: "Attention step by step", applies: (page) => page.meta.attention.some((item) => item.vectors), render: renderSteps });
