// Section 1: why attention. A recurrent network reads this sentence beside a Transformer; what was counted and measured.

import { SECTIONS } from "../sections.js";
import { clip, fixed, grouped, h, s, tokenElement, tokenText } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { choice, colour, drawn, figure, lessMotion, slider, standalone } from "../diagram.js";
import { curves, shortNumber } from "../curves.js";

const WHY_DRAWN = 24;
const WHY_LINE = 24;
const KERNEL = 3;

function renderWhy(root, page) {
  const item = page.meta.attention.find((entry) => entry.kind !== "cross");
  const tokens = page.meta[item.rows];
  const count = Math.min(tokens.length, WHY_DRAWN);
  const begin = { step: Math.min(4, count), from: 1, to: count };
  const state = { ...begin, ...stateOf("why") };
  const normalise = () => {
    state.step = wholeNumber(state.step, 0, count, begin.step);
    state.from = wholeNumber(state.from, 1, count - 1, 1);
    state.to = wholeNumber(state.to, state.from + 1, count, count);
  };
  normalise();
  const keep = () => setState("why", Object.fromEntries(Object.entries(state).map(([key, value]) => [key, value === begin[key] ? null : value])));

  const told = { recurrent: h("p", { class: "why-count" }), attention: h("p", { class: "why-count" }) };
  const panels = { recurrent: whyPanel("Recurrent network reading token by token", count), attention: whyPanel("Transformer reading all tokens at once", count) };
  const steps = slider("Step", { min: 0, max: count, value: state.step, show: (value) => `${value} of ${count}` }, (value) => {
    pause();
    go(value);
  });
  const options = tokens.slice(0, count).map((token, i) => [i + 1, `${i + 1} ${clip(tokenText(token), 14)}`]);
  const from = choice("From token", options.slice(0, -1), state.from, (value) => change({ from: Number(value) }));
  const to = choice("to token", options.slice(1), state.to, (value) => change({ to: Number(value) }));
  const play = h("button", { type: "button", "data-action": "play", onclick: () => toggle() });
  const button = (name, text, act) => h("button", { type: "button", "data-action": name, onclick: act }, text);
  let timer = null;

  const draw = () => {
    drawRecurrent(panels.recurrent, tokens, count, state);
    drawAttention(panels.attention, tokens, count, state, page.array(item.weights), item.causal);
    play.textContent = lessMotion() ? "To the end" : timer ? "Pause" : "Play";
    steps.set(state.step);
    from.input.value = String(state.from);
    to.input.value = String(state.to);
    const live = timer ? "off" : "polite";
    told.recurrent.setAttribute("aria-live", live);
    told.attention.setAttribute("aria-live", live);
    told.recurrent.replaceChildren(...recurrentWords(tokens, count, state));
    told.attention.replaceChildren(...attentionWords(page, item, state));
  };
  const go = (step) => {
    state.step = Math.max(0, Math.min(count, step));
    if (state.step === count) pause();
    draw();
    if (!timer) keep();
  };
  const change = (values) => {
    Object.assign(state, values);
    normalise();
    draw();
    keep();
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
  };
  const toggle = () => {
    if (lessMotion()) return go(count);
    if (timer) {
      pause();
      return go(state.step);
    }
    if (state.step === count) state.step = 0;
    timer = setInterval(() => go(state.step + 1), Math.max(150, Math.min(650, 9000 / count)));
    draw();
  };
  const still = (step) => {
    pause();
    go(step);
  };

  const stage = h("div", { class: "why-stage", role: "group", tabindex: "0", "aria-label": "Two ways of reading; arrow keys step, space plays",
    onkeydown: (event) => {
      if (event.target !== stage) return;
      const act = { ArrowRight: () => still(state.step + 1), ArrowLeft: () => still(state.step - 1), Home: () => still(0), End: () => still(count), " ": toggle }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    } },
  h("div", { class: "side-by-side" },
    h("div", {}, h("h3", {}, "Recurrent network"), told.recurrent, figure("why-recurrent", "One memory goes down the text: each state waits for the one above.", h("div", {}, panels.recurrent), () => standalone(panels.recurrent))),
    h("div", {}, h("h3", {}, "Transformer"), told.attention, figure("why-attention", `All states at once: each looks at ${item.causal ? "all tokens before it" : "every token"} directly. The lines are this model's weights in layer ${item.layer}, mean of its heads.`, h("div", {}, panels.attention), () => standalone(panels.attention)))));
  root.append(
    h("p", {}, "Before 2017, a network read a sentence as one reads aloud: word after word, each state made from the one before. A Transformer reads all words at once, and every word looks at every other directly. Step through this very " + (page.meta.family === "image" ? "image, patch by patch:" : "sentence:")),
    tokens.length > count ? h("p", { class: "note" }, `The first ${count} of ${tokens.length} ${page.meta.family === "image" ? "patches" : "tokens"} are drawn.`) : "",
    h("div", { class: "controls" }, h("div", { class: "buttons" }, button("start", "Start", () => still(0)), button("back", "Back", () => still(state.step - 1)), play, button("step", "Step", () => still(state.step + 1))), steps, from, to),
    stage, ...tableOne(tokens.length, page.meta.model.sizes.d_model));
  renderMeasured(root, page.meta.measured);
  drawn(draw);
  onState("why", (values) => {
    pause();
    Object.assign(state, begin, values);
    normalise();
    draw();
  });
}

