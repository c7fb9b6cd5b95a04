// Section 4: the heads of a layer side by side for one token, and what each writes after its part of W_O.

import { SECTIONS } from "../sections.js";
import { fixed, h, s, tokenElement, tokenText, word } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { buttons, choice, drawn, explainable, figure, refill, standalone } from "../diagram.js";
import { besideCells, heatmap, weightColour, weightHint } from "../heatmap.js";
import { KINDS, attentionCell, chosenAttention, kindsOf, strongestHint, tokensOf } from "./attention.js";
import { headColour } from "./attention_lines.js";
import { largestOf, lengthOf, tokenPicker } from "./steps.js";

function renderHeads(root, page) {
  const all = page.meta.attention;
  const kinds = kindsOf(all);
  const start = kinds.includes("cross") ? "cross" : kinds[0];
  const state = { kind: start, layer: null, head: 1, token: null, ...stateOf("heads") };
  const [controls, follow, place] = [h("div", { class: "controls" }), h("div", { class: "steps-follow" }), h("div", {})];
  root.append(
    h("p", {}, "Each layer has several heads. Each looks at the sentence in its own way, and W", h("sup", {}, "O"), " adds what they found: MultiHead(Q, K, V) = Concat(head", h("sub", {}, "1"), ", \u2026, head", h("sub", {}, "h"), ") W", h("sup", {}, "O"),
      " (section 3.2.2). W", h("sup", {}, "O"), " can be cut into one part a head, so that one sees what each head writes into the vector of a token."),
    controls, follow, place,
  );
  const change = (values) => {
    Object.assign(state, values);
    show();
    const { kind, layer, head, token } = state;
    setState("heads", { kind, layer, head, token });
  };
  const show = () => {
    const { item, layers } = chosenAttention(all, state, start);
    const rows = tokensOf(page, item.rows);
    state.token = wholeNumber(state.token ?? "", 1, rows.length, Math.ceil(rows.length / 2));
    const context = { page, item, items: all.filter((entry) => entry.kind === item.kind), state, rows, columns: tokensOf(page, item.columns), i: state.token - 1, change, width: Math.max(240, place.clientWidth - 40) };
    refill(controls,
      buttons("Which attention, head by head", kinds.map((kind) => [kind, KINDS[kind]]), state.kind, (kind) => change({ kind, token: null, layer: null })),
      choice("Layer", layers.map((layer) => [layer, `layer ${layer}`]), state.layer, (layer) => change({ layer: Number(layer) })));
    refill(follow, tokenPicker("Token", rows, state.token, (token) => change({ token })));
    refill(place, sideBySideHeads(context), item.written ? writtenByHeads(context) : h("p", { class: "note" }, "The output projection of this model was not found, so what each head writes is not shown."));
  };
  show();
  onState("heads", (values) => {
    Object.assign(state, { token: null }, values);
    show();
  });
}

/** One row a head: what the chosen token looks at. */
function sideBySideHeads({ page, item, state, rows, columns, i, change, width }) {
  const weights = page.array(item.weights);
  const isMasked = (_, j) => item.causal && j > i;
  const labelled = columns.length <= 100;
  const map = heatmap({
    rows: item.heads, columns: columns.length, cell: attentionCell(item.heads, columns.length, width - besideCells()), cellHeight: 22, rowLabels: Array.from({ length: item.heads }, (_, head) => `head ${head + 1}`), columnLabels: labelled ? columns : null,
    value: (head, j) => weights.at(head, i, j), colours: weightColour, masked: isMasked, label: "What each head looks at for this token; arrow keys move over the cells, Enter chooses a head",
    say: (head, j) => [h("div", {}, `head ${head + 1}`), ...weightHint(rows[i], columns[j], weights.at(head, i, j), isMasked(head, j))],
    sayRow: (head) => strongestHint(`head ${head + 1} looks at`, columns, weights.row(head, i)),
    onrow: (head) => change({ head: head + 1 }),
  });
  map.chooseRow(state.head - 1);
  return [
    h("h3", {}, "What each head looks at"),
    figure(`${item.kind}-heads-layer${item.layer}-token${i + 1}`, h("span", {}, tokenElement(rows[i]), ` in ${KINDS[item.kind]}, layer ${item.layer}: one row a head.`), map, map.picture),
    h("p", { class: "note" }, h("a", { href: `#attention/kind=${item.kind}&layer=${item.layer}&head=${state.head}&row=${i + 1}` }, `Head ${state.head} as a matrix`),
      item.vectors ? [", or ", h("a", { href: `#steps/kind=${item.kind}&layer=${item.layer}&head=${state.head}&token=${i + 1}` }, "step by step"), "."] : "."),
  ];
}

