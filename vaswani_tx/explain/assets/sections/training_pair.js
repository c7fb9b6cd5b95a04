// Teacher forcing on this pair: what the decoder reads, what it should say, what is masked, and the loss of each token.

import { clip, fixed, grouped, h, s, tokenElement, tokenText, word } from "../core.js";
import { colour, drawn, explainable, figure, slider, standalone } from "../diagram.js";

/** The loss of one token with label smoothing (section 5.4): the target is (1 - e) on the label plus e / V on every word. */
export function smoothedLoss(labelLogProb, meanLogProb, epsilon) {
  return -(1 - epsilon) * labelLogProb - epsilon * meanLogProb;
}

/** The smallest smoothed loss that any model can have: the entropy of the smoothed target. */
export function smoothedFloor(epsilon, vocabulary) {
  const [other, label] = [epsilon / vocabulary, 1 - epsilon + epsilon / vocabulary];
  const part = (p) => (p > 0 ? -p * Math.log(p) : 0);
  return part(label) + (vocabulary - 1) * part(other);
}

/** The steps of the pair: input token, label, log-probabilities and the model's best guesses. */
export function trainingSteps(page) {
  const { labels } = page.meta.prediction;
  const [labelLogProbs, meanLogProbs, topIds, topProbs] = ["labelLogProbs", "meanLogProbs", "topIds", "topProbs"].map(page.array);
  return labels.map((id, t) => {
    const next = page.meta.target[t + 1];
    return {
      input: page.meta.target[t], label: next && next.id === id ? next : word(page, id), id,
      labelLogProb: labelLogProbs.at(t), meanLogProb: meanLogProbs.at(t),
      best: topIds.row(t).map((token, rank) => ({ token: word(page, token), id: token, prob: topProbs.at(t, rank) })),
    };
  });
}

function trainingMean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Draw the pair into `root`; `state` has step (from 1, or null) and epsilon; returns a function that draws again. */
export function renderTrainingPair(root, page, state, keep) {
  const steps = trainingSteps(page);
  const vocabulary = page.meta.model.sizes.vocab_size;
  const isOwn = page.meta.decoding && page.meta.decoding.hypotheses[0].tokens.join() === page.meta.prediction.labels.join();
  const what = page.meta.family === "decoder" ? "text" : "translation";
  const totals = h("p", { class: "training-totals", "aria-live": "polite" });
  const target = h("p", { class: "note" });
  const chosen = h("div", { class: "training-step", "aria-live": "polite" });
  const body = h("tbody", {});
  const drawing = s("svg", { class: "training-pair", role: "group" });

  const refresh = () => {
    drawPair(drawing, steps, state, (step) => {
      state.step = state.step === step ? null : step;
      refresh();
      keep();
      drawing.querySelector(`[data-step="${step}"]`)?.focus({ preventScroll: true });
    });
    tellTotals();
    chosen.replaceChildren(...(state.step === null ? [] : stepReading(steps, state.step - 1, state.epsilon)));
    body.replaceChildren(...steps.map((step, t) => stepRow(step, t, state.epsilon)));
  };
  const tellTotals = () => {
    const plain = trainingMean(steps.map((step) => -step.labelLogProb));
    const smooth = trainingMean(steps.map((step) => smoothedLoss(step.labelLogProb, step.meanLogProb, state.epsilon)));
    totals.replaceChildren(
      "Mean loss ", h("strong", { class: "number", "data-mean-loss": plain }, fixed(plain, 4)), " nats a token (perplexity ", h("span", { class: "number" }, fixed(Math.exp(plain), 2)),
      "); smoothed ", h("strong", { class: "number", "data-smoothed-loss": smooth }, fixed(smooth, 4)),
      ...(vocabulary ? [", and no model can get below ", h("span", { class: "number", "data-floor": smoothedFloor(state.epsilon, vocabulary) }, fixed(smoothedFloor(state.epsilon, vocabulary), 4))] : []), ".");
    target.textContent = vocabulary
      ? `Smoothed target (section 5.4): the label gets 1 \u2212 \u03b5 + \u03b5/V = ${fixed(1 - state.epsilon + state.epsilon / vocabulary, 5)}, each of the other ${grouped(vocabulary - 1)} words \u03b5/V = ${fixed(state.epsilon / vocabulary, 7)}. ` +
        "That teaches the model to be less sure, which costs perplexity and gains BLEU."
      : "";
  };
  const epsilonSlider = slider("Label smoothing \u03b5", { min: 0, max: 0.5, step: 0.01, value: state.epsilon, show: (value) => fixed(value, 2) }, (value) => {
    state.epsilon = value;
    refresh();
    keep();
  });
  root.append(
    h("p", {}, "In training the decoder does not write. It reads the right ", what, ", shifted by one place, and at every place says what comes next; the mask hides what comes later, so all places are learned at once (sections 3.1 and 3.2.3)."),
    h("p", { class: "note" }, page.meta.family === "decoder" ? "The labels are the text itself: the prompt, then its continuation." : isOwn ? "The labels here are the model's own translation, which it finds likely; give a target to see another one's loss." : "The labels here are the given target."),
    h("div", { class: "controls" }, epsilonSlider), totals, target,
    figure("teacher-forcing", h("span", {}, "The triangle shows what each place may read. Dotted: each label is the next input. Bars: the loss of each token, ", h("span", { class: "key-p" }, "plain"), " and ", h("span", { class: "key-pk" }, "smoothed"), ". Choose a row for the guesses of the model."),
      h("div", { class: "training-scroll" }, drawing), () => standalone(drawing)),
    chosen,
    h("details", {}, h("summary", {}, "All numbers as a table"), h("div", { class: "scroll" }, h("table", { class: "training-table" },
      h("thead", {}, h("tr", {}, ["reads up to", "should say", "probability", "loss", "smoothed", "the model's first guess"].map((name, i) => h("th", { scope: "col", class: i > 1 && i < 5 ? "number" : null }, name)))), body))));
  drawn(refresh);
  return () => {
    epsilonSlider.set(state.epsilon);
    refresh();
  };
}

