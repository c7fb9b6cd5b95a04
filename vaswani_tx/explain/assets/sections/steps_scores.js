// Steps 3 to 5 of attention: scores, the mask, the softmax.

import { fixed, h, tokenElement, tokenText } from "../core.js";
import { explainable, figure } from "../diagram.js";
import { besideCells, heatmap, signedColour, weightColour } from "../heatmap.js";
import { attentionCell } from "./attention.js";
import { bracketed, largestOf, stepFormula, stepHeading, vectorStrip } from "./steps.js";

const MASKED_SCORE = "\u2212\u221e";

/** A number with three digits that count, however small it is. */
function threeDigits(value) {
  if (value >= 0.001 || value === 0) return value >= 0.1 || value === 0 ? fixed(value, 3) : value.toPrecision(3);
  const [digits, power] = value.toExponential(1).split("e");
  return `${digits}\u00b710${[...power.replace("-", "")].reduce((text, char) => text + "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[Number(char)], "\u207b")}`;
}

function softmaxOfScores(scores) {
  const highest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return { highest, powers, sum, weights: powers.map((power) => power / sum) };
}

function stepsMatrix(context, options) {
  const { rows, columns, i, j, change, width } = context;
  const labelled = Math.max(rows.length, columns.length) <= 100;
  const map = heatmap({ rows: rows.length, columns: columns.length, cell: Math.min(22, attentionCell(rows.length, columns.length, width - besideCells())), rowLabels: labelled ? rows : null, columnLabels: labelled ? columns : null,
    onrow: (t, u) => change(u === undefined ? { token: t + 1 } : { token: t + 1, key: u + 1 }), ...options });
  map.chooseRow(i);
  map.chooseColumn(j);
  return map;
}

/** Products of queries and keys, with the scale. */
export function scoresStep(context) {
  const { item, state, rows, columns, i, j, products, scores, productDigits, scoreDigits, productError } = context;
  const most = largestOf(scores.flat());
  const map = stepsMatrix(context, { value: (t, u) => scores[t][u], colours: () => signedColour(most), label: "Scores of all pairs of tokens; arrow keys move over the cells, Enter follows one",
    say: (t, u) => [h("div", {}, h("strong", {}, tokenText(rows[t])), " \u2192 ", h("strong", {}, tokenText(columns[u]))), h("div", { class: "number" }, `score ${fixed(scores[t][u], scoreDigits)}`)] });
  const scaled = softmaxOfScores(scores[i].filter((_, u) => !context.isMasked(i, u)));
  const plain = softmaxOfScores(products.filter((_, u) => !context.isMasked(i, u)));
  const [sharp, soft] = [plain, scaled].map(({ weights }) => Math.max(...weights));
  return h("div", { class: "step" },
    stepHeading(3, "Scores", "The query of ", tokenElement(rows[i]), " meets the key of every token: they are multiplied number by number and summed up. A large score means that the token has what is looked for. The sum of many products grows with their number, so it is divided by \u221ad", h("sub", {}, "k"), " (section 3.2.1)."),
    figure(`${item.kind}-scores-layer${item.layer}-head${state.head}`, "Scores before the mask. Blue: positive; orange: negative. Choose a cell to follow that pair.", map, map.picture),
    stepFormula(tokenElement(rows[i]), " \u2192 ", tokenElement(columns[j]), ": ", h("span", { class: "number" }, `q \u00b7 k = ${fixed(products[j], productDigits)};  `, fixed(products[j], productDigits), " ", context.scaleText, ` = ${fixed(scores[i][j], scoreDigits)}`)),
    stepsDotProduct(context),
    item.scaling === 1 || scaled.weights.length < 2 || item.scoreBias ? null : h("p", { class: "note" }, `Without the scale the strongest weight of this row would be ${fixed(sharp, 3)} instead of ${fixed(soft, 3)}${sharp > 0.95 && soft < 0.95 ? ": nearly all or nothing, where the softmax hardly passes a gradient on" : ""}.`),
    h("p", { class: "note" }, `Scores are computed here from the queries and keys of this page, which have ${context.vectorDigits} digits: at most ${(productError * item.scaling).toPrecision(1)} from the model\u2019s own, so ${scoreDigits} digits are shown.`));
}