/** What each head adds to the vector of the token: length, share and the words it raises. */
function writtenByHeads(context) {
  const { page, item, rows, columns, i, state, change } = context;
  const lengths = Array.from({ length: item.heads }, (_, head) => page.array(item.written).at(head, i));
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const weights = page.array(item.weights);
  const shares = lengths.map((length) => (total > 0 ? length / total : 0));
  const raises = Boolean(item.raisedIds);
  const row = (head) => {
    const best = weights.row(head, i).map((weight, j) => [weight, j]).sort((a, b) => b[0] - a[0]).slice(0, 2);
    return h("tr", { class: head + 1 === state.head ? "here" : "" },
      h("th", { scope: "row" }, h("button", { type: "button", class: "heads-choose", "aria-pressed": String(head + 1 === state.head), "data-key": `head row ${head}`, onclick: () => change({ head: head + 1 }) },
        h("span", { css: { color: headColour(head, item.heads) }, "aria-hidden": "true" }, "\u25a0 "), `head ${head + 1}`)),
      h("td", {}, best.map(([weight, j]) => h("span", { class: "heads-pair" }, tokenElement(columns[j]), h("span", { class: "number note" }, fixed(weight, 2)), " "))),
      h("td", { class: "number" }, fixed(lengths[head], 2)),
      h("td", { class: "number" }, `${fixed(100 * shares[head], 0)}%`),
      raises ? h("td", {}, raisedWords(context, head)) : null);
  };
  const together = page.has(`output${item.id}`) ? lengthOf(page.array(`output${item.id}`).row(i)) : null;
  return [
    h("h3", {}, "What each head writes"),
    shareBar(context, lengths, shares),
    h("div", { class: "scroll heads-table", tabindex: "0", role: "region", "aria-label": "What each head writes" }, h("table", {},
      h("thead", {}, h("tr", {}, ["head", "looks most at"].map((text) => h("th", { scope: "col" }, text)), ["length", "share"].map((text) => h("th", { scope: "col", class: "number" }, text)), raises ? h("th", { scope: "col" }, "raises the output words (logit)") : null)),
      h("tbody", {}, lengths.map((_, head) => row(head))))),
    h("p", { class: "note" }, `Length: of the vector that the head adds for `, tokenElement(rows[i]), `. Share: its part of the sum of these lengths, ${fixed(total, 2)}.`,
      together === null ? " The vectors point in different directions, so together they are shorter than that." : ` The vectors point in different directions: added up${page.meta.model.traits.attention_bias === false ? "" : ", with the bias of the projection if there is one,"} they have length ${fixed(together, 2)}.`),
    raisedNote(context), writtenMaps(context),
  ];
}

function raisedWords({ page, item, i }, head) {
  const [ids, logits] = [page.array(item.raisedIds), page.array(item.raisedLogits)];
  return ids.row(head, i).map((id, rank) => explainable(h("span", { class: "heads-word" }, tokenElement(word(page, id)), h("span", { class: "number note" }, ` ${logits.at(head, i, rank) < 0 ? "" : "+"}${fixed(logits.at(head, i, rank), 2)} `)),
    () => [h("strong", {}, h("bdi", {}, tokenText(word(page, id)))), `: head ${head + 1} alone changes its logit by ${fixed(logits.at(head, i, rank), 2)}`]));
}

function raisedNote({ page, item, i }) {
  if (item.raisedIds) {
    const after = page.has("topIds") && i < page.array("topIds").shape[0] ? page.array("topIds") : null;
    return [
      h("p", { class: "note" }, "The words come from a short cut: what the head writes goes straight through the output projection, as if no layer and no norm came after it. That tells a direction, not what the model does with it; in the last layer it tells most."),
      after ? h("p", { class: "note heads-next" }, "After this token the whole model puts first: ", Array.from({ length: Math.min(3, after.shape[1]) }, (_, rank) => [tokenElement(word(page, after.at(i, rank))), h("span", { class: "number" }, ` ${fixed(page.array("topProbs").at(i, rank), 2)} `)])) : null,
    ];
  }
  const why = item.kind !== "encoder" ? "This model\u2019s output projection was not found, so no words are shown."
    : page.meta.family === "encoder-decoder" ? "No words here: the encoder\u2019s vectors never meet the output projection, they go to the decoder\u2019s cross-attention (section 3.1)."
      : "No words here: this page puts only what decoders write through an output projection.";
  return h("p", { class: "note" }, why);
}

