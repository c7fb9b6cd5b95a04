// Section 8: how the model learned. Teacher forcing on this pair, the learning rate of section 5.3, the run's own curves.

import { SECTIONS } from "../sections.js";
import { fixed, grouped, h, tokenElement } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { choice, figure, slider } from "../diagram.js";
import { curves, shortNumber } from "../curves.js";
import { renderTrainingPair } from "./training_pair.js";

const PAPER = { width: 512, warmup: 4000 };
const RATE_WIDTHS = [32, 64, 128, 256, 512, 1024, 2048, 4096];
const RATE_WARMUPS = [100, 200, 400, 1000, 2000, 4000, 8000, 16000];

/** Equation 3: d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), times the recipe's factor. */
export function paperRate(step, width, warmup, factor = 1) {
  return factor * width ** -0.5 * Math.min(step ** -0.5, step * warmup ** -1.5);
}

function renderTraining(root, page) {
  const { run, prediction } = page.meta;
  const recipe = run?.recipe ?? {};
  const width = page.meta.model.sizes.d_model ?? PAPER.width;
  const begin = { step: null, epsilon: recipe.label_smoothing ?? 0.1, width, warmup: recipe.warmup_steps || PAPER.warmup };
  const state = { ...begin, ...stateOf("training") };
  const normalise = () => {
    state.step = state.step === null ? null : wholeNumber(state.step, 1, prediction?.labels.length ?? 0, null);
    state.epsilon = Number(state.epsilon) >= 0 && Number(state.epsilon) <= 0.5 ? Number(state.epsilon) : begin.epsilon;
    state.width = wholeNumber(state.width, 1, 1e6, begin.width);
    state.warmup = wholeNumber(state.warmup, 1, 1e7, begin.warmup);
  };
  normalise();
  const keep = () => setState("training", Object.fromEntries(Object.entries(state).map(([key, value]) => [key, value === begin[key] ? null : value])));
  const refreshers = [];
  if (prediction) refreshers.push(renderTrainingPair(root, page, state, keep));
  else renderEncoderTask(root, page);
  refreshers.push(renderRate(root, state, begin, recipe, keep));
  if (run) renderRun(root, run, width);
  else root.append(h("h3", {}, "The run"), h("p", { class: "note", "data-left-out": "run" }, "Left out: no run was named. With the folder of the training run (--run), its losses, scores and rates are drawn here."));
  onState("training", (values) => {
    Object.assign(state, begin, values);
    normalise();
    refreshers.forEach((refresh) => refresh());
  });
}

/** What a model without a decoder learned from: masked tokens, or classes. */
function renderEncoderTask(root, page) {
  const { masked, classes, source, family } = page.meta;
  if (masked.length) {
    root.append(h("p", {}, "This encoder learned by filling gaps: some tokens are replaced by a mask, and the loss is \u2212ln p of the token that was there. Which one was, this page does not know; for each guess it would be:"),
      ...masked.map(({ position, predictions }) => h("div", { class: "scroll" }, h("table", { class: "training-masked" },
        h("caption", {}, `Position ${position}: `, tokenElement(source[position])), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "guess"), h("th", { scope: "col", class: "number" }, "probability"), h("th", { scope: "col", class: "number" }, "loss if right"))),
        h("tbody", {}, predictions.map(({ text, probability }) => h("tr", {}, h("td", {}, tokenElement({ text })), h("td", { class: "number" }, fixed(probability, 4)), h("td", { class: "number" }, fixed(-Math.log(probability), 3)))))))));
  } else if (classes.length && classes[0].position === undefined) {
    const best = [...classes].sort((a, b) => b.probability - a.probability).slice(0, 10);
    root.append(h("p", {}, `This ${family === "image" ? "image model" : "encoder"} learned from labels: the loss is \u2212ln p of the right class. Which one is right, this page does not know; for each class it would be:`),
      h("div", { class: "scroll" }, h("table", { class: "training-classes" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "class"), h("th", { scope: "col", class: "number" }, "probability"), h("th", { scope: "col", class: "number" }, "loss if right"))),
        h("tbody", {}, best.map(({ name, probability }) => h("tr", {}, h("td", {}, h("bdi", {}, name)), h("td", { class: "number" }, fixed(probability, 4)), h("td", { class: "number" }, fixed(-Math.log(probability), 3))))))));
  } else {
    root.append(h("p", { class: "note", "data-left-out": "teacher-forcing" }, "Teacher forcing is left out: this model predicts no next token from the tokens before it."));
  }
}

/** The slider of a list of values, of which `value` is one. */
function listSlider(label, values, value, show, oninput) {
  let list = [];
  const element = slider(label, { min: 0, max: 1, value: 0, show: (i) => show(list[i] ?? value) }, (i) => oninput(list[i]));
  const set = (chosen) => {
    list = [...new Set([...values, chosen])].sort((a, b) => a - b);
    element.input.max = list.length - 1;
    element.set(list.indexOf(chosen));
  };
  set(value);
  return { element, set };
}

