// Section 5: where order comes from. The sinusoids of section 3.5 beside the model's own table, or learned positions.

import { SECTIONS } from "../sections.js";
import { fixed, grouped, h, s } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { buttons, colour, drawn, explainable, figure, slider, standalone } from "../diagram.js";
import { heatmap, signedColour } from "../heatmap.js";
import { curves, shortNumber } from "../curves.js";
import { tableCanvas } from "./positions_canvas.js";
import { dotProduct, gridTable, inHalves, largestDifference, offsetDot, rotatedRow, sinusoidAngle, sinusoidRow, sinusoidTable, sinusoidWavelength } from "./positions_table.js";

const POSITIONS_LONGEST = 2048;

function positionRows(page, side) {
  const numbers = page.array(page.meta.stacks[side].positions);
  return Object.assign(Array.from({ length: numbers.shape[0] }, (_, i) => numbers.row(i)), { decimals: numbers.decimals });
}

function renderPositions(root, page) {
  const sides = Object.keys(page.meta.stacks);
  if (!sides.length) {
    const biased = page.meta.attention.some((item) => item.scoreBias);
    root.append(h("p", { class: "note", "data-left-out": "positions" }, biased
      ? "Left out: this model adds no positions to its embeddings. It adds a number for each distance to the scores of the attention, in its own code."
      : "Left out: this model adds its positions in its own code, which this page does not record. The attention matrices above contain their effect."));
    return;
  }
  const kind = page.meta.model.traits.position_embedding;
  const sideTables = Object.fromEntries(sides.map((side) => [side, positionRows(page, side)]));
  const longest = sides.reduce((best, side) => (sideTables[side].length > sideTables[best].length ? side : best), sides[0]);
  if (kind === "learned") renderLearned(root, page, sideTables);
  else renderSinusoids(root, page, sideTables, longest, kind === "sinusoidal_2d");
}