function stepsDotProduct(context) {
  const { state, queries, keys, i, j, rows, columns, width, vectorDigits, products, change, scoreDigits, scores } = context;
  const [q, k] = [queries[i], keys[j]];
  const body = h("div", {});
  const write = () => {
    const parts = q.map((value, d) => value * k[d]);
    const scale = [largestOf(q), largestOf(k), largestOf(parts)];
    const lines = [q, k, parts];
    const names = ["q", "k", "q \u00d7 k"];
    const map = vectorStrip({ width, rows: 3, columns: q.length, rowLabels: names, value: (line, d) => lines[line][d] / scale[line], colours: () => signedColour(1), label: "The query, the key and their products; arrow keys move over the numbers",
      say: (line, d) => [h("div", {}, `${names[line]}, number ${d + 1}`), h("div", { class: "number" }, line < 2 ? fixed(lines[line][d], vectorDigits) : `${fixed(q[d], vectorDigits)} \u00d7 ${bracketed(k[d], vectorDigits)} = ${fixed(parts[d], vectorDigits)}`)] });
    body.replaceChildren(
      figure(`dot-product-token${i + 1}-token${j + 1}`, ["q of ", tokenElement(rows[i]), ", k of ", tokenElement(columns[j]), "; each row has its own scale of colours."], map, map.picture),
      h("p", { class: "steps-terms number" }, q.map((value, d) => [d ? " + " : "", h("span", {}, `${bracketed(value, vectorDigits)} \u00d7 ${bracketed(k[d], vectorDigits)}`)]), ` = ${fixed(products[j], vectorDigits)}`),
      stepFormula(h("span", { class: "number" }, `${fixed(products[j], vectorDigits)} `, context.scaleText.map((part) => part.cloneNode?.(true) ?? part), ` = ${fixed(scores[i][j], scoreDigits)}`)));
  };
  if (state.dot) write();
  return h("details", { class: "steps-dot", open: Boolean(state.dot),
    ontoggle: (event) => {
      if (event.target.open === Boolean(state.dot)) return;
      change({ dot: event.target.open ? 1 : null });
    } },
    h("summary", { "data-key": "dot product" }, `Write out this dot product (${q.length} terms)`), body);
}

/** What a masked position gets, before and after the softmax. */
export function maskStep(context) {
  const { item, rows, columns, i, scores, scoreDigits, isMasked } = context;
  if (!item.causal) {
    const why = item.kind === "cross" ? "the source is there as a whole before the first word of the target is written" : context.page.meta.family === "image" ? "the image is there as a whole" : "the sentence is there as a whole";
    return h("div", { class: "step" }, stepHeading(4, "Mask", `Nothing is masked here: ${why}. Only padding would be, and there is none.`));
  }
  const later = columns.map((_, u) => u).filter((u) => isMasked(i, u));
  const free = softmaxOfScores(scores[i]);
  const share = later.reduce((sum, u) => sum + free.weights[u], 0);
  const example = later.includes(context.j) ? context.j : later[0];
  return h("div", { class: "step" },
    stepHeading(4, "Mask", "The decoder writes one word after the other, so a token must not see later ones (section 3.2.3). Their scores are replaced by ", MASKED_SCORE, " before the softmax (in the computer, by the lowest number of the type), and e", h("sup", {}, MASKED_SCORE), " = 0: after it they have weight 0, and the others share the whole."),
    later.length === 0 ? stepFormula("No token comes after ", tokenElement(rows[i]), ": nothing is masked in its row.")
      : [
          stepFormula(tokenElement(rows[i]), " \u2192 ", tokenElement(columns[example]), ": ", h("span", { class: "number steps-masked" }, `${fixed(scores[i][example], scoreDigits)} \u2192 ${MASKED_SCORE} \u2192 weight ${fixed(context.weights[example], 4)}`)),
          item.scoreBias ? null : h("p", { class: "note" }, `${later.length === 1 ? "One later token is" : `${later.length} later tokens are`} hidden from it. Without the mask they would get ${fixed(100 * share, 0)}% of its attention.`),
        ]);
}

