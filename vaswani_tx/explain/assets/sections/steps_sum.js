// Steps 6 and 7 of attention: the weighted sum of the values, and what all heads write together.

import { fixed, h, tokenElement, tokenText } from "../core.js";
import { figure } from "../diagram.js";
import { wholeNumber } from "../state.js";
import { besideCells, heatmap, signedColour } from "../heatmap.js";
import { bracketed, honestDigits, largestOf, lengthOf, stepFormula, stepHeading, vectorStrip } from "./steps.js";

const SUM_TERMS = 4;

function weightedSumOf(weights, values) {
  return values[0].map((_, d) => weights.reduce((sum, weight, u) => sum + weight * values[u][d], 0));
}

/** As many digits of the weighted sum as are right with rounded weights and values. */
function weightedSumDigits(values, weightUnit, valueUnit) {
  const sizes = values[0].map((_, d) => values.reduce((sum, value) => sum + Math.abs(value[d]), 0));
  return honestDigits(0.5 * (valueUnit + weightUnit * Math.max(...sizes)));
}

/** The values, each times its weight, and their sum. */
export function sumStep(context) {
  const { page, item, state, rows, columns, i, j, weights, values, valueDigits, change } = context;
  const output = weightedSumOf(weights, values);
  const digits = weightedSumDigits(values, page.array(item.weights).unit, 10 ** -valueDigits);
  const parts = values.map((value, u) => value.map((one) => one * weights[u]));
  const [most, mostOfSum] = [largestOf(parts.flat()), largestOf(output)];
  const count = output.length;
  const long = columns.length > 40;
  const d = wholeNumber(state.part, 1, count, 1) - 1;
  const lines = [...parts, output];
  const labels = [...columns, "sum"];
  const map = heatmap({ rows: lines.length, columns: count, cell: Math.max(4, Math.min(16, Math.floor((context.width - besideCells()) / count))), cellHeight: long ? 8 : 16, rowLabels: long ? null : labels,
    value: (u, k) => lines[u][k] / (u < columns.length ? most : mostOfSum), colours: () => signedColour(1), masked: (u) => u < columns.length && context.isMasked(i, u), label: "Values times weights and their sum; arrow keys move over the numbers, Enter writes one out",
    say: (u, k) => u === columns.length ? [h("div", {}, `sum, number ${k + 1}`), h("div", { class: "number" }, fixed(output[k], digits))]
      : [h("div", {}, "weight \u00d7 value of ", h("strong", {}, h("bdi", {}, tokenText(columns[u]))), `, number ${k + 1}`), h("div", { class: "number" }, `${fixed(weights[u], 4)} \u00d7 ${bracketed(values[u][k], valueDigits)} = ${fixed(parts[u][k], valueDigits)}`)],
    onrow: (u, k) => change({ ...(u < columns.length ? { key: u + 1 } : {}), ...(k === undefined ? {} : { part: k + 1 }) }) });
  map.chooseRow(j);
  map.chooseColumn(d);
  const order = columns.map((_, u) => u).sort((a, b) => Math.abs(parts[b][d]) - Math.abs(parts[a][d]));
  const [shown, rest] = [order.slice(0, SUM_TERMS), order.slice(SUM_TERMS)];
  return h("div", { class: "step" },
    stepHeading(6, "Weighted sum", "Now the values count: each is multiplied by its weight, and all are added. ", tokenElement(rows[i]), ` takes in one vector of ${count} numbers, mostly from the tokens with large weights.`),
    figure(`${item.kind}-weighted-sum-layer${item.layer}-head${state.head}-token${i + 1}`, "One row a token: weight times value. Last row: their sum, the output of this head, with its own scale of colours. Choose a number to write it out.", map, map.picture),
    stepFormula(`number ${d + 1}: `, h("span", { class: "number" }, shown.map((u, at) => [at ? " + " : "", h("span", {}, `${fixed(weights[u], 4)} \u00d7 ${bracketed(values[u][d], valueDigits)}`)]),
      rest.length ? ` + ${rest.length} smaller ${rest.length === 1 ? "term" : "terms"} (${fixed(rest.reduce((sum, u) => sum + parts[u][d], 0), digits)})` : "", ` = ${fixed(output[d], digits)}`)));
}

/** The outputs of all heads end to end, and what W_O makes of them. */
export function concatenationStep(context) {
  const { page, item, state, rows, i, width } = context;
  const [weights, value] = [page.array(item.weights), page.array(`value${item.id}`)];
  const outputs = Array.from({ length: item.heads }, (_, head) => {
    const values = context.columns.map((_, u) => value.row(head, u));
    return { vector: weightedSumOf(weights.row(head, i), values), digits: weightedSumDigits(values, weights.unit, value.unit) };
  });
  const most = largestOf(outputs.flatMap((output) => output.vector));
  const count = outputs[0].vector.length;
  const map = heatmap({ rows: item.heads, columns: count, cell: Math.max(4, Math.min(16, Math.floor((width - besideCells()) / count))), cellHeight: 16, rowLabels: outputs.map((_, head) => `head ${head + 1}`),
    value: (head, d) => outputs[head].vector[d], colours: () => signedColour(most), label: "Outputs of all heads for this token; arrow keys move over the numbers",
    say: (head, d) => [h("div", {}, `head ${head + 1}, number ${d + 1}: place ${head * count + d + 1} of ${item.heads * count}`), h("div", { class: "number" }, fixed(outputs[head].vector[d], outputs[head].digits))],
    onrow: (head) => context.change({ head: head + 1 }) });
  map.chooseRow(state.head - 1);
  const link = h("a", { href: `#heads/kind=${item.kind}&layer=${item.layer}&token=${i + 1}` }, "What each head writes");
  return h("div", { class: "step" },
    stepHeading(7, "All heads together", `The other heads did the same with matrices of their own. Their outputs are laid end to end, ${item.heads} \u00d7 ${count} = ${item.heads * count} numbers, and the learned matrix W`, h("sup", {}, "O"), " mixes them into the vector that attention hands on (section 3.2.2). ", item.written ? [link, " is a section of its own."] : ""),
    figure(`${item.kind}-concatenation-layer${item.layer}-token${i + 1}`, ["One row a head, for ", tokenElement(rows[i]), ". Choose a row to follow that head."], map, map.picture),
    writtenStrip(context));
}

function writtenStrip({ page, item, rows, i, width }) {
  const name = `output${item.id}`;
  if (!page.has(name)) return h("p", { class: "note" }, "The vector after W", h("sup", {}, "O"), " is left out of this page, to keep it small.");
  const vector = page.array(name).row(i);
  const most = largestOf(vector);
  const map = vectorStrip({ width, rows: 1, columns: vector.length, rowLabels: [tokenText(rows[i])], value: (_, d) => vector[d], colours: () => signedColour(most), label: "What attention hands on for this token; arrow keys move over the dimensions",
    say: (_, d) => [h("div", {}, `dimension ${d + 1}`), h("div", { class: "number" }, fixed(vector[d], page.array(name).decimals))] });
  return figure(`${item.kind}-output-layer${item.layer}-token${i + 1}`, `After W_O: ${vector.length} numbers, length ${fixed(lengthOf(vector))}. The residual connection adds them to the vector that came in.`, map, map.picture);
}
