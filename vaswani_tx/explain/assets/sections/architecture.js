// Section 7: the whole architecture as this model has it (figure 1 of the paper, drawn anew), with the parameters of each part.

import { SECTIONS } from "../sections.js";
import { fixed, grouped, h } from "../core.js";
import { figure, standalone } from "../diagram.js";
import { architectureDrawing } from "./architecture_drawing.js";

// Where the norms of models of other authors are; of others it is not known, and their norms are not drawn.
const ARCHITECTURE_ORDERS = {
  post: ["bert", "marian", "bart", "roberta", "distilbert", "electra"], pre: ["gpt2", "t5", "mt5", "mbart", "pegasus", "m2m_100", "llama", "qwen2"],
};

function architectureOrder(page) {
  const { model } = page.meta;
  if (model.ours) return model.traits.norm_order ?? "post";
  return Object.keys(ARCHITECTURE_ORDERS).find((order) => ARCHITECTURE_ORDERS[order].includes(model.type)) ?? null;
}

/** How the model knows the order of tokens. */
function architecturePositions(page) {
  const { model, attention } = page.meta;
  if (attention.some((item) => item.scoreBias)) return ["Relative positions", "The distance of two tokens enters the attention scores; nothing is added to the embeddings."];
  if (model.traits.position_embedding === "sinusoidal" || model.type === "marian") return ["Sinusoidal positions", "Sines and cosines of many wavelengths, added to each embedding (section 3.5). Nothing is learned."];
  const isLearned = model.traits.position_embedding === "learned" || model.parts.some((part) => part.name.endsWith("positions"));
  return isLearned ? ["Learned positions", "One learned vector a position, added to each embedding (Table 3, row E)."] : ["Positions", "How the order of tokens enters this model."];
}

/** The parameters of the parts whose names are given, and their share of the model. */
function architectureCount(page, names) {
  return page.meta.model.parts.filter((part) => names.includes(part.name)).reduce((sum, part) => sum + part.parameters, 0);
}

function architectureShare(page, count) {
  return `${grouped(count)} parameters, ${fixed((100 * count) / page.meta.model.parameters, 1)} %`;
}

/** Go to the first of these addresses whose section is on the page. */
function architectureGo(addresses) {
  const found = addresses.find((address) => document.getElementById(address.split("/")[0]));
  if (!found) return;
  if (location.hash === "#" + found) dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = found;
}

function architectureSizes(page) {
  const { sizes } = page.meta.model;
  return Object.fromEntries(["d_model", "d_ff", "num_heads"].map((name) => [name, sizes[name]]).filter(([, value]) => value));
}

