// The four members of the family as small pictures of one size: parts that are kept, and parts that are left out.

import { h, s } from "../core.js";
import { explainable } from "../diagram.js";

const FAMILY_MEMBERS = [
  { family: "encoder-decoder", name: "Encoder-decoder", year: "the paper, 2017", keeps: ["e-in", "e-self", "e-ff", "d-in", "d-self", "cross", "d-ff", "out"],
    about: "Reads one text and writes another: translation, summaries. Keeps everything: encoder, masked decoder, attention from one to the other." },
  { family: "encoder", name: "Encoder-only", year: "such as BERT, 2018", keeps: ["e-in", "e-self", "e-ff", "out"],
    about: "Reads a text, each token seeing both sides: fills in masked words, classifies, tags. No mask of later tokens, no decoder, no writing." },
  { family: "decoder", name: "Decoder-only", year: "such as GPT, 2018", keeps: ["d-in", "d-self", "d-ff", "out"],
    about: "Continues a text: the masked self-attention stays, and without an encoder there is nothing to attend to beside the text itself." },
  { family: "image", name: "Image patches", year: "such as ViT, 2020", keeps: ["e-in", "e-self", "e-ff", "out"],
    about: "An encoder whose tokens are patches of an image behind a learned class token; its last state gives the class." },
];
const FAMILY_PARTS = [
  ["e-in", 0, 3, "Tokens"], ["e-self", 0, 2, "Self-att."], ["e-ff", 0, 1, "Feed-fwd."],
  ["d-in", 1, 4, "Tokens"], ["d-self", 1, 3, "Masked att."], ["cross", 1, 2, "Cross-att."], ["d-ff", 1, 1, "Feed-fwd."], ["out", null, 0, "Output"],
];
const TREE_SIZE = { panel: 210, gap: 14, box: 86, height: 24, step: 32, top: 92 };

function familyPanel(member, x, isThis) {
  const side = member.keeps.includes("d-self") ? 1 : 0;
  const boxes = FAMILY_PARTS.map(([id, column, row, label]) => {
    const left = x + 14 + (column ?? side) * (TREE_SIZE.box + 10);
    const top = TREE_SIZE.top + row * TREE_SIZE.step;
    const kept = member.keeps.includes(id);
    const text = id === "e-in" && member.family === "image" ? "Patches" : id === "out" && ["image"].includes(member.family) ? "Class" : label;
    return s("g", { class: `family-part${kept ? " kept" : ""}${id === "cross" ? " cross" : ""}` },
      s("rect", { x: left, y: top, width: TREE_SIZE.box, height: TREE_SIZE.height, rx: 5 }),
      s("text", { x: left + TREE_SIZE.box / 2, y: top + 16, "text-anchor": "middle", "font-size": 12 }, text));
  });
  const group = s("g", { class: `family-member${isThis ? " this" : ""}`, role: "img", "data-family": member.family, "aria-label": `${member.name}${isThis ? ", this model" : ""}: ${member.about}` },
    s("rect", { class: "family-panel", x, y: 40, width: TREE_SIZE.panel, height: 224, rx: 10 }),
    s("text", { x: x + TREE_SIZE.panel / 2, y: 62, "text-anchor": "middle", "font-size": 15, "font-weight": "bold" }, member.name),
    s("text", { x: x + TREE_SIZE.panel / 2, y: 80, "text-anchor": "middle", "font-size": 12, class: "family-year" }, isThis ? "this model" : member.year), boxes);
  return explainable(group, () => [h("strong", {}, member.name), ` (${member.year})`, h("div", {}, member.about)]);
}

/** The family tree as one drawing; `family` is marked. */
export function familyTree(family) {
  const width = FAMILY_MEMBERS.length * (TREE_SIZE.panel + TREE_SIZE.gap) + 2;
  const drawing = s("svg", { viewBox: `0 0 ${width} 270`, width, height: 270, class: "family-tree", role: "group", "aria-label": "The family: which parts each member keeps", xmlns: "http://www.w3.org/2000/svg" });
  const left = (i) => 2 + i * (TREE_SIZE.panel + TREE_SIZE.gap);
  const middle = (i) => left(i) + TREE_SIZE.panel / 2;
  drawing.append(s("path", { class: "family-branch", fill: "none", "stroke-width": 1.6, d: `M${middle(0)},40 V18 H${middle(3)} V40 M${middle(1)},18 V40 M${middle(2)},18 V40` }));
  drawing.append(...FAMILY_MEMBERS.map((member, i) => familyPanel(member, left(i), member.family === family)));
  return drawing;
}