function renderRate(root, state, begin, recipe, keep) {
  const factor = recipe.schedule === "noam" ? recipe.lr_factor ?? 1 : 1;
  const peak = h("p", { class: "rate-peak", "aria-live": "polite" });
  const chart = curves({ lines: [], x: { label: "update", from: 0 }, y: { label: "learning rate", from: 0 }, label: "The learning rate over the updates; arrow keys move over the updates", say: (step) => `update ${grouped(step)}` });
  const points = (width, warmup, scale) => {
    const last = 5 * state.warmup;
    const steps = [...new Set([1, ...Array.from({ length: 200 }, (_, i) => Math.round(((i + 1) * last) / 200)), state.warmup])].sort((a, b) => a - b);
    return steps.map((step) => [step, paperRate(step, width, warmup, scale)]);
  };
  const refresh = () => {
    const isPaper = state.width === PAPER.width && state.warmup === PAPER.warmup && factor === 1;
    chart.update({
      lines: [{ name: `d_model ${state.width}, warm-up ${grouped(state.warmup)}`, points: points(state.width, state.warmup, factor) },
        ...(isPaper ? [] : [{ name: "base model of the paper", points: points(PAPER.width, PAPER.warmup, 1), dash: "5 3", colour: "--muted" }])],
      marks: [{ x: state.warmup, text: "warm-up ends" }],
    });
    const top = paperRate(state.warmup, state.width, state.warmup, factor);
    peak.replaceChildren(`Peak at update ${grouped(state.warmup)}: `, h("strong", { class: "number", "data-peak": top }, shortNumber(top)), `. Then it falls with the root of the update; a wider model gets smaller steps.`);
  };
  const widths = listSlider("d_model", RATE_WIDTHS, state.width, String, (value) => {
    state.width = value;
    refresh();
    keep();
  });
  const warmups = listSlider("Warm-up updates", RATE_WARMUPS, state.warmup, grouped, (value) => {
    state.warmup = value;
    refresh();
    keep();
  });
  widths.element.input.dataset.name = "width";
  warmups.element.input.dataset.name = "warmup";
  root.append(
    h("h3", {}, "The learning rate"),
    h("p", {}, "Section 5.3: the rate rises in a straight line during the warm-up, then falls with the square root of the update."),
    h("p", { class: "formula" }, "lr = ", factor === 1 ? "" : `${shortNumber(factor)} \u00b7 `, "d_model", h("sup", {}, "\u22120.5"), " \u00b7 min(update", h("sup", {}, "\u22120.5"), ", update \u00b7 warmup", h("sup", {}, "\u22121.5"), ")"),
    h("div", { class: "controls" }, widths.element, warmups.element), peak,
    figure("learning-rate", "Equation 3 of the paper; it starts with this model's width" + (recipe.warmup_steps ? " and its run's warm-up." : " and the paper's warm-up."), chart, chart.picture),
    recipe.schedule && recipe.schedule !== "noam" ? h("p", { class: "note" }, `This model's run used another schedule, ${recipe.schedule} with a peak of ${shortNumber((recipe.learning_rate ?? 0) * (recipe.lr_factor ?? 1))}: its rates are drawn below.`) : "");
  refresh();
  return () => {
    widths.set(state.width);
    warmups.set(state.warmup);
    refresh();
  };
}

/** Losses, scores and rates that the run logged. */
function renderRun(root, run, width) {
  const { train, validation, recipe } = run;
  const pairs = (log, key) => log.step.map((step, i) => [step, log[key][i]]);
  const place = h("div", { class: "side-by-side" });
  const every = run.stride > 1 ? ` One of every ${run.stride} records of training is drawn.` : "";
  root.append(h("h3", {}, "Curves of the run \u201c", h("bdi", {}, run.name), "\u201d"), place);
  const losses = [{ name: "training", points: pairs(train, "loss") }, ...(validation.loss ? [{ name: "validation", points: pairs(validation, "loss") }] : [])];
  const marks = run.best === null ? [] : [{ x: run.best, text: "best" }];
  const lossChart = curves({ lines: losses, x: { label: "update" }, y: { label: "loss" }, marks, label: "Losses of the run; arrow keys move over the updates", say: (step) => `update ${grouped(step)}` });
  place.append(figure("run-losses", `The training loss${recipe.label_smoothing ? ` is smoothed (\u03b5 = ${recipe.label_smoothing}), so it` : ""} may lie above the validation loss.${every}`, lossChart, lossChart.picture));
  const names = Object.keys(validation).filter((name) => !["step", "loss"].includes(name) && validation[name].some((value) => value !== null));
  if (names.length) {
    const first = names.find((name) => name !== "perplexity") ?? names[0];
    const scoreOf = (name) => ({ lines: [{ name, points: pairs(validation, name), colour: "--good" }], y: { label: name } });
    const chart = curves({ ...scoreOf(first), x: { label: "update" }, marks, label: "Validation scores of the run; arrow keys move over the updates", say: (step) => `update ${grouped(step)}` });
    place.append(figure("run-scores", h("span", {}, choice("Score", names.map((name) => [name, name]), first, (name) => chart.update(scoreOf(name)))), chart, chart.picture));
  }
  if (train.step.length) {
    const warmup = recipe.warmup_steps || PAPER.warmup;
    const last = train.step[train.step.length - 1];
    const paper = Array.from({ length: 100 }, (_, i) => Math.max(1, Math.round(((i + 1) * last) / 100))).map((step) => [step, paperRate(step, width, warmup)]);
    const isNoam = recipe.schedule === "noam";
    const chart = curves({
      lines: [{ name: "this run", points: pairs(train, "learning_rate") }, ...(isNoam ? [] : [{ name: `equation 3, warm-up ${grouped(warmup)}`, points: paper, dash: "5 3", colour: "--muted" }])],
      x: { label: "update" }, y: { label: "learning rate", from: 0 }, label: "Learning rate of the run; arrow keys move over the updates", say: (step) => `update ${grouped(step)}` });
    place.append(figure("run-rates", `The rate that the run logged${recipe.schedule ? `; its schedule is ${recipe.schedule}` : ""}.`, chart, chart.picture));
  }
}

SECTIONS.push({ id: "training", title: "Training", applies: () => true, render: renderTraining });
