// Section 6: what one layer is made of, with the shapes and lengths of this pass, and the mask that grows with the text.

import { SECTIONS } from "../sections.js";
import { fixed, h, tokenText } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { buttons, choice, explainable, figure, refill, slider, standalone } from "../diagram.js";
import { heatmap, weightColour } from "../heatmap.js";
import { blockDrawing } from "./block_drawing.js";

const BLOCK_ROLES = {
  self_attn: ["Self-attention", "3.2.3"],
  masked: ["Masked self-attention", "3.2.3"],
  cross_attn: ["Attention to the encoder", "3.2.3"],
  feed_forward: ["Feed-forward network", "3.3"],
};

function blocksShape(shape) {
  return shape.join(" \u00d7 ");
}

/** What each part says: a title and sentences with the numbers of this pass. */
function blocksTexts(page, stage, sizes) {
  const [length, width] = stage.shape;
  const isDecoder = stage.stack === "decoder";
  const causal = isDecoder && stage.sublayer === "self_attn";
  const [name, section] = BLOCK_ROLES[causal ? "masked" : stage.sublayer];
  const item = page.meta.attention.find((entry) => entry.layer === stage.layer + 1 &&
    entry.kind === (stage.sublayer === "cross_attn" ? "cross" : stage.stack));
  const heads = item?.heads ?? sizes.num_heads;
  const about = {
    self_attn: causal
      ? "Every token asks the tokens before it and itself; later ones are masked, so the text can be written from left to right."
      : "Every token asks all tokens of the same text; queries, keys and values all come from this layer\u2019s input.",
    cross_attn: "Every target token asks the source: queries from the decoder, keys and values from what the encoder\u2019s last layer left.",
    feed_forward: `The same two linear maps at each position by itself: ${width} \u2192 ${sizes.d_ff} \u2192 ${width}, with ${page.meta.model.traits.activation_function ?? "ReLU"} in between.`,
  }[stage.sublayer];
  const shapes = stage.sublayer === "feed_forward"
    ? `In ${blocksShape(stage.shape)}, inside ${length} \u00d7 ${sizes.d_ff}, out ${blocksShape(stage.shape)}.`
    : `In ${blocksShape(stage.shape)}; ${heads} heads, each Q ${length} \u00d7 ${sizes.d_k}, V with ${sizes.d_v} columns; out ${blocksShape(stage.shape)}.`;
  return { name, section, about, shapes };
}

function blocksHint(title, ...lines) {
  return [h("strong", {}, title), ...lines.map((line) => h("div", {}, line))];
}

/** The parts of a layer from its input upwards, as this model orders them. */
function blocksParts(page, stages, isPre) {
  const sizes = page.meta.model.sizes;
  const parts = [];
  for (const stage of stages) {
    const texts = blocksTexts(page, stage, sizes);
    const [before, written, after] = [stage.before, stage.written, stage.after].map((value) => fixed(value));
    const mean = "Mean length of a token\u2019s vector";
    const sublayer = { kind: "sublayer", label: texts.name, stage, cross: stage.sublayer === "cross_attn",
      say: () => blocksHint(`${texts.name} (section ${texts.section})`, texts.about, texts.shapes, `${mean} that it writes: ${written}.`) };
    const norm = { kind: "norm", label: "Norm", stage,
      say: () => blocksHint("Layer normalisation", `Each vector is shifted to mean 0 and scaled to variance 1, then times a learned gain plus a learned bias. Here before the sub-layer (pre-norm, not the paper\u2019s order); it reads the sum so far, ${mean.toLowerCase()} ${before}.`) };
    const add = { kind: "add", label: isPre ? "Add" : "Add & norm", stage,
      say: () => blocksHint(isPre ? "Residual connection" : "Residual connection, then layer normalisation (section 3.1)",
        isPre ? "x + Sublayer(LayerNorm(x)): what came in is added to what the sub-layer wrote." : "LayerNorm(x + Sublayer(x)): what came in is added to what the sub-layer wrote, and each vector is set to mean 0 and variance 1, then times a learned gain plus a learned bias.",
        `${mean}: x ${before}, Sublayer(x) ${written}, after ${after}.`) };
    parts.push(isPre ? [norm, sublayer, add] : [sublayer, add]);
  }
  return parts;
}

