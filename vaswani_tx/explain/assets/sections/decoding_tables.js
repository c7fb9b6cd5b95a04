// The tables of one step: beams, candidates, what left the beam, finished hypotheses, and why the search stopped.

import { fixed, h, tokenElement, word } from "../core.js";
import { decodingDivisor, decodingFate, decodingLength, decodingTokens } from "./decoding_parts.js";

function decodingTable(className, heads, rows) {
  return h("div", { class: "scroll" }, h("table", { class: className },
    h("thead", {}, h("tr", {}, heads.map(([text, number]) => h("th", { scope: "col", class: number ? "number" : "" }, text)))),
    h("tbody", {}, rows)));
}

function decodingNumber(value, digits = 4) {
  return h("td", { class: "number" }, fixed(value, digits));
}

/** The texts that run, with log P and the probability of ending now. */
export function decodingBeams(page, decoding, step) {
  const isGreedy = decoding.settings.num_beams === 1;
  return decodingTable("decoding-beams", [...(isGreedy ? [] : [["beam"]]), ["text so far"], ["log P", true], ["P(end now)", true]],
    step.beams.map((beam, i) => h("tr", {}, isGreedy ? null : h("th", { scope: "row" }, String(i + 1)), h("td", { class: "decoding-text" }, decodingTokens(page, beam.tokens)), decodingNumber(beam.score),
      h("td", { class: "number" }, beam.end_log_prob === null ? "not possible" : fixed(Math.exp(beam.end_log_prob), 4)))));
}

/** The best continuations of all beams; a chosen one shows its formula. */
export function decodingCandidates(page, decoding, step, chosen, onchoose) {
  const isRanked = decoding.settings.rule !== "none";
  const isGreedy = decoding.settings.num_beams === 1;
  const heads = [["", true], ...(isGreedy ? [] : [["beam", true]]), ["next token"], ["log p", true], ["log P", true], ...(isRanked ? [["length", true], ["divisor", true], ["score", true]] : []), ["what became of it"]];
  return decodingTable("decoding-candidates", heads, step.candidates.map((candidate, i) => {
    const length = decodingLength(step.beams[candidate.parent]);
    return h("tr", { class: `fate-${candidate.fate}${i + 1 === chosen ? " chosen" : ""}`, "data-candidate": i + 1, onclick: () => onchoose(i + 1) },
      h("td", { class: "number" }, h("button", { type: "button", "data-key": `candidate ${i + 1}`, "aria-pressed": String(i + 1 === chosen), "aria-label": `Show the formula of candidate ${i + 1}` }, String(i + 1))),
      isGreedy ? null : h("td", { class: "number" }, String(candidate.parent + 1)), h("td", {}, tokenElement(word(page, candidate.token))),
      decodingNumber(candidate.log_prob), decodingNumber(candidate.score),
      isRanked ? [h("td", { class: "number" }, String(length)), decodingNumber(decodingDivisor(decoding.settings, length)), decodingNumber(candidate.ranked)] : null,
      h("td", { class: "decoding-fate" }, decodingFate(decoding, candidate)));
  }));
}

/** Sentences about what this step lost: beams without a kept continuation, texts pushed out of the finished ones. */
export function decodingLosses(page, decoding, number) {
  const step = decoding.steps[number];
  const following = decoding.steps[number + 1]?.beams ?? decoding.settings.last;
  if (decoding.settings.num_beams === 1) return null;
  const worst = following.length ? Math.min(...following.map((beam) => beam.score)) : null;
  const lines = step.beams.map((beam, i) => {
    const own = step.candidates.filter((candidate) => candidate.parent === i);
    if (own.some((candidate) => candidate.fate === "kept")) return null;
    const ended = own.filter((candidate) => candidate.fate === "finished");
    const running = own.find((candidate) => candidate.fate === "left");
    return h("li", {}, `Beam ${i + 1} (`, decodingTokens(page, beam.tokens), ") leaves: ",
      ended.length ? "it has ended and joins the finished hypotheses; " : "",
      worst === null ? "all texts end here." : running ? `its best continuation that does not end has log P ${fixed(running.score, 4)}, and the last place of the beam took ${fixed(worst, 4)}.` : `none of its continuations is among the best ${step.candidates.length}; the last place of the beam took log P ${fixed(worst, 4)}.`);
  }).filter(Boolean);
  const dropped = step.dropped.map((index) => h("li", {}, "The finished hypothesis ", decodingTokens(page, decoding.ended[index].tokens), ` (score ${fixed(decoding.ended[index].score, 4)}) is pushed out by better ones.`));
  const items = [...lines, ...dropped];
  return items.length ? h("div", {}, h("h3", {}, "What left"), h("ul", { class: "decoding-losses" }, items)) : null;
}

function decodingRanking(page, decoding, indices, number) {
  const isRanked = decoding.settings.rule !== "none";
  const heads = [["", true], ["text"], ["log P", true], ...(isRanked ? [["length", true], ["divisor", true], ["score", true]] : []), ["ended"]];
  return decodingTable("decoding-finished", heads, indices.map((index, i) => {
    const item = decoding.ended[index];
    return h("tr", { class: item.step === number ? "new" : "" }, h("td", { class: "number" }, String(i + 1)), h("td", { class: "decoding-text" }, decodingTokens(page, item.tokens)), decodingNumber(item.log_prob),
      isRanked ? [h("td", { class: "number" }, String(item.tokens.length)), decodingNumber(decodingDivisor(decoding.settings, item.tokens.length)), decodingNumber(item.score)] : null,
      h("td", {}, `step ${item.step + 1}${item.end === "length" ? ", at the limit" : ""}${item.step === number ? " (now)" : ""}`));
  }));
}

/** The finished hypotheses after a step, best first. */
export function decodingFinished(page, decoding, number) {
  const { finished } = decoding.steps[number];
  // Greedy decoding has one; after the last step the final ranking follows.
  if (decoding.settings.num_beams === 1 || number === decoding.steps.length - 1) return null;
  return h("div", {}, h("h3", {}, "Finished hypotheses"),
    finished.length ? decodingRanking(page, decoding, finished, number) : h("p", { class: "note" }, "None yet: no end token was among the best continuations."));
}

/** Why the search stopped, and its final ranking. */
export function decodingStop(page, decoding) {
  const { stop, num_beams: beams, limit } = decoding.settings;
  const reason = {
    end: "The search stops: the end token was the most probable.",
    length: `The search stops: the limit ${limit ? `of ${limit} tokens ` : ""}is reached.`,
    full: `The search stops: ${beams} hypotheses are finished.`,
    best: "The search stops: no running beam is expected to score better than the finished hypotheses.",
  }[stop];
  const last = decoding.steps.length - 1;
  return h("div", { class: "decoding-end" }, h("h3", {}, beams === 1 ? "The result" : "Final ranking"), h("p", {}, reason), decodingRanking(page, decoding, decoding.steps[last].finished, last));
}