/** The shares as one bar. */
function shareBar({ item, rows, i, state, change, width: free }, lengths, shares) {
  const [width, height] = [Math.min(720, free), 46];
  const drawing = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "heads-bar", role: "group", "aria-label": "Share of each head in what is written" });
  drawn(() => {
    let x = 0;
    drawing.replaceChildren(...shares.map((share, head) => {
      const part = s("g", { role: "button", tabindex: 0, "data-key": `share ${head}`, "aria-label": `head ${head + 1}: ${fixed(100 * share, 0)}%`, onclick: () => change({ head: head + 1 }), onkeydown: (event) => event.key === "Enter" && change({ head: head + 1 }) },
        s("rect", { x, y: 4, width: Math.max(0, share * width - 1), height: 24, fill: headColour(head, item.heads), opacity: head + 1 === state.head ? 1 : 0.65 }),
        share * width > 14 ? s("text", { x: x + 4, y: 42, "font-size": 12 }, share * width > 52 ? `head ${head + 1}` : `${head + 1}`) : "");
      x += share * width;
      return explainable(part, () => `head ${head + 1} writes a vector of length ${fixed(lengths[head], 2)}, ${fixed(100 * share, 1)}% of the sum of lengths`);
    }));
  }, drawing);
  return figure(`${item.kind}-shares-layer${item.layer}-token${i + 1}`, `Share of each head in what layer ${item.layer} writes for ${tokenText(rows[i])}.`, h("div", {}, drawing), () => standalone(drawing));
}

/** Lengths for all tokens of the layer, and for this token in all layers. */
function writtenMaps({ page, item, items, state, rows, i, change, width }) {
  const written = page.array(item.written);
  const labelled = rows.length <= 100;
  const most = largestOf(Array.from(written.data)) * written.unit;
  const names = Array.from({ length: item.heads }, (_, head) => `head ${head + 1}`);
  const tokens = heatmap({
    rows: item.heads, columns: rows.length, cell: attentionCell(item.heads, rows.length, width - besideCells()), cellHeight: 22, rowLabels: names, columnLabels: labelled ? rows : null,
    value: (head, t) => (written.at(head, t) / most) ** 2, colours: weightColour, label: "Length of what each head writes for each token; arrow keys move over the cells, Enter chooses one",
    say: (head, t) => [h("div", {}, `head ${head + 1}, `, h("strong", {}, h("bdi", {}, tokenText(rows[t])))), h("div", { class: "number" }, `length ${fixed(written.at(head, t), 3)}`)],
    onrow: (head, t) => change({ head: head + 1, ...(t === undefined ? {} : { token: t + 1 }) }),
  });
  tokens.chooseColumn(i);
  const layered = items.filter((entry) => entry.written);
  const heads = Math.max(...layered.map((entry) => entry.heads));
  const at = (layer, head) => (head < layered[layer].heads ? page.array(layered[layer].written).at(head, i) : 0);
  const largest = largestOf(layered.flatMap((_, layer) => names.map((__, head) => at(layer, head))));
  const layers = heatmap({
    rows: layered.length, columns: heads, cell: 40, cellHeight: 22, rowLabels: layered.map((entry) => `layer ${entry.layer}`), columnLabels: Array.from({ length: heads }, (_, head) => `head ${head + 1}`),
    value: (layer, head) => (at(layer, head) / largest) ** 2, colours: weightColour, label: "Length of what each head of each layer writes for this token; arrow keys move over the cells, Enter chooses one",
    say: (layer, head) => [h("div", {}, `layer ${layered[layer].layer}, head ${head + 1}`), h("div", { class: "number" }, `length ${fixed(at(layer, head), 3)}`)],
    onrow: (layer, head) => change({ layer: layered[layer].layer, ...(head === undefined ? {} : { head: head + 1 }) }),
  });
  layers.chooseRow(layered.findIndex((entry) => entry.layer === state.layer));
  return [
    h("h3", {}, "Who writes where"),
    figure(`${item.kind}-written-layer${item.layer}`, `Length of what each head of layer ${item.layer} writes, for every token.`, tokens, tokens.picture),
    layered.length > 1 ? figure(`${item.kind}-written-token${i + 1}`, h("span", {}, "The same for ", tokenElement(rows[i]), " in all layers."), layers, layers.picture) : null,
  ];
}

SECTIONS.push({ id: "heads", title: "Multi-head attention", applies: (page) => page.meta.attention.length > 0, render: renderHeads });