function stepRow(step, t, epsilon) {
  return h("tr", { "data-row": t + 1 }, h("td", {}, tokenElement(step.input)), h("td", {}, tokenElement(step.label)),
    h("td", { class: "number" }, fixed(Math.exp(step.labelLogProb), 4)), h("td", { class: "number" }, fixed(-step.labelLogProb, 4)),
    h("td", { class: "number" }, fixed(smoothedLoss(step.labelLogProb, step.meanLogProb, epsilon), 4)), h("td", {}, tokenElement(step.best[0].token), " ", fixed(step.best[0].prob, 3)));
}

function stepReading(steps, t, epsilon) {
  const step = steps[t];
  return [
    h("p", {}, h("strong", {}, `Place ${t + 1}`), " reads ", steps.slice(Math.max(0, t - 11), t + 1).map(({ input }) => tokenElement(input)), " and should say ", tokenElement(step.label, { class: "chosen" }),
      `: probability ${fixed(Math.exp(step.labelLogProb), 4)}, loss ${fixed(-step.labelLogProb, 4)}, smoothed ${fixed(smoothedLoss(step.labelLogProb, step.meanLogProb, epsilon), 4)}.`),
    h("ol", { class: "guesses", "aria-label": "The model's best guesses" }, step.best.map(({ token, id, prob }) =>
      h("li", { class: id === step.id ? "right" : null }, h("span", { class: "guess-bar", css: { width: 100 * prob + "%" } }), tokenElement(token), h("span", { class: "number" }, fixed(prob, 4))))),
  ];
}

