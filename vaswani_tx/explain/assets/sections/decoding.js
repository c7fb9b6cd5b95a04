// Section 6b: the search that `generate` made for this text, played step by step.

import { SECTIONS } from "../sections.js";
import { fixed, h, word } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { figure, lessMotion, refill, slider } from "../diagram.js";
import { decodingFormula, decodingRule, decodingTokens } from "./decoding_parts.js";
import { decodingBeams, decodingCandidates, decodingFinished, decodingLosses, decodingStop } from "./decoding_tables.js";
import { decodingTree } from "./decoding_tree.js";

const DECODING_PACE = 1400; // milliseconds a step

/** Play, pause, one step back and on, and a slider; `go(step)` changes the step. */
function decodingControls(count, step, go) {
  let timer = null;
  const play = h("button", { type: "button", class: "decoding-play", onclick: () => (timer ? stop() : start()) }, "\u25b6 Generate");
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "\u25b6 Generate";
    play.setAttribute("aria-pressed", "false");
  };
  const start = () => {
    if (at >= count) go(1);
    play.textContent = "\u23f8 Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      go(at + 1);
      if (at >= count) stop();
    }, DECODING_PACE);
  };
  let at = step;
  const byHand = (number) => {
    stop();
    go(number);
  };
  const back = h("button", { type: "button", "aria-label": "One step back", class: "decoding-back", onclick: () => byHand(at - 1) }, "\u2190");
  const on = h("button", { type: "button", "aria-label": "One step on", class: "decoding-on", onclick: () => byHand(at + 1) }, "\u2192");
  const control = slider("Step", { min: 1, max: count, value: step, show: (number) => `${number} of ${count}` }, byHand);
  const element = h("div", { class: "controls decoding-controls" }, play, back, on, control);
  const set = (number) => {
    at = number;
    control.set(number);
    back.disabled = number <= 1;
    on.disabled = number >= count;
  };
  return { element, set, byHand, toggle: () => play.click(), stop, at: () => at };
}

function decodingIntroduction(page, decoding) {
  const { num_beams: beams, limit } = decoding.settings;
  const stopping = { true: "as soon as that many hypotheses are finished", false: "as soon as no running beam is expected to beat them", never: "only when no running beam can beat them" };
  if (beams === 1) {
    return h("p", {}, `This model decodes greedily: at each step it takes the most probable token, until the end token comes${limit ? ` or ${limit} tokens are written` : ""}. Log P, the sum of the logarithms of the probabilities, is shown; nothing is ranked, as there is one hypothesis.`);
  }
  return h("div", {},
    h("p", {}, `Beam search (section 6.1) keeps the ${beams} best unfinished texts, extends each by every word of the vocabulary, and keeps the ${beams} best again. A text that ends with the end token leaves the beam and joins the finished hypotheses.`),
    h("p", {}, "Hypotheses of different lengths are compared by ", h("span", { class: "number decoding-rule" }, decodingRule(decoding.settings)), `; log P alone would favour short texts. The search keeps ${beams} finished hypotheses, and stops ${stopping[String(decoding.settings.early_stopping)]}${limit ? `, or after ${limit} tokens` : ""}.`));
}

function renderDecoding(root, page) {
  const decoding = page.meta.decoding;
  const count = decoding.steps.length;
  const state = { step: 1, candidate: 1, ...stateOf("decoding") };
  const tree = decodingTree(page, decoding, (step, candidate) => controls.byHand(step, candidate));
  const places = { now: h("div", { class: "decoding-now" }), end: h("div", {}) };
  const live = h("p", { class: "unseen", "aria-live": "polite" });

  const show = () => {
    state.step = wholeNumber(state.step, 1, count, 1);
    const step = decoding.steps[state.step - 1];
    state.candidate = wholeNumber(state.candidate, 1, step.candidates.length, 1);
    controls.set(state.step);
    tree.show(state.step);
    const candidate = step.candidates[state.candidate - 1];
    refill(places.now,
      h("h3", {}, `Step ${state.step}: ${decoding.settings.num_beams === 1 ? "the text so far" : step.beams.length === 1 ? "one beam" : `${step.beams.length} beams`}`),
      decodingBeams(page, decoding, step),
      h("h3", {}, decoding.settings.num_beams === 1 ? "The most probable tokens" : "Their best continuations"),
      decodingCandidates(page, decoding, step, state.candidate, (number) => change({ candidate: number })),
      decodingFormula(page, decoding, step, candidate),
      decodingLosses(page, decoding, state.step - 1),
      decodingFinished(page, decoding, state.step - 1));
    refill(places.end, state.step === count ? decodingStop(page, decoding) : null);
    const best = step.candidates[0];
    live.textContent = best ? `Step ${state.step}: best continuation ${word(page, best.token).text}, log P ${fixed(best.score, 3)}` : "";
  };
  const change = (values) => {
    Object.assign(state, values);
    show();
    setState("decoding", { step: state.step, candidate: state.candidate === 1 ? null : state.candidate });
  };
  const controls = decodingControls(count, wholeNumber(state.step, 1, count, 1), (step) => change({ step: Math.max(1, Math.min(count, step)), candidate: 1 }));
  root.append(decodingIntroduction(page, decoding));
  if (page.meta.family === "decoder") {
    root.append(h("p", {}, "It continues the prompt: ", decodingTokens(page, decoding.settings.prompt)));
  }
  const panel = h("div", {
    class: "decoding-panel", role: "group", "aria-label": "The search, step by step; left and right arrow keys change the step, space plays",
    onkeydown: (event) => {
      if (/^(input|select|button|a)$/i.test(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way && event.key !== " ") return;
      event.preventDefault();
      if (way) controls.byHand(controls.at() + way);
      else controls.toggle();
    }, tabindex: 0,
  }, controls.element, live,
  figure("beam-search", decoding.settings.num_beams === 1
    ? "The tokens that were taken. Point at a token for its numbers; choose one to go to its step."
    : "Columns are steps; rows are the places of the beam, best above. Lines lead from a text to its continuations; below, the texts that ended. Bold: the text that won. Choose a token to go to its step.",
  tree.element, tree.picture), places.now, places.end);
  root.append(panel);
  if (lessMotion()) panel.classList.add("still");
  show();
  onState("decoding", (values) => {
    controls.stop();
    Object.assign(state, { step: 1, candidate: 1 }, values);
    show();
  });
}

SECTIONS.push({
  id: "decoding", title: "Decoding, step by step",
  applies: (page) => Boolean(page.meta.decoding) && page.meta.decoding.steps.length > 0, render: renderDecoding,
});