function whyPanel(label, count) {
  return s("svg", { class: "why-panel", viewBox: `0 0 340 ${count * WHY_LINE + 6}`, role: "img", "aria-label": label });
}

function recurrentWords(tokens, count, { step, from, to }) {
  if (step === 0) return [`Nothing read yet; ${count} steps to go, one after the other.`];
  const passed = Math.min(step, to) - from;
  return [`Step ${step} of ${count}: reads `, tokenElement(tokens[step - 1]), ". ", ...(passed < 0 ? [] : ["What it knows of ", tokenElement(tokens[from - 1]), " has passed through ", h("strong", { class: "number", "data-path": "recurrent" }, String(passed)), ` of ${to - from} steps to `, tokenElement(tokens[to - 1]), "."])];
}

function attentionWords(page, item, { step, from, to }) {
  const tokens = page.meta[item.rows];
  if (step === 0) return ["Nothing read yet; 1 step to go in each layer."];
  const weight = meanWeight(page.array(item.weights), to - 1, from - 1);
  return ["Done after step 1. From ", tokenElement(tokens[from - 1]), " to ", tokenElement(tokens[to - 1]), " it is ", h("strong", { class: "number", "data-path": "attention" }, "1"), " step (mean weight ", h("span", { class: "number", "data-weight": weight }, fixed(weight, 4)), ")."];
}

function meanWeight(weights, i, j) {
  const heads = weights.shape[0];
  let sum = 0;
  for (let head = 0; head < heads; head++) sum += weights.at(head, i, j);
  return sum / heads;
}

function whyY(i) {
  return (i + 0.5) * WHY_LINE + 3;
}

function whyToken(token, i, x, state, side) {
  const named = i + 1 === state.from || i + 1 === state.to;
  return s("text", { x, y: whyY(i) + 4, "text-anchor": side, "font-size": 13, "font-weight": named ? "bold" : "normal" }, clip(tokenText(token), 14));
}

function drawRecurrent(svg, tokens, count, state) {
  const [muted, second, accent, card] = ["--muted", "--second", "--accent", "--card"].map(colour);
  const x = 190;
  svg.replaceChildren();
  for (let i = 0; i < count; i++) {
    const [y, read, current] = [whyY(i), i < state.step, i + 1 === state.step];
    const onPath = i + 1 > state.from && i + 1 <= state.to && read;
    if (i > 0) svg.append(s("line", { x1: x, x2: x, y1: whyY(i - 1) + 7, y2: y - 7, stroke: onPath ? accent : read ? second : muted, "stroke-width": onPath ? 4 : 1.5, opacity: read ? 1 : 0.35 }));
    svg.append(whyToken(tokens[i], i, 128, state, "end"),
      s("line", { x1: 136, x2: x - 9, y1: y, y2: y, stroke: current ? accent : muted, "stroke-width": 1.5, opacity: read ? 1 : 0.3 }),
      s("circle", { cx: x, cy: y, r: 7, fill: current ? accent : read ? second : card, stroke: current ? accent : read ? second : muted, "stroke-width": 1.5, "data-read": read ? "true" : null }),
      s("text", { x: x + 16, y: y + 4, "font-size": 12, fill: muted, class: "quiet", opacity: read ? 1 : 0.45 }, current ? `state ${i + 1}: now` : read ? `state ${i + 1}` : "waits"));
  }
}

function drawAttention(svg, tokens, count, state, weights, isCausal) {
  const [muted, second, accent, card] = ["--muted", "--second", "--accent", "--card"].map(colour);
  const [left, right] = [126, 262];
  const done = state.step > 0;
  svg.replaceChildren();
  if (done) {
    for (let i = 0; i < count; i++) {
      for (let j = 0; j < (isCausal ? i + 1 : count); j++) {
        const weight = meanWeight(weights, i, j);
        if (weight >= 0.01) svg.append(s("line", { x1: left, x2: right, y1: whyY(j), y2: whyY(i), stroke: second, "stroke-width": 1 + 2 * weight, opacity: Math.max(0.08, weight) }));
      }
    }
    svg.append(s("line", { class: "path", x1: left, x2: right, y1: whyY(state.from - 1), y2: whyY(state.to - 1), stroke: accent, "stroke-width": 4 }));
  }
  for (let i = 0; i < count; i++) {
    const y = whyY(i);
    svg.append(whyToken(tokens[i], i, left - 12, state, "end"), s("circle", { cx: left, cy: y, r: 4, fill: muted }),
      s("circle", { cx: right, cy: y, r: 7, fill: done ? (state.step === 1 ? accent : second) : card, stroke: done ? (state.step === 1 ? accent : second) : muted, "stroke-width": 1.5, "data-read": done ? "true" : null }),
      s("text", { x: right + 14, y: y + 4, "font-size": 12, class: "quiet", opacity: done ? 1 : 0.45 }, done ? `state ${i + 1}` : "waits"));
  }
}

