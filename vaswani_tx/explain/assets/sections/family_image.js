// Attention of an image model laid over its image: from the class token, or from a patch that the reader chooses.

import { fixed, h, s } from "../core.js";
import { onState, setState, stateOf, wholeNumber } from "../state.js";
import { choice, colour, drawn, figure, hideHint, refill, showHint } from "../diagram.js";

const IMAGE_WIDTH = 336;

/** The pixels as a canvas of their own size. */
function imagePixels(page) {
  const pixels = page.array("pixels");
  const [channels, height, width] = pixels.shape;
  const canvas = h("canvas", { width, height, class: "family-plain", role: "img", "aria-label": "The image" });
  const context = canvas.getContext("2d");
  const data = context.createImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) data.data[(y * width + x) * 4 + channel] = pixels.at(channels === 1 ? 0 : channel, y, x);
      data.data[(y * width + x) * 4 + 3] = 255;
    }
  }
  context.putImageData(data, 0, 0);
  return canvas;
}

/** The weights from one position to each patch, of one head or the mean of all (head 0). */
function imageWeights(page, item, head, from, first, count) {
  const weights = page.array(item.weights);
  const heads = head ? [head - 1] : Array.from({ length: item.heads }, (_, i) => i);
  const rows = heads.map((index) => weights.row(index, from));
  const mean = (j) => rows.reduce((sum, row) => sum + row[j], 0) / rows.length;
  return { patches: Array.from({ length: count }, (_, i) => mean(i + first)), own: first ? mean(0) : null };
}

/** The part of the section for image models. */
export function familyImage(page) {
  const [rows, columns] = page.meta.grid;
  const count = rows * columns;
  const first = page.meta.source[0].special ? 1 : 0; // patches behind the class token
  const items = page.meta.attention;
  const state = { layer: items[items.length - 1].layer, head: 0, patch: first ? 0 : 1, ...stateOf("family") };
  const image = imagePixels(page);
  const height = Math.round((IMAGE_WIDTH * image.height) / image.width);
  const [wide, tall] = [IMAGE_WIDTH / columns, height / rows];
  const canvas = h("canvas", { class: "family-image", tabindex: 0, role: "img", "data-key": "image", "aria-label": `Attention over ${rows} by ${columns} patches; arrow keys move over the patches, Enter lets a patch look` });
  const controls = h("div", { class: "controls" });
  const said = h("p", { class: "note family-said", "aria-live": "polite" });
  let [at, found] = [null, null];

  const name = (patch) => (patch === 0 ? "the class token" : `patch ${patch} (row ${Math.ceil(patch / columns)}, column ${((patch - 1) % columns) + 1})`);
  const read = () => {
    state.layer = wholeNumber(state.layer, items[0].layer, items[items.length - 1].layer, items[items.length - 1].layer);
    const item = items.find((entry) => entry.layer === state.layer) ?? items[items.length - 1];
    state.head = wholeNumber(state.head, 0, item.heads, 0);
    state.patch = wholeNumber(state.patch, first ? 0 : 1, count, first ? 0 : 1);
    found = imageWeights(page, item, state.head, first ? state.patch : state.patch - 1, first, count);
    return item;
  };
  const paint = (target, ratio) => {
    target.width = IMAGE_WIDTH * ratio;
    target.height = height * ratio;
    const context = target.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.filter = "grayscale(1)"; // the colour of the weights is then the only one
    context.drawImage(image, 0, 0, IMAGE_WIDTH, height);
    context.filter = "none";
    const most = Math.max(...found.patches, 1e-9);
    found.patches.forEach((weight, i) => {
      context.globalAlpha = 0.75 * (weight / most);
      context.fillStyle = colour("--accent");
      context.fillRect((i % columns) * wide, Math.floor(i / columns) * tall, wide, tall);
    });
    context.globalAlpha = 1;
    const frame = (patch, stroke) => {
      context.strokeStyle = stroke;
      context.lineWidth = 3;
      context.strokeRect(((patch - 1) % columns) * wide + 1.5, Math.floor((patch - 1) / columns) * tall + 1.5, wide - 3, tall - 3);
    };
    if (state.patch > 0) frame(state.patch, colour("--second"));
    if (at) frame(at, colour("--good"));
  };
  const draw = () => paint(canvas, window.devicePixelRatio || 1);
  const show = () => {
    const item = read();
    refill(controls,
      choice("Layer of the image", items.map((entry) => [entry.layer, `layer ${entry.layer}`]), state.layer, (layer) => change({ layer })),
      choice("Head over the image", [[0, "mean of all heads"], ...Array.from({ length: item.heads }, (_, i) => [i + 1, `head ${i + 1}`])], state.head, (head) => change({ head })),
      choice("Looks", [...(first ? [[0, "the class token"]] : []), ...Array.from({ length: count }, (_, i) => [i + 1, name(i + 1)])], state.patch, (patch) => change({ patch })));
    const best = found.patches.indexOf(Math.max(...found.patches));
    said.textContent = `Layer ${state.layer}, ${state.head ? `head ${state.head}` : "mean of all heads"}: ${name(state.patch)} looks most at ${name(best + 1)}, weight ${fixed(found.patches[best], 4)}${found.own === null ? "" : `; at the class token ${fixed(found.own, 4)}`}. The strongest patch has the fullest colour.`;
    draw();
  };
  const change = (values) => {
    Object.assign(state, values);
    show();
    setState("family", { layer: state.layer, head: state.head, patch: state.patch });
  };
  const tell = (x, y) => showHint([h("div", {}, `${name(state.patch)} \u2192 ${name(at)}`), h("div", { class: "number" }, fixed(found.patches[at - 1], 4))], x, y);
  imageEvents(canvas, { rows, columns, at: () => at, move: (patch, x, y) => {
    at = patch;
    draw();
    if (at) tell(x, y);
    else hideHint();
  }, choose: (patch) => change({ patch: patch === Number(state.patch) && first ? 0 : patch }) });
  drawn(() => (found ? draw() : show()));
  onState("family", (values) => {
    Object.assign(state, values);
    show();
  });
  const picture = () => {
    const copy = h("canvas", {});
    paint(copy, 3);
    return s("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${IMAGE_WIDTH} ${height}`, width: IMAGE_WIDTH, height },
      s("image", { href: copy.toDataURL("image/png"), width: IMAGE_WIDTH, height }));
  };
  return h("div", {}, h("h3", {}, "Where it looks"),
    h("p", {}, "The image is cut into patches, and each becomes a token. Colour shows how much the looking token attends to each patch. Choose a patch to let it look; choose it again to return to the class token."),
    controls, figure("patch-attention", "Left: the image. Right: the same with the attention weights over its patches.", h("div", { class: "family-images" }, image, canvas), picture), said);
}

function imageEvents(canvas, { rows, columns, at, move, choose }) {
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    return row >= 0 && column >= 0 && row < rows && column < columns ? row * columns + column + 1 : null;
  };
  canvas.addEventListener("pointermove", (event) => move(place(event), event.clientX, event.clientY));
  canvas.addEventListener("pointerleave", () => move(null));
  canvas.addEventListener("blur", () => move(null));
  canvas.addEventListener("click", (event) => choose(place(event)));
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && at()) choose(at());
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!step) return;
    event.preventDefault();
    const wanted = at() === null ? 1 : at() + step;
    const patch = wanted < 1 || wanted > rows * columns ? at() : wanted;
    const box = canvas.getBoundingClientRect();
    move(patch, box.left + (((patch - 1) % columns) + 0.5) * (box.width / columns), box.top + (Math.floor((patch - 1) / columns) + 0.5) * (box.height / rows));
  });
}