/** Rows from top to bottom: mask, input, label, bars; a dotted line leads from each label to the input below. */
function drawPair(drawing, steps, state, onchoose) {
  const [line, head] = [24, 26];
  const cell = Math.max(1, Math.min(8, Math.floor(72 / steps.length)));
  const mask = Math.max(34, cell * steps.length);
  const at = { input: mask + 8, label: mask + 132, bars: mask + 226 };
  const [width, height, bars] = [at.bars + 144, head + steps.length * line + 4, 84];
  const losses = steps.map((step) => [-step.labelLogProb, smoothedLoss(step.labelLogProb, step.meanLogProb, state.epsilon)]);
  const most = Math.max(...losses.flat(), 1e-3);
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawing.setAttribute("aria-label", `Teacher forcing over ${steps.length} places: inputs, labels and losses`);
  Object.assign(drawing.style, { minWidth: "300px", maxWidth: 1.4 * width + "px" });
  const [muted, second, accent, masked] = ["--muted", "--second", "--accent", "--masked"].map(colour);
  const title = (x, text) => s("text", { x, y: 14, "font-size": 12.5, class: "quiet" }, text);
  drawing.replaceChildren(title(0, "mask"), title(at.input, "reads"), title(at.label, "should say"), title(at.bars, "loss"));
  steps.forEach((step, t) => {
    const y = head + (t + 0.5) * line;
    const isChosen = state.step === t + 1;
    const later = state.step !== null && t + 1 > state.step;
    const row = s("g", { class: "training-row" + (isChosen ? " chosen" : ""), "data-step": t + 1, tabindex: 0, role: "button", "aria-pressed": String(isChosen), "aria-label": `Place ${t + 1}, label ${tokenText(step.label)}`,
      onclick: () => onchoose(t + 1), onkeydown: (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          onchoose(t + 1);
        }
      } },
    s("rect", { x: 0, y: y - line / 2, width, height: line, fill: accent, opacity: isChosen ? 0.14 : 0, class: "row-ground" }),
    steps.map((_, j) => s("rect", { x: j * cell, y: y - line / 2 + 1, width: cell > 3 ? cell - 1 : cell, height: line - 2, fill: j <= t ? second : masked, opacity: j <= t ? (isChosen || state.step === null ? 0.85 : 0.4) : 1 })),
    s("text", { x: at.input, y: y + 4, "font-size": 13, opacity: later ? 0.3 : 1 }, clip(tokenText(step.input), 11)),
    s("line", { x1: at.input + 86, x2: at.label - 8, y1: y, y2: y, stroke: muted, "stroke-width": 1.5, opacity: later ? 0.3 : 1 }),
    s("path", { d: `M${at.label - 12} ${y - 4}l6 4l-6 4`, fill: "none", stroke: muted, "stroke-width": 1.5, opacity: later ? 0.3 : 1 }),
    t + 1 < steps.length ? s("line", { x1: at.label - 6, y1: y + 5, x2: at.input + 82, y2: y + line - 4, stroke: accent, "stroke-dasharray": "1.5 3", "stroke-width": 1.5, opacity: 0.8 }) : null,
    s("text", { x: at.label, y: y + 4, "font-size": 13, "font-weight": isChosen ? "bold" : "normal" }, clip(tokenText(step.label), 12)),
    s("rect", { x: at.bars, y: y - 7, width: Math.max(1, (bars * losses[t][0]) / most), height: 6, fill: second }),
    s("rect", { x: at.bars, y: y + 1, width: Math.max(1, (bars * losses[t][1]) / most), height: 6, fill: accent }),
    s("text", { x: at.bars + bars + 8, y: y + 4, "font-size": 12, class: "number" }, fixed(losses[t][0], 3)));
    explainable(row, () => [
      h("div", {}, h("strong", {}, tokenText(step.label)), " after ", h("strong", {}, tokenText(step.input))),
      h("div", { class: "number" }, `p ${fixed(Math.exp(step.labelLogProb), 4)}; \u2212ln p ${fixed(losses[t][0], 4)}`),
      h("div", { class: "number" }, `smoothed ${fixed(losses[t][1], 4)} at \u03b5 = ${fixed(state.epsilon, 2)}`),
      ...step.best.map(({ token, prob }) => h("div", {}, h("span", { class: "number" }, fixed(prob, 4)), " ", tokenText(token))),
    ]);
    drawing.append(row);
  });
}