function renderSinusoids(root, page, sideTables, longest, isGrid) {
  const full = sideTables[longest][0].length;
  const width = isGrid ? full / 2 : full;
  const own = sideTables[longest];
  const used = isGrid ? Math.max(...page.meta.grid) + 1 : own.length;
  const begin = { length: 64, position: 3, offset: 5, columns: "model" };
  const state = { ...begin, ...stateOf("positions") };
  const normalise = () => {
    state.length = wholeNumber(state.length, 8, POSITIONS_LONGEST, 64);
    state.position = wholeNumber(state.position, 0, 255, 3);
    state.offset = wholeNumber(state.offset, 0, 255, 5);
    if (!["model", "halves"].includes(state.columns)) state.columns = "model";
  };
  normalise();
  const keep = () => setState("positions", Object.fromEntries(Object.entries(state).map(([key, value]) => [key, value === begin[key] ? null : value])));
  // The dimension that a column shows: each in its place, or all sines before all cosines.
  const dimension = (j) => (state.columns === "model" ? j : j < width / 2 ? 2 * j : 2 * (j - width / 2) + 1);

  root.append(
    h("p", {}, "Attention sees a set of tokens, not a row of them. So each position adds a vector of its own to the embedding (section 3.5): each pair of dimensions is a clock, the first fast, the last slow."),
    h("p", { class: "formula" }, "PE(pos, 2i) = sin(pos / 10000", h("sup", {}, `2i/${width}`), "),  PE(pos, 2i+1) = cos(pos / 10000", h("sup", {}, `2i/${width}`), ")"),
    isGrid ? h("p", { class: "note" }, `Half of this model's ${full} dimensions hold this table for the row of a patch, the other half for its column.`) : "",
    positionsCheck(page, sideTables, width, isGrid),
  );

  const table = tableCanvas({
    value: (i, j) => (dimension(j) % 2 ? Math.cos : Math.sin)(sinusoidAngle(i, dimension(j), width)), width, length: state.length, used, largest: 1,
    label: "Sinusoids: a row for each position, a column for each dimension; arrow keys move over the numbers",
    say: (i, j) => positionHint(i, dimension(j), width, isGrid ? null : own), columnName: dimension,
  });
  const dots = curves({
    lines: [], x: { label: "offset k" }, y: { label: "PE(p) \u00b7 PE(p + k)" }, label: "Dot product of two positions against their offset; arrow keys move over the offsets",
    say: (k) => `${fixed(k, 0)} positions apart`,
    note: (k) => (!isGrid && Math.abs(k) < own.length ? [h("div", { class: "note-in-hint" }, `rows 0 and ${Math.abs(k)} of this pass: `, h("span", { class: "number" }, fixed(dotProduct(own[0], own[Math.abs(k)]), 2)))] : []),
  });
  const drawDots = () => {
    const reach = Math.min(state.length - 1, 512);
    const points = Array.from({ length: 2 * reach + 1 }, (_, i) => [i - reach, offsetDot(i - reach, width)]);
    dots.update({ lines: [{ name: "dot product", points }] });
  };
  drawDots();
  const lengthSlider = slider("Length", { min: 8, max: POSITIONS_LONGEST, step: 8, value: state.length, show: (value) => `${grouped(value)} positions` }, (value) => {
    state.length = value;
    table.resize(value);
    drawDots();
    keep();
  });
  const columns = buttons("Order of the columns", [["model", "columns interleaved, as in the model"], ["halves", "sines, then cosines"]], state.columns, (value) => {
    state.columns = value;
    table.resize(state.length);
    keep();
  });
  const waves = curves({
    lines: [
      { name: "wavelength", points: Array.from({ length: width / 2 }, (_, pair) => [2 * pair, sinusoidWavelength(2 * pair, width)]) },
      { name: `this text, ${used} positions`, points: [[0, used], [width - 2, used]], dash: "4 3" },
    ],
    x: { label: "dimension" }, y: { label: "positions until it repeats", log: true }, label: "Wavelength of each dimension; arrow keys move over the dimensions",
    say: (dimension) => `dimensions ${dimension} (sine) and ${dimension + 1} (cosine)`,
  });
  root.append(
    h("div", { class: "controls" }, lengthSlider, columns),
    figure("positions-sinusoids", `PE, from \u22121 to 1. The bar at the left marks the ${used} positions of this pass. No table ends: the formula goes on beyond any length that was trained.`, table, table.picture),
    h("div", { class: "side-by-side" },
      figure("positions-wavelengths", `From 2\u03c0 to ${shortNumber(sinusoidWavelength(width - 1, width))} positions: a wave longer than the text tells where in it one is, a short one tells neighbours apart.`, waves, waves.picture),
      figure("positions-dot-products", `Largest at offset 0, where it is ${width}/2; it depends on the offset alone, and is the same to the left and to the right.`, dots, dots.picture)),
  );
  const turning = renderRotation(root, state, width, isGrid ? null : own, keep);
  onState("positions", (values) => {
    Object.assign(state, begin, values);
    normalise();
    columns.set(state.columns);
    lengthSlider.set(state.length);
    table.resize(state.length);
    drawDots();
    turning();
  });
}

/** The formula against what the model added in this pass: the layout that fits, and the largest difference. */
function positionsCheck(page, sideTables, width, isGrid) {
  const lines = Object.entries(sideTables).map(([side, rows]) => {
    const formula = isGrid ? gridTable(...page.meta.grid, 2 * width) : sinusoidTable(rows.length, width);
    const difference = largestDifference(rows, formula);
    const halves = largestDifference(rows, formula.map(inHalves));
    const { decimals } = rows;
    // Half of the last digit that the page keeps, and the rounding of 32-bit numbers.
    const equal = difference <= 0.5 * 10 ** -decimals + 1e-6;
    return h("li", { "data-check": equal ? "equal" : "different", "data-side": side, "data-difference": difference },
      `${side}, ${rows.length} \u00d7 ${rows[0].length} numbers: largest difference `, h("span", { class: "number" }, fixed(difference, decimals + 2)),
      equal ? ` \u2013 equal to the ${decimals} digits that this page keeps` : " \u2013 this model does not add what the formula gives", `; with all sines in one half it would be ${fixed(halves, 2)}.`);
  });
  return h("div", { class: "positions-check" },
    h("p", {}, "This model lays the numbers out interleaved, as the paper writes them: sine in even, cosine in odd dimensions. The formula, computed here, against what the model added:"), h("ul", {}, lines));
}