/** The paper's Table 1 with the numbers of this sentence and this model. */
function tableOne(n, d) {
  if (!d) return [];
  const path = Math.log(n) / Math.log(KERNEL);
  const power = (base, exponent) => [base, h("sup", {}, exponent)];
  const rows = [
    ["self-attention", [power("n", "2"), "\u00b7d"], n * n * d, "1", "1"],
    ["recurrent", ["n\u00b7", power("d", "2")], n * d * d, `n = ${n}`, `n = ${n}`],
    [`convolution over ${KERNEL}`, ["k\u00b7n\u00b7", power("d", "2")], KERNEL * n * d * d, "1", ["log", h("sub", {}, "k"), `(n) = ${fixed(path, 1)}`]],
  ];
  const comparison = n < d ? `With ${n} tokens and d = ${d} self-attention is the cheapest: it is, as long as a text is shorter than d.` : `With ${n} tokens this text is not shorter than d = ${d}: here self-attention costs more work than recurrence, though still no waiting.`;
  return [
    h("h3", {}, "Counted, as in Table 1"),
    h("div", { class: "scroll" }, h("table", { class: "why-table" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "layer"), h("th", { scope: "col" }, "work"), h("th", { scope: "col", class: "number" }, "here"), h("th", { scope: "col" }, "steps in a row"), h("th", { scope: "col" }, "longest path"))),
      h("tbody", {}, rows.map(([name, formula, work, sequential, longest]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, formula), h("td", { class: "number" }, grouped(work)), h("td", {}, sequential), h("td", {}, longest)))))),
    h("p", { class: "note" }, `n = ${n} tokens, d = ${d}, per layer; orders of growth, so constant factors are left out. `, comparison),
  ];
}

/** The project's own curves beside it: how far a gradient reaches, and how fast a step of training is. */
function renderMeasured(root, measured) {
  const { gradients, speed } = measured;
  const lines = (values, names) => names.map((name) => ({ name, points: gradients.distances.map((distance, i) => [distance, values[name][i]]) }));
  const gradient = (key, side, names, label) => curves({ lines: lines(gradients[key], names), x: { label: `position in the ${side}`, log: true, ticks: [1, 2, 5, 10, 20, 50, 100, 200] }, y: { label: "gradient norm", log: true }, label, say: (position) => `position ${position}` });
  const left = (key, name) => gradients[key][name][gradients.distances.length - 1] / gradients[key][name][0];
  const encoder = gradient("encoder", "source", ["Transformer", "LSTM"], "Gradient from an encoder state to the first token, by the position of the state; arrow keys move over the positions");
  const target = gradient("target", "target", ["Transformer", "LSTM", "LSTM, no attention"], "Gradient from a target token's loss to the first source token, by the position of the target token; arrow keys move over the positions");
  const steps = curves({
    lines: Object.entries(speed.stepsPerSecond).map(([name, values]) => ({ name, points: speed.lengths.map((length, i) => [length, values[i]]) })),
    x: { label: "tokens of a sentence", log: true, ticks: speed.lengths }, y: { label: "training steps a second", from: 0 }, label: "Training steps a second by length; arrow keys move over the lengths", say: (length) => `${length} tokens` });
  root.append(
    h("h3", {}, "Measured by this project"),
    h("p", {}, "What is far away must still be learned from. These curves show how much of a gradient arrives at the first token, in new models of equal size: a recurrent encoder passes it on state by state, attention hands it over in one step."),
    h("div", { class: "side-by-side" },
      figure("why-gradient-encoder", `From a state of the encoder. Position 256 sends the first token ${shortNumber(left("encoder", "Transformer"), 2)} of what its own state (position 1) sends it in the Transformer, ${shortNumber(left("encoder", "LSTM"), 2)} in the LSTM.`, encoder, encoder.picture),
      figure("why-gradient-target", `From the loss of a target token, position 256 against 1: ${shortNumber(left("target", "Transformer"), 2)} in the Transformer, ${shortNumber(left("target", "LSTM"), 2)} in an LSTM with attention, ${shortNumber(left("target", "LSTM, no attention"), 2)} in one without.`, target, target.picture),
      figure("why-speed", "On one CPU core, which computes places one after the other anyway, an LSTM is no slower. What waiting costs shows where the decoder must wait for its own output (input feeding). Devices that compute all places at once gain more; that is not measured here.", steps, steps.picture)),
    h("details", { class: "sources" }, h("summary", {}, "Where these numbers come from"), h("p", { class: "note" }, h("strong", {}, "Gradients: "), gradients.source), h("p", { class: "note" }, h("strong", {}, "Speed: "), speed.source)));
}

SECTIONS.push({ id: "why", title: "Why", applies: (page) => page.meta.attention.some((item) => item.kind !== "cross" && page.meta[item.rows].length > 1), render: renderWhy });