function blocksNumbers(stages) {
  const cell = (value) => h("td", { class: "number" }, fixed(value));
  return h("div", { class: "scroll" }, h("table", { class: "blocks-numbers" },
    h("thead", {}, h("tr", {}, ["sub-layer", "shape", "|x|", "|Sublayer\u200b(x)|", "|result|"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, stages.map((stage) => h("tr", {},
      h("th", { scope: "row" }, BLOCK_ROLES[stage.stack === "decoder" && stage.sublayer === "self_attn" ? "masked" : stage.sublayer][0]),
      h("td", { class: "number" }, blocksShape(stage.shape)), cell(stage.before), cell(stage.written), cell(stage.after))))));
}

function blocksFigure(page, side, layer) {
  const stages = page.meta.stages.filter((stage) => stage.stack === side && stage.layer === layer - 1);
  const isPre = page.meta.model.traits.norm_order === "pre";
  const drawing = blockDrawing(blocksParts(page, stages, isPre), `One layer of the ${side}, layer ${layer}`);
  const name = page.meta.family === "image" ? "encoder of patches" : side;
  return figure(`${side}-block-layer${layer}`,
    `Layer ${layer} of the ${name}, ${isPre ? "pre-norm (not the paper\u2019s order)" : "post-norm as in the paper"}; read from below. |x|: mean length of a token\u2019s vector in this pass.`,
    h("div", {}, drawing, blocksNumbers(stages)), () => standalone(drawing));
}

function blocksLayers(root, page) {
  const sides = ["encoder", "decoder"].filter((side) => page.meta.stages.some((stage) => stage.stack === side));
  const last = Object.fromEntries(sides.map((side) => [side, Math.max(...page.meta.stages.filter((stage) => stage.stack === side).map((stage) => stage.layer)) + 1]));
  const state = { ...stateOf("blocks") };
  const place = h("div", { class: "blocks-pair" });
  const show = () => {
    for (const side of sides) state[side] = wholeNumber(state[side], 1, last[side], 1);
    refill(place, sides.map((side) => h("div", { class: "blocks-one" },
      h("h3", {}, `${side === "encoder" ? "Encoder" : "Decoder"} layer`),
      h("div", { class: "controls" }, choice(`Layer of the ${side}`, Array.from({ length: last[side] }, (_, i) => [i + 1, `layer ${i + 1} of ${last[side]}`]), state[side], (layer) => change({ [side]: layer }))),
      blocksFigure(page, side, state[side]))));
  };
  const change = (values) => {
    Object.assign(state, values);
    show();
    setState("blocks", Object.fromEntries([...sides, "row"].map((key) => [key, state[key]])));
  };
  root.append(h("p", {}, "A stack repeats one layer. Each sub-layer reads the running sum, writes something, and a residual connection adds it back (section 3.1). Point at a part, tab to it or tap it, and it explains itself."), place);
  show();
  return { state, change, show };
}

/** The causal mask, row by row: the weights of the chosen layer's masked self-attention, mean over the heads. */
function blocksMask(root, page, layers) {
  const items = page.meta.attention.filter((item) => item.kind === "decoder");
  if (!items.length) return null;
  const tokens = page.meta.target;
  const count = tokens.length;
  const state = { row: count, ...stateOf("blocks") };
  let item = items[0];
  const mean = (i, j) => {
    const weights = page.array(item.weights);
    let sum = 0;
    for (let head = 0; head < item.heads; head++) sum += weights.at(head, i, j);
    return sum / item.heads;
  };
  const said = h("p", { class: "note blocks-said", "aria-live": "polite" });
  const place = h("div", {});
  const show = () => {
    state.row = wholeNumber(state.row, 1, count, count);
    const map = heatmap({
      rows: count, columns: count, cell: count > 40 ? 10 : count > 16 ? 16 : 24, rowLabels: tokens, columnLabels: tokens,
      value: (i, j) => (i < state.row ? mean(i, j) : 0), colours: weightColour, masked: (i, j) => i < state.row && j > i,
      label: "Causal mask: rows look at columns; arrow keys move over the cells",
      say: (i, j) => [h("div", {}, h("strong", {}, tokenText(tokens[i])), " \u2192 ", h("strong", {}, tokenText(tokens[j]))),
        h("div", { class: "number" }, i >= state.row ? "not written yet" : j > i ? "masked: score \u2212\u221e, weight 0" : fixed(mean(i, j), 4))],
      onrow: (i) => change(i + 1),
    });
    map.chooseRow(state.row - 1);
    refill(place, figure("causal-mask", `Grey: masked, the score is set to \u2212\u221e before the softmax. Colour: weights of layer ${item.layer}, mean over ${item.heads} heads. Empty: not written yet.`, map, map.picture));
    said.replaceChildren(`Row ${state.row}: `, h("bdi", {}, h("strong", {}, tokenText(tokens[state.row - 1]))), ` looks at ${state.row === 1 ? "itself alone" : `itself and the ${state.row - 1} before it`}`, count === state.row ? ". The text is complete." : `; ${count - state.row} later ${count - state.row === 1 ? "position is" : "positions are"} not written yet.`);
    control.set(state.row);
  };
  const change = (row) => {
    state.row = row;
    show();
    if (layers) layers.change({ row });
    else setState("blocks", { row });
  };
  const control = slider("Tokens written", { min: 1, max: count, value: state.row, show: (row) => `${row} of ${count}` }, change);
  const choose = items.length > 1
    ? choice("Layer of the mask", items.map((entry) => [entry.layer, `layer ${entry.layer}`]), item.layer, (layer) => {
        item = items.find((entry) => entry.layer === Number(layer));
        show();
      })
    : null;
  const step = buttons("One token", [["back", "\u2190 token"], ["on", "token \u2192"]], null, (way) => {
    change(Math.max(1, Math.min(count, state.row + (way === "on" ? 1 : -1))));
    step.set(null);
  });
  root.append(h("h3", {}, "A mask that grows with the text"),
    h("p", {}, "While the decoder writes, a token can only look back: there is nothing behind it yet. In training the whole target is there at once, so a mask hides what comes later (section 3.2.3). The result is the same, row by row."),
    h("div", { class: "controls" }, control, step, choose), said, place);
  show();
  return (values) => {
    state.row = values.row ?? count;
    show();
  };
}

function renderBlocks(root, page) {
  const layers = page.meta.stages.length ? blocksLayers(root, page) : null;
  if (!layers) root.append(h("p", { class: "note" }, `The sub-layers of ${page.meta.model.class} are not drawn: what each of them adds is recorded for vaswani models only.`));
  const mask = blocksMask(root, page, layers);
  onState("blocks", (values) => {
    if (layers) {
      Object.assign(layers.state, values);
      layers.show();
    }
    mask?.(values);
  });
}

SECTIONS.push({ id: "blocks", title: "Encoder and decoder block", applies: () => true, render: renderBlocks });