/** The parts of one stack: {embed, positions, layer: [[sublayer, text]...], count}. */
function architectureStack(page, side, prefix) {
  const { attention, family, depth, model } = page.meta;
  const sizes = architectureSizes(page);
  const isDecoder = side === "decoder";
  const part = (name) => [`${prefix}${name}`.trim(), ...(prefix ? [] : [`encoder ${name}`])];
  const hint = (title, lines, names) => () => {
    const count = architectureCount(page, names);
    return [h("strong", {}, title), ...lines.map((line) => h("div", {}, line)), names.length ? h("div", { class: "number" }, count ? architectureShare(page, count) : "no parameters") : null,
      h("div", { class: "architecture-go" }, "Choose it to read its section.")].filter(Boolean);
  };
  const head = sizes.num_heads ? `${sizes.num_heads} heads` : "several heads";
  const selfKind = isDecoder ? "decoder" : "encoder";
  const [positionName, positionText] = architecturePositions(page);
  const isRelative = attention.some((item) => item.scoreBias); // positions are then no part of what goes in
  const sublayers = [{ id: `${side}-self`, label: `${isDecoder ? (isRelative ? "Masked attention" : "Masked self-attention") : "Self-attention"}${isRelative ? " + distance" : ""}`, to: [`attention/kind=${selfKind}`, `blocks/${side}=1`],
    say: hint(isDecoder ? "Masked self-attention (section 3.2)" : "Self-attention (section 3.2)", [`${head}; ${isDecoder ? "each token looks at itself and the tokens before it." : family === "image" ? "each patch looks at all patches." : "each token looks at all tokens."}`, ...(isRelative ? [positionText] : [])], isRelative ? [...part("self_attn"), ...part("positions")] : part("self_attn")) }];
  if (depth.cross && isDecoder) {
    sublayers.push({ id: "cross", label: "Attention to the encoder", cross: true, to: ["attention/kind=cross", "blocks"],
      say: hint("Attention to the encoder (section 3.2.3)", [`${head}; queries from the decoder, keys and values from the encoder\u2019s last layer.`], part("cross_attn")) });
  }
  sublayers.push({ id: `${side}-feed-forward`, label: "Feed-forward network", to: [`blocks/${side}=1`, "blocks", "heads"],
    say: hint("Feed-forward network (section 3.3)", [`The same for each position by itself${sizes.d_ff ? `: ${sizes.d_model} \u2192 ${sizes.d_ff} \u2192 ${sizes.d_model}` : ""}.`], part("feed_forward")) });
  const scale = page.meta.stacks[side]?.scale;
  const scaled = scale && scale !== 1 ? ` \u00d7 ${fixed(scale, 2)}` : "";
  const isImage = family === "image";
  const separate = model.sizes.source_vocab_size !== undefined;
  const shared = !prefix ? "" : separate ? " Source and target have a vocabulary each." : " One matrix serves both sides where it is shared.";
  const rows = (separate && !isDecoder ? model.sizes.source_vocab_size : model.sizes.vocab_size) ?? 0;
  return {
    side, count: depth[selfKind] ?? 0, sublayers,
    input: isImage ? "Patches of the image" : family === "encoder-decoder" ? (isDecoder ? "Target, shifted right" : "Source") : "Text",
    embed: { id: `${side}-embedding`, label: isImage ? "Linear map, class token" : `Embedding${scaled}`, to: isImage ? ["family"] : ["steps", "positions", "attention"],
      say: hint(isImage ? "Patches as vectors" : "Embedding (section 3.4)", [isImage ? "Each patch of pixels becomes one vector by a linear map; a learned class token stands in front." : `Each token becomes a row of a matrix of ${grouped(rows)} rows${scaled ? `, times \u221ad_model = ${fixed(scale, 2)}` : ""}.${shared}`], ["embeddings", `${prefix}embeddings`]) },
    positions: isRelative ? null : { id: `${side}-positions`, label: positionName, to: ["positions", "steps"], say: hint(positionName, [positionText], part("positions")) },
    norm: { id: `${side}-norm`, label: "Add & norm", to: [`blocks/${side}=1`, "blocks", "heads"],
      say: hint("Residual connection and layer normalisation (section 3.1)", [architectureOrder(page) === "pre" ? "Pre-norm: x + Sublayer(LayerNorm(x)). The paper normalises after the sum." : "Post-norm, as in the paper: LayerNorm(x + Sublayer(x))."], part("norm")) },
    hint,
  };
}