/** Scores become weights that sum to 1. */
export function softmaxStep(context) {
  const { item, state, rows, columns, i, j, scores, products, weights, allWeights, scoreDigits, productDigits, isMasked, change } = context;
  const seen = softmaxOfScores(scores[i].map((score, u) => (isMasked(i, u) ? -Infinity : score)));
  const map = stepsMatrix(context, { value: (t, u) => allWeights[t][u], colours: weightColour, masked: isMasked, label: "Weights of all pairs of tokens; arrow keys move over the cells, Enter follows one",
    say: (t, u) => [h("div", {}, h("strong", {}, tokenText(rows[t])), " \u2192 ", h("strong", {}, tokenText(columns[u]))), h("div", { class: "number" }, isMasked(t, u) ? `masked: ${MASKED_SCORE} before, 0 after` : `${item.scoreBias ? "" : `score ${fixed(scores[t][u], scoreDigits)}, `}weight ${fixed(allWeights[t][u], 4)}`)],
    sayRow: (t) => `The weights of this row sum to ${fixed(allWeights[t].reduce((sum, weight) => sum + weight, 0), 3)}` });
  const line = (token, u) => {
    const hidden = isMasked(i, u);
    const told = () => hidden ? `Masked: the score ${fixed(scores[i][u], scoreDigits)} is replaced by ${MASKED_SCORE}; weight 0`
      : `${fixed(products[u], productDigits)} scaled is ${fixed(scores[i][u], scoreDigits)}; minus the largest, ${fixed(seen.highest, scoreDigits)}, and as a power of e: ${threeDigits(seen.powers[u])}; divided by the sum ${fixed(seen.sum, 3)}: ${fixed(weights[u], 4)}`;
    return h("tr", { class: [u === j ? "here" : "", hidden ? "masked" : ""].join(" ") },
      h("th", { scope: "row" }, explainable(h("button", { type: "button", class: "steps-key", "aria-pressed": String(u === j), "data-key": `softmax ${u}`, onclick: () => change({ key: u + 1 }) }, tokenElement(token)), told)),
      h("td", { class: "number" }, fixed(products[u], productDigits)),
      h("td", { class: "number" }, hidden ? [h("s", {}, fixed(scores[i][u], scoreDigits)), ` ${MASKED_SCORE}`] : fixed(scores[i][u], scoreDigits)),
      item.scoreBias ? null : h("td", { class: "number" }, hidden ? "0" : threeDigits(seen.powers[u])),
      h("td", { class: "number bar", css: { backgroundSize: `${100 * weights[u]}% 100%` } }, fixed(weights[u], 4)));
  };
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const bias = "This model adds a learned number for the distance of two tokens to each score before the softmax (a relative position bias), which this page does not hold. The weights are the model\u2019s own.";
  return h("div", { class: "step" },
    stepHeading(5, "Softmax", "Each score becomes a power of e, and is divided by the sum of its row. What comes out is positive and sums to 1: the share of attention that ", tokenElement(rows[i]), " gives to each token. (The largest score of the row is taken off first. That changes no weight, and keeps the powers small.)"),
    item.scoreBias ? h("p", { class: "note" }, bias) : null,
    h("div", { class: "scroll steps-table", tabindex: "0", role: "region", "aria-label": "From scores to weights" },
      h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "key of"), h("th", { scope: "col", class: "number" }, "q \u00b7 k"), h("th", { scope: "col", class: "number" }, item.causal ? "score, mask" : "score"), item.scoreBias ? null : h("th", { scope: "col", class: "number" }, "e", h("sup", {}, "score \u2212 max")), h("th", { scope: "col", class: "number" }, "weight"))),
        h("tbody", {}, columns.map(line)),
        h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "sum"), h("td", {}), h("td", {}), item.scoreBias ? null : h("td", { class: "number" }, fixed(seen.sum, 3)), h("td", { class: "number steps-total" }, fixed(total, 3)))))),
    item.scoreBias || isMasked(i, j) ? null : stepFormula(tokenElement(rows[i]), " \u2192 ", tokenElement(columns[j]), ": ", h("span", { class: "number" }, `e^(${fixed(scores[i][j], scoreDigits)} \u2212 ${bracketed(seen.highest, scoreDigits)}) / ${fixed(seen.sum, 3)} = ${threeDigits(seen.powers[j])} / ${fixed(seen.sum, 3)} = ${fixed(seen.weights[j], 3)}; the model\u2019s weight is ${fixed(weights[j], 4)}`)),
    figure(`${item.kind}-weights-layer${item.layer}-head${state.head}`, item.causal ? "Weights after the softmax. Grey: masked, exactly 0." : "Weights after the softmax; every row sums to 1.", map, map.picture));
}
