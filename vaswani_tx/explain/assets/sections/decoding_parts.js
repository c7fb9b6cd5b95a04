// Words and formulas of the search: how a hypothesis is ranked, and what became of a candidate.

import { fixed, h, tokenElement, word } from "../core.js";

/** What log P of a text of `length` tokens is divided by (Wu et al. 2016, equation 14, or transformers' own rule). */
export function decodingDivisor(settings, length) {
  if (settings.rule === "gnmt") return ((5 + length) / 6) ** settings.exponent;
  return settings.rule === "power" ? length ** settings.exponent : 1;
}

function decodingExponent(settings) {
  return String(Number(settings.exponent.toFixed(4))).replace("-", "\u2212");
}

/** The rule as a formula. */
export function decodingRule(settings) {
  if (settings.rule === "gnmt") return `log P / ((5 + |y|) / 6)^${decodingExponent(settings)}`;
  return settings.rule === "power" ? `log P / |y|^${decodingExponent(settings)}` : "log P";
}

/** The tokens of a beam as elements; without any, the start of the text. */
export function decodingTokens(page, tokens) {
  if (!tokens.length) return h("span", { class: "note" }, "nothing yet");
  return h("bdi", {}, tokens.map((id) => tokenElement(word(page, id))));
}

/** The tokens of a text as plain words, for drawings and hints. */
export function decodingLength(beam) {
  return beam.tokens.length + 1;
}

export const DECODING_FATES = {
  kept: "kept", finished: "finished", worse: "ended, but below all finished ones", outside: "ended, but not among the best", left: "left",
};

/** What became of a candidate, in words. */
export function decodingFate(decoding, candidate) {
  if (candidate.fate === "kept") return decoding.settings.num_beams === 1 ? "taken" : `kept as beam ${candidate.beam + 1}`;
  return DECODING_FATES[candidate.fate];
}

/** The ranked score of a candidate with the numbers filled in. */
export function decodingFormula(page, decoding, step, candidate) {
  const { settings } = decoding;
  if (!candidate) return null;
  const beam = step.beams[candidate.parent];
  const length = decodingLength(beam);
  const lines = [
    h("div", {}, "log P = ", fixed(beam.score, 4), " + log p(", tokenElement(word(page, candidate.token)), ") = ", fixed(beam.score, 4), " + ", fixed(candidate.log_prob, 4), " = ", h("strong", {}, fixed(candidate.score, 4))),
    h("div", {}, `p = e^${fixed(candidate.log_prob, 4)} = ${fixed(Math.exp(candidate.log_prob), 4)}`),
  ];
  if (settings.rule !== "none") {
    const divisor = decodingDivisor(settings, length);
    const power = settings.rule === "gnmt" ? `((5 + ${length}) / 6)^${decodingExponent(settings)}` : `${length}^${decodingExponent(settings)}`;
    lines.push(h("div", { class: "decoding-filled" }, `score = ${fixed(candidate.score, 4)} / ${power} = ${fixed(candidate.score, 4)} / ${fixed(divisor, 4)} = `, h("strong", {}, fixed(candidate.ranked, 4))));
  }
  return h("div", { class: "decoding-formula number", "aria-live": "polite" }, lines);
}