/** What comes after the last layer, from below upwards. */
function architectureOutput(page, stack) {
  const { model, family, masked, classes, prediction } = page.meta;
  const tied = model.traits.tie_word_embeddings !== false && !model.parts.some((part) => part.name === "output");
  const hasWords = prediction || masked?.length || /LM|Generation|Masked|MTModel/.test(model.class);
  if (!hasWords && !classes.length) return [{ id: "output", label: "Last states", to: ["attention"], say: stack.hint("Last states", ["One vector for each token; this model has no head."], []) }];
  if (!hasWords) {
    return [{ id: "output", label: "Linear map", to: ["family"], say: stack.hint("Linear map", [family === "image" || classes[0].position === undefined ? "One score for each class, from the first token\u2019s last state or their mean." : "One score for each tag, at every token."], ["output"]) },
      { id: "softmax", label: "Softmax: classes", to: ["family"], say: stack.hint("Softmax", ["Scores become probabilities that sum to 1."], []) }];
  }
  const to = page.meta.decoding ? ["decoding"] : ["family"];
  return [{ id: "output", label: tied ? "Linear map (the embedding)" : "Linear map", to: ["training", ...to],
    say: stack.hint("Pre-softmax linear map (section 3.4)", [tied ? "The embedding matrix once more, turned round: one score for each word. It is counted at the embedding." : "One score for each word of the vocabulary."], tied ? ["embeddings"] : ["output"]) },
  { id: "softmax", label: "Softmax: next token", to, say: stack.hint("Softmax", [page.meta.decoding ? "Scores become probabilities of the next token; decoding searches among them." : "Scores become probabilities of the word at this place."], []) }];
}

function architectureTable(page) {
  const { parts, parameters } = page.meta.model;
  const names = { self_attn: "self-attention", cross_attn: "attention to the encoder", feed_forward: "feed-forward networks", norm: "norms", embeddings: "embeddings", positions: "positions", output: "output", other: "other" };
  const said = (name) => name.split(" ").map((text) => names[text] ?? text).join(": ");
  const order = [...parts].sort((a, b) => b.parameters - a.parameters);
  return h("div", { class: "scroll" }, h("table", { class: "architecture-parts" },
    h("caption", {}, "Parameters of each part; a matrix that several parts share is counted once."),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "part"), h("th", { scope: "col", class: "number" }, "parameters"), h("th", { scope: "col", class: "number" }, "share"), h("th", { "aria-hidden": "true" }))),
    h("tbody", {}, order.map((part) => h("tr", {}, h("th", { scope: "row" }, said(part.name)), h("td", { class: "number" }, grouped(part.parameters)),
      h("td", { class: "number" }, `${fixed((100 * part.parameters) / parameters, 1)} %`), h("td", { "aria-hidden": "true" }, h("div", { class: "architecture-bar", css: { width: `${(9 * part.parameters) / order[0].parameters}rem` } }))))),
    h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "all"), h("td", { class: "number" }, grouped(parameters)), h("td", { class: "number" }, "100.0 %"), h("td", {})))));
}

function renderArchitecture(root, page) {
  const { family, depth, model } = page.meta;
  const sides = family === "encoder-decoder" ? ["encoder", "decoder"] : [depth.decoder ? "decoder" : "encoder"];
  const stacks = sides.map((side) => architectureStack(page, side, family === "encoder-decoder" ? `${side} ` : ""));
  const order = architectureOrder(page);
  const finalNorm = model.ours ? model.traits.final_layer_norm === true : order === "pre";
  const drawing = architectureDrawing(stacks, { order, finalNorm, output: architectureOutput(page, stacks[stacks.length - 1]), go: architectureGo });
  root.append(...[
    h("p", {}, "The model as a whole, read from below (figure 1 of the paper, in our own drawing). Point at a part for what it does and how many of the parameters it holds; choose it to read its section."),
    order === null ? h("p", { class: "note" }, `Where ${model.class} puts its norms is not recorded, so they are left out of the drawing.`) : null,
    stacks.length === 2 ? h("p", { class: "note architecture-wide" }, "The decoder is to the right: scroll the drawing sideways.") : null,
    figure("architecture", `${model.class}: ${stacks.map((stack) => `${stack.count} ${stack.side} layers`).join(", ")}${order ? `, ${order}-norm` : ""}.`, h("div", {}, drawing), () => standalone(drawing)),
    architectureTable(page),
  ].filter(Boolean));
}

SECTIONS.push({ id: "architecture", title: "The whole architecture", applies: (page) => Boolean(page.meta.depth), render: renderArchitecture });
