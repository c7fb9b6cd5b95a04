// Section 9: what this member of the family does with its last states, and which parts each member keeps.

import { SECTIONS } from "../sections.js";
import { fixed, h, tokenElement } from "../core.js";
import { explainable, figure, standalone } from "../diagram.js";
import { familyImage } from "./family_image.js";
import { familyTree } from "./family_tree.js";

const FAMILY_SHOWN = 10;

function familyBars(rows, label) {
  const most = Math.max(...rows.map((row) => row.probability));
  return h("table", { class: "family-bars", "aria-label": label }, h("tbody", {}, rows.map((row) =>
    h("tr", {}, h("th", { scope: "row" }, row.element), h("td", { class: "number" }, fixed(row.probability, 4)),
      h("td", { "aria-hidden": "true" }, h("div", { class: "family-bar", css: { width: `${(10 * row.probability) / most}rem` } }))))));
}

/** Masked tokens with the words that the model finds most probable there. */
function familyMasked(page) {
  const { masked, source } = page.meta;
  return h("div", { class: "family-masked" }, h("h3", {}, masked.length === 1 ? "The masked token" : "The masked tokens"),
    h("p", {}, "The model read the text with masks and gives a probability to every word of its vocabulary at each mask, from both sides of it at once."),
    masked.map((entry, i) => h("div", {},
      h("p", { class: "sentence" }, h("bdi", {}, source.map((token, j) => tokenElement(token, { class: j === entry.position ? "chosen" : "" })))),
      familyBars(entry.predictions.map((found) => ({ probability: found.probability, element: tokenElement({ text: found.text, special: false }) })), `Most probable words at mask ${i + 1}`))));
}

/** A tag for each token. */
function familyTags(page) {
  const { classes, source } = page.meta;
  return h("div", {}, h("h3", {}, "A tag for each token"), h("p", {}, "A linear map turns each token\u2019s last state into scores of the tags. Point at a token for the probability of its tag."),
    h("div", { class: "family-tags" }, classes.map((entry) => {
      const token = source[entry.position];
      const element = h("span", { class: "family-tag" }, tokenElement(token), h("span", { class: "family-tag-name" }, entry.name));
      return explainable(element, () => [h("strong", {}, entry.name), h("div", { class: "number" }, fixed(entry.probability, 4))]);
    })));
}

/** The probabilities of the classes of a whole text or image. */
function familyClasses(page) {
  const order = [...page.meta.classes].sort((a, b) => b.probability - a.probability);
  return h("div", { class: "family-classes" }, h("h3", {}, "The classes"),
    h("p", {}, page.meta.family === "image" ? "A linear map turns the class token\u2019s last state into one score a class; the softmax makes probabilities of them." : "A linear map turns the state of the text into one score a class; the softmax makes probabilities of them."),
    familyBars(order.slice(0, FAMILY_SHOWN).map((entry) => ({ probability: entry.probability, element: h("bdi", {}, entry.name) })), "Probabilities of the classes"),
    order.length > FAMILY_SHOWN ? h("p", { class: "note" }, `The ${FAMILY_SHOWN} most probable of ${order.length}.`) : null);
}

function renderFamily(root, page) {
  const { family, classes, masked, model } = page.meta;
  const tree = familyTree(family);
  root.append(h("p", {}, "Leave parts of the 2017 Transformer out and you get its relatives. The parts that are kept work as in the sections above."),
    figure("family-tree", "Solid: parts that a member keeps. Dashed: parts that it leaves out. Marked: this model.", h("div", {}, tree), () => standalone(tree)));
  const marked = tree.querySelector(".this rect"); // on a phone the drawing is wider than the window
  tree.parentElement.scrollLeft = Number(marked.getAttribute("x")) - 20;
  if (family === "image" && page.has("pixels")) root.append(familyImage(page));
  if (masked.length) root.append(familyMasked(page));
  else if (family === "encoder" && !classes.length && /Masked/.test(model.class)) {
    root.append(h("p", { class: "note" }, "This model fills in masked tokens, and this text has none: put the tokenizer\u2019s mask token into the text to see its predictions."));
  }
  if (classes.length) root.append(classes[0].position === undefined ? familyClasses(page) : familyTags(page));
}

SECTIONS.push({ id: "family", title: "The family", applies: () => true, render: renderFamily });
