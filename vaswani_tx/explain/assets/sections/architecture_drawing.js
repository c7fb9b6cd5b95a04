// The drawing of the whole model: one column a stack, read from below, with the encoder's keys and values going across.

import { h, s } from "../core.js";
import { explainable } from "../diagram.js";

const PLAN = { column: 210, between: 240, edge: 62, box: 36, small: 24, gap: 16 };

function planBox(part, x, y, height, kind, go) {
  const group = s("g", { class: `architecture-part architecture-${kind}`, role: "link", "aria-label": part.label, "data-part": part.id, onclick: () => go(part.to),
    onkeydown: (event) => event.key === "Enter" && go(part.to) },
  s("rect", { x, y, width: PLAN.column, height, rx: 7 }),
  s("text", { x: x + PLAN.column / 2, y: y + height / 2 + 5, "text-anchor": "middle", "font-size": kind === "norm" ? 12 : 14 }, part.label));
  return explainable(group, part.say);
}

function planArrow(x, from, to) {
  return s("g", { class: "architecture-arrow" }, s("line", { x1: x, x2: x, y1: from, y2: to + 5, "stroke-width": 1.5 }), s("polygon", { points: `${x},${to} ${x - 4},${to + 7} ${x + 4},${to + 7}` }));
}

function planText(x, y, text, size, className, anchor = "middle") {
  return s("text", { x, y, "text-anchor": anchor, "font-size": size, class: className }, text);
}

/** The rows of one column from below: what is drawn and how tall it is. */
function planRows(stack, { order, finalNorm, output }, isLast) {
  const rows = [{ text: stack.input }, { part: stack.embed }, ...(stack.positions ? [{ part: stack.positions, kind: "positions" }] : []), { open: true }];
  for (const sublayer of stack.sublayers) {
    const norm = { ...stack.norm, label: order === "pre" ? "Norm" : "Add & norm" };
    if (order === "pre") rows.push({ part: norm, kind: "norm" });
    rows.push({ part: sublayer, kind: "sublayer" });
    if (order === "post") rows.push({ part: norm, kind: "norm" });
    else if (order === "pre") rows.push({ part: { ...stack.norm, label: "Add" }, kind: "norm" });
  }
  rows.push({ close: true });
  if (finalNorm) rows.push({ part: { ...stack.norm, label: "Norm after the stack" }, kind: "norm" });
  if (isLast) rows.push(...output.map((part) => ({ part, kind: "output" })));
  return rows;
}

function planHeight(row) {
  if (row.open || row.close) return 12;
  return (row.text ? 20 : row.kind === "norm" ? PLAN.small : PLAN.box) + PLAN.gap;
}

/** Draw one column; returns the heights that the arrow between the columns needs. */
function planColumn(drawing, stack, rows, x, bottom, go) {
  const middle = x + PLAN.column / 2;
  let [y, opened, cross, last] = [bottom, bottom, null, null]; // last: the top of the part below
  const frame = s("rect", { class: "architecture-frame", x: x - 16, width: PLAN.column + 32, rx: 12 });
  drawing.append(frame);
  let top = bottom;
  for (const row of rows) {
    if (row.open) {
      opened = y - 6;
      y -= planHeight(row);
      continue;
    }
    if (row.close) {
      top = y - 12;
      frame.setAttribute("y", top);
      frame.setAttribute("height", opened - top);
      y -= planHeight(row);
      continue;
    }
    const height = planHeight(row) - PLAN.gap;
    const upper = y - PLAN.gap - height;
    if (last !== null) drawing.append(planArrow(middle, last, upper + height));
    if (row.text) drawing.append(planText(middle, upper + 15, row.text, 14, "architecture-end"));
    else drawing.append(planBox(row.part, x, upper, height, row.kind ?? "embed", go));
    if (row.part?.cross) cross = upper + height / 2;
    [y, last] = [upper, upper];
  }
  const side = stack.side === "decoder" ? x + PLAN.column + 24 : x - 24;
  drawing.append(planText(side, (top + opened) / 2 + 5, `${stack.count}\u00d7`, 18, "architecture-count", stack.side === "decoder" ? "start" : "end"));
  return { top, cross, last };
}

/** Draw the stacks beside each other; `go(addresses)` is called when a part is chosen. */
export function architectureDrawing(stacks, options) {
  const columns = stacks.map((stack, i) => planRows(stack, options, i === stacks.length - 1));
  const heights = columns.map((rows) => rows.reduce((sum, row) => sum + planHeight(row), 0));
  const height = Math.max(...heights) + 20;
  const width = 2 * PLAN.edge + stacks.length * PLAN.column + (stacks.length - 1) * PLAN.between;
  const drawing = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: `architecture-drawing${stacks.length === 2 ? " two" : ""}`, role: "group", "aria-label": "The whole model, from its input below to its output above", xmlns: "http://www.w3.org/2000/svg" });
  const at = (i) => PLAN.edge + i * (PLAN.column + PLAN.between);
  const found = stacks.map((stack, i) => planColumn(drawing, stack, columns[i], at(i), height - 4, options.go));
  if (stacks.length === 2 && found[1].cross !== null) drawing.append(planCrossing(at(0), at(1), found, options.go));
  return drawing;
}

/** The arrow that carries the encoder's keys and values to the decoder. */
function planCrossing(left, right, [encoder, decoder], go) {
  const [from, middle] = [left + PLAN.column / 2, left + PLAN.column + PLAN.between / 2];
  const upper = Math.min(encoder.top, encoder.last) - 18;
  const path = s("polyline", { class: "architecture-memory-line", fill: "none", "stroke-width": 2,
    points: `${from},${encoder.last} ${from},${upper} ${middle},${upper} ${middle},${decoder.cross} ${right - 6},${decoder.cross}` });
  const tip = s("polygon", { class: "architecture-memory-tip", points: `${right},${decoder.cross} ${right - 8},${decoder.cross - 5} ${right - 8},${decoder.cross + 5}` });
  const labels = ["K and V of", "the encoder\u2019s", "last layer"].map((text, i) => planText(middle - 8, upper + 20 + 15 * i, text, 12, "architecture-memory", "end"));
  const group = s("g", { class: "architecture-crossing", role: "link", "aria-label": "Keys and values of the encoder go to the decoder", "data-part": "memory",
    onclick: () => go(["attention/kind=cross"]), onkeydown: (event) => event.key === "Enter" && go(["attention/kind=cross"]) }, path, tip, labels);
  return explainable(group, () => [h("strong", {}, "K and V of the encoder"),
    h("div", {}, "What the encoder\u2019s last layer leaves goes to every layer of the decoder; each makes its own keys and values of it (section 3.2.3). Queries come from the decoder.")]);
}