function positionHint(i, j, width, own) {
  const [name, value] = j % 2 ? ["cos", Math.cos(sinusoidAngle(i, j, width))] : ["sin", Math.sin(sinusoidAngle(i, j, width))];
  return [
    h("div", {}, h("strong", {}, `position ${i}, dimension ${j}`)),
    h("div", {}, `${name}(${i} / 10000`, h("sup", {}, `${j - (j % 2)}/${width}`), ") = ", h("span", { class: "number" }, fixed(value, 6))),
    h("div", {}, `repeats after ${shortNumber(sinusoidWavelength(j, width))} positions`),
    own && i < own.length ? h("div", {}, "added in this pass: ", h("span", { class: "number" }, fixed(own[i][j], own.decimals))) : null,
  ].filter(Boolean);
}

/** Clocks of six pairs of dimensions, and the rotation that takes PE(p) to PE(p + k). */
function renderRotation(root, state, width, own, keep) {
  const pairs = [...new Set([0, 1, 2, 3, 4, 5].map((i) => Math.round((i * (width / 2 - 1)) / 5 * 0.7)))];
  const [cell, radius] = [96, 34];
  const svg = s("svg", { viewBox: `0 0 ${pairs.length * cell} 128`, class: "clocks", role: "group", "aria-label": "Clocks: pairs of dimensions at position p and at p + k" });
  const residual = h("p", { class: "residual", "aria-live": "polite" });
  const draw = () => {
    svg.replaceChildren();
    pairs.forEach((pair, i) => svg.append(clock(pair, i * cell + cell / 2, 44, radius, state, width)));
  };
  const tell = () => {
    const { position, offset } = state;
    const error = largestDifference([rotatedRow(sinusoidRow(position, width), offset)], [sinusoidRow(position + offset, width)]);
    const there = own && position + offset < own.length;
    const ownError = there ? largestDifference([rotatedRow(own[position], offset)], [own[position + offset]]) : null;
    residual.replaceChildren(
      `Rotation by ${offset} applied to PE(${position}), against PE(${position + offset}): largest error over all ${width} dimensions `,
      h("strong", { class: "number", "data-residual": error }, shortNumber(error, 2)),
      ".", ...(ownError === null ? [] : [" With the rows that the model added in this pass, of which the page keeps " + own.decimals + " digits: ", h("strong", { class: "number", "data-own-residual": ownError }, fixed(ownError, own.decimals + 1)), "."]));
  };
  const refresh = () => {
    draw();
    tell();
  };
  const change = (key) => (value) => {
    state[key] = value;
    refresh();
    keep();
  };
  const positionSlider = slider("Position p", { min: 0, max: 255, value: state.position }, change("position"));
  const offsetSlider = slider("Offset k", { min: 0, max: 255, value: state.offset }, change("offset"));
  root.append(
    h("h3", {}, "An offset is a rotation"),
    h("p", {}, "Section 3.5 hopes that the model can attend by relative position, because PE(p + k) is a linear function of PE(p). It is: each clock is turned by k times its frequency, whatever p is."),
    h("div", { class: "controls" }, positionSlider, offsetSlider),
    figure("positions-rotation", h("span", {}, h("span", { class: "key-p" }, "Thin hand: p"), ", ", h("span", { class: "key-pk" }, "thick hand: p + k"), ". Up is sine 0, cosine 1; clockwise is forward."), h("div", {}, svg), () => standalone(svg)),
    residual,
  );
  drawn(draw);
  tell();
  return () => {
    positionSlider.set(state.position);
    offsetSlider.set(state.offset);
    refresh();
  };
}

