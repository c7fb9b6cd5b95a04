// The drawing of the search: a column a step, a row a place of the beam, the texts that ended below.

import { clip, fixed, h, s, tokenText, word } from "../core.js";
import { explainable, lessMotion, standalone } from "../diagram.js";
import { decodingFate } from "./decoding_parts.js";

const TREE = { column: 92, row: 34, box: 74, height: 24, left: 8, top: 26 };

/** Where each candidate that was kept or has ended is drawn: {step, candidate, row, parent}. */
function decodingNodes(decoding) {
  const beams = decoding.settings.num_beams;
  const nodes = [];
  let before = new Map(); // place in the beam -> node of the step before
  decoding.steps.forEach((step, number) => {
    const now = new Map();
    let below = beams;
    step.candidates.forEach((candidate, i) => {
      if (candidate.fate === "left") return;
      const row = candidate.fate === "kept" ? candidate.beam : beams === 1 ? 0 : below++;
      const node = { step: number, number: i, candidate, row, parent: before.get(candidate.parent) ?? null };
      if (candidate.fate === "kept") now.set(candidate.beam, node);
      nodes.push(node);
    });
    before = now;
  });
  return nodes;
}

/** The nodes of the hypothesis that won, from its end back to the start. */
function decodingWinner(decoding, nodes) {
  const best = decoding.ended[decoding.steps[decoding.steps.length - 1].finished[0]];
  const path = (node) => (node ? [...path(node.parent), node.candidate.token] : []);
  let node = best && nodes.find((entry) => entry.step === best.step && entry.candidate.fate === "finished" && path(entry).join() === best.tokens.join());
  const won = new Set();
  for (; node; node = node.parent) won.add(node);
  return won;
}

function decodingHint(page, decoding, node) {
  const { candidate } = node;
  return [h("div", {}, h("strong", {}, tokenText(word(page, candidate.token))), `, step ${node.step + 1}`),
    h("div", { class: "number" }, `log p ${fixed(candidate.log_prob, 4)}, log P ${fixed(candidate.score, 4)}`),
    decoding.settings.rule === "none" ? null : h("div", { class: "number" }, `score ${fixed(candidate.ranked, 4)}`),
    h("div", {}, decodingFate(decoding, candidate))].filter(Boolean);
}

/** The drawing: {element, show(step), picture()}; `go(step)` is called when a token is chosen. */
export function decodingTree(page, decoding, go) {
  const nodes = decodingNodes(decoding);
  const won = decodingWinner(decoding, nodes);
  const rows = Math.max(...nodes.map((node) => node.row)) + 1;
  const [width, height] = [TREE.left + decoding.steps.length * TREE.column + 4, TREE.top + rows * TREE.row + 6];
  const drawing = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "decoding-tree", role: "group", "aria-label": "The search as a drawing: steps from left to right", xmlns: "http://www.w3.org/2000/svg" });
  const x = (node) => TREE.left + node.step * TREE.column;
  const y = (node) => TREE.top + node.row * TREE.row + TREE.height / 2;
  const columns = decoding.steps.map((_, i) => s("text", { x: TREE.left + i * TREE.column + TREE.box / 2, y: 14, "text-anchor": "middle", "font-size": 11, class: "decoding-column" }, String(i + 1)));
  const lines = nodes.filter((node) => node.parent).map((node) => ({ node, element: s("path", {
    d: `M${x(node.parent) + TREE.box},${y(node.parent)} C${x(node.parent) + TREE.box + 9},${y(node.parent)} ${x(node) - 9},${y(node)} ${x(node)},${y(node)}`,
    fill: "none", class: `decoding-line${won.has(node) ? " won" : ""}` }) }));
  const boxes = nodes.map((node) => {
    const text = clip(tokenText(word(page, node.candidate.token)), 9);
    const element = s("g", { class: `decoding-node fate-${node.candidate.fate}${won.has(node) ? " won" : ""}`, role: "button", "data-step": node.step + 1, "data-row": node.row,
      "aria-label": `Step ${node.step + 1}: ${text}`, tabindex: won.has(node) ? 0 : -1, onclick: () => go(node.step + 1),
      onkeydown: (event) => event.key === "Enter" && go(node.step + 1) },
    s("rect", { x: x(node), y: y(node) - TREE.height / 2, width: TREE.box, height: TREE.height, rx: 5 }),
    s("text", { x: x(node) + TREE.box / 2, y: y(node) + 4, "text-anchor": "middle", "font-size": 12 }, text));
    explainable(element, () => decodingHint(page, decoding, node));
    return { node, element };
  });
  drawing.append(...columns, ...lines.map((line) => line.element), ...boxes.map((box) => box.element));
  const element = h("div", { class: "decoding-tree-scroll" }, drawing);
  // Only as high as the columns in view need: texts that end late would leave an empty space below the beams.
  const crop = () => {
    const inView = nodes.filter((node) => x(node) < element.scrollLeft + (element.clientWidth || width));
    const high = TREE.top + (Math.max(...inView.map((node) => node.row)) + 1) * TREE.row + 6;
    drawing.setAttribute("viewBox", `0 0 ${width} ${high}`);
    drawing.setAttribute("height", high);
  };
  element.addEventListener("scroll", crop);
  new ResizeObserver(crop).observe(element);
  const show = (step) => {
    for (const { node, element: part } of [...lines, ...boxes]) part.classList.toggle("later", node.step >= step);
    columns.forEach((column, i) => column.classList.toggle("now", i + 1 === step));
    const wanted = TREE.left + (step - 0.5) * TREE.column - element.clientWidth / 2;
    element.scrollTo({ left: Math.max(0, wanted), behavior: lessMotion() ? "auto" : "smooth" });
  };
  // The saved picture has all steps, also those that the page has not come to.
  const picture = () => {
    const later = [...drawing.querySelectorAll(".later")];
    drawing.classList.add("still");
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.setAttribute("height", height);
    later.forEach((part) => part.classList.remove("later"));
    const copy = standalone(drawing);
    later.forEach((part) => part.classList.add("later"));
    drawing.classList.remove("still");
    crop();
    return copy;
  };
  return { element, show, picture };
}