function clock(pair, x, y, radius, state, width) {
  const { position, offset } = state;
  const [start, turn] = [sinusoidAngle(position, 2 * pair, width), sinusoidAngle(offset, 2 * pair, width)];
  const at = (angle, length) => [x + length * Math.sin(angle), y - length * Math.cos(angle)];
  const hand = (angle, paint, thickness, length) => {
    const [x2, y2] = at(angle, length);
    return s("line", { x1: x, y1: y, x2, y2, stroke: paint, "stroke-width": thickness, "stroke-linecap": "round" });
  };
  const matrix = [[Math.cos(turn), Math.sin(turn)], [-Math.sin(turn), Math.cos(turn)]];
  const group = s("g", { class: "clock", "data-pair": pair },
    s("circle", { cx: x, cy: y, r: radius, fill: "none", stroke: colour("--line"), "stroke-width": 2 }),
    s("path", { d: arcPath(x, y, radius * 0.55, start, turn), fill: "none", stroke: colour("--muted"), "stroke-width": 1.5 }),
    hand(start, colour("--second"), 2, radius), hand(start + turn, colour("--accent"), 4, radius * 0.85),
    s("text", { x, y: y + radius + 18, "text-anchor": "middle", "font-size": 12 }, `dims ${2 * pair}, ${2 * pair + 1}`),
    s("text", { x, y: y + radius + 34, "text-anchor": "middle", "font-size": 12, fill: colour("--muted"), class: "quiet" }, `turn ${shortNumber((turn * 180) / Math.PI, 3)}\u00b0`));
  return explainable(group, () => [
    h("div", {}, h("strong", {}, `dimensions ${2 * pair} and ${2 * pair + 1}`), `, once round in ${shortNumber(sinusoidWavelength(2 * pair, width))} positions`),
    h("div", { class: "number" }, `(${fixed(Math.sin(start), 4)}, ${fixed(Math.cos(start), 4)}) becomes (${fixed(Math.sin(start + turn), 4)}, ${fixed(Math.cos(start + turn), 4)})`),
    ...matrix.map((row) => h("div", { class: "number" }, `[ ${row.map((value) => fixed(value, 4)).join("  ")} ]`)),
  ]);
}

/** An arc from an angle on, clockwise; of more than one turn, the last part. */
function arcPath(x, y, radius, start, turn) {
  const part = Math.min(turn % (2 * Math.PI), 2 * Math.PI - 1e-3);
  const [x1, y1] = [x + radius * Math.sin(start), y - radius * Math.cos(start)];
  const [x2, y2] = [x + radius * Math.sin(start + part), y - radius * Math.cos(start + part)];
  return `M${x1} ${y1}A${radius} ${radius} 0 ${part > Math.PI ? 1 : 0} 1 ${x2} ${y2}`;
}

function renderLearned(root, page, sideTables) {
  const rowsInAll = page.meta.model.sizes.max_position_embeddings;
  root.append(
    h("p", {}, "Attention sees a set of tokens, not a row of them, so each position adds a vector of its own to the embedding. This model learned its vectors like any other weight (Table 3, row E, where the paper found them as good as sinusoids): there is no formula, only these rows."),
    rowsInAll ? h("p", { class: "note" }, `Its table has ${grouped(rowsInAll)} rows. A longer text has no position there, and rows that training seldom reached are little more than their random start.`) : "");
  for (const [side, rows] of Object.entries(sideTables)) {
    const largest = Math.max(...rows.map((row) => Math.max(...row.map(Math.abs))), 1e-9);
    const table = tableCanvas({ value: (i, j) => rows[i][j], width: rows[0].length, length: rows.length, used: rows.length, largest,
      label: `Learned positions of the ${side}; arrow keys move over the numbers`,
      say: (i, j) => [h("div", {}, h("strong", {}, `position ${i}, dimension ${j}`)), h("div", { class: "number" }, fixed(rows[i][j], rows.decimals))] });
    const dots = rows.map((row) => rows.map((other) => dotProduct(row, other)));
    const most = Math.max(...dots.flat().map(Math.abs), 1e-9);
    const map = heatmap({ rows: rows.length, columns: rows.length, cell: Math.max(2, Math.min(18, Math.floor(300 / rows.length))), value: (i, j) => dots[i][j], colours: () => signedColour(most),
      label: `Dot products of the learned positions of the ${side}; arrow keys move over them`,
      say: (i, j) => [h("div", {}, h("strong", {}, `positions ${i} and ${j}`)), h("div", { class: "number" }, `dot product ${fixed(dots[i][j], 3)}`),
        h("div", { class: "number" }, `cosine ${fixed(dots[i][j] / Math.sqrt(dots[i][i] * dots[j][j] || 1), 3)}`)] });
    root.append(h("h3", {}, `The ${rows.length} rows of this pass, ${side}`),
      figure(`positions-learned-${side}`, `A row for each position, a column for each of the ${rows[0].length} dimensions; the strongest colour is \u00b1${fixed(largest, 2)}.`, table, table.picture),
      figure(`positions-learned-dots-${side}`, "Dot products of every two rows: where a band along the diagonal shows, near positions have like vectors.", map, map.picture));
  }
}

SECTIONS.push({ id: "positions", title: "Positions", applies: () => true, render: renderPositions });
